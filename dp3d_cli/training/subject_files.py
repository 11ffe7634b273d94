"""One subject's files, and the pictures in them; `dp3d_cli.training.folders` says what a folder may hold."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dp3d_cli.core.cameras.camera import FOCAL, PIVOT, RADIUS, Camera
from dp3d_cli.core.cameras.files import read_camera_list
from dp3d_cli.core.errors import InputError
from dp3d_cli.core.images import IMAGE_SUFFIXES, read_image
from dp3d_cli.training.data import SubjectViews

CAMERA_FILES = ("cameras.json", "transforms.json", "dataset.json")

_PIVOT_DISTANCE = RADIUS - PIVOT[2]  # of EG3D's frontal camera [world units]
_AIM_TOLERANCE = 0.35  # how far EG3D's and PanoHead's pivots, and those of like rigs, lie from their middle
_SIZE_TOLERANCE = 1.33  # EG3D's own crops differ by this factor in apparent size
_TAIL_BYTES = 64


@dataclass(frozen=True)
class FolderSubject:
    """One subject's files; all tuples have one entry per view.

    Attributes:
        name: its path below the folder.
        images: pictures.
        cameras: EG3D's convention; the lens is that of the picture's middle square.
        masks: grey pictures, or the pictures themselves if their alpha is the mask; None without masks.
        depths: `.npy` files; None without depth.
        scale: world units per unit of the camera file; what depth is multiplied by.
        face_points: [5][3] world positions; None if not known.
    """

    name: str
    images: tuple[Path, ...]
    cameras: tuple[Camera, ...]
    masks: tuple[Path, ...] | None = None
    depths: tuple[Path, ...] | None = None
    scale: float = 1.0
    face_points: tuple[tuple[float, float, float], ...] | None = None


def read_views(subject: FolderSubject, which: Sequence[int], size: int) -> SubjectViews:
    """These views of a subject, cut to their middle squares and resized.

    Raises:
        InputError: a file is missing, damaged or of a size of its own.
    """
    labels = torch.from_numpy(np.stack([subject.cameras[view].label for view in which]))
    pictures = np.stack([_square(read_image(subject.images[view]), size) for view in which])
    masks = depths = None
    if subject.masks is not None:
        grey = np.stack([_square(_read_mask(subject.masks[view]), size) for view in which])
        masks = torch.from_numpy(grey)[:, None].float() / 255
    if subject.depths is not None:
        maps = np.stack([_read_depth(subject.depths[view], size) for view in which])
        depths = torch.from_numpy(maps)[:, None] * subject.scale
    points = None if subject.face_points is None else torch.tensor(subject.face_points)
    return SubjectViews(
        torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255, labels, masks, depths, points
    )


def read_subject(folder: Path, name: str) -> FolderSubject:
    """What a subject's folder holds, checked as far as that costs little: every picture's header and end.

    Raises:
        InputError: its files cannot be used; the message says which and why.
    """
    file = next(folder / name for name in CAMERA_FILES if (folder / name).is_file())
    cameras, names, stated = _read_cameras(file)
    if len(cameras) < 2:
        raise InputError(f"{file}: one view; training needs two at least.", reason="too-few-views")
    images = tuple(_find_picture(folder, name) for name in names)
    _check_count(folder, images, file)
    modes = [_check_picture(image, aspect) for image, aspect in zip(images, stated, strict=True)]
    masks = _beside(folder / "masks", images, (".png",))
    if masks is not None:
        for mask in masks:
            _check_picture(mask, None, any_shape=True)
    elif all(mode in ("RGBA", "LA", "PA") for mode in modes):
        masks = images
    placed, scale, move = to_eg3d(cameras)
    points = _read_points(folder / "face_points.json")
    if points is not None:
        points = scale * points + move
    return FolderSubject(
        name,
        images,
        placed,
        masks,
        _beside(folder / "depth", images, (".npy",)),
        scale,
        None if points is None else tuple((float(x), float(y), float(z)) for x, y, z in points),
    )


def to_eg3d(cameras: Sequence[Camera]) -> tuple[tuple[Camera, ...], float, NDArray[np.float64]]:
    """Cameras at EG3D's place and scale; see the module for when they are moved, and from what.

    Returns:
        the cameras, and the scale s and the shift t [3] that took a point x to s x + t.
    """
    centres = np.stack([camera.centre for camera in cameras])
    focals = np.array([camera.intrinsics[0, 0] for camera in cameras])
    aim = axes_meet([camera for camera in cameras])
    unmoved = tuple(cameras), 1.0, np.zeros(3)
    if aim is None:
        return unmoved
    size = float(np.median(focals / np.linalg.norm(centres - aim, axis=1))) * _PIVOT_DISTANCE / FOCAL
    is_near = float(np.linalg.norm(aim - np.array(PIVOT) / 2)) <= _AIM_TOLERANCE
    if is_near and 1 / _SIZE_TOLERANCE <= size <= _SIZE_TOLERANCE:
        return unmoved
    shift = np.array(PIVOT) - size * aim
    placed = []
    for camera in cameras:
        cam2world = camera.cam2world.copy()
        cam2world[:3, 3] = size * camera.centre + shift
        placed.append(Camera(cam2world, camera.intrinsics))
    return tuple(placed), size, shift


def axes_meet(cameras: Sequence[Camera]) -> NDArray[np.float64] | None:
    """[3] the point with the least squared distance from the optical axes; None if these are parallel.

    With unit directions d, the sum of (I - d d^T) (x - o) vanishes there.
    """
    projections = [np.eye(3) - np.outer(c.cam2world[:3, 2], c.cam2world[:3, 2]) for c in cameras]
    total = np.sum(projections, axis=0)
    if np.linalg.eigvalsh(total)[0] < 1e-4 * len(cameras):
        return None
    offsets = [projection @ camera.centre for projection, camera in zip(projections, cameras, strict=True)]
    return np.asarray(np.linalg.solve(total, np.sum(offsets, axis=0)), np.float64)


_Label = Annotated[list[float], Field(min_length=25, max_length=25)]


class _Eg3dFile(BaseModel):
    model_config = ConfigDict(extra="ignore")

    labels: Annotated[list[tuple[str, _Label]], Field(min_length=1)]


def _read_cameras(file: Path) -> tuple[list[Camera], list[str], list[float | None]]:
    """Cameras, picture names, and width over height of the frames where the file states them."""
    if file.name == "dataset.json":
        try:
            content = _Eg3dFile.model_validate_json(file.read_bytes())
            cameras = [Camera.from_label(label) for _, label in content.labels]
        except ValidationError as error:
            problem = error.errors()[0]["msg"].lower()
            raise InputError(
                f'{file}: {problem}. Expected {{"labels": [[file, 25 numbers], …]}}.', reason="bad-cameras"
            ) from error
        except ValueError as error:
            raise InputError(f"{file}: {error}", reason="bad-cameras") from error
        return cameras, [name for name, _ in content.labels], [None] * len(cameras)
    listed = read_camera_list(file, crop_square=True)
    known = [camera for camera in listed.cameras if camera is not None]
    if len(known) < len(listed.cameras):
        raise InputError(
            f"{file}: the cameras of {len(listed.cameras) - len(known)} of {len(listed.cameras)} views are "
            "unknown. Leave these views out of the file.",
            reason="unknown-cameras",
        )
    stated: list[float | None] = [None] * len(known)
    if file.name == "transforms.json":
        data = json.loads(file.read_text(encoding="utf-8"))
        for index, frame in enumerate(data["frames"]):
            width, height = (frame.get(key, data.get(key)) for key in ("w", "h"))
            if width and height:
                stated[index] = width / height
    return known, list(listed.file_names), stated


def _find_picture(folder: Path, name: str) -> Path:
    """The picture that a camera file means; NeRF's files often leave the suffix out."""
    for base in (folder / name, folder / "images" / name):
        if base.is_file():
            return base
        if base.suffix.lower() not in IMAGE_SUFFIXES:
            for suffix in (".png", ".jpg", ".jpeg", ".webp"):
                if (path := base.with_name(base.name + suffix)).is_file():
                    return path
    raise InputError(
        f"{folder / name}: the camera file names this picture, but it is not there. Copy it, or take its "
        "entry out.",
        reason="missing-file",
    )


def _check_count(folder: Path, images: Sequence[Path], file: Path) -> None:
    present = [
        path
        for path in (folder / "images").rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    if present and len(present) != len(set(images)):
        raise InputError(
            f"{folder}: {len(present)} pictures in images/, but {file.name} has {len(images)} views. "
            "Make them agree.",
            reason="wrong-count",
        )


def _check_picture(path: Path, stated_aspect: float | None, *, any_shape: bool = False) -> str:
    """Mode of a picture file, after a look at its header and its end; decoding it all would take minutes.

    Raises:
        InputError: no whole picture, or not of the shape that its camera is for.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            mode, kind = str(image.mode), image.format
        with path.open("rb") as stream:
            stream.seek(-min(_TAIL_BYTES, path.stat().st_size), os.SEEK_END)
            tail = stream.read()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        read_image(path)  # says what is wrong with it
        raise
    ends = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}.get(str(kind), b"")
    if ends not in tail:
        read_image(path)
    if not any_shape and abs(width / height / (stated_aspect or 1) - 1) > 0.01:
        expected = (
            "square ones" if stated_aspect is None else f"frames {stated_aspect:.3f} times as wide as high"
        )
        raise InputError(
            f"{path}: {width}x{height} pixels, but the camera file is for {expected}. "
            "Crop the picture, or state w, h, cx and cy in transforms.json.",
            reason="non-square-image",
        )
    return mode


def _beside(folder: Path, images: Sequence[Path], suffixes: Sequence[str]) -> tuple[Path, ...] | None:
    """The file of each picture in another folder, by stem; None if there is no such folder.

    Raises:
        InputError: some pictures have one and others not.
    """
    if not folder.is_dir():
        return None
    found = []
    for image in images:
        path = next((p for s in suffixes if (p := folder / f"{image.stem}{s}").is_file()), None)
        if path is None:
            raise InputError(
                f"{folder}: nothing for {image.name} (expected {image.stem}{suffixes[0]}). Add it, or remove "
                "the folder.",
                reason="missing-file",
            )
        found.append(path)
    return tuple(found)


def _read_points(path: Path) -> NDArray[np.float64] | None:
    if not path.is_file():
        return None
    try:
        points = np.array(json.loads(path.read_text(encoding="utf-8")), np.float64)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not 5 x 3 numbers ({error}).", reason="bad-points") from error
    if points.shape != (5, 3) or not np.isfinite(points).all():
        raise InputError(f"{path}: shape {list(points.shape)}, expected 5 x 3 numbers.", reason="bad-points")
    return points


def _read_mask(path: Path) -> NDArray[np.uint8]:
    """[H, W] of a grey mask, or of a picture's alpha."""
    try:
        with Image.open(path) as image:
            channel = image.convert("RGBA").getchannel("A") if "A" in image.mode else image.convert("L")
            return np.asarray(channel, np.uint8)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: the mask cannot be read ({error}).", reason="unreadable-image") from error


def _read_depth(path: Path, size: int) -> NDArray[np.float32]:
    """[size, size], nearest neighbours: depth between a head and what is behind it means nothing."""
    try:
        depth = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: the depth cannot be read ({error}).", reason="bad-depth") from error
    if depth.ndim != 2:
        raise InputError(f"{path}: shape {list(depth.shape)}, expected [H, W].", reason="bad-depth")
    side = min(depth.shape)
    top, left = ((edge - side) // 2 for edge in depth.shape)
    middle = depth[top : top + side, left : left + side].astype(np.float32)
    return np.asarray(cv2.resize(middle, (size, size), interpolation=cv2.INTER_NEAREST_EXACT), np.float32)


def _square(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The middle square at `size` pixels, by an antialiased Lanczos filter."""
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS, box=box)
    return np.array(resized, np.uint8)
