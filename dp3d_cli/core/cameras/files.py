"""Camera files: our `cameras.json`, and NeRF's `transforms.json` both ways.

`cameras.json` holds one EG3D label a view; the angles beside it are for people and are checked against the
label when the file is read back. Numbers are the shortest decimals of their float32 values, so that the same
cameras give the same bytes.

`transforms.json` has OpenGL camera axes (x right, y up, looking along -z): the second and third columns of a
cam2world change sign, the world stays. `applied_transform` A means that the stored matrices are A times those
of the original world, so that reading undoes it (nerfstudio's meaning of the field).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dp3d_cli.core.cameras.camera import Array, Camera, Trajectory, is_trajectory_name, view_names
from dp3d_cli.core.errors import InputError
from dp3d_cli.core.presets import explain

FORMAT = "dp3d-cameras"
VERSION = 1

_ANGLE_TOLERANCE_DEG = 0.01  # the angles are written with four decimals
# Y up to z up as Blender and instant-ngp expect it: (x, y, z) -> (x, -z, y).
_Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class CameraList:
    """What a camera file says: images in order, and their cameras as far as they are known.

    Attributes:
        name: the trajectory's name.
        cameras: one per view; None where the camera is unknown (frames of a driving video).
        file_names: image of each view, relative to the camera file.
        closed: whether the first view follows the last.
    """

    name: str
    cameras: tuple[Camera | None, ...]
    file_names: tuple[str, ...]
    closed: bool = False


def write_cameras(path: Path, trajectory: Trajectory, file_names: Sequence[str] | None = None) -> None:
    """Write `cameras.json`; file names default to "<view>.png". The same cameras give the same bytes.

    Raises:
        ValueError: not one file name per camera.
    """
    names = tuple(file_names or (f"{view}.png" for view in trajectory.view_names))
    write_camera_list(path, CameraList(trajectory.name, trajectory.cameras, names, trajectory.closed))


def write_camera_list(path: Path, cameras: CameraList) -> None:
    """Write `cameras.json` for views of which some or all cameras may be unknown.

    Raises:
        ValueError: not one file name per camera.
    """
    if len(cameras.cameras) != len(cameras.file_names):
        raise ValueError(f"{len(cameras.file_names)} file names for {len(cameras.cameras)} cameras.")
    head = {"format": FORMAT, "version": VERSION, "name": cameras.name, "closed": cameras.closed}
    views = [
        {"view": view, "label": None, "yaw_deg": None, "pitch_deg": None, "file": file_name}
        if camera is None
        else {
            "view": view,
            "label": [_shortest(number) for number in camera.label],
            **_angles_deg(Camera.from_label(camera.label)),
            "file": file_name,
        }
        for view, camera, file_name in zip(
            view_names(len(cameras.cameras)), cameras.cameras, cameras.file_names, strict=True
        )
    ]
    path.write_text(_json_with_rows(head, "views", views), encoding="utf-8", newline="\n")


def read_cameras(path: Path) -> Trajectory:
    """The trajectory in a `cameras.json` or a NeRF `transforms.json`; the content decides which it is.

    Raises:
        InputError: see `read_camera_list`; also when a view's camera is unknown.
    """
    listed = read_camera_list(path)
    known = tuple(camera for camera in listed.cameras if camera is not None)
    if len(known) < len(listed.cameras):
        missing = len(listed.cameras) - len(known)
        raise InputError(
            f"{path}: the cameras of {missing} of {len(listed.cameras)} views are unknown (label null). "
            "Give a trajectory whose cameras are known.",
            reason="unknown-cameras",
        )
    return Trajectory(listed.name, known, listed.closed)


def read_camera_list(path: Path, *, crop_square: bool = False) -> CameraList:
    """Images and cameras of a `cameras.json` or a NeRF `transforms.json`; the content decides which it is.

    From `transforms.json` come frames in file order, `fl_x, fl_y, cx, cy, w, h` or `camera_angle_x`, for all
    frames or each; the world is taken as it is, except that `applied_transform` is undone.

    Args:
        path: the file.
        crop_square: where `w` and `h` differ, give the lens of the frame's middle square instead of refusing;
            the caller cuts the pictures likewise.

    Raises:
        InputError: unreadable, of an unknown format or version, a wrong or missing entry, a matrix that is no
            camera, lens distortion, or frames that are not square.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}).", reason="unreadable-cameras"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}).", reason="unreadable-cameras") from error
    if isinstance(data, dict) and data.get("format") == FORMAT:
        return _from_cameras_json(path, data)
    if isinstance(data, dict) and "frames" in data:
        return _from_transforms_json(path, data, crop_square)
    raise _bad(path, f'neither a cameras.json ("format": "{FORMAT}") nor a transforms.json ("frames": [...])')


def write_transforms(
    path: Path,
    trajectory: Trajectory,
    size: int,
    file_names: Sequence[str] | None = None,
    *,
    z_up: bool = False,
) -> None:
    """Write a NeRF `transforms.json` for square images of `size` pixels.

    Args:
        path: the file.
        trajectory: cameras in the order of the frames.
        size: width and height of the images [px].
        file_names: image of each view relative to the file; "<view>.png" by default.
        z_up: turn the world so that z is up, and say so in `applied_transform`. Without it the world is
            EG3D's: y up, the face along +z.

    Raises:
        ValueError: not one file name per camera.
    """
    names = tuple(file_names or (f"{view}.png" for view in trajectory.view_names))
    if len(names) != len(trajectory):
        raise ValueError(f"{len(names)} file names for {len(trajectory)} cameras.")
    world = _Z_UP if z_up else np.eye(4)
    lenses = [_lens(camera, size) for camera in trajectory.cameras]
    shared = all(lens == lenses[0] for lens in lenses)
    head: dict[str, Any] = {"camera_model": "OPENCV", "w": size, "h": size, **(lenses[0] if shared else {})}
    head["orientation_override"] = "none"  # nerfstudio would turn the world to its own idea of up
    if z_up:
        head["applied_transform"] = _Z_UP[:3].tolist()
    frames = [
        {
            "file_path": name,
            **({} if shared else lens),
            "transform_matrix": [[_shortest(n) for n in row] for row in world @ camera.cam2world_opengl],
        }
        for camera, lens, name in zip(trajectory.cameras, lenses, names, strict=True)
    ]
    path.write_text(_json_with_rows(head, "frames", frames), encoding="utf-8", newline="\n")


class _View(BaseModel):
    model_config = ConfigDict(extra="forbid")

    view: str | None = None
    label: Annotated[list[float], Field(min_length=25, max_length=25)] | None
    yaw_deg: float | None = None
    pitch_deg: float | None = None
    file: str | None = None


class _CamerasJson(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Literal["dp3d-cameras"]
    version: int
    name: str
    closed: bool = False
    views: Annotated[list[_View], Field(min_length=1)]


class _Lens(BaseModel):
    """The lens of all frames, or of one. Other keys belong to other tools and are none of our business."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    w: float | None = Field(default=None, gt=0)
    h: float | None = Field(default=None, gt=0)
    fl_x: float | None = Field(default=None, gt=0)
    fl_y: float | None = Field(default=None, gt=0)
    cx: float | None = None
    cy: float | None = None
    camera_angle_x: float | None = Field(default=None, gt=0, lt=math.pi)
    camera_angle_y: float | None = Field(default=None, gt=0, lt=math.pi)
    camera_model: str | None = None
    k1: float = 0
    k2: float = 0
    k3: float = 0
    k4: float = 0
    p1: float = 0
    p2: float = 0


_Row = Annotated[list[float], Field(min_length=4, max_length=4)]
_Matrix = Annotated[list[_Row], Field(min_length=3, max_length=4)]


class _Frame(_Lens):
    file_path: str
    transform_matrix: _Matrix


class _TransformsJson(_Lens):
    frames: Annotated[list[_Frame], Field(min_length=1)]
    applied_transform: _Matrix | None = None
    applied_scale: float = 1.0


def _from_cameras_json(path: Path, data: dict[str, Any]) -> CameraList:
    version = data.get("version")
    if isinstance(version, int) and version > VERSION:
        raise _bad(path, f"version {version} was written by a newer dp3d; this one reads up to {VERSION}")
    content = _validated(path, data, _CamerasJson)
    if not is_trajectory_name(content.name):
        raise _bad(path, f"the name {content.name!r} cannot name a folder")
    cameras, file_names = [], []
    for expected, view in zip(view_names(len(content.views)), content.views, strict=True):
        if view.view not in (None, expected):
            raise _bad(
                path, f"view '{view.view}' stands where '{expected}' belongs; number the views in order"
            )
        file_name = view.file or f"{expected}.png"
        if PurePosixPath(file_name).is_absolute() or ".." in PurePosixPath(file_name).parts:
            raise _bad(
                path, f"view '{expected}': the file '{file_name}' is not below the folder of this file"
            )
        file_names.append(file_name)
        cameras.append(None if view.label is None else _labelled(path, expected, view))
    return CameraList(content.name, tuple(cameras), tuple(file_names), content.closed)


def _labelled(path: Path, name: str, view: _View) -> Camera:
    try:
        camera = Camera.from_label(view.label or ())
    except ValueError as error:
        raise _bad(path, f"view '{name}': {error}") from error
    actual = _angles_deg(camera)
    for key, stated in (("yaw_deg", view.yaw_deg), ("pitch_deg", view.pitch_deg)):
        difference = 0.0 if stated is None else abs((stated - actual[key] + 180) % 360 - 180)
        if difference > _ANGLE_TOLERANCE_DEG:
            raise _bad(
                path,
                f"view '{name}': {key} is {stated}, but its label says {actual[key]}. The label decides; "
                "to change angles, write a trajectory YAML",
            )
    return camera


def _from_transforms_json(path: Path, data: dict[str, Any], crop_square: bool) -> CameraList:
    content = _validated(path, data, _TransformsJson)
    if content.applied_scale != 1.0:
        raise _bad(path, f"applied_scale is {content.applied_scale}; scaled worlds are not supported")
    undo = np.eye(4)
    if content.applied_transform is not None:
        try:
            undo = Camera(_square(content.applied_transform), np.eye(3)).world2cam
        except ValueError as error:
            raise _bad(path, f"applied_transform: {error}") from error
    cameras = []
    for index, frame in enumerate(content.frames):
        where = f"frame {index} ({frame.file_path})"
        own = frame.model_dump(include=set(_Lens.model_fields), exclude_unset=True)
        lens = _Lens.model_validate({**content.model_dump(include=set(_Lens.model_fields)), **own})
        try:
            cameras.append(
                Camera.from_opengl(undo @ _square(frame.transform_matrix), _intrinsics(lens, crop_square))
            )
        except ValueError as error:
            raise _bad(path, f"{where}: {error}") from error
    # Everyone calls the file transforms.json; the folder says what it is about.
    name = path.resolve().parent.name if path.stem.startswith("transforms") else path.stem
    name = name if is_trajectory_name(name) else "transforms"
    return CameraList(name, tuple(cameras), tuple(frame.file_path for frame in content.frames))


def _intrinsics(lens: _Lens, crop_square: bool) -> Array:
    """[3, 3] intrinsics divided by the image size.

    Raises:
        ValueError: a lens that a pinhole camera with square frames cannot stand for.
    """
    if lens.camera_model not in (None, "OPENCV", "PINHOLE", "SIMPLE_PINHOLE"):
        raise ValueError(f"camera_model '{lens.camera_model}' is not supported; undistort to PINHOLE")
    if any((lens.k1, lens.k2, lens.k3, lens.k4, lens.p1, lens.p2)):
        raise ValueError("the lens is distorted (k1 … p2 are not 0); undistort the images first")
    if lens.w is not None and lens.h is not None and lens.w != lens.h:
        if crop_square:
            return _intrinsics(_middle_square(lens, lens.w, lens.h), False)
        raise ValueError(f"the frames are {lens.w:g}x{lens.h:g}; square ones are needed, crop them first")
    size = lens.w or lens.h
    if lens.fl_x is not None:
        if size is None:
            raise ValueError("fl_x is in pixels, but w is missing")
        focal_x, focal_y = lens.fl_x / size, (lens.fl_y or lens.fl_x) / size
    elif lens.camera_angle_x is not None:
        focal_x = 0.5 / math.tan(lens.camera_angle_x / 2)
        focal_y = 0.5 / math.tan(lens.camera_angle_y / 2) if lens.camera_angle_y else focal_x
    else:
        raise ValueError("neither fl_x nor camera_angle_x gives the focal length")
    if size is None and (lens.cx is not None or lens.cy is not None):
        raise ValueError("cx and cy are in pixels, but w is missing")
    centre_x = 0.5 if lens.cx is None or size is None else lens.cx / size
    centre_y = 0.5 if lens.cy is None or size is None else lens.cy / size
    return np.array([[focal_x, 0, centre_x], [0, focal_y, centre_y], [0, 0, 1]])


def _middle_square(lens: _Lens, width: float, height: float) -> _Lens:
    """The lens of the largest square in the middle of a frame of width x height px."""
    side = min(width, height)
    own: dict[str, float] = {"w": side, "h": side}
    if lens.fl_x is None and lens.camera_angle_x is not None:
        own["fl_x"] = 0.5 * width / math.tan(lens.camera_angle_x / 2)
        if lens.camera_angle_y is not None:
            own["fl_y"] = 0.5 * height / math.tan(lens.camera_angle_y / 2)
    own["cx"] = (width / 2 if lens.cx is None else lens.cx) - (width - side) / 2
    own["cy"] = (height / 2 if lens.cy is None else lens.cy) - (height - side) / 2
    return lens.model_copy(update=own)


def _validated(path: Path, data: dict[str, Any], model: type[_Model]) -> _Model:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _bad(path, explain(error, model).rstrip(".")) from error


def _bad(path: Path, problem: str) -> InputError:
    return InputError(f"{path}: {problem}.", reason="bad-cameras")


def _square(rows: Sequence[Sequence[float]]) -> Array:
    matrix = np.eye(4)
    matrix[: len(rows)] = rows
    return matrix


def _lens(camera: Camera, size: int) -> dict[str, float]:
    pixels = camera.pixel_intrinsics(size)
    angle_x = 2 * math.atan(0.5 / camera.intrinsics[0, 0])
    names = {"fl_x": pixels[0, 0], "fl_y": pixels[1, 1], "cx": pixels[0, 2], "cy": pixels[1, 2]}
    return {key: round(float(number), 6) for key, number in names.items()} | {
        "camera_angle_x": round(angle_x, 9)
    }


def _angles_deg(camera: Camera) -> dict[str, float]:
    angles = {"yaw_deg": math.degrees(camera.yaw), "pitch_deg": math.degrees(camera.pitch)}
    return {key: round(angle, 4) + 0.0 for key, angle in angles.items()}


def _shortest(number: float) -> float:
    return float(str(np.float32(number))) + 0.0  # + 0.0 turns -0 into 0


def _json_with_rows(head: dict[str, Any], key: str, rows: Sequence[dict[str, Any]]) -> str:
    """JSON with the head's entries indented and one row a line: readable, and fit for line-wise diffs."""
    lines = [f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}," for name, value in head.items()]
    body = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in rows)
    return "\n".join(["{", *lines, f' "{key}": [', body, " ]", "}", ""])
