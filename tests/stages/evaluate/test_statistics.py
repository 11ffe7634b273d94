from __future__ import annotations

import math

import numpy as np
import pytest

from dp3d_cli.stages.evaluate.statistics import Statistic, statistic_of_subjects


def subjects(count: int, views: int, spread: float, seed: int = 0) -> dict[str, list[float]]:
    rng = np.random.default_rng(seed)
    return {f"s{n}": (rng.normal() + spread * rng.normal(size=views)).tolist() for n in range(count)}


def test_interval_is_that_of_the_mean_over_subjects() -> None:
    values = subjects(200, 4, 0.0)
    found = statistic_of_subjects(values)
    means = np.array([own[0] for own in values.values()])
    assert found.mean == pytest.approx(means.mean())
    # The normal approximation holds for 200 subjects; 2000 resamples leave an error of some per cent.
    half = 1.96 * means.std(ddof=1) / math.sqrt(len(means))
    assert found.low == pytest.approx(means.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(means.mean() + half, abs=0.15 * half)


def test_views_of_one_subject_are_not_taken_for_independent() -> None:
    values = subjects(10, 100, 0.01)
    pooled = {f"{name}-{n}": [value] for name, own in values.items() for n, value in enumerate(own)}
    by_subject, by_pair = statistic_of_subjects(values), statistic_of_subjects(pooled)
    assert width(by_subject) > 5 * width(by_pair)
    assert by_subject.mean == by_pair.mean


def test_order_of_subjects_does_not_matter() -> None:
    values = subjects(7, 3, 1.0)
    backwards = dict(reversed(list(values.items())))
    assert statistic_of_subjects(values) == statistic_of_subjects(backwards)


def test_a_single_subject_resamples_its_pairs() -> None:
    found = statistic_of_subjects({"anna": [1.0, 2.0, 3.0, 4.0]})
    assert found.low is not None
    assert 1 <= found.low < 2.5 < (found.high or 0) <= 4
    with_others = statistic_of_subjects({"anna": [1.0, 2.0, 3.0, 4.0], "bob": [], "carl": [math.nan]})
    assert (with_others.low, with_others.high, with_others.not_finite) == (found.low, found.high, 1)


def test_one_value_has_no_interval() -> None:
    assert statistic_of_subjects({"anna": [2.0]}) == Statistic(2.0, None, 1, 0, None, None)
    assert statistic_of_subjects({"anna": [math.inf]}) == Statistic(None, None, 0, 1, None, None)
    assert statistic_of_subjects({}) == Statistic(None, None, 0, 0)


def test_subjects_weigh_by_their_views_as_the_mean_does() -> None:
    values = {"many": [0.0] * 99, "one": [1.0]}
    found = statistic_of_subjects(values)
    assert found.mean == pytest.approx(0.01)
    assert (found.low, found.high) == (0.0, 1.0)


def width(numbers: Statistic) -> float:
    assert numbers.low is not None
    assert numbers.high is not None
    return numbers.high - numbers.low
