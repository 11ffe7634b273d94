"""A drawn portrait whose face, hair and background have known places and colours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIDE = 256
BOX = (SIDE * 0.165, SIDE * 0.125, SIDE * 0.67, SIDE * 0.67)
"""A face box where aligned portraits have it."""

SKIN, HAIR, SHIRT, WALL, NOSE = (205, 160, 130), (60, 40, 30), (40, 90, 60), (120, 150, 190), (230, 40, 40)


def drawn_portrait(wall: tuple[int, int, int] = WALL) -> NDArray[np.uint8]:
    """A head of flat colours with some noise, a red nose and two dark eyes, in front of a plain wall."""
    ys, xs = (np.mgrid[0:SIDE, 0:SIDE] + 0.5) / SIDE
    image = np.empty((SIDE, SIDE, 3), np.float64)
    image[:] = wall
    image[head_mask()] = HAIR
    image[(ys > 0.80) & (np.abs(xs - 0.5) < 0.12 + 1.6 * (ys - 0.80))] = SHIRT
    image[((xs - 0.5) / 0.235) ** 2 + ((ys - 0.50) / 0.33) ** 2 < 1] = SKIN
    for eye in (0.37, 0.63):
        image[((xs - eye) / 0.05) ** 2 + ((ys - 0.375) / 0.025) ** 2 < 1] = (30, 30, 40)
    image[((xs - 0.5) / 0.03) ** 2 + ((ys - 0.51) / 0.03) ** 2 < 1] = NOSE
    noise = np.random.default_rng(7).normal(0, 4, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


def head_mask() -> NDArray[np.bool_]:
    """The foreground that `drawn_portrait` draws."""
    ys, xs = (np.mgrid[0:SIDE, 0:SIDE] + 0.5) / SIDE
    head = ((xs - 0.5) / 0.30) ** 2 + ((ys - 0.44) / 0.40) ** 2 < 1
    shirt = (ys > 0.80) & (np.abs(xs - 0.5) < 0.12 + 1.6 * (ys - 0.80))
    face = ((xs - 0.5) / 0.235) ** 2 + ((ys - 0.50) / 0.33) ** 2 < 1
    return head | shirt | face


def red_centre(image: NDArray[np.uint8]) -> tuple[float, float]:
    """Centre (x, y) [px] of the nose's red in an image uint8 [S, S, 3]."""
    pixels = image.astype(np.int64)
    red = (pixels[..., 0] > 150) & (pixels[..., 1] < 110) & (pixels[..., 2] < 110)
    assert red.any(), "the nose is not in the picture"
    ys, xs = np.nonzero(red)
    return float(xs.mean()), float(ys.mean())
