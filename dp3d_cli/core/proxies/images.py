"""Proxies from files: those that the template wrote, and those made elsewhere.

A subject's folder holds one image per view, either named by view ("000.png", …) or, if not, as many images as
views in the order of their names with numbers as numbers. Below it `confidence/` and `coverage/` may hold
grey images of the same names; without them a proxy is trusted everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dp3d_cli.core.errors import InputError
from dp3d_cli.core.images import IMAGE_SUFFIXES, read_image, resize

CONFIDENCE_FOLDER, COVERAGE_FOLDER = "confidence", "coverage"


@dataclass(frozen=True, eq=False)
class ProxyImages:
    """Proxies of one subject.

    Attributes:
        images: uint8 [V, S, S, 3] RGB.
        confidences: uint8 [V, S, S], see `PortraitProxies`.
        coverages: uint8 [V, S, S].
    """

    images: NDArray[np.uint8]
    confidences: NDArray[np.uint8]
    coverages: NDArray[np.uint8]


def find_proxy_images(folder: Path, view_names: Sequence[str]) -> tuple[Path, ...]:
    """The image of each view in a subject's folder.

    Raises:
        InputError: no such folder ("no-proxies"), or not one image per view ("proxy-count").
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder. Proxies are expected as one folder per portrait, named by its id.",
            reason="no-proxies",
        )
    files = sorted(
        (
            path
            for path in folder.iterdir()
            if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and not path.name.startswith(".")
        ),
        key=lambda path: _with_numbers(path.name),
    )
    by_name = {path.stem: path for path in files}
    if len(by_name) == len(files) and all(name in by_name for name in view_names):
        return tuple(by_name[name] for name in view_names)
    if len(files) != len(view_names):
        raise InputError(
            f"{folder}: {len(files)} proxy images for {len(view_names)} views. "
            "There must be one per target camera, in the same order.",
            reason="proxy-count",
        )
    return tuple(files)


def read_proxy_images(folder: Path, view_names: Sequence[str], size: int) -> ProxyImages:
    """Read a subject's proxies and bring them to `size`.

    Args:
        folder: the subject's folder.
        view_names: names of the views, in order.
        size: side of the result [px].

    Raises:
        InputError: see `find_proxy_images`; or an image cannot be read, or is not square ("not-square").
    """
    files = find_proxy_images(folder, view_names)
    images = np.stack([_square(path, size) for path in files])
    maps = [
        np.stack([_map(folder / inner / f"{path.stem}.png", size) for path in files])
        for inner in (CONFIDENCE_FOLDER, COVERAGE_FOLDER)
    ]
    return ProxyImages(images, maps[0], maps[1])


def map_files(folder: Path, files: Sequence[Path]) -> tuple[Path, ...]:
    """The confidence and coverage images that belong to proxy images, as far as they exist."""
    candidates = [
        folder / inner / f"{path.stem}.png"
        for inner in (CONFIDENCE_FOLDER, COVERAGE_FOLDER)
        for path in files
    ]
    return tuple(path for path in candidates if path.is_file())


def _map(path: Path, size: int) -> NDArray[np.uint8]:
    if not path.is_file():
        return np.full((size, size), 255, np.uint8)
    return _square(path, size)[..., 0]


def _square(path: Path, size: int) -> NDArray[np.uint8]:
    image = read_image(path)
    if image.shape[0] != image.shape[1]:
        raise InputError(
            f"{path}: {image.shape[1]}x{image.shape[0]} is not square; proxies are.", reason="not-square"
        )
    return resize(image, size)


def _with_numbers(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key with runs of digits as numbers: "2.png" before "10.png"."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part)
