"""What report.md and report.html have in common: one figure per method and metric, and harmless texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dp3d_cli import __version__
from dp3d_cli.stages.engine.stage import Json
from dp3d_cli.stages.evaluate.pairing import BASELINE
from dp3d_cli.stages.evaluate.results import (
    Better,
    Coverage,
    MethodResults,
    MetricFacts,
    Results,
    Unavailable,
)

ARROWS: dict[Better, str] = {"higher": "↑", "lower": "↓", "near 1": "→1"}
NOTHING = "–"

_DECIMALS = {
    "psnr": 2,
    "fid": 2,
    "fid_clean": 2,
    "kid": 4,
    "clip_i": 4,
    "pose_mse": 4,
    "pose_mae_deg": 2,
    "pose_camera_deg": 2,
    "grain": 2,
}


@dataclass(frozen=True)
class Figure:
    """One method's number for one metric.

    Attributes:
        value: the mean, or the number of the whole set; None if there is none.
        sd: standard deviation, or the spread over subsets of a set metric.
        low: lower end of the 95 % interval; None without one.
        high: upper end.
        n: how many values or pictures it rests on.
        counted: what these are ("views", "subjects", "pictures").
        not_finite: values left out since they are infinite or undefined.
        coverage: for metrics that need faces.
        unavailable: why there is no number.
    """

    value: float | None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    counted: str = "views"
    not_finite: int = 0
    coverage: Coverage | None = None
    unavailable: Unavailable | None = None

    @property
    def has_interval(self) -> bool:
        """Whether both ends of the interval are numbers."""
        return self.low is not None and self.high is not None and math.isfinite(self.high - self.low)


def figure(results: Results, method: MethodResults, metric: str) -> Figure:
    """The number of a method, wherever its kind of metric keeps it."""
    missing = unavailable(results, metric, method.method)
    coverage = method.coverage.get(metric)
    if metric in method.sets:
        own = method.sets[metric]
        value = own.value if math.isfinite(own.value) else None
        return Figure(value, own.sd, n=own.predictions, counted="pictures", unavailable=missing)
    numbers = method.statistics.get(metric)
    if numbers is None:
        return Figure(None, coverage=coverage, unavailable=missing)
    counted = "subjects" if results.facts(metric).kind == "sequence" else "views"
    return Figure(
        numbers.mean,
        numbers.sd,
        numbers.low,
        numbers.high,
        numbers.n,
        counted,
        numbers.not_finite,
        coverage,
        missing if numbers.mean is None else None,
    )


def unavailable(results: Results, metric: str, method: str | None = None) -> Unavailable | None:
    """Why a metric has no number: for all methods if `method` is None, else for all or for this one."""
    for entry in results.unavailable:
        if entry.metric == metric and entry.method in (None, method):
            return entry
    return None


def unavailable_everywhere(results: Results, metric: str) -> list[Unavailable]:
    """Why no method has a number of this metric, each reason once; empty if one has."""
    if any(figure(results, method, metric).value is not None for method in results.methods):
        return []
    told = {(entry.message, entry.command): entry for entry in results.unavailable if entry.metric == metric}
    return list(told.values())


def row_metrics(results: Results) -> list[MetricFacts]:
    """Metrics that have a number for every view."""
    return [facts for facts in results.metrics if facts.kind not in ("set", "sequence")]


def measured_row_metrics(results: Results) -> list[MetricFacts]:
    """Those of them that any view has a number of."""
    named = {name for method in results.methods for _, row in method.rows for name in row.values}
    return [facts for facts in row_metrics(results) if facts.name in named]


Angles = Mapping[tuple[str, int], tuple[float | None, float | None]]


def known_angles(results: Results) -> Angles:
    """Subject and view → yaw and pitch [rad] of the camera asked for, by whichever method states them.

    All methods' pictures of a view are compared with the same truth, so they were asked for from one camera.
    """
    angles: dict[tuple[str, int], tuple[float | None, float | None]] = {}
    for method in results.methods:
        for subject, row in method.rows:
            yaw, pitch = angles.get((subject.subject, row.view), (None, None))
            angles[subject.subject, row.view] = (
                _finite(row.yaw) if yaw is None else yaw,
                _finite(row.pitch) if pitch is None else pitch,
            )
    return angles


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def badness(facts: MetricFacts) -> Callable[[float], float]:
    """A key that sorts a metric's values from best to worst."""
    if facts.better == "higher":
        return lambda value: -value
    if facts.better == "lower":
        return lambda value: value
    return lambda value: abs(value - 1)


def best_method(facts: MetricFacts, results: Results) -> tuple[int, bool] | None:
    """Position of the method with the best number, and whether the baseline is better still.

    The baseline does not take part itself: by some metrics a copy is trivially perfect. None with fewer than
    two other methods, or if the two best numbers are equal as shown.
    """
    values = [figure(results, method, facts.name).value for method in results.methods]
    is_baseline = [method.method == BASELINE for method in results.methods]
    best = best_of(facts, [None if skip else value for value, skip in zip(values, is_baseline, strict=True)])
    if best is None:
        return None
    among = [values[best], *(value for value, own in zip(values, is_baseline, strict=True) if own)]
    return best, best_of(facts, among) not in (None, 0)


def best_of(facts: MetricFacts, values: Sequence[float | None]) -> int | None:
    """Position of the best value; None below two values, or if the two best are equal as shown."""
    finite = [(n, value) for n, value in enumerate(values) if value is not None and math.isfinite(value)]
    if len(finite) < 2:
        return None
    key = badness(facts)
    ranked = sorted(finite, key=lambda entry: key(entry[1]))
    first, second = (number(facts, value) for _, value in ranked[:2])
    return None if first == second else ranked[0][0]


def number(facts: MetricFacts, value: float | None) -> str:
    """A value with the metric's usual digits; more of them where it would be rounded to nothing."""
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "-∞"}.get(value, "undefined")
    decimals = _DECIMALS.get(facts.name, 3)
    if value != 0 and abs(value) < 0.5 * 10**-decimals:
        return f"{value:.1e}"
    return f"{value:.{decimals}f}"


def unit(facts: MetricFacts) -> str:
    """Unit of a metric, with its powers raised."""
    return facts.unit.replace("^2", "²")


def heading(facts: MetricFacts) -> str:
    """Name, direction and unit of a metric."""
    return f"{facts.name} {ARROWS[facts.better]}" + (f" [{unit(facts)}]" if facts.unit else "")


def shown(text: str) -> str:
    """A name in one line, with control, direction and undecodable characters as visible escapes."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def json_text(value: Json) -> str:
    """A JSON value as people read it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {json_text(entry)}" for key, entry in value.items()) or "none"
    if isinstance(value, Sequence):
        return "; ".join(json_text(entry).removesuffix(".") for entry in value) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "not stated" if value is None else str(value)


def count(number_of: int, word: str) -> str:
    """A count with its word: "1 view", "2 views"."""
    return f"{number_of} {word}" if number_of == 1 else f"{number_of} {word}s"


def warnings_text(results: Results) -> list[str]:
    """The warnings; what is said of several methods in the same words is said once of all of them.

    Whole metrics without a number come last.
    """
    grouped: dict[str, list[str]] = {}
    for text in results.warnings:
        own = next((m.method for m in results.methods if text.startswith(f"{m.method}: ")), None)
        said = text if own is None else text[len(own) + 2 :]
        names = grouped.setdefault(said, [])
        if own is not None:
            names.append(own)
    texts = [f"{', '.join(names)}: {said}" if names else said for said, names in grouped.items()]
    missing = [facts.name for facts in results.metrics if unavailable_everywhere(results, facts.name)]
    if missing:
        texts.append(
            f"{len(missing)} of {count(len(results.metrics), 'metric')} could not be computed: "
            f"{', '.join(missing)}. Their rows say what to do."
        )
    return texts


def software(results: Results) -> str:
    """Names and versions of what the numbers were made with."""
    packages = results.protocol.get("packages")
    versions = {"dp3d": __version__, **(packages if isinstance(packages, Mapping) else {})}
    return ", ".join(
        f"{name} {'not installed' if version is None else version}" for name, version in versions.items()
    )


def skipped_text(results: Results) -> str:
    """How many pairs or subjects were left out, by reason."""
    reasons: dict[str, int] = {}
    for method in results.methods:
        for reason, times in method.skipped.items():
            reasons[reason] = reasons.get(reason, 0) + times
    if not reasons:
        return "none"
    listed = ", ".join(f"{reason} {times}" for reason, times in sorted(reasons.items()))
    return f"{sum(reasons.values())} ({listed})"
