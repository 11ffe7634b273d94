"""How much fine structure a picture has, compared with the truth."""

from __future__ import annotations

import math

import cv2
import numpy as np

from dp3d_cli.core.metrics.pictures import Picture, Window, check_pair, cut, luma


def sharpness(prediction: Picture, truth: Picture, window: Window | None = None) -> float:
    """Standard deviation of the luma's Laplacian, divided by the truth's.

    The Laplacian is the 3 x 3 one (1 beside, 1 above and below, -4) on the whole picture, cut to the window.
    It does not ask whether the structure is in the right place, and grain raises it: read it together with
    `gradient_ncc` and `grain`.

    Args:
        prediction: uint8 [H, W, 3] RGB.
        truth: uint8 [H, W, 3] RGB.
        window: score only this part.

    Returns:
        A ratio >= 0; 1 is as sharp as the truth, below is blurred; NaN if the truth is flat.

    Raises:
        ValueError: not a pair of uint8 pictures of one size.
    """
    check_pair(prediction, truth)
    own, aim = laplacian_sd(prediction, window), laplacian_sd(truth, window)
    return own / aim if aim > 1e-9 else math.nan


def laplacian_sd(picture: Picture, window: Window | None = None) -> float:
    """Standard deviation of the luma's 3 x 3 Laplacian in the window, in grey levels of 255."""
    return float(np.std(cut(cv2.Laplacian(luma(picture), cv2.CV_64F, ksize=1), window)))
