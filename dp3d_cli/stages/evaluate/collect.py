"""From the scores of single subjects, which lie in files, to the results of all methods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dp3d_cli.stages.engine.stage import Json
from dp3d_cli.stages.evaluate.availability import Availability
from dp3d_cli.stages.evaluate.cautions import find_warnings
from dp3d_cli.stages.evaluate.metrics import METRICS
from dp3d_cli.stages.evaluate.networks import Features
from dp3d_cli.stages.evaluate.pairing import Match, Omission, Pairing
from dp3d_cli.stages.evaluate.protocol import Protocol
from dp3d_cli.stages.evaluate.results import (
    Coverage,
    MethodResults,
    MetricFacts,
    Results,
    SetValue,
    SubjectResults,
    Unavailable,
)
from dp3d_cli.stages.evaluate.rows import PairScore, SubjectScores
from dp3d_cli.stages.evaluate.score import Scored, features_path, scores_path
from dp3d_cli.stages.evaluate.statistics import Statistic, statistic, statistic_of_subjects


@dataclass(frozen=True)
class _Loaded:
    """The scores of one match."""

    match: Match
    scored: Scored


def collect(
    output: Path,
    protocol: Protocol,
    pairing: Pairing,
    available: Availability,
    failed: Mapping[str, tuple[str, str]],
) -> Results:
    """Combine the scores that lie below `output`.

    Scores of matches that are not part of `pairing` are left alone. Equal scores give equal results.

    Args:
        output: the report's folder.
        protocol: the rule that the scores were made by.
        pairing: what should have been scored.
        available: which metrics were computed.
        failed: ids of matches that failed as a whole → reason and message; they are listed as omitted.
    """
    scored: dict[str, Scored] = {}
    for match in pairing.matches:
        path = output / scores_path(match.id)
        if match.id not in failed and path.is_file():
            scores = SubjectScores.from_bytes(path.read_bytes())
            scored[match.id] = Scored(scores, _features(output / features_path(match.id)))
    return sum_up(protocol, pairing, available, scored, failed)


def sum_up(
    protocol: Protocol,
    pairing: Pairing,
    available: Availability,
    scored: Mapping[str, Scored],
    failed: Mapping[str, tuple[str, str]] | None = None,
) -> Results:
    """The results of scored matches, by their ids; see `collect`."""
    failed = failed or {}
    omissions = list(pairing.omissions)
    of_method: dict[str, list[_Loaded]] = {}
    missing = 0
    for match in pairing.matches:
        if match.id in failed:
            omissions.append(Omission(match.method, match.subject, None, *failed[match.id]))
        elif match.id in scored:
            of_method.setdefault(match.method, []).append(_Loaded(match, scored[match.id]))
        else:
            missing += 1
    methods, unavailable = [], list(available.unavailable)
    for name, loaded in of_method.items():
        method, lacking = _method(name, loaded, omissions, protocol, available)
        methods.append(method)
        unavailable += lacking
    problems = [text for own in of_method.values() for entry in own for text in entry.scored.scores.problems]
    block = _protocol_block(protocol, pairing, methods, unavailable)
    return Results(
        metrics=tuple(_facts(name, available) for name in protocol.metrics),
        methods=tuple(methods),
        unavailable=tuple(unavailable),
        protocol=block,
        omissions=tuple(omissions),
        warnings=(*pairing.warnings, *problems, *find_warnings(methods, protocol)),
        missing=missing,
    )


def _facts(name: str, available: Availability) -> MetricFacts:
    metric = METRICS[name]
    return MetricFacts(
        name,
        metric.kind,
        metric.better,
        metric.unit,
        metric.formula,
        available.implementation(name),
        metric.worst,
    )


def _protocol_block(
    protocol: Protocol,
    pairing: Pairing,
    methods: Sequence[MethodResults],
    unavailable: Sequence[Unavailable],
) -> dict[str, Json]:
    """The rule with what the data made of it."""
    described = protocol.describe()
    if protocol.published is not None:
        lacking = dict.fromkeys(entry.metric for entry in unavailable)
        described["deviations"] = [
            *protocol.deviations,
            *(f"{name} is unavailable." for name in lacking if name in protocol.published.metrics),
        ]
    skipped: Counter[str] = Counter()
    for method in methods:
        skipped.update(method.skipped)
    return {
        **described,
        "pairing": "by subject id, then by file name or view number",
        "pairs": sum(len(method.rows) for method in methods),
        "skipped": dict(sorted(skipped.items())),
        "outside_yaw": pairing.outside_yaw,
        "outside_five": pairing.outside_five,
    }


def _method(
    name: str,
    loaded: Sequence[_Loaded],
    omissions: Sequence[Omission],
    protocol: Protocol,
    available: Availability,
) -> tuple[MethodResults, list[Unavailable]]:
    skipped = Counter(bad.reason for entry in loaded for bad in entry.scored.scores.bad)
    skipped.update(omission.reason for omission in omissions if omission.method == name)
    subjects = [
        SubjectResults(
            entry.match,
            tuple(_judged(row, protocol) for row in entry.scored.scores.rows),
            entry.scored.scores.bad,
            entry.scored.scores.sequences,
        )
        for entry in loaded
    ]
    statistics: dict[str, Statistic] = {}
    by_subject: dict[str, dict[str, Statistic]] = {subject.subject: {} for subject in subjects}
    sets: dict[str, SetValue] = {}
    coverage: dict[str, Coverage] = {}
    lacking: list[Unavailable] = []
    for metric_name in available.metrics:
        metric = METRICS[metric_name]
        if metric.kind == "set":
            value = _set_value(metric_name, name, [entry.scored.features for entry in loaded])
            if isinstance(value, Unavailable):
                lacking.append(value)
            else:
                sets[metric_name] = value
            continue
        if metric.kind == "sequence":
            values = {
                subject.subject: [subject.sequences[metric_name]]
                for subject in subjects
                if metric_name in subject.sequences
            }
        else:
            values = {
                subject.subject: [
                    row.values[metric_name] for row in subject.rows if metric_name in row.values
                ]
                for subject in subjects
            }
            for subject in subjects:
                by_subject[subject.subject][metric_name] = statistic(values[subject.subject])
        if metric.worst is not None:
            coverage[metric_name] = _coverage(metric_name, [entry.scored.scores for entry in loaded])
        if any(values.values()):
            statistics[metric_name] = statistic_of_subjects(values)
        elif any(subject.rows for subject in subjects):
            lacking.append(_no_number(metric_name, name, coverage.get(metric_name)))
    result = MethodResults(
        name, tuple(subjects), statistics, by_subject, sets, coverage, dict(sorted(skipped.items()))
    )
    return result, lacking


def _judged(row: PairScore, protocol: Protocol) -> PairScore:
    """The row; under --strict with the worst value where a prediction has no face."""
    if not protocol.strict:
        return row
    values = dict(row.values)
    for name, where in row.failures.items():
        worst = METRICS[name].worst
        if where == "prediction" and worst is not None:
            values[name] = worst
    return replace(row, values=values)


def _coverage(name: str, scores: Sequence[SubjectScores]) -> Coverage:
    rows = [row for own in scores for row in own.rows]
    found = sum(name in row.values for row in rows)
    failures = [row.failures[name] for row in rows if name in row.failures]
    without = sum(where != "prediction" for where in failures)
    return Coverage(found, found + len(failures), without)


def _no_number(metric: str, method: str, coverage: Coverage | None) -> Unavailable:
    if coverage is not None and coverage.tried:
        message = f"{method}: {metric} found no faces in {coverage.tried} rows."
        return Unavailable(metric, method, "no-face", message)
    message = f"{method}: no row has what {metric} needs."
    return Unavailable(metric, method, "no-rows", message)


def _set_value(
    metric: str, method: str, features: Sequence[Mapping[str, Features]]
) -> SetValue | Unavailable:
    network = METRICS[metric].network
    own = _stack(features, f"{network}/prediction")
    true = _stack(features, f"{network}/truth")
    fewest, smallest = _SET_LEAST[metric], min(len(own), len(true))
    if smallest < fewest:
        message = (
            f"{method}: {metric} needs at least {fewest} pictures in each set, there are {len(own)} "
            f"predictions and {len(true)} to compare with."
        )
        return Unavailable(metric, method, "too-few-pictures", message)
    value, sd = _SET_FUNCTIONS[metric](own, true)
    return SetValue(_nine_digits(value), None if sd is None else _nine_digits(sd), len(own), len(true))


def _nine_digits(value: float) -> float:
    """What is left of a sum of products whose last digits depend on the number of threads."""
    return float(f"{value:.9g}")


def _stack(features: Sequence[Mapping[str, Features]], key: str) -> Features:
    """[N, D] of all subjects, in their order."""
    parts = [own[key] for own in features if key in own]
    return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)


def _fid(own: Features, true: Features) -> tuple[float, float | None]:
    from dp3d_cli.core.metrics.fid import frechet_distance

    return frechet_distance(own, true), None


def _kid(own: Features, true: Features) -> tuple[float, float | None]:
    from dp3d_cli.core.metrics.kid import kernel_distance

    return kernel_distance(own, true)


_SET_FUNCTIONS: Mapping[str, Callable[[Features, Features], tuple[float, float | None]]] = {
    "fid": _fid,
    "fid_clean": _fid,
    "kid": _kid,
}
_SET_LEAST = {"fid": 2, "fid_clean": 2, "kid": 4}


def _features(path: Path) -> dict[str, Features]:
    """The features of a match; empty if no set metric was computed."""
    if not path.is_file():
        return {}
    with np.load(path) as stored:
        return {name.replace(".", "/"): stored[name] for name in stored.files}
