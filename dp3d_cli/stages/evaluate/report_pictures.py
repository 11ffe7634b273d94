"""Pictures inside report.html: shrunk, as JPEG in base64, and no more of them than a stated number of bytes.

They are for looking only. Numbers come from the files themselves.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dp3d_cli.core.errors import InputError
from dp3d_cli.core.images import read_image, resize
from dp3d_cli.core.videos import read_frames
from dp3d_cli.stages.view_folders import View

Key = tuple[Path, int | None]


def key_of(view: View) -> Key:
    """What makes two views the same picture: file and frame."""
    return view.path, view.frame


def encode_views(views: Iterable[View], side: int, quality: int) -> Mapping[Key, str]:
    """Pictures in base64 as JPEG, by `key_of`; each file is opened once, and what is unreadable is left out.

    Args:
        views: pictures or video frames; the same one may come several times.
        side: longer side of the small picture [px]; smaller ones stay as they are.
        quality: of the JPEG, 1..95.
    """
    by_path: dict[Path, list[View]] = {}
    for view in views:
        by_path.setdefault(view.path, []).append(view)
    encoded = {}
    for path, own in by_path.items():
        for key, picture in _read(path, own, side):
            encoded[key] = _to_base64(picture, side, quality)
    return encoded


def _read(path: Path, views: list[View], side: int) -> Iterable[tuple[Key, NDArray[np.uint8]]]:
    frames = sorted({view.frame for view in views if view.frame is not None})
    try:
        if frames:
            pictures = read_frames(path, frames, max_side=side)
            return [((path, frame), picture) for frame, picture in zip(frames, pictures, strict=True)]
        return [((path, None), read_image(path))]
    except InputError:
        return []  # scoring has recorded it, or the file is gone since; the page says "no picture"


def _to_base64(picture: NDArray[np.uint8], side: int, quality: int) -> str:
    height, width = picture.shape[:2]
    longer = max(height, width)
    if longer > side:
        picture = resize(picture, (max(1, height * side // longer), max(1, width * side // longer)))
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality, optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")
