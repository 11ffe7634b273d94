"""How far off are the embedded landmark network's points and poses?

    python benchmarks/landmark_accuracy.py --portraits ../shared/portraits -o results/landmarks.json

Sets, none of them trained on: procedural heads of the test seeds (points known too); published frames of
two portraits; the camera-condition images of one EG3D subject, which the frames were made to follow. These
come with *stated* cameras (yaw 0.35 sin t, pitch -0.05 + 0.25 cos t). The pictures show a wider orbit:
SIFT tracks through the 16 camera images triangulate to 0.9 px with 1.4 times the yaw and 2.0 times the pitch,
and to 2.5 px with the stated cameras ("triangulation_px"; no landmark is involved). Both are reported.

Boxes come from OpenCV's detector ("detector"), or from where aligned portraits have the face ("portrait").
Angles in degrees: yaw and pitch as camera angles (pitch in EG3D's measure), `geodesic` between the rotations.
"own offset removed" is after the person's mean rotation in head axes was taken out: what is left is how well
poses of one person compare. `--overlays` writes what the network saw.
"""

import argparse
import json
import math
from pathlib import Path

import cv2
import numpy as np
import torch

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.faces.landmarks import FEATURE_NAMES, LandmarkNet, head_pose, portrait_box
from dp3d_cli.core.faces.opencv import OpenCVDetector
from dp3d_cli.core.images import read_image
from dp3d_cli.core.renderers.procedural import ProceduralHead
from dp3d_cli.core.videos import read_frames
from dp3d_cli.training.data import SPLITS
from dp3d_cli.training.landmarks import feature_points, project


def procedural_set(heads, views, size):
    """Subject, picture, camera and true points; EG3D's distance, |yaw| <= 50, |elevation| <= 30 degrees."""
    for seed in SPLITS["test"][:heads]:
        rng = np.random.default_rng((11, seed))
        cameras = [
            Camera.look_at(
                math.radians(rng.uniform(-50, 50)),
                -math.pi / 2 * math.sin(math.radians(rng.uniform(-30, 30))),
            )
            for _ in range(views)
        ]
        head = ProceduralHead(seed, detail=size / 256)
        shape = feature_points(head)
        pictures = head.render(torch.from_numpy(np.stack([camera.label for camera in cameras])), size).image
        pictures = (pictures.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
        for picture, camera in zip(pictures, cameras, strict=True):
            yield str(seed), picture, camera, project(shape, camera, size)


def orbit(yaw, pitch):
    """The 16 cameras of the published frames, with these amplitudes [rad]."""
    turns = 2 * math.pi * np.arange(16) / 16
    return [Camera.look_at(yaw * math.sin(t), -0.05 + pitch * math.cos(t)) for t in turns]


ORBITS = {"stated": orbit(0.35, 0.25), "triangulated": orbit(1.4 * 0.35, 2.0 * 0.25)}


def portrait_set(folder):
    """Published frames and camera conditions, at the stated cameras."""
    for path in sorted(folder.glob("*/official_views.mp4")):
        for picture, camera in zip(read_frames(path), ORBITS["stated"], strict=True):
            yield path.parent.name, picture, camera, None
    for path, camera in zip(sorted((folder / "cameras").glob("*.png")), ORBITS["stated"], strict=True):
        yield "cameras", read_image(path), camera, None


def triangulation_px(pictures, cameras):
    """Median over SIFT tracks on the face of their rms distance from the projected best 3D point [px].

    Tracks run through at least six neighbouring pictures of a closed orbit.
    """
    sift, matcher = cv2.SIFT_create(contrastThreshold=0.01), cv2.BFMatcher(cv2.NORM_L2)
    mask = np.zeros(pictures[0].shape[:2], np.uint8)
    mask[110:440, 110:400] = 255  # of 512: no background
    features = [sift.detectAndCompute(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY), mask) for p in pictures]

    def matches(one, other):
        pairs = matcher.knnMatch(features[one][1], features[other][1], 2)
        return {
            best.queryIdx: best.trainIdx for best, next_ in pairs if best.distance < 0.75 * next_.distance
        }

    count = len(pictures)
    links = []
    for view in range(count):
        there, back = matches(view, (view + 1) % count), matches((view + 1) % count, view)
        links.append({start: end for start, end in there.items() if back.get(end) == start})
    projections = [camera.pixel_intrinsics(512) @ camera.world2cam[:3] for camera in cameras]
    used, distances = set(), []
    for first in range(count):
        for feature in links[first]:
            track, view = [(first, feature)], first
            while track[-1] not in used and len(track) < count and track[-1][1] in links[view]:
                track.append(((view + 1) % count, links[view][track[-1][1]]))
                view = track[-1][0]
            new = not used & set(track)
            used |= set(track)
            if not new or len(track) < 6:
                continue
            seen = [(projections[view], np.array(features[view][0][key].pt) + 0.5) for view, key in track]
            system = [at[axis] * p[2] - p[axis] for p, at in seen for axis in (0, 1)]
            point = np.linalg.svd(np.array(system))[2][-1]
            miss = [np.sum(((p @ point)[:2] / (p @ point)[2] - at) ** 2) for p, at in seen]
            distances.append(math.sqrt(np.mean(miss)))
    return {"tracks": len(distances), "median": round(float(np.median(distances)), 2)}


def look(rows, net, detector, overlays):
    """Per kind of box: (number of the row, points, pose, box width) of the faces found."""
    found = {"portrait": [], "detector": []}
    for number, (subject, picture, camera, _) in enumerate(rows):
        height, width = picture.shape[:2]
        faces = detector.detect(picture)
        boxes = {"portrait": portrait_box(width, height), "detector": faces[0].box if faces else None}
        for kind, box in boxes.items():
            if box is None:
                continue
            points, confidence = net.points(picture, box)
            pose = head_pose(points, confidence, width, height)
            found[kind].append((number, points, pose, box.width))
            if overlays is not None:
                path = overlays / f"{kind}-{subject}-{number:03d}.png"
                draw(path, picture, points, confidence, pose, camera)
    return found


def errors(rows, found, cameras):
    """Errors of the poses found in `rows` against `cameras`."""
    if not found:
        return {"pictures": len(rows), "found": 0}
    names = np.array([rows[number][0] for number, *_ in found])
    pairs = [(pose, cameras[number]) for number, _, pose, _ in found]
    signed = np.degrees([(pose.yaw - camera.yaw, pose.pitch - camera.pitch) for pose, camera in pairs])
    rotations = np.array([camera.cam2world[:3, :3] @ pose.rotation for pose, camera in pairs])  # head axes
    geodesic = np.array([angle(rotation) for rotation in rotations])
    own_signed, own = signed.copy(), np.zeros(len(names))
    for name in set(names):
        those = names == name
        own_signed[those] -= signed[those].mean(0)
        u, _, vt = np.linalg.svd(rotations[those].mean(0))
        mean = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
        own[those] = [angle(rotation @ mean.T) for rotation in rotations[those]]
    result = {
        "pictures": len(rows),
        "found": len(found),
        "yaw": spread(np.abs(signed[:, 0])),
        "pitch": spread(np.abs(signed[:, 1])),
        "roll": spread([abs(math.degrees(pose.roll)) for pose, _ in pairs]),
        "geodesic": spread(geodesic),
        "own offset removed": {
            "yaw": spread(np.abs(own_signed[:, 0])),
            "pitch": spread(np.abs(own_signed[:, 1])),
            "geodesic": spread(own),
        },
    }
    if len(set(names)) < 8:
        result["subjects"] = {
            str(name): {
                "mean signed yaw": round(float(signed[names == name, 0].mean()), 2),
                "mean signed pitch": round(float(signed[names == name, 1].mean()), 2),
                "geodesic": spread(geodesic[names == name]),
                "geodesic, own offset removed": spread(own[names == name]),
            }
            for name in sorted(set(names))
        }
    return result


def point_misses(rows, found):
    """Mean distance of each point from the truth, in widths of the face box."""
    misses = [np.linalg.norm(points - rows[number][3], axis=1) / width for number, points, _, width in found]
    by_point = np.mean(misses, axis=0)
    named = zip(FEATURE_NAMES, by_point, strict=True)
    return {"mean": round(float(by_point.mean()), 4), **{name: round(float(miss), 4) for name, miss in named}}


def angle(rotation):
    skew = rotation - rotation.T
    sine = math.sqrt(skew[0, 1] ** 2 + skew[0, 2] ** 2 + skew[1, 2] ** 2) / 2
    return math.degrees(math.atan2(sine, (np.trace(rotation) - 1) / 2))


def spread(values):
    return {
        "mean": round(float(np.mean(values)), 2),
        "median": round(float(np.median(values)), 2),
        "p90": round(float(np.percentile(values, 90)), 2),
    }


def draw(path, picture, points, confidence, pose, camera):
    scale = 320 / len(picture)
    canvas = cv2.resize(picture, (320, 320), interpolation=cv2.INTER_AREA)[..., ::-1].copy()
    for name, (x, y), sure in zip(FEATURE_NAMES, (points + 0.5) * scale, confidence, strict=True):
        side = (0, 255, 0) if "left" in name else (0, 0, 255) if "right" in name else (255, 160, 0)
        colour = tuple(int(c * (0.35 + 0.65 * sure)) for c in side)
        cv2.circle(canvas, (round(float(x)), round(float(y))), 2, colour, -1, cv2.LINE_AA)
    angles = np.degrees([pose.yaw, pose.pitch, pose.roll, camera.yaw, camera.pitch])
    text = "yaw {:.0f} pitch {:.0f} roll {:.0f} asked {:.0f} {:.0f}".format(*angles)
    cv2.putText(canvas, text, (4, 314), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), canvas)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--heads", type=int, default=64)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--portraits", type=Path, help="folder of published frames; left out if not given")
    parser.add_argument("--weights", type=Path, help="another network than the embedded one")
    parser.add_argument("--overlays", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    net, detector = LandmarkNet.load(options.weights), OpenCVDetector()
    command = f"benchmarks/landmark_accuracy.py --heads {options.heads} --views {options.views} "
    report = {
        "command": f"{command}--size {options.size}" + (" --portraits ..." if options.portraits else "")
    }
    rows = list(procedural_set(options.heads, options.views, options.size)) if options.heads else []
    if rows:
        found = look(rows, net, detector, options.overlays)
        cameras = [row[2] for row in rows]
        report["procedural"] = {
            kind: {**errors(rows, poses, cameras), "miss in box widths": point_misses(rows, poses)}
            for kind, poses in found.items()
        }
    if options.portraits is not None:
        frames = list(portrait_set(options.portraits))
        for name, rows in {
            "portraits": [row for row in frames if row[0] != "cameras"],
            "cameras": [row for row in frames if row[0] == "cameras"],
        }.items():
            if name == "cameras":
                pictures = [row[1] for row in rows]
                report["triangulation_px"] = {
                    orbit: triangulation_px(pictures, cameras) for orbit, cameras in ORBITS.items()
                }
            found = look(rows, net, detector, options.overlays)
            report[name] = {
                f"{orbit}, {kind} box": errors(rows, poses, ORBITS[orbit] * (len(rows) // 16))
                for orbit in ORBITS
                for kind, poses in found.items()
            }
    text = json.dumps(report, indent=1)
    print(text)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
