"""Everything that a report tells, as values: what is in `metrics.json`, and what tables and plots show.

A metric's numbers have one of three homes, by its kind:

    pair, reference, face, camera   in the rows (`PairScore.values`), summed up in `MethodResults.statistics`
    sequence                        one number a subject (`SubjectResults.sequences`), summed up alike
    set                             one number a method (`MethodResults.sets`)
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from dp3d_cli import __version__
from dp3d_cli.stages.engine.stage import Json
from dp3d_cli.stages.evaluate.pairing import Match, Omission, Pair
from dp3d_cli.stages.evaluate.rows import BadPair, PairScore
from dp3d_cli.stages.evaluate.statistics import Statistic

FORMAT = 2

Kind = Literal["pair", "reference", "face", "camera", "set", "sequence"]
Better = Literal["higher", "lower", "near 1"]


@dataclass(frozen=True)
class MetricFacts:
    """One column of the report.

    Attributes:
        name: as in `--metrics` and in the report's files.
        kind: what is compared. "face" and "camera" metrics need a face to be found: see coverage.
        better: which way is better.
        unit: of the number; "" for a plain one.
        formula: what is computed, by which package.
        implementation: version, weights with sha256, range, resize, device, dtype; for a network as it was
            loaded, empty if it never was.
        worst: what a picture without a face scores under `--strict`; None where that cannot happen.
    """

    name: str
    kind: Kind
    better: Better
    unit: str
    formula: str
    implementation: Mapping[str, Json] = field(default_factory=dict)
    worst: float | None = None


@dataclass(frozen=True)
class Coverage:
    """In how many rows a metric that needs faces found them.

    Attributes:
        found: rows with a number.
        tried: rows looked at.
        without_truth: rows where the truth or reference has no face, which is not the method's fault: left
            out even under `--strict`.
    """

    found: int
    tried: int
    without_truth: int = 0


@dataclass(frozen=True)
class SetValue:
    """A number of a whole set of pictures.

    Attributes:
        value: the number.
        sd: spread over subsets, where the metric has one (KID).
        predictions: pictures of the method in it.
        truths: pictures of the ground truth (or references) in it.
    """

    value: float
    sd: float | None
    predictions: int
    truths: int


@dataclass(frozen=True)
class Unavailable:
    """A metric that was asked for and has no number.

    Attributes:
        metric: its name.
        method: for which method; None for all.
        reason: kebab-case cause ("weights-missing", "too-few-pictures", "no-references").
        message: what is missing, as a sentence.
        command: what to type to change that; "" if no command does.
    """

    metric: str
    method: str | None
    reason: str
    message: str
    command: str = ""


@dataclass(frozen=True)
class SubjectResults:
    """One method on one subject.

    Attributes:
        match: the pairs with their files and cameras, which the report's pictures come from.
        rows: in order of view numbers; a pair that could not be scored has none.
        bad: those pairs.
        sequences: sequence metric → number.
    """

    match: Match
    rows: tuple[PairScore, ...]
    bad: tuple[BadPair, ...] = ()
    sequences: Mapping[str, float] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """Id of the subject."""
        return self.match.subject

    def pair(self, view: int) -> Pair:
        """Files and camera of a row, by its view number."""
        return next(pair for pair in self.match.pairs if pair.index == view)


@dataclass(frozen=True)
class MethodResults:
    """One method.

    Attributes:
        method: its name; `pairing.BASELINE` for the copied reference.
        subjects: what was scored, in order of ids.
        statistics: row or sequence metric → mean over rows or subjects; absent where nothing has a number.
        by_subject: subject → row metric → mean over its rows.
        sets: set metric → number.
        coverage: face or camera metric → in how many rows faces were found.
        skipped: reason → number of pairs or subjects left out.
    """

    method: str
    subjects: tuple[SubjectResults, ...]
    statistics: Mapping[str, Statistic]
    by_subject: Mapping[str, Mapping[str, Statistic]]
    sets: Mapping[str, SetValue] = field(default_factory=dict)
    coverage: Mapping[str, Coverage] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[tuple[SubjectResults, PairScore], ...]:
        """All rows with their subjects."""
        return tuple((subject, row) for subject in self.subjects for row in subject.rows)


@dataclass(frozen=True)
class Results:
    """All that a report tells.

    Attributes:
        metrics: the columns, in the order asked for, those that are unavailable included.
        methods: in the order asked for, the baseline first.
        unavailable: metrics without a number, and why.
        protocol: the rule by which the numbers were made, as written into the report: "name" of the protocol
            or None, "deviations" from it and "notes" on what its paper leaves open (lists of texts), sizes,
            filters, packages, counts.
        omissions: subjects and views without a partner, and subjects that failed.
        warnings: sentences about what may mislead.
        missing: matches that no run has scored yet; with any, the numbers are not complete and no report is
            to be written.
    """

    metrics: tuple[MetricFacts, ...]
    methods: tuple[MethodResults, ...]
    unavailable: tuple[Unavailable, ...]
    protocol: Mapping[str, Json]
    omissions: tuple[Omission, ...] = ()
    warnings: tuple[str, ...] = ()
    missing: int = 0

    @property
    def bad_pairs(self) -> int:
        """Number of pairs that could not be scored."""
        return sum(len(subject.bad) for method in self.methods for subject in method.subjects)

    def facts(self, metric: str) -> MetricFacts:
        """A column by its name."""
        return next(facts for facts in self.metrics if facts.name == metric)

    def to_json(self) -> str:
        """The content of metrics.json. Equal results give equal bytes; it names no path."""
        content: dict[str, Json] = {
            "format": "dp3d-report",
            "version": FORMAT,
            "dp3d": __version__,
            "protocol": self.protocol,
            "metrics": {
                facts.name: {
                    "kind": facts.kind,
                    "better": facts.better,
                    "unit": facts.unit,
                    "formula": facts.formula,
                    "worst": facts.worst,
                    "implementation": facts.implementation,
                }
                for facts in self.metrics
            },
            "unavailable": [
                {
                    "metric": entry.metric,
                    "method": entry.method,
                    "reason": entry.reason,
                    "message": entry.message,
                    "command": entry.command,
                }
                for entry in self.unavailable
            ],
            "warnings": list(self.warnings),
            "methods": [_method(method) for method in self.methods],
            "omitted": [
                {
                    "method": omission.method,
                    "subject": omission.subject,
                    "view": omission.view,
                    "reason": omission.reason,
                    "message": omission.message,
                }
                for omission in self.omissions
            ],
            "bad_pairs": [
                {
                    "method": method.method,
                    "subject": subject.subject,
                    "view": bad.view,
                    "reason": bad.reason,
                    "message": bad.message,
                }
                for method in self.methods
                for subject in method.subjects
                for bad in subject.bad
            ],
        }
        return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _method(method: MethodResults) -> Json:
    return {
        "method": method.method,
        "subjects": len(method.subjects),
        "pairs": len(method.rows),
        "skipped": dict(method.skipped),
        "metrics": {name: numbers.to_json() for name, numbers in method.statistics.items()},
        "sets": {
            name: {
                "value": value.value,
                "sd": value.sd,
                "predictions": value.predictions,
                "truths": value.truths,
            }
            for name, value in method.sets.items()
        },
        "coverage": {
            name: {"found": entry.found, "tried": entry.tried, "without_truth": entry.without_truth}
            for name, entry in method.coverage.items()
        },
        "by_subject": {
            subject.subject: {
                **{name: stat.to_json() for name, stat in method.by_subject[subject.subject].items()},
                **{name: {"value": _finite(value)} for name, value in subject.sequences.items()},
            }
            for subject in method.subjects
        },
    }
