"""Foreground (head and shoulders) of a portrait, from its face box and its colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from dp3d_cli.core.proxies.placement import Box, check_box

Image: TypeAlias = NDArray[np.uint8]
Mask: TypeAlias = NDArray[np.float32]
Method = Literal["grabcut", "grabcut-limited", "prior"]

_WORK_SIZE = 224  # longest side during GrabCut [px]
_ITERATIONS = 2
_BINS = 20  # of each Lab channel in the colour statistics
_UNSEEN = 2e-4  # share of pixels below which a colour counts as unseen
_MIN_CORE_COVER = 0.9  # share of the face that the foreground must contain
_MAX_LEAK = 0.5  # share of what is far from the head that may be foreground without looking like it


@dataclass(frozen=True)
class Segmentation:
    """A soft foreground mask.

    Attributes:
        mask: [H, W] float32 in [0, 1].
        method: "grabcut"; "grabcut-limited", when the colours leaked into the background and the result was
            cut to a head-and-shoulders shape; "prior", when the colours said nothing and the shape is all.
    """

    mask: Mask
    method: Method


def segment_head(image: Image, box: Box, *, seed: int = 0) -> Segmentation:
    """Separate head, hair and shoulders from the background.

    GrabCut (Rother et al. 2004) between an ellipse in the face that is surely foreground and the image's
    upper corners that are surely background; the result keeps the component under the face, without holes,
    and is fitted to the image's edges by a guided filter (He et al. 2010).

    Args:
        image: [H, W, 3] uint8 RGB.
        box: face box in pixels.
        seed: seed of GrabCut's colour clustering.

    Returns:
        The soft mask and how it was found.

    Raises:
        ValueError: the image is not uint8 RGB, or the box does not lie in it.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"An image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}.")
    height, width = image.shape[:2]
    check_box(box, width, height)
    ratio = min(1.0, _WORK_SIZE / max(height, width))
    size = (max(8, round(width * ratio)), max(8, round(height * ratio)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    scaled = (
        box[0] * size[0] / width,
        box[1] * size[1] / height,
        box[2] * size[0] / width,
        box[3] * size[1] / height,
    )
    prior = _Prior.around(scaled, size)

    colour = _colour_log_odds(small, prior)
    found = _grabcut(small, prior, colour, seed)
    # Background taken for hair: far from the head, and not of colours that only the head has.
    leak = found & ~prior.envelope & (colour < 0.5)
    method: Method = "grabcut"
    if (found & prior.core).sum() < _MIN_CORE_COVER * prior.core.sum() or _is_only_core(found, prior):
        found, method = prior.likely, "prior"
    elif leak.sum() > _MAX_LEAK * (~prior.envelope).sum():
        found, method = found & ~leak, "grabcut-limited"
    found = _one_solid_piece(found | prior.core, prior.core)

    soft = _guided_filter(small, found.astype(np.float32), radius=max(2, round(0.015 * max(size))))
    mask = cv2.resize(soft, (width, height), interpolation=cv2.INTER_CUBIC)
    return Segmentation(np.clip(mask, 0, 1).astype(np.float32), method)


@dataclass(frozen=True)
class _Prior:
    """Where a head and shoulders are, around a face box.

    Attributes:
        core: [H, W] bool, surely foreground: the face, and what is right below its chin.
        likely: [H, W] bool, the foreground of an average person.
        envelope: [H, W] bool, a person with much hair: the limit where colours do not tell.
        background: [H, W] bool, nearly surely background: the upper corners.
        log_odds: [H, W] of foreground against background, from the position alone.
    """

    core: NDArray[np.bool_]
    likely: NDArray[np.bool_]
    envelope: NDArray[np.bool_]
    background: NDArray[np.bool_]
    log_odds: Mask

    @classmethod
    def around(cls, box: Box, size: tuple[int, int]) -> _Prior:
        width, height = size
        ys, xs = np.mgrid[0:height, 0:width] + 0.5
        # Units of the box: x from its centre, y from its centre, both in box widths.
        x = np.abs(xs - box[0] - box[2] / 2) / box[2]
        y = (ys - box[1] - box[3] / 2) / box[2]
        below = np.clip(y - 0.58, 0, 0.3)
        core = ((x / 0.40) ** 2 + ((y - 0.02) / 0.50) ** 2 < 1) | ((y > 0.3) & (x < 0.16 + 0.8 * below))
        head = (x / 0.60) ** 2 + ((y + 0.08) / 0.78) ** 2 < 1
        likely = head | ((y > 0.3) & (x < 0.32)) | ((y > 0.58) & (x < 0.45 + 1.8 * below))
        radius = np.sqrt((x / 0.76) ** 2 + ((y + 0.04) / 0.88) ** 2)
        background = (radius > 1.08) & (y < -0.35)
        # Hair may reach anywhere beside the face, clothes anywhere below it: there the position says little.
        log_odds = np.where(y > 0.58, 0.8, np.clip(4 * (1.0 - radius), -2.5, 0.8))
        log_odds = np.where(core, 4.0, np.where(likely, 1.5, log_odds))
        envelope = (radius < 0.9) | ((y > 0.35) & (x < 0.70 + 1.6 * np.clip(y - 0.35, 0, None)))
        return cls(core, likely, envelope, background, log_odds.astype(np.float32))


def _colour_log_odds(image: Image, prior: _Prior) -> Mask:
    """[H, W] log odds of foreground by colour: how common it is in the likely head against the upper corners.

    Colours that neither place shows, and those that both do, say nothing.
    """
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    histograms = []
    for place in (prior.likely, prior.background):
        counts = cv2.calcHist([lab], [0, 1, 2], place.astype(np.uint8), [_BINS] * 3, [0, 256] * 3)
        histograms.append(gaussian_filter(counts / max(int(place.sum()), 1), 0.8))
    ratio = np.log((histograms[0] + _UNSEEN) / (histograms[1] + _UNSEEN))
    bins = (lab.astype(np.intp) * _BINS) // 256
    evidence: Mask = ratio[bins[..., 0], bins[..., 1], bins[..., 2]].astype(np.float32)
    return np.clip(evidence, -3, 3)


def _grabcut(image: Image, prior: _Prior, colour: Mask, seed: int) -> NDArray[np.bool_]:
    start = prior.log_odds + colour
    labels = np.where(start > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    border = np.zeros_like(prior.core)
    edge = max(2, image.shape[1] // 50)
    border[:, :edge] = border[:, -edge:] = border[:edge] = True
    labels[prior.background & border & (start < -1)] = cv2.GC_BGD
    labels[prior.core] = cv2.GC_FGD
    foreground: NDArray[np.bool_] = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    if foreground.all():
        return foreground  # the face fills the picture: nothing to separate
    cv2.setRNGSeed(seed)
    bgr = np.ascontiguousarray(image[..., ::-1])
    cv2.grabCut(bgr, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), _ITERATIONS, cv2.GC_INIT_WITH_MASK)
    found: NDArray[np.bool_] = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    return found


def _is_only_core(found: NDArray[np.bool_], prior: _Prior) -> bool:
    """GrabCut kept nothing but what it was told to keep."""
    return bool((found & prior.likely).sum() < 0.5 * prior.likely.sum())


def _one_solid_piece(found: NDArray[np.bool_], core: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Open and close, keep the component under the face, fill its holes."""
    radius = max(1, round(0.012 * found.shape[1]))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    pixels = cv2.morphologyEx(found.astype(np.uint8), cv2.MORPH_OPEN, disc)
    # The border repeats outward so that closing does not eat what the frame cuts.
    pixels = np.pad(pixels | core.astype(np.uint8), 2 * radius, mode="edge")
    pixels = cv2.morphologyEx(pixels, cv2.MORPH_CLOSE, disc)[
        2 * radius : -2 * radius, 2 * radius : -2 * radius
    ]
    _, components = cv2.connectedComponents(pixels)
    piece: NDArray[np.bool_] = components == np.bincount(components[core]).argmax()
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
