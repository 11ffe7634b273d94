"""NeRSemble's multi-view videos as training subjects: upright EG3D crops with EG3D cameras.

    python -m dp3d_cli.training.nersemble NERSEMBLE_FOLDER -o OUT
        [--subjects 018 030] [--sequences EXP-2-eyes] [--timesteps 0 50] [--align landmarks|cameras]

NeRSemble (Kirschstein et al. 2023, arXiv 2305.03027) shows people from 16 calibrated cameras. Three layouts
of it are read, <P> being a participant of three digits:

    <P>/calibration/camera_params.json, color_calibration.json     version 2, as its script downloads it
    <P>/sequences/<SEQUENCE>/images/cam_<SERIAL>.mp4
    <P>/camera_params.json                                         as the paper's own code expects it
    <P>/sequences/<SEQUENCE>/frame_<TIMESTEP>/images-2x…/cam_<SERIAL>.png, alpha_map…/cam_<SERIAL>.png
    <P>/annotations/<SEQUENCE>/color_correction/<SERIAL>.npy
    camera_params/<P>/camera_params.json                           version 1, unpacked
    sequence_<SEQUENCE>_part-<N>/<P>/<SEQUENCE>/cam_<SERIAL>.mp4

`camera_params.json` holds `world_2_cam`, one 4x4 matrix a serial (OpenCV axes), and `intrinsics`, 3x3 for
pictures of 2200x3208 px that all cameras share; smaller pictures have smaller lenses. Colour is corrected
where the layout has what that takes. Depth maps are not read.

**Alignment.** The calibration's world knows nothing of the head. `landmarks` (the default) finds facial
features in the pictures, triangulates them, and takes the similarity that brings them to the mean head of
`core.faces.landmarks`: place, turn and scale of the head are then those of EG3D's world, take by take, since
heads move. `cameras` needs no face: the point that the cameras look at becomes the pivot, their mean
direction the front, their mean up the up, and a metre `UNITS_PER_METRE`; the head is where and how the
participant happens to hold it. `training.rigs` has the details, and those of the crops.

Each take becomes `OUT/<P>/<SEQUENCE>_<TIMESTEP>/` for `dp3d_cli.training.folders`: images/, masks/ if there
are alpha maps, cameras.json, face_points.json and source.json. Takes that exist are kept; those that fail are
listed, and the exit status is 1.

**RenderMe-360** (arXiv 2305.13353) has no converter. Write the same folders for it: `OUT/<person>/<take>/`
with one frame's pictures of the cameras within about 60 degrees of the front (of up to 60 all around) and its
mattes as `masks/`. Undistort the pictures by its calibration (K, D, RT) first; then `landmark_placement` and
`rectify` of `training.rigs` give crops and cameras as here.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import secrets
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dp3d_cli.core.cameras.camera import Trajectory
from dp3d_cli.core.cameras.files import write_cameras
from dp3d_cli.core.errors import Dp3dError, InputError, UsageError
from dp3d_cli.core.faces.detect import Detector, load_detector
from dp3d_cli.core.faces.landmarks import FEATURE_NAMES, LandmarkNet
from dp3d_cli.core.images import read_image, write_png
from dp3d_cli.core.videos import count_frames, read_frames
from dp3d_cli.training.colours import correct_colour
from dp3d_cli.training.rigs import RigView, landmark_placement, rectify, rig_placement

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
Alignment = Literal["landmarks", "cameras"]

FULL_WIDTH, FULL_HEIGHT = 2200, 3208
"""Size of the pictures that the intrinsics are for [px]."""
_NO_PERSON = ("BACKGROUND",)
_EYE_DEPTH = 0.033  # of the corners' middle behind the eye's front, on procedural heads [world units]
_READ_SIDE = 1604  # longest side of video frames that are read; half size, as the paper used them [px]


_Row3 = Annotated[list[float], Field(min_length=3, max_length=3)]
_Row4 = Annotated[list[float], Field(min_length=4, max_length=4)]


class _CameraParams(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    world_2_cam: dict[str, Annotated[list[_Row4], Field(min_length=3, max_length=4)]]
    intrinsics: Annotated[list[_Row3], Field(min_length=3, max_length=3)]


@dataclass(frozen=True)
class Take:
    """One moment of one participant.

    Attributes:
        root: NeRSemble's folder.
        participant: three digits.
        sequence: its name.
        folder: the sequence's.
        timestep: number of the frame.
    """

    root: Path
    participant: str
    sequence: str
    folder: Path
    timestep: int

    @property
    def name(self) -> str:
        """Path below the output folder."""
        return f"{self.participant}/{self.sequence}_{self.timestep:05d}"

    def read(self) -> list[RigView]:
        """The pictures with their calibration, colours corrected where possible.

        Raises:
            InputError: no calibration, no pictures, or pictures that do not fit it.
        """
        params = _read_params(self.root, self.participant)
        sources = self._pictures("images", ".png", ".jpg") or _videos(self.folder)
        unknown = sorted(set(sources) - set(params.world_2_cam))
        if unknown:
            raise InputError(
                f"{self.folder}: camera {unknown[0]} is not in the calibration of {self.participant}.",
                reason="bad-cameras",
            )
        if len(sources) < 3:
            raise InputError(
                f"{self.folder}: {len(sources)} cameras at timestep {self.timestep}, at least 3 are needed.",
                reason="too-few-views",
            )
        alphas = self._pictures("alpha_map", ".png")
        views = []
        for serial, path in sorted(sources.items()):
            if path.suffix == ".mp4":
                picture = read_frames(path, [self.timestep], max_side=_READ_SIDE)[0]
            else:
                picture = read_image(path)
            matrix = self._colours.get(serial)
            if matrix is not None:
                picture = correct_colour(picture, matrix)
            alpha = _read_grey(alphas[serial], picture.shape) if serial in alphas else None
            world2cam = np.array(params.world_2_cam[serial])
            lens = _lens_of(path, picture, np.array(params.intrinsics))
            rotation = world2cam[:3, :3]
            views.append(RigView(serial, picture, rotation, -rotation.T @ world2cam[:3, 3], lens, alpha))
        if any(view.alpha is None for view in views):  # some cameras have none: masks for all or for nobody
            views = [RigView(v.serial, v.picture, v.rotation, v.centre, v.lens) for v in views]
        return views

    def _pictures(self, kind: str, *suffixes: str) -> dict[str, Path]:
        """Picture of each serial in `frame_<timestep>/<kind>…`; empty if there is no such folder."""
        for parent in (self.folder, self.folder / "timesteps"):
            folders = sorted((parent / f"frame_{self.timestep:05d}").glob(f"{kind}*"))
            for folder in folders:
                found = _by_serial(folder, suffixes)
                if found:
                    return found
        return {}

    @cached_property
    def _colours(self) -> Mapping[str, Array]:
        shared = self.root / self.participant / "calibration" / "color_calibration.json"
        if shared.is_file():
            matrices = json.loads(shared.read_text(encoding="utf-8"))
            return {serial: np.array(matrix, np.float64) for serial, matrix in matrices.items()}
        own = self.root / self.participant / "annotations" / self.sequence / "color_correction"
        return {path.stem: np.load(path).astype(np.float64) for path in sorted(own.glob("*.npy"))}


def find_takes(
    root: Path,
    subjects: Sequence[str] | None = None,
    sequences: Sequence[str] | None = None,
    timesteps: Sequence[int] = (0,),
) -> list[Take]:
    """What there is to convert, by participant, sequence and timestep.

    Args:
        root: NeRSemble's folder.
        subjects: participants; None takes all.
        sequences: names; None takes all that show somebody.
        timesteps: frame numbers; those beyond a sequence's end are passed over.

    Raises:
        UsageError: a participant or a sequence that is not there, or nothing at all.
    """
    people = sorted(
        {path.parent.name for path in root.glob("*/camera_params.json")}
        | {path.parent.parent.name for path in root.glob("*/calibration/camera_params.json")}
        | {path.parent.name for path in root.glob("camera_params/*/camera_params.json")}
    )
    if not people:
        raise UsageError(
            f"{root}: no camera_params.json; expected <participant>/calibration/ or camera_params/."
        )
    wanted = people if subjects is None else [_participant(name) for name in subjects]
    missing = [person for person in wanted if person not in people]
    if missing:
        raise UsageError(
            f"{root}: no participant '{missing[0]}' with a calibration; there are {len(people)}."
        )
    takes, seen = [], set()
    for person in wanted:
        folders = {path.name: path for path in sorted(root.glob(f"sequence_*/{person}/*")) if path.is_dir()}
        own = root / person / "sequences"
        folders |= {path.name: path for path in sorted(own.glob("*")) if path.is_dir()}
        for name, folder in sorted(folders.items()):
            if name in _NO_PERSON or (sequences is not None and name not in sequences):
                continue
            seen.add(name)
            there = _timesteps(folder, timesteps)
            takes += [Take(root, person, name, folder, timestep) for timestep in there]
    absent = [name for name in sequences or () if name not in seen]
    if absent:
        raise UsageError(f"{root}: no sequence '{absent[0]}' of these participants.")
    if not takes:
        raise UsageError(f"{root}: no pictures of these participants, sequences and timesteps.")
    return takes


def convert(take: Take, output: Path, size: int, alignment: Alignment, finders: Finders) -> Path:
    """Write one take's folder; it appears when it is whole.

    Raises:
        InputError: the take cannot be used; see `Take.read` and `landmark_placement`.
    """
    views = take.read()
    features: Array | None = None
    if alignment == "landmarks":
        placement, features = landmark_placement(views, finders.detector, finders.network)
    else:
        placement = rig_placement(views)
    target = output / take.name
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        cameras, names = [], []
        for view in views:
            picture, alpha, camera = rectify(view, placement, size)
            names.append(f"images/cam_{view.serial}.png")
            write_png(draft / names[-1], picture)
            if alpha is not None:
                write_png(draft / "masks" / f"cam_{view.serial}.png", alpha)
            cameras.append(camera)
        write_cameras(draft / "cameras.json", Trajectory("nersemble", tuple(cameras)), names)
        if features is not None:
            points = json.dumps(np.round(face_points(features), 5).tolist())
            (draft / "face_points.json").write_text(points + "\n", encoding="utf-8")
        source = {
            "dataset": "NeRSemble",
            "participant": take.participant,
            "sequence": take.sequence,
            "timestep": take.timestep,
            "alignment": alignment,
            "units_per_metre": round(placement.scale, 4),
            "residual": round(placement.residual, 4),
        }
        (draft / "source.json").write_text(json.dumps(source, indent=1) + "\n", encoding="utf-8")
        draft.replace(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def face_points(features: Array) -> Array:
    """[5, 3] eyes (before the middle of their corners), nose tip and mouth corners of features [K, 3]."""
    place = {name: features[index] for index, name in enumerate(FEATURE_NAMES)}
    eyes = [(place[f"{side}_eye_outer"] + place[f"{side}_eye_inner"]) / 2 for side in ("left", "right")]
    eyes = [eye + np.array([0, 0, _EYE_DEPTH]) for eye in eyes]
    return np.stack([*eyes, place["nose_tip"], place["left_mouth_corner"], place["right_mouth_corner"]])


class Finders:
    """Face detector and landmark network, made when they are first needed."""

    @cached_property
    def detector(self) -> Detector:
        """The best detector there is."""
        return load_detector()

    @cached_property
    def network(self) -> LandmarkNet:
        """The embedded landmark network."""
        return LandmarkNet.load()


def convert_all(takes: Sequence[Take], output: Path, size: int, alignment: Alignment) -> dict[str, str]:
    """Convert what is not there yet.

    Returns:
        name and reason of each take that failed.
    """
    finders, failed = Finders(), {}
    for number, take in enumerate(takes, 1):
        if (output / take.name).is_dir():
            logger.info("%d of %d: %s is there", number, len(takes), take.name)
            continue
        try:
            convert(take, output, size, alignment, finders)
            logger.info("%d of %d: %s", number, len(takes), take.name)
        except InputError as error:
            failed[take.name] = str(error)
            logger.warning("%d of %d: %s failed: %s", number, len(takes), take.name, error)
    return failed


def _participant(name: str) -> str:
    return f"{int(name):03d}" if name.isdecimal() else name


def _read_params(root: Path, participant: str) -> _CameraParams:
    own = root / participant
    candidates = (
        own / "calibration" / "camera_params.json",
        own / "camera_params.json",
        root / "camera_params" / participant / "camera_params.json",
    )
    path = next(path for path in candidates if path.is_file())
    try:
        params = _CameraParams.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise InputError(f"{path}: '{where}': {problem['msg'].lower()}.", reason="bad-cameras") from error
    for serial, matrix in params.world_2_cam.items():
        rotation = np.array(matrix)[:3, :3]
        if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3 or np.linalg.det(rotation) < 0:
            raise InputError(
                f"{path}: the matrix of camera {serial} is no rotation and translation.", reason="bad-cameras"
            )
    return params


def _videos(folder: Path) -> dict[str, Path]:
    return _by_serial(folder / "images", (".mp4",)) or _by_serial(folder, (".mp4",))


def _by_serial(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    found = ((re.fullmatch(r"cam_(\w+)", path.stem), path) for path in sorted(folder.iterdir()))
    return {match[1]: path for match, path in found if match and path.suffix.lower() in suffixes}


def _timesteps(folder: Path, wanted: Sequence[int]) -> list[int]:
    """Those of the wanted frames that a sequence has."""
    if any(folder.glob("frame_*")) or any(folder.glob("timesteps/frame_*")):
        names = {path.name for parent in (folder, folder / "timesteps") for path in parent.glob("frame_*")}
        return [timestep for timestep in wanted if f"frame_{timestep:05d}" in names]
    videos = _videos(folder)
    if not videos:
        return []
    try:
        count = min(count_frames(path) for path in videos.values())
    except InputError as error:
        logger.warning("%s is passed over: %s", folder, error)
        return []
    return [timestep for timestep in wanted if timestep < count]


def _lens_of(path: Path, picture: NDArray[np.uint8], intrinsics: Array) -> Array:
    """[3, 3] intrinsics of a picture that may be smaller than those are for."""
    height, width = picture.shape[:2]
    scale_x, scale_y = width / FULL_WIDTH, height / FULL_HEIGHT
    if abs(scale_x / scale_y - 1) > 0.01:
        raise InputError(
            f"{path}: {width}x{height} pixels, expected {FULL_WIDTH}x{FULL_HEIGHT} or less in that shape. "
            "Do not crop the pictures.",
            reason="wrong-size",
        )
    return np.asarray(np.diag([scale_x, scale_y, 1.0]) @ intrinsics)


def _read_grey(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """[H, W] of an alpha map, brought to its picture's size."""
    try:
        with Image.open(path) as image:
            grey = image.convert("L").resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
            return np.asarray(grey, np.uint8)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f"{path}: the alpha map cannot be read ({error}).", reason="unreadable-image"
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert what the arguments name; 1 if some of it failed, 2 if they make no sense."""
    parser = argparse.ArgumentParser(description="Convert NeRSemble to training subjects.")
    parser.add_argument("folder", type=Path, help="NeRSemble as downloaded.")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--subjects", nargs="+", help="Participants, as 018; all by default.")
    parser.add_argument("--sequences", nargs="+", help="Names, as EXP-2-eyes; all by default.")
    parser.add_argument("--timesteps", nargs="+", type=int, default=[0], help="Frame numbers; 0 by default.")
    parser.add_argument("--size", type=int, default=512, help="Side of the crops in pixels.")
    parser.add_argument("--align", choices=["landmarks", "cameras"], default="landmarks")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        takes = find_takes(options.folder, options.subjects, options.sequences, options.timesteps)
        failed = convert_all(takes, options.output, options.size, options.align)
    except Dp3dError as error:
        logger.error("%s", error)
        return error.exit_status
    logger.info("%d takes, %d failed", len(takes), len(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
