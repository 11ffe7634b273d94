"""How far off are the embedded landmark network's points and poses?

    python benchmarks/landmark_accuracy.py --portraits ../shared/portraits -o results/landmarks.json

Three sets, none of them trained on: procedural heads of the test seeds (points known too); published frames
of two real portraits, whose cameras are those that were *asked for* (what the frames miss counts as our error);
camera-condition images of one EG3D subject. Boxes come from OpenCV's detector ("detector"), or from where
aligned portraits have the face ("portrait"). Angles in degrees: yaw and pitch as camera angles, `geodesic`
between the rotations. "own offset removed" is after the person's mean rotation in head axes was taken out:
what is left is how well poses of one person compare. `--overlays` writes what the network saw.
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


def portrait_set(folder):
    """Published frames and camera conditions at the cameras that `folder`'s README states."""
    turns = 2 * math.pi * np.arange(16) / 16
    cameras = [Camera.look_at(0.35 * math.sin(t), -0.05 + 0.25 * math.cos(t)) for t in turns]
    for path in sorted(folder.glob("*/official_views.mp4")):
        for picture, camera in zip(read_frames(path), cameras, strict=True):
            yield path.parent.name, picture, camera, None
    for path, camera in zip(sorted((folder / "cameras").glob("*.png")), cameras, strict=True):
        yield "cameras", read_image(path), camera, None


def evaluate(rows, net, detector, boxes, overlays):
    """Errors of one set with one kind of box."""
    kept, signed, rotations, misses, roll, total = [], [], [], [], [], 0
    for subject, picture, camera, truth in rows:
        total += 1
        height, width = picture.shape[:2]
        box = portrait_box(width, height)
        if boxes == "detector":
            faces = detector.detect(picture)
            if not faces:
                continue
            box = faces[0].box
        points, confidence = net.points(picture, box)
        pose = head_pose(points, confidence, width, height)
        kept.append(subject)
        signed.append((pose.yaw - camera.yaw, pose.pitch - camera.pitch))
        rotations.append(camera.cam2world[:3, :3] @ pose.rotation)  # head axes, identity if exact
        roll.append(pose.roll)
        if truth is not None:
            misses.append(np.linalg.norm(points - truth, axis=1) / box.width)
        if overlays is not None:
            draw(overlays / f"{boxes}-{subject}-{total:03d}.png", picture, points, confidence, pose, camera)
    if not kept:
        return {"pictures": total, "found": 0}
    signed, rotations, names = np.degrees(signed), np.array(rotations), np.array(kept)
    inside_signed, inside = signed.copy(), np.zeros(len(names))
    offsets = {}
    for name in sorted(set(kept)):
        own = names == name
        inside_signed[own] -= signed[own].mean(0)
        u, _, vt = np.linalg.svd(rotations[own].mean(0))
        mean = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
        inside[own] = [angle(rotation @ mean.T) for rotation in rotations[own]]
        offsets[name] = signed[own].mean(0).round(2).tolist()
    result = {
        "pictures": total,
        "found": len(kept),
        "yaw": spread(np.abs(signed[:, 0])),
        "pitch": spread(np.abs(signed[:, 1])),
        "roll": spread(np.abs(np.degrees(roll))),
        "geodesic": spread([angle(rotation) for rotation in rotations]),
        "own offset removed": {
            "yaw": spread(np.abs(inside_signed[:, 0])),
            "pitch": spread(np.abs(inside_signed[:, 1])),
            "geodesic": spread(inside),
        },
    }
    if len(offsets) < 8:
        result["mean signed yaw and pitch error"] = offsets
    if misses:
        by_point = np.mean(misses, axis=0)
        result["miss in box widths"] = {
            "mean": round(float(by_point.mean()), 4),
            **{name: round(float(miss), 4) for name, miss in zip(FEATURE_NAMES, by_point, strict=True)},
        }
    return result


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
    sets = {"procedural": list(procedural_set(options.heads, options.views, options.size))}
    if options.portraits is not None:
        frames = list(portrait_set(options.portraits))
        sets["portraits"] = [row for row in frames if row[0] != "cameras"]
        sets["cameras"] = [row for row in frames if row[0] == "cameras"]
    report = {
        "command": f"benchmarks/landmark_accuracy.py --heads {options.heads} --views {options.views} "
        f"--size {options.size}" + (" --portraits ..." if options.portraits else ""),
        "sets": {
            name: {
                boxes: evaluate(rows, net, detector, boxes, options.overlays)
                for boxes in ("portrait", "detector")
            }
            for name, rows in sets.items()
            if rows
        },
    }
    text = json.dumps(report, indent=1)
    print(text)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
