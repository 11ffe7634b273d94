"""Each metric against a slow version of its formula, its identities, and the inputs that it must refuse."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from dp3d_cli.core.metrics.gradient_ncc import gradient_ncc
from dp3d_cli.core.metrics.grain import grain
from dp3d_cli.core.metrics.pictures import Window, luma
from dp3d_cli.core.metrics.psnr import psnr
from dp3d_cli.core.metrics.sharpness import laplacian_sd, sharpness
from dp3d_cli.core.metrics.ssim import ssim
from dp3d_cli.core.metrics.zncc import zncc

Pair = tuple[np.ndarray, np.ndarray]
PAIR_METRICS = [psnr, ssim, zncc, gradient_ncc, sharpness]
WINDOW = Window(5, 33, 8, 44)


def plain_psnr(prediction: np.ndarray, truth: np.ndarray) -> float:
    total = 0.0
    for a, b in zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True):
        total += (a - b) ** 2
    return 20 * math.log10(255 / math.sqrt(total / truth.size))


def plain_ssim(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Wang et al. 2004, window by window: no filter function, no scikit-image."""
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    height, width, channels = truth.shape
    values = []
    for channel in range(channels):
        for y in range(5, height - 5):
            for x in range(5, width - 5):
                a = prediction[y - 5 : y + 6, x - 5 : x + 6, channel].astype(float)
                b = truth[y - 5 : y + 6, x - 5 : x + 6, channel].astype(float)
                mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
                var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
                covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
                values.append(
                    (2 * mean_a * mean_b + c1)
                    * (2 * covariance + c2)
                    / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
                )
    return float(np.mean(values))


def plain_zncc(prediction: np.ndarray, truth: np.ndarray) -> float:
    return float(np.corrcoef(luma(prediction).ravel(), luma(truth).ravel())[0, 1])


def plain_filter(plane: np.ndarray, kernel: np.ndarray, mode: str) -> np.ndarray:
    radius = kernel.shape[0] // 2
    padded = np.pad(plane, radius, mode=mode)
    result = np.zeros_like(plane)
    for dy in range(kernel.shape[0]):
        for dx in range(kernel.shape[1]):
            result += kernel[dy, dx] * padded[dy : dy + plane.shape[0], dx : dx + plane.shape[1]]
    return result


def plain_gradient(picture: np.ndarray) -> np.ndarray:
    offsets = np.arange(-6, 7)
    gauss = np.exp(-(offsets**2) / (2 * 1.5**2))
    smooth = plain_filter(luma(picture), np.outer(gauss, gauss) / gauss.sum() ** 2, "symmetric")
    sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], float)
    return np.stack([plain_filter(smooth, kernel, "reflect") for kernel in (sobel, sobel.T)])


def plain_laplacian(picture: np.ndarray) -> np.ndarray:
    return plain_filter(luma(picture), np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], float), "reflect")


def test_psnr_equals_the_plain_loop(pair: Pair) -> None:
    assert psnr(*pair) == pytest.approx(plain_psnr(*pair), rel=1e-12)


def test_ssim_equals_the_formula_window_by_window(pair: Pair) -> None:
    assert ssim(*pair) == pytest.approx(plain_ssim(*pair), abs=1e-9)


def test_zncc_is_the_correlation_coefficient(pair: Pair) -> None:
    assert zncc(*pair) == pytest.approx(plain_zncc(*pair), rel=1e-12)


def test_gradient_ncc_equals_the_formula_in_a_window(pair: Pair) -> None:
    a, b = (plain_gradient(picture)[(slice(None), *WINDOW.slices)] for picture in pair)
    expected = (a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum())
    assert gradient_ncc(*pair, WINDOW) == pytest.approx(expected, rel=1e-9)


def test_sharpness_equals_the_ratio_of_plain_laplacians(pair: Pair) -> None:
    a, b = (plain_laplacian(picture)[WINDOW.slices].std() for picture in pair)
    assert sharpness(*pair, WINDOW) == pytest.approx(a / b, rel=1e-12)
    assert laplacian_sd(pair[1], WINDOW) == pytest.approx(b, rel=1e-12)


def test_golden_values(pair: Pair) -> None:
    # Of the pair in conftest.py, with scikit-image 0.26 and OpenCV 4.14; a change here changes a definition.
    values = [metric(*pair) for metric in PAIR_METRICS] + [grain(pair[0])]
    golden = [14.94327, 0.6520904, 0.8528676, 0.9205940, 1.013235, 55.39259]
    assert values == pytest.approx(golden, rel=1e-6)


def test_window_of_psnr_and_ssim_is_cut_out_first(pair: Pair) -> None:
    cropped = [picture[WINDOW.slices] for picture in pair]
    for metric in (psnr, ssim, zncc):
        assert metric(*pair, WINDOW) == metric(*cropped)


def test_identical_pictures(pair: Pair) -> None:
    truth = pair[1]
    assert psnr(truth, truth) == math.inf
    for metric in (ssim, zncc, gradient_ncc, sharpness):
        assert metric(truth, truth) == pytest.approx(1, abs=1e-12)


def test_inverted_picture_has_opposite_correlations(pair: Pair) -> None:
    truth = pair[1]
    assert zncc(255 - truth, truth) == pytest.approx(-1, abs=1e-12)
    assert gradient_ncc(255 - truth, truth) == pytest.approx(-1, abs=1e-12)


def test_correlations_are_blind_to_brightness_and_contrast() -> None:
    dark = np.random.default_rng(1).integers(0, 100, (20, 20, 3), dtype=np.uint8)
    bright = (2 * dark + 50).astype(np.uint8)
    assert zncc(bright, dark) == pytest.approx(1, abs=1e-12)
    assert gradient_ncc(bright, dark) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("grey", [0, 77, 255])
def test_flat_picture_scores_zero_whatever_its_grey(pair: Pair, grey: int) -> None:
    flat = np.full_like(pair[1], grey)
    assert zncc(flat, pair[1]) == gradient_ncc(flat, pair[1]) == sharpness(flat, pair[1]) == 0
    assert zncc(pair[1], flat) == gradient_ncc(pair[1], flat) == 0
    assert math.isnan(sharpness(pair[1], flat))
    assert grain(flat) == 0


def test_blur_lowers_sharpness_and_keeps_edges_in_place(pair: Pair) -> None:
    truth = pair[1]
    blurred = np.mean([np.roll(truth, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)], axis=0)
    blurred = blurred.astype(np.uint8)
    assert sharpness(blurred, truth) < 0.5
    assert gradient_ncc(blurred, truth) > 0.8


def test_grain_sees_noise_at_the_border_and_not_in_the_middle() -> None:
    plain = np.full((60, 80, 3), 128, np.uint8)
    rng = np.random.default_rng(3)
    noise = rng.normal(scale=5, size=(60, 80, 1))
    everywhere = (plain + noise).clip(0, 255).round().astype(np.uint8)
    middle = plain.copy()
    middle[:, 16:64] = everywhere[:, 16:64]
    # The Laplacian of white noise has a variance of 1 + 1 + 1 + 1 + 16 times the noise's.
    assert grain(everywhere) == pytest.approx(5 * math.sqrt(20), rel=0.1)
    assert grain(middle) == 0


@pytest.mark.parametrize("metric", PAIR_METRICS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint16])
def test_pictures_without_a_stated_range_are_refused(
    metric: Callable[..., float], dtype: type, pair: Pair
) -> None:
    with pytest.raises(ValueError, match=r"uint8 pictures with range 0\.\.255, got"):
        metric((pair[0] / 255).astype(dtype), pair[1])
    with pytest.raises(ValueError, match=r"uint8"):
        metric(pair[0], pair[1].astype(dtype))


@pytest.mark.parametrize("metric", PAIR_METRICS)
def test_wrong_shapes_are_refused(metric: Callable[..., float], pair: Pair) -> None:
    with pytest.raises(ValueError, match="one size"):
        metric(pair[0][:-1], pair[1])
    with pytest.raises(ValueError, match="RGB"):
        metric(pair[0][..., 0], pair[1][..., 0])
    with pytest.raises(ValueError, match="reaches beyond"):
        metric(*pair, Window(0, 41, 0, 10))


def test_too_small_pictures_are_refused() -> None:
    tiny = np.zeros((10, 50, 3), np.uint8)
    with pytest.raises(ValueError, match="11 x 11"):
        ssim(tiny, tiny)
    with pytest.raises(ValueError, match="12 x 12"):
        grain(tiny)


@pytest.mark.parametrize("edges", [(3, 3, 0, 5), (5, 3, 0, 5), (-1, 3, 0, 5)])
def test_impossible_windows_are_refused(edges: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="start < end"):
        Window(*edges)


def test_pictures_are_not_changed(pair: Pair) -> None:
    copies = [picture.copy() for picture in pair]
    for metric in PAIR_METRICS:
        metric(*pair)
    grain(pair[0])
    for picture, copy in zip(pair, copies, strict=True):
        np.testing.assert_array_equal(picture, copy)
