"""Kernel inception distance of two sets of features (those of `fid.FidFeatures`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SUBSETS = 100
SUBSET_SIZE = 1000
"""Both as published with KID and in most implementations."""

MIN_PICTURES = 4
"""Two subsets of two pictures each can differ [pictures]."""


def kernel_distance(
    a: NDArray[np.floating],
    b: NDArray[np.floating],
    *,
    subsets: int = SUBSETS,
    subset_size: int | None = None,
    seed: int = 0,
) -> tuple[float, float]:
    """KID of Binkowski et al. 2018: mean and spread of `squared_mmd` over random subsets.

    Each subset draws without replacement from both sets. The draw follows the order of the rows, so that the
    caller states it (pictures sorted by path); the expected value does not depend on it.

    Args:
        a: [N, D] features.
        b: [M, D] features.
        subsets: how many to draw.
        subset_size: pictures from each set; None: `kid_subset_size(min(N, M))`.
        seed: of the draw.

    Returns:
        Mean, and standard deviation over the subsets (divided by their number, as torchmetrics does). Lower
        is better. The estimate is unbiased, so that a value below 0 is possible and means 0. Often published
        times 1000.

    Raises:
        ValueError: fewer than 4 pictures, a subset that is not in 2 .. min(N, M), different D, or features
            that are not finite.
    """
    smaller = min(len(a), len(b))
    size = kid_subset_size(smaller) if subset_size is None else subset_size
    if not (2 <= size <= smaller and subsets >= 1):
        raise ValueError(f"KID cannot draw {subsets} subsets of {size} pictures from {len(a)} and {len(b)}.")
    rng = np.random.default_rng(seed)
    values = [
        squared_mmd(
            a[rng.choice(len(a), size, replace=False)],
            b[rng.choice(len(b), size, replace=False)],
        )
        for _ in range(subsets)
    ]
    return float(np.mean(values)), float(np.std(values))


def kid_subset_size(n: int) -> int:
    """How many pictures a subset has by default: 1000, or half of a set that has fewer than 2000.

    With subsets as large as the set, which others take from a small one, every subset is the same and the
    spread is zero, whatever the pictures.

    Args:
        n: pictures in the smaller set.

    Raises:
        ValueError: fewer than 4.
    """
    if n < MIN_PICTURES:
        raise ValueError(f"KID needs at least {MIN_PICTURES} pictures in each set, got {n}.")
    return min(SUBSET_SIZE, n // 2)


def squared_mmd(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy with the kernel (x.y / D + 1)^3.

    Pairs of a picture with itself are left out (Gretton et al. 2012, Lemma 6). In float64; symmetric, and
    independent of the order of the rows up to rounding.

    Args:
        a: [N, D] features, N >= 2.
        b: [M, D] features, M >= 2.

    Raises:
        ValueError: fewer than two rows, different D, or features that are not finite.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"KID compares [N, D] with [M, D], N and M >= 2; got {a.shape} and {b.shape}.")
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("The features are not all finite.")
    return _mean_of_others(x) + _mean_of_others(y) - 2 * float(_kernel(x, y).mean())


def _mean_of_others(x: NDArray[np.float64]) -> float:
    kernel = _kernel(x, x)
    n = len(x)
    return float((kernel.sum() - np.trace(kernel)) / (n * (n - 1)))


def _kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((x @ y.T / x.shape[1] + 1) ** 3, np.float64)
