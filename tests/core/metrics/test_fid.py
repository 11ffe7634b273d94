"""FID: features against pytorch-fid's own reading of files, the distance against its root and by hand."""

from __future__ import annotations

import inspect
import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.typing import NDArray
from PIL import Image
from pytorch_fid.fid_score import calculate_frechet_distance, get_activations
from pytorch_fid.inception import InceptionV3

from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.metrics.fid import FidFeatures, clean_resize, fid_warning, frechet_distance
from tests.core.metrics.conftest import smooth_noise
from tests.fakes.backbones import backbone_cache

Features = NDArray[np.float64]
GOLDEN_FEATURES = [0.3539848, 0.0753506, 0.0655733]
GOLDEN_CLEAN = [0.3765610, 0.0788984, 0.0698522]
GOLDEN_FID = 5.489525


@pytest.fixture(scope="module")
def inception(backbones: Path) -> FidFeatures:
    with backbone_cache(backbones):
        return FidFeatures.load()


@pytest.fixture(scope="module")
def clean(backbones: Path) -> FidFeatures:
    with backbone_cache(backbones):
        return FidFeatures.load("clean-fid")


@pytest.fixture(scope="module")
def found(inception: FidFeatures, pictures: list[np.ndarray]) -> Features:
    return np.stack([inception.features(picture) for picture in pictures[:4]])


def two_sets(rng: np.random.Generator, n: int, m: int, d: int) -> tuple[Features, Features]:
    """Correlated, shifted, of different spread."""
    mix = rng.normal(size=(d, d)) / math.sqrt(d)
    return rng.normal(size=(n, d)) @ mix, 0.7 * rng.normal(size=(m, d)) @ mix.T + 0.3


def plain_frechet(a: Features, b: Features) -> float:
    """Dowson and Landau 1982, with the symmetric roots of the covariances."""
    values, vectors = np.linalg.eigh(np.cov(a, rowvar=False))
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cov_b = np.cov(b, rowvar=False)
    shared = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    difference = a.mean(0) - b.mean(0)
    return float(difference @ difference + values.sum() + np.trace(cov_b) - 2 * shared)


def test_features_equal_those_of_pytorch_fid_read_in_batches_from_files(
    found: Features, backbones: Path, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    files = [tmp_path / f"{index}.png" for index in range(4)]
    for file, picture in zip(files, pictures, strict=False):
        Image.fromarray(picture).save(file)
    with backbone_cache(backbones):
        network = InceptionV3()
    expected = get_activations(files, network, batch_size=3, num_workers=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_clean_features_equal_the_convention_written_out(
    clean: FidFeatures, backbones: Path, pictures: list[np.ndarray]
) -> None:
    with backbone_cache(backbones):
        network = InceptionV3(resize_input=False, normalize_input=False).eval()
    resized = torch.from_numpy(clean_resize(pictures[0])).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = network((resized - 128) / 128)[0].numpy().ravel()
    np.testing.assert_allclose(clean.features(pictures[0]), expected, atol=1e-5)


def test_clean_resize_equals_that_of_clean_fid() -> None:
    # clean-fid 0.1.35, build_resizer("clean"), Pillow 13: green at every 60th pixel, and the mean.
    resized = clean_resize(smooth_noise(np.random.default_rng(0), 400, 340))
    expected = [
        [52.342602, 24.402168, 255.0, 0.0, 182.625229],
        [133.784302, 0.0, 255.0, 122.579727, 161.758911],
        [131.291183, 161.176865, 20.242327, 167.355438, 167.146988],
        [197.788467, 140.878967, 11.274028, 153.415710, 14.922809],
        [208.620682, 173.620987, 84.874176, 94.368370, 7.989976],
    ]
    np.testing.assert_allclose(resized[::60, ::60, 1], expected, atol=1e-3)
    assert resized.mean(dtype=float) == pytest.approx(126.7540882, abs=1e-4)
    assert resized.dtype == np.float32


def test_the_two_conventions_are_not_the_same(
    found: Features, clean: FidFeatures, inception: FidFeatures, pictures: list[np.ndarray]
) -> None:
    assert np.abs(clean.features(pictures[0]) - found[0]).max() > 0.01
    assert inception.describe()["convention"] == "pytorch-fid"
    assert "without antialiasing" in inception.describe()["resize"]
    assert clean.describe()["convention"] == "clean-fid"
    assert "bicubic with antialiasing" in clean.describe()["resize"]


def test_golden_values(found: Features, clean: FidFeatures, pictures: list[np.ndarray]) -> None:
    # Of the random Inception of seed 0, with pytorch-fid 0.3.0 and torch 2.15.
    assert found[0, [0, 3, 2047]] == pytest.approx(GOLDEN_FEATURES, abs=1e-5)
    assert clean.features(pictures[0])[[0, 3, 2047]] == pytest.approx(GOLDEN_CLEAN, abs=1e-5)
    assert frechet_distance(found[:2], found[2:]) == pytest.approx(GOLDEN_FID, rel=1e-5)


def test_features_do_not_depend_on_what_came_before(
    found: Features, inception: FidFeatures, pictures: list[np.ndarray]
) -> None:
    inception.features(pictures[3][:40, :50])
    np.testing.assert_array_equal(inception.features(pictures[0]), found[0])


@pytest.mark.slow
def test_features_do_not_depend_on_threads(
    found: Features, inception: FidFeatures, pictures: list[np.ndarray]
) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        np.testing.assert_allclose(inception.features(pictures[0]), found[0], atol=1e-6)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_pictures_without_a_stated_range_are_refused(
    inception: FidFeatures, clean: FidFeatures, pictures: list[np.ndarray], dtype: type
) -> None:
    for network in (inception, clean):
        with pytest.raises(ValueError, match=r"uint8 pictures with range 0\.\.255, got"):
            network.features((pictures[0] / 255).astype(dtype))


@pytest.mark.skipif(
    "disp" not in inspect.signature(scipy.linalg.sqrtm).parameters,
    reason="pytorch-fid 0.3 calls sqrtm(disp=...), which this SciPy has no more",
)
@pytest.mark.parametrize(("n", "m"), [(300, 200), (65, 300)])
def test_distance_equals_that_of_pytorch_fid(n: int, m: int) -> None:
    a, b = two_sets(np.random.default_rng(1), n, m, 64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*disp", DeprecationWarning)
        expected = calculate_frechet_distance(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("n", "m"), [(300, 200), (20, 90), (20, 12), (2, 2), (2, 300)])
def test_distance_equals_the_formula_for_full_and_for_low_rank(n: int, m: int) -> None:
    a, b = two_sets(np.random.default_rng(2), n, m, 64)
    # The reference takes roots of eigenvalues that are zero up to 1e-16, of up to 64 of them.
    assert frechet_distance(a, b) == pytest.approx(plain_frechet(a, b), rel=1e-6)


def test_distance_of_independent_features_by_hand() -> None:
    # Two points 2 r apart along an axis have the variance 2 r^2 there: (3 - 1)^2 * 2 + (mean 5 - 1)^2.
    a = np.array([[1.0 - 1, 0], [1.0 + 1, 0]])
    b = np.array([[5.0 - 3, 0], [5.0 + 3, 0]])
    assert frechet_distance(a, b) == pytest.approx(16 + 2 * 4, rel=1e-12)
    # No axis in common: nothing is shared.
    c = np.array([[1.0, -3], [1.0, 3]])
    assert frechet_distance(a, c) == pytest.approx(2 + 18, rel=1e-12)


def test_distance_of_a_set_to_itself_is_zero(found: Features) -> None:
    for features in (found, two_sets(np.random.default_rng(3), 300, 2, 64)[0]):
        trace = float(features.var(axis=0, ddof=1).sum())
        assert frechet_distance(features, features) < 1e-9 * trace
        assert frechet_distance(features, features[::-1]) < 1e-9 * trace


def test_distance_is_symmetric_and_blind_to_the_order_of_the_pictures(found: Features) -> None:
    a, b = found[:2], found[2:]
    distance = frechet_distance(a, b)
    assert distance > 0
    assert frechet_distance(b, a) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(a[::-1], b[::-1]) == pytest.approx(distance, rel=1e-9)


def test_what_has_no_distance_is_refused() -> None:
    a = np.random.default_rng(0).normal(size=(4, 8))
    with pytest.raises(ValueError, match="at least two pictures in each set, because one has no covariance"):
        frechet_distance(a[:1], a)
    with pytest.raises(ValueError, match=re.escape("shape (0, 8) for set b")):
        frechet_distance(a, a[:0])
    with pytest.raises(ValueError, match="same features, got 8 and 7"):
        frechet_distance(a, a[:, :7])
    for value in (math.nan, math.inf):
        broken = a.copy()
        broken[1, 2] = value
        with pytest.raises(ValueError, match="set b are not all finite"):
            frechet_distance(a, broken)


def test_warning_says_the_rank() -> None:
    assert fid_warning(2048) is None
    assert "at most 63 of 2048" in (fid_warning(64) or "")
    assert "2047" not in (fid_warning(2) or "")
    assert "at most 2046 of 2048" in (fid_warning(2047) or "")


@pytest.mark.usefixtures("no_sockets")
def test_missing_network_names_the_command_that_gets_it(tmp_path: Path) -> None:
    with backbone_cache(tmp_path), pytest.raises(WeightsError, match="weights fetch fid-inception") as error:
        FidFeatures.load()
    assert error.value.reason == "weights-missing"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_distance_of_full_size_sets_equals_the_formula() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.gamma(1.0, size=(3000, 2048)), rng.gamma(1.2, size=(2500, 2048))
    assert frechet_distance(a, b) == pytest.approx(plain_frechet(a, b), rel=1e-8)
