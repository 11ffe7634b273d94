"""Correlation of edges: do contours lie in the same place and run the same way?"""

from __future__ import annotations

import cv2
import numpy as np

from dp3d_cli.core.metrics.pictures import Picture, Plane, Window, check_pair, correlation, cut, luma

SIGMA = 1.5  # s.d. of the smoothing [px]: the scale of an edge, so compare numbers at one picture size only


def gradient_ncc(prediction: Picture, truth: Picture, window: Window | None = None) -> float:
    """Normalised correlation of the gradient fields of the smoothed luma.

    Luma (BT.601) is smoothed by a Gaussian of 1.5 pixels and differentiated by the 3 x 3 Sobel operator on
    the whole picture, then cut to the window. With g = (d/dx, d/dy) at each pixel,

        sum g_prediction . g_truth / sqrt(sum |g_prediction|^2 sum |g_truth|^2).

    A blurred picture may score well here: read it together with `sharpness`.

    Args:
        prediction: uint8 [H, W, 3] RGB.
        truth: uint8 [H, W, 3] RGB.
        window: score only this part.

    Returns:
        A number in [-1, 1], higher is better; 0 if one of the two is flat.

    Raises:
        ValueError: not a pair of uint8 pictures of one size.
    """
    check_pair(prediction, truth)
    return correlation(_gradient(prediction, window), _gradient(truth, window))


def _gradient(picture: Picture, window: Window | None) -> Plane:
    """[2, H, W] derivatives along x and y; exactly zero where the picture is flat."""
    smooth = cv2.GaussianBlur(luma(picture), (0, 0), SIGMA, borderType=cv2.BORDER_REFLECT)
    field = [cut(cv2.Sobel(smooth, cv2.CV_64F, dx, dy), window) for dx, dy in ((1, 0), (0, 1))]
    gradient = np.stack(field)
    gradient[np.abs(gradient) < 1e-9] = 0  # rounding of the filters on a flat picture
    return gradient
