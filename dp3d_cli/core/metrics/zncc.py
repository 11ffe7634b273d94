"""Zero-mean normalised cross-correlation of brightness."""

from __future__ import annotations

from dp3d_cli.core.metrics.pictures import Picture, Window, check_pair, correlation, cut, luma


def zncc(prediction: Picture, truth: Picture, window: Window | None = None) -> float:
    """Correlation of the two pictures' BT.601 luma after taking off each one's mean in the window.

    Blind to brightness and contrast, so that a flat grey picture, which PSNR may favour, scores 0.

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
    a, b = cut(luma(prediction), window), cut(luma(truth), window)
    # A flat picture may deviate by the rounding of luma's weighted sum (about 1e-14); any contrast is far
    # above 1e-6.
    return correlation(a - a.mean(), b - b.mean()) if min(a.std(), b.std()) > 1e-6 else 0.0
