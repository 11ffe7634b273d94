"""KID against loops over pairs and against torchmetrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchmetrics.image.kid import poly_mmd

from dp3d_cli.core.metrics.kid import kernel_distance, kid_subset_size, squared_mmd

Features = NDArray[np.float64]
GOLDEN = (19.08029658, 6.40512324)


@pytest.fixture
def sets() -> tuple[Features, Features]:
    rng = np.random.default_rng(6)
    return rng.gamma(1.0, size=(40, 16)), rng.gamma(1.5, size=(30, 16))


def plain_mmd(a: Features, b: Features) -> float:
    """Gretton et al. 2012, Eq. (3), pair by pair."""

    def kernel(x: Features, y: Features) -> float:
        return float((sum(p * q for p, q in zip(x, y, strict=True)) / len(x) + 1) ** 3)

    within_a = sum(kernel(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j)
    within_b = sum(kernel(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j)
    between = sum(kernel(x, y) for x in a for y in b)
    n, m = len(a), len(b)
    return within_a / (n * (n - 1)) + within_b / (m * (m - 1)) - 2 * between / (n * m)


def test_squared_mmd_equals_the_loop(sets: tuple[Features, Features]) -> None:
    assert squared_mmd(*sets) == pytest.approx(plain_mmd(*sets), rel=1e-9)


def test_squared_mmd_equals_that_of_torchmetrics(sets: tuple[Features, Features]) -> None:
    a, b = sets[0][:30], sets[1]  # it takes sets of one size only
    expected = poly_mmd(torch.from_numpy(a), torch.from_numpy(b)).item()
    assert squared_mmd(a, b) == pytest.approx(expected, abs=1e-9)


def test_mean_and_spread_are_those_of_the_subsets(sets: tuple[Features, Features]) -> None:
    a, b = sets
    rng = np.random.default_rng(3)
    values = []
    for _ in range(20):
        rows_a = rng.choice(40, 10, replace=False)
        rows_b = rng.choice(30, 10, replace=False)
        values.append(poly_mmd(torch.from_numpy(a[rows_a]), torch.from_numpy(b[rows_b])).item())
    mean, sd = kernel_distance(a, b, subsets=20, subset_size=10, seed=3)
    assert mean == pytest.approx(np.mean(values), abs=1e-9)
    assert sd == pytest.approx(np.std(values), abs=1e-9)


def test_golden_values(sets: tuple[Features, Features]) -> None:
    # With NumPy 2.4; a change here changes the definition or the draw.
    assert kernel_distance(*sets) == pytest.approx(GOLDEN, rel=1e-6)


def test_seed_decides_the_draw(sets: tuple[Features, Features]) -> None:
    assert kernel_distance(*sets, seed=1) == kernel_distance(*sets, seed=1)
    assert kernel_distance(*sets, seed=1) != kernel_distance(*sets, seed=2)


def test_small_sets_have_a_spread(sets: tuple[Features, Features]) -> None:
    assert kid_subset_size(30) == 15
    assert kid_subset_size(1999) == 999
    assert kid_subset_size(2000) == kid_subset_size(10**6) == 1000
    _, sd = kernel_distance(sets[0][:4], sets[1][:4])
    assert sd > 0


def test_estimate_is_unbiased_where_that_of_fid_is_not() -> None:
    rng = np.random.default_rng(8)
    values = [squared_mmd(*rng.gamma(1.0, size=(2, 12, 16))) for _ in range(400)]
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(len(values))


def test_squared_mmd_is_symmetric_and_blind_to_order(sets: tuple[Features, Features]) -> None:
    a, b = sets
    assert squared_mmd(b, a) == pytest.approx(squared_mmd(a, b), rel=1e-12)
    assert squared_mmd(a[::-1], np.roll(b, 7, axis=0)) == pytest.approx(squared_mmd(a, b), rel=1e-12)


def test_different_sets_are_further_apart_than_halves_of_one(sets: tuple[Features, Features]) -> None:
    a, b = sets
    assert kernel_distance(a, b)[0] > 10 * abs(kernel_distance(a[:20], a[20:])[0])


def test_what_has_no_distance_is_refused(sets: tuple[Features, Features]) -> None:
    a, b = sets
    with pytest.raises(ValueError, match="at least 4 pictures in each set, got 3"):
        kernel_distance(a[:3], b)
    with pytest.raises(ValueError, match="100 subsets of 31 pictures from 40 and 30"):
        kernel_distance(a, b, subset_size=31)
    with pytest.raises(ValueError, match="0 subsets of 15"):
        kernel_distance(a, b, subsets=0)
    with pytest.raises(ValueError, match="N and M >= 2"):
        squared_mmd(a[:1], b)
    with pytest.raises(ValueError, match="N and M >= 2"):
        squared_mmd(a[:, :5], b)
    with pytest.raises(ValueError, match="not all finite"):
        squared_mmd(a, b * math.nan)
