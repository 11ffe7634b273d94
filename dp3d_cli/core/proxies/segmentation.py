"""Foreground (head and shoulders) of a portrait: what the network finds, as one piece, fitted to edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from dp3d_cli.core.proxies.foreground import ForegroundNetwork, foreground_log_odds
from dp3d_cli.core.proxies.placement import Box, check_box

Image: TypeAlias = NDArray[np.uint8]
Mask: TypeAlias = NDArray[np.float32]

_WORK_SIZE = 224  # longest side while the outline is fitted [px]
_DOUBTFUL = 1.5  # log odds below which, either way, a pixel is doubtful


@dataclass(frozen=True)
class Segmentation:
    """A soft foreground mask.

    Attributes:
        mask: [H, W] float32 in [0, 1].
        doubt: share of the picture, in [0, 1], of which the network is not sure.
    """

    mask: Mask
    doubt: float


def segment_head(image: Image, box: Box, *, network: ForegroundNetwork | None = None) -> Segmentation:
    """Separate head, hair and shoulders from the background.

    The network's foreground, of which the component under the face is kept, without small holes, and fitted
    to the picture's edges by a guided filter (He et al. 2010).

    Args:
        image: [H, W, 3] uint8 RGB.
        box: face box in pixels.
        network: says what is foreground; the embedded one if None.

    Raises:
        ValueError: the image is not uint8 RGB, or the box does not lie in it.
        WeightsError: the installation is damaged.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"An image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}.")
    height, width = image.shape[:2]
    check_box(box, width, height)
    ratio = min(1.0, _WORK_SIZE / max(height, width))
    size = (max(8, round(width * ratio)), max(8, round(height * ratio)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    odds = foreground_log_odds(image, box, network)
    doubt = float((np.abs(odds) < _DOUBTFUL).mean())
    face = _face((box[0] * size[0] / width, box[1] * size[1] / height,
                  box[2] * size[0] / width, box[3] * size[1] / height), size)  # fmt: skip
    found = _one_solid_piece((cv2.resize(odds, size) > 0) | face, face)
    soft = _guided_filter(small, found.astype(np.float32), radius=max(2, round(0.015 * max(size))))
    mask = cv2.resize(soft, (width, height), interpolation=cv2.INTER_CUBIC)
    return Segmentation(np.clip(mask, 0, 1).astype(np.float32), doubt)


def _face(box: Box, size: tuple[int, int]) -> NDArray[np.bool_]:
    """[H, W]: the middle of the face, which is foreground whatever else is."""
    ys, xs = np.mgrid[0 : size[1], 0 : size[0]] + 0.5
    x, y = (xs - box[0] - box[2] / 2) / box[2], (ys - box[1] - box[3] / 2) / box[3]
    inside: NDArray[np.bool_] = (x / 0.40) ** 2 + (y / 0.45) ** 2 < 1
    return inside


def _one_solid_piece(found: NDArray[np.bool_], face: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Open and close, keep the component under the face, fill its holes."""
    radius = max(1, round(0.012 * found.shape[1]))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    pixels = cv2.morphologyEx(found.astype(np.uint8), cv2.MORPH_OPEN, disc)
    # The border repeats outward so that closing does not eat what the frame cuts.
    pixels = np.pad(pixels | face.astype(np.uint8), 2 * radius, mode="edge")
    pixels = cv2.morphologyEx(pixels, cv2.MORPH_CLOSE, disc)[
        2 * radius : -2 * radius, 2 * radius : -2 * radius
    ]
    _, components = cv2.connectedComponents(pixels)
    piece: NDArray[np.bool_] = components == np.bincount(components[face]).argmax()
    # Holes are what the background above and beside the head cannot reach: small ones are errors, large ones
    # real (an arm). What the lower border cuts off counts as enclosed.
    lower = np.pad(piece, 1)
    lower[-1] = lower[2 * len(lower) // 3 :, [0, -1]] = True
    count, holes, stats, _ = cv2.connectedComponentsWithStats((~lower).astype(np.uint8), connectivity=4)
    around, holes = holes[0, 0], holes[1:-1, 1:-1]
    for hole in range(1, count):
        if hole != around and stats[hole, cv2.CC_STAT_AREA] < 0.015 * piece.size:
            piece |= holes == hole
    return piece


def _guided_filter(image: Image, mask: Mask, radius: int, epsilon: float = 1e-3) -> Mask:
    """Edge-aware smoothing of a mask by the image's luma (He et al. 2010, grey guide)."""
    guide = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64) / 255

    def mean(values: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.float64]:
        window = (2 * radius + 1, 2 * radius + 1)
        return np.asarray(cv2.blur(values, window, borderType=cv2.BORDER_REPLICATE), np.float64)

    mean_guide, mean_mask = mean(guide), mean(mask)
    slope = (mean(guide * mask) - mean_guide * mean_mask) / (mean(guide**2) - mean_guide**2 + epsilon)
    filtered = mean(slope) * guide + mean(mean_mask - slope * mean_guide)
    return np.asarray(filtered, np.float32)
