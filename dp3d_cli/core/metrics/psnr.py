"""Peak signal-to-noise ratio."""

from __future__ import annotations

import math

import numpy as np

from dp3d_cli.core.metrics.pictures import Picture, Window, check_pair, cut


def psnr(prediction: Picture, truth: Picture, window: Window | None = None) -> float:
    """10 log10(255^2 / MSE) over all pixels and the three channels of one pair.

    A set's PSNR is the mean of these decibels, not the decibels of a mean error.

    Args:
        prediction: uint8 [H, W, 3] RGB.
        truth: uint8 [H, W, 3] RGB.
        window: score only this part.

    Returns:
        Decibels, higher is better; inf for identical pictures.

    Raises:
        ValueError: not a pair of uint8 pictures of one size.
    """
    check_pair(prediction, truth)
    error = cut(prediction, window).astype(np.float64) - cut(truth, window).astype(np.float64)
    mse = float(np.mean(error * error))
    return 10 * math.log10(255.0**2 / mse) if mse > 0 else math.inf
