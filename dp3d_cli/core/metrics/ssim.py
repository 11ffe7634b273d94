"""Structural similarity."""

from __future__ import annotations

from skimage.metrics import structural_similarity

from dp3d_cli.core.metrics.pictures import Picture, Window, check_pair, cut

MIN_SIDE = 11  # the Gaussian weights span 11 x 11 pixels


def ssim(prediction: Picture, truth: Picture, window: Window | None = None) -> float:
    """SSIM with the settings of Wang et al. 2004, by scikit-image.

    Gaussian weights, sigma 1.5, 11 x 11; population covariance; K1 = 0.01, K2 = 0.03; data range 255.
    Computed per RGB channel and averaged; the mean leaves out the 5 pixels at each border whose weights
    would not be complete.

    Args:
        prediction: uint8 [H, W, 3] RGB.
        truth: uint8 [H, W, 3] RGB.
        window: score only this part (cut out first), at least 11 x 11.

    Returns:
        A number in [-1, 1], higher is better; 1 for identical pictures.

    Raises:
        ValueError: not a pair of uint8 pictures of one size, or smaller than 11 x 11.
    """
    check_pair(prediction, truth)
    prediction, truth = cut(prediction, window), cut(truth, window)
    if min(truth.shape[:2]) < MIN_SIDE:
        raise ValueError(f"SSIM needs at least {MIN_SIDE} x {MIN_SIDE} pixels, got {truth.shape[:2]}.")
    return float(
        structural_similarity(
            truth,
            prediction,
            data_range=255,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )
