"""Means with what is needed to believe them: spread, count, and a bootstrap interval over subjects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dp3d_cli.stages.engine.stage import Json

RESAMPLES = 2000
LEVEL = 0.95
_SEED = 20231215  # fixed, so that equal scores give equal intervals


@dataclass(frozen=True)
class Statistic:
    """Mean and spread of one metric over the rows where it is finite.

    Attributes:
        mean: arithmetic mean; None without any finite value.
        sd: standard deviation with N - 1; None below two values.
        n: number of finite values.
        not_finite: number of rows left out (identical pictures in PSNR, a flat truth in sharpness).
        low: lower end of the bootstrap interval of the mean; None below two values.
        high: its upper end.
    """

    mean: float | None
    sd: float | None
    n: int
    not_finite: int
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, Json]:
        """As in metrics.json."""
        interval = None if self.low is None or self.high is None else [self.low, self.high]
        return {
            "mean": self.mean,
            "sd": self.sd,
            "n": self.n,
            "not_finite": self.not_finite,
            "interval_95": interval,
        }


def statistic(values: Sequence[float]) -> Statistic:
    """Sum up values in float64, without an interval; independent of their order (exact sums)."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return Statistic(None, None, 0, len(values))
    mean = math.fsum(finite) / len(finite)
    sd = None
    if len(finite) > 1:
        sd = math.sqrt(math.fsum((value - mean) ** 2 for value in finite) / (len(finite) - 1))
    return Statistic(mean, sd, len(finite), len(values) - len(finite))


def statistic_of_subjects(values: Mapping[str, Sequence[float]]) -> Statistic:
    """The statistic of all values, with a bootstrap interval of their mean.

    Args:
        values: subject id → values in a meaningful order (of views).

    Returns:
        Mean, s.d. and count over all values; the interval holds the central 95 % of 2000 means of resampled
        *subjects*, since views of one subject are not independent. With a single subject its values are
        resampled, which is too narrow an interval for other subjects. The order of subjects does not matter.
    """
    finite = {
        subject: [value for value in values[subject] if math.isfinite(value)] for subject in sorted(values)
    }
    groups = [own for own in finite.values() if own]
    if len(groups) == 1:
        groups = [[value] for value in groups[0]]
    plain = statistic([value for own in values.values() for value in own])
    if len(groups) < 2:
        return plain
    sums = np.array([math.fsum(own) for own in groups])
    counts = np.array([len(own) for own in groups], np.float64)
    drawn = np.random.default_rng(_SEED).integers(0, len(groups), (RESAMPLES, len(groups)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Statistic(plain.mean, plain.sd, plain.n, plain.not_finite, float(low), float(high))
