"""From the scores of single subjects, which lie in files, to the results of all methods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from dp3d_cli.stages.evaluate.cautions import find_warnings
from dp3d_cli.stages.evaluate.pairing import Omission, Pairing
from dp3d_cli.stages.evaluate.protocol import METRICS, Protocol
from dp3d_cli.stages.evaluate.results import MethodResults, MetricFacts, Results, SubjectResults
from dp3d_cli.stages.evaluate.rows import SubjectScores
from dp3d_cli.stages.evaluate.score import scores_path
from dp3d_cli.stages.evaluate.statistics import Statistic, statistic, statistic_of_subjects


def collect(
    output: Path, protocol: Protocol, pairing: Pairing, failed: Mapping[str, tuple[str, str]]
) -> Results:
    """Combine the scores that lie below `output`.

    Scores of matches that are not part of `pairing` are left alone. Equal scores give equal results.

    Args:
        output: the report's folder.
        protocol: the rule that the scores were made by.
        pairing: what should have been scored.
        failed: ids of matches that failed as a whole → reason and message; they are listed as omitted.
    """
    subjects: dict[str, list[SubjectResults]] = {}
    omissions = list(pairing.omissions)
    missing = 0
    for match in pairing.matches:
        path = output / scores_path(match.id)
        if match.id in failed:
            omissions.append(Omission(match.method, match.subject, None, *failed[match.id]))
        elif path.is_file():
            scores = SubjectScores.from_bytes(path.read_bytes())
            result = SubjectResults(match, scores.rows, scores.bad, scores.sequences)
            subjects.setdefault(match.method, []).append(result)
        else:
            missing += 1
    methods = [_method(name, own, omissions, protocol) for name, own in subjects.items()]
    block = {
        **protocol.describe(),
        "pairing": "by subject id, then by view number",
        "pairs": sum(len(method.rows) for method in methods),
        "outside_yaw": pairing.outside_yaw,
    }
    facts = [
        MetricFacts(metric.name, "pair", metric.better, metric.unit, metric.formula)
        for metric in (METRICS[name] for name in protocol.metrics)
    ]
    return Results(
        metrics=tuple(facts),
        methods=tuple(methods),
        unavailable=(),
        protocol=block,
        omissions=tuple(omissions),
        warnings=find_warnings(methods, protocol),
        missing=missing,
    )


def _method(
    name: str, subjects: Sequence[SubjectResults], omissions: Sequence[Omission], protocol: Protocol
) -> MethodResults:
    skipped = Counter(bad.reason for subject in subjects for bad in subject.bad)
    skipped.update(omission.reason for omission in omissions if omission.method == name)
    statistics: dict[str, Statistic] = {}
    by_subject: dict[str, dict[str, Statistic]] = {subject.subject: {} for subject in subjects}
    for metric in protocol.metrics:
        values = {
            subject.subject: [row.values[metric] for row in subject.rows if metric in row.values]
            for subject in subjects
        }
        statistics[metric] = statistic_of_subjects(values)
        for subject in subjects:
            by_subject[subject.subject][metric] = statistic(values[subject.subject])
    return MethodResults(name, tuple(subjects), statistics, by_subject, skipped=dict(sorted(skipped.items())))
