"""Noise on plain background, which sharpness would take for detail."""

from __future__ import annotations

import cv2
import numpy as np

from dp3d_cli.core.metrics.pictures import Picture, check_picture, luma

PATCH = 12  # side of a patch [px]


def grain(picture: Picture) -> float:
    """Median, over patches along the left and right border, of the s.d. of the luma's Laplacian.

    The borders of a head-and-shoulders portrait are mostly background, so that the median patch is plain and
    what moves in it is noise. The patches are 12 x 12 pixels, side by side from the top, in the first and
    the last 12 columns; a rest at the bottom is left out. Compare at one picture size only. Ours.

    Args:
        picture: uint8 [H, W, 3] RGB, at least 12 x 12.

    Returns:
        Grey levels of 255, lower is cleaner.

    Raises:
        ValueError: not a uint8 picture, or too small.
    """
    check_picture(picture)
    if min(picture.shape[:2]) < PATCH:
        raise ValueError(f"Grain needs at least {PATCH} x {PATCH} pixels, got {picture.shape[:2]}.")
    edges = cv2.Laplacian(luma(picture), cv2.CV_64F, ksize=1)
    rows = edges.shape[0] // PATCH
    borders = np.stack([edges[: rows * PATCH, :PATCH], edges[: rows * PATCH, -PATCH:]])
    return float(np.median(borders.reshape(2 * rows, -1).std(axis=1)))
