"""Crops of natural pictures, from any folder, mixed with generated ones: what the codec learns on.

The stage `vae` takes whole batches of them (`dp3d_cli.training.codec`); `PhotoCrops` gives one at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dp3d_cli.core.errors import InputError
from dp3d_cli.core.images import read_image
from dp3d_cli.training.textures import (
    Image,
    dead_leaves,
    folder_photos,
    installed_photos,
    photo_crop,
    read_photos,
)

logger = logging.getLogger(__name__)

_KEPT = 32  # decoded photographs in memory


class PhotoFiles(Sequence[Image]):
    """The photographs below a folder, decoded when they are asked for, by sorted path.

    A file that cannot be read is listed once, and the next one stands in for it from then on, so that item i
    depends on the files alone.

    Args:
        folder: searched with all folders below it.

    Attributes:
        skipped: path and reason of each file that could not be read, as far as they were asked for.

    Raises:
        ValueError: no photograph below the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.paths = folder, folder_photos(folder)
        self.skipped: dict[Path, str] = {}
        self._read = lru_cache(_KEPT)(read_image)

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> Image: ...
    @overload
    def __getitem__(self, index: slice) -> list[Image]: ...
    def __getitem__(self, index: int | slice) -> Image | list[Image]:
        """Photograph `index`, [H, W, 3] uint8.

        Raises:
            InputError: no photograph can be read ("no-photos").
        """
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        for step in range(len(self)):
            path = self.paths[(index + step) % len(self)]
            if path in self.skipped:
                continue
            try:
                return self._read(path)
            except InputError as error:
                self.skipped[path] = str(error)
                logger.warning("photograph left out: %s", error)
        first = next(iter(self.skipped.values()))
        raise InputError(
            f"{self.folder}: none of {len(self)} photographs can be read. The first: {first}",
            reason="no-photos",
        )


class PhotoCrops(Dataset[Tensor]):
    """Item `i` is a crop [3, S, S] in [-1, 1], RGB; a function of (seed, i) and of the files.

    Args:
        folder: photographs; None takes those that scikit-image installs.
        size: side of a crop, S [px].
        seed: of the crops.
        textures: share of generated dead leaves instead of photographs, in [0, 1].
        count: how many items there are.

    Attributes:
        photos: what is cropped; `PhotoFiles.skipped` lists what could not be read.

    Raises:
        ValueError: no photograph, or a share, size or count that makes no sense.
    """

    def __init__(
        self, folder: Path | None, size: int, seed: int, *, textures: float = 0.4, count: int = 1_000_000
    ) -> None:
        if not 0 <= textures <= 1:
            raise ValueError(f"The share of textures lies in [0, 1], got {textures}.")
        if size < 1 or count < 1:
            raise ValueError(f"Size and count are positive, got {size} and {count}.")
        self.size, self.seed, self.textures, self.count = size, seed, textures, count
        self.photos: Sequence[Image] = open_photos(folder)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < self.count:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, index))
        is_texture = rng.random() < self.textures
        crop = dead_leaves(self.size, rng) if is_texture else photo_crop(self.photos, self.size, rng)
        return torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1).float() / 127.5 - 1


def open_photos(folder: Path | None) -> Sequence[Image]:
    """The photographs of a folder; None: those that scikit-image installs.

    Raises:
        ValueError: no photograph below the folder.
    """
    return read_photos(installed_photos()) if folder is None else PhotoFiles(folder)
