"""Camera conditions made elsewhere: a folder of images, or the frames of a driving video.

DiffPortrait3D reads the camera from an image of another subject (arXiv 2312.13016, Sec. 3.3), so that any
picture of a head can be one, and its camera need not be known as a matrix.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dp3d_cli.core.errors import InputError, UsageError
from dp3d_cli.core.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES, read_image, resize
from dp3d_cli.core.videos import count_frames, read_frames

_READ_CHUNK = 32  # frames held at a time


@dataclass(frozen=True)
class ConditionImages:
    """Camera conditions that exist as files.

    Attributes:
        source: the folder or the video file.
        files: what is read: the images of the folder in the order of the views, or the video alone.
        count: how many images there are.
    """

    source: Path
    files: tuple[Path, ...]
    count: int

    @property
    def is_video(self) -> bool:
        """Whether the images are frames of a video."""
        return self.files == (self.source,)

    def choose(self, num_views: int | None, *, resample: bool = False) -> tuple[int, ...]:
        """Which images are used for `num_views` views.

        Args:
            num_views: how many are wanted; None takes all.
            resample: allow taking fewer than there are, evenly spread and with the first and the last.

        Returns:
            Indices of images, rising.

        Raises:
            UsageError: the numbers differ and resampling was not asked for, or cannot help.
        """
        if num_views is None or num_views == self.count:
            return tuple(range(self.count))
        if num_views > self.count:
            raise UsageError(
                f"{self.source}: {self.count} images for {num_views} views. "
                "Give as many images as views, or a trajectory with fewer views."
            )
        if not resample:
            raise UsageError(
                f"{self.source}: {self.count} images for {num_views} views. Give a trajectory with "
                f"{self.count} views, or take evenly spread images with --resample."
            )
        return tuple(round(index) for index in np.linspace(0, self.count - 1, num_views).tolist())

    def read(
        self, indices: tuple[int, ...], size: int, *, centre_crop: bool = False
    ) -> Iterator[NDArray[np.uint8]]:
        """The chosen images one by one, uint8 [size, size, 3] RGB.

        Args:
            indices: which images.
            size: width and height [px]; other sizes are resampled with antialiasing.
            centre_crop: cut images that are not square to their central square.

        Raises:
            InputError: an image cannot be read, or is not square and `centre_crop` is off.
        """
        for index, image in self._originals(indices):
            height, width = image.shape[:2]
            if height != width and not centre_crop:
                raise InputError(
                    f"{self._name(index)}: {width}x{height} is not square. Align the faces first "
                    "('dp3d align' reads videos too), or cut the centre out with --centre-crop.",
                    reason="not-square",
                )
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            yield resize(image[top : top + side, left : left + side], size)

    def _originals(self, indices: tuple[int, ...]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        if not self.is_video:
            for index in indices:
                yield index, read_image(self.files[index])
            return
        for start in range(0, len(indices), _READ_CHUNK):
            chunk = indices[start : start + _READ_CHUNK]
            yield from zip(chunk, read_frames(self.source, chunk), strict=True)

    def _name(self, index: int) -> str:
        return f"{self.source} frame {index}" if self.is_video else str(self.files[index])


def find_condition_images(source: Path) -> ConditionImages:
    """The images of a folder, sorted by name with numbers in numeric order, or the frames of a video file.

    Other files in the folder, and folders below it, are passed over; so are hidden files.

    Raises:
        UsageError: neither a folder nor a video file.
        InputError: no image in the folder, or an unreadable video.
    """
    if source.is_dir():
        images = (
            path
            for path in source.iterdir()
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
        )
        files = tuple(sorted(images, key=lambda path: _natural(path.name)))
        if not files:
            raise InputError(f"{source}: no images in this folder.", reason="no-images")
        return ConditionImages(source, files, len(files))
    if source.is_file() and source.suffix.lower() in VIDEO_SUFFIXES:
        return ConditionImages(source, (source,), count_frames(source))
    if not source.exists():
        raise UsageError(f"{source}: no such folder or video.")
    suffixes = ", ".join(sorted(VIDEO_SUFFIXES))
    raise UsageError(f"{source}: expected a folder of images or a video ({suffixes}).")


def _natural(name: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Sort key with digits as numbers: "2.png" before "10.png"; equal numbers by the name itself."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part), name
