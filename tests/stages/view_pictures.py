"""Small view folders for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dp3d_cli.core.images import write_png


def picture(seed: int, side: int = 32, width: int | None = None) -> np.ndarray:
    """uint8 [side, width or side, 3], different for each seed, smooth enough for a video codec."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (side // 8 + 1, (width or side) // 8 + 1, 3))
    return np.kron(coarse, np.ones((8, 8, 1)))[:side, : width or side].astype(np.uint8)


def write_views(
    folder: Path, count: int, *, seed: int = 0, side: int = 32, suffix: str = ".png"
) -> list[np.ndarray]:
    """Write views 000, 001, ... and return them."""
    pictures = [picture(seed + number, side) for number in range(count)]
    for number, pixels in enumerate(pictures):
        write_png(folder / f"{number:03d}{suffix}", pixels)
    return pictures
