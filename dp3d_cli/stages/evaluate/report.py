"""The report: metrics.json for programs, per_image.csv for statistics, report.md for people."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dp3d_cli import __version__
from dp3d_cli.stages.engine.stage import Json
from dp3d_cli.stages.evaluate.pairing import Omission, Pairing
from dp3d_cli.stages.evaluate.protocol import METRICS, Protocol
from dp3d_cli.stages.evaluate.score import PairScore, SubjectScores, scores_path

FORMAT = 1
_LISTED = 20  # omissions and bad pairs shown in report.md; metrics.json has them all


@dataclass(frozen=True)
class Statistic:
    """Mean and spread of one metric over the pairs where it is finite.

    Attributes:
        mean: arithmetic mean; None without any finite value.
        sd: standard deviation with N - 1; None below two values.
        n: number of finite values.
        not_finite: number of pairs left out (identical pictures in PSNR, a flat truth in sharpness).
    """

    mean: float | None
    sd: float | None
    n: int
    not_finite: int


@dataclass(frozen=True)
class Report:
    """What was written, and what the command has to tell.

    Attributes:
        files: metrics.json, per_image.csv, report.md.
        bad_pairs: pairs that could not be scored.
        missing: matches that no run has scored yet (other shards, an interrupt); with any, there is no file.
        warnings: sentences about numbers that may mislead.
        table: the Markdown table of methods and metrics.
    """

    files: tuple[Path, ...]
    bad_pairs: int
    missing: int
    warnings: tuple[str, ...]
    table: str


def statistic(values: Sequence[float]) -> Statistic:
    """Sum up values in float64; independent of their order (exact sums)."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return Statistic(None, None, 0, len(values))
    mean = math.fsum(finite) / len(finite)
    sd = None
    if len(finite) > 1:
        sd = math.sqrt(math.fsum((value - mean) ** 2 for value in finite) / (len(finite) - 1))
    return Statistic(mean, sd, len(finite), len(values) - len(finite))


def write_report(
    output: Path, protocol: Protocol, pairing: Pairing, failed: Mapping[str, tuple[str, str]]
) -> Report:
    """Combine the scores that lie below `output` into the report's files.

    Scores of matches that are not part of `pairing` are left alone. Equal scores give equal bytes.

    Args:
        output: the report's folder.
        protocol: the rule that the scores were made by.
        pairing: what should have been scored.
        failed: ids of matches that failed as a whole → reason and message; they are listed as omitted.
    """
    scores, missing = [], 0
    for match in pairing.matches:
        path = output / scores_path(match.id)
        if match.id in failed:
            omission = Omission(match.method, match.subject, None, *failed[match.id])
            pairing = replace(pairing, omissions=(*pairing.omissions, omission))
        elif path.is_file():
            scores.append(SubjectScores.from_bytes(path.read_bytes()))
        else:
            missing += 1
    bad_pairs = sum(len(score.bad) for score in scores)
    if missing:
        return Report((), bad_pairs, missing, (), "")
    warnings = find_warnings(scores, protocol)
    table = methods_table(scores, protocol)
    contents = {
        "metrics.json": _metrics_json(scores, protocol, pairing, warnings),
        "per_image.csv": _per_image_csv(scores, protocol),
        "report.md": _report_md(scores, protocol, pairing, warnings, table),
    }
    output.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        draft = output / f".{name}.draft"
        draft.write_bytes(text.encode("utf-8", "surrogateescape"))
        draft.replace(output / name)
    return Report(tuple(output / name for name in contents), bad_pairs, 0, warnings, table)


def methods_table(scores: Sequence[SubjectScores], protocol: Protocol) -> str:
    """Markdown: one line per method, mean ± sd per metric, and the number of pairs."""
    heads = [_head(name) for name in protocol.metrics]
    lines = [f"| method | pairs | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
    for method in _methods(scores):
        rows = _rows(scores, method)
        cells = [_cell(statistic([row.values[name] for row in rows])) for name in protocol.metrics]
        lines.append(f"| {_plain(method)} | {len(rows)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def find_warnings(scores: Sequence[SubjectScores], protocol: Protocol) -> tuple[str, ...]:
    """What could make the numbers misleading, as sentences."""
    warnings = []
    pairs_of = {
        method: {
            (score.subject, row.view) for score in scores if score.method == method for row in score.rows
        }
        for method in _methods(scores)
    }
    if len(set(map(frozenset, pairs_of.values()))) > 1:
        counts = ", ".join(f"{method} {len(pairs)}" for method, pairs in pairs_of.items())
        warnings.append(
            f"The methods were not scored on the same pairs ({counts}): their means do not compare."
        )
    for method in pairs_of:
        rows = _rows(scores, method)
        identical = sum(row.values.get("psnr") == math.inf for row in rows)
        if identical:
            warnings.append(
                f"{method}: {identical} predictions equal the ground truth exactly. The same files?"
            )
        enlarged = sum(min(row.prediction_side, row.truth_side) < protocol.size for row in rows)
        if enlarged:
            warnings.append(
                f"{method}: in {enlarged} pairs a picture is below {protocol.size} px and was enlarged."
            )
        lossy = sum(_is_lossy(row.prediction) != _is_lossy(row.truth) for row in rows)
        if lossy:
            warnings.append(
                f"{method}: in {lossy} pairs one picture has lossy compression (JPEG, video), the other none."
            )
    return tuple(warnings)


def _metrics_json(
    scores: Sequence[SubjectScores], protocol: Protocol, pairing: Pairing, warnings: Sequence[str]
) -> str:
    methods: list[Json] = []
    for method in _methods(scores):
        own = [score for score in scores if score.method == method]
        rows = _rows(scores, method)
        omitted = [omission for omission in pairing.omissions if omission.method == method]
        skipped = Counter([bad.reason for score in own for bad in score.bad] + [o.reason for o in omitted])
        methods.append(
            {
                "method": method,
                "subjects": len(own),
                "pairs": len(rows),
                "skipped": dict(sorted(skipped.items())),
                "metrics": {name: _numbers(rows, name) for name in protocol.metrics},
                "by_subject": {
                    score.subject: {name: _numbers(score.rows, name) for name in protocol.metrics}
                    for score in own
                },
            }
        )
    content: dict[str, Json] = {
        "format": "dp3d-report",
        "version": FORMAT,
        "dp3d": __version__,
        "protocol": {
            **protocol.describe(),
            "pairing": "by subject id, then by view number",
            "pairs": sum(len(score.rows) for score in scores),
            "outside_yaw": pairing.outside_yaw,
        },
        "warnings": list(warnings),
        "methods": methods,
        "omitted": [_omission(omission) for omission in pairing.omissions],
        "bad_pairs": [
            {
                "method": score.method,
                "subject": score.subject,
                "view": bad.view,
                "reason": bad.reason,
                "message": bad.message,
            }
            for score in scores
            for bad in score.bad
        ],
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _per_image_csv(scores: Sequence[SubjectScores], protocol: Protocol) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "subject", "view", "yaw", "prediction", "truth", *protocol.metrics])
    for score in scores:
        for row in score.rows:
            yaw = "" if row.yaw is None else repr(row.yaw)
            values = [repr(float(row.values[name])) for name in protocol.metrics]
            writer.writerow([score.method, score.subject, row.view, yaw, row.prediction, row.truth, *values])
    return text.getvalue()


def _report_md(
    scores: Sequence[SubjectScores],
    protocol: Protocol,
    pairing: Pairing,
    warnings: Sequence[str],
    table: str,
) -> str:
    facts = protocol.describe()
    yaw = f", |yaw| > {protocol.min_yaw:g} rad" if protocol.min_yaw is not None else ""
    lines = ["# Evaluation", "", table]
    lines.append(
        "Mean ± standard deviation over pairs. ↑ higher is better, ↓ lower is better, →1 near 1 is better."
    )
    lines += ["", *(f"**Note.** {_plain(text)}" for text in warnings)]
    lines += ["", "## Protocol", ""]
    lines.append(f"- Pairs: by subject id, then by view number{yaw}.")
    lines.append(
        f"- Pictures: {facts['range']}; brought to {protocol.size} × {protocol.size}: {facts['resize']}."
    )
    lines.append(f"- Scored part: rows and columns {facts['crop']}.")
    lines += [f"- {name}: {METRICS[name].formula}." for name in protocol.metrics]
    packages = facts["packages"]
    assert isinstance(packages, dict)
    lines.append(
        f"- dp3d {__version__}, " + ", ".join(f"{name} {text}" for name, text in packages.items()) + "."
    )
    lines += ["", "## By subject", ""]
    lines.append(f"| method | subject | pairs | {' | '.join(_head(name) for name in protocol.metrics)} |")
    lines.append("|---" * (len(protocol.metrics) + 3) + "|")
    for score in scores:
        cells = [_cell(statistic([row.values[name] for row in score.rows])) for name in protocol.metrics]
        lines.append(
            f"| {_plain(score.method)} | {_plain(score.subject)} | {len(score.rows)} | {' | '.join(cells)} |"
        )
    left_out = [_plain(omission.message) for omission in pairing.omissions]
    left_out += [_plain(bad.message) for score in scores for bad in score.bad]
    if left_out:
        lines += ["", "## Not scored", "", *(f"- {text}" for text in left_out[:_LISTED])]
        if len(left_out) > _LISTED:
            lines.append(f"- and {len(left_out) - _LISTED} more, listed in metrics.json")
    return "\n".join(lines) + "\n"


def _methods(scores: Sequence[SubjectScores]) -> list[str]:
    return list(dict.fromkeys(score.method for score in scores))


def _rows(scores: Sequence[SubjectScores], method: str) -> list[PairScore]:
    return [row for score in scores if score.method == method for row in score.rows]


def _numbers(rows: Sequence[PairScore], name: str) -> Json:
    numbers = statistic([row.values[name] for row in rows])
    return {"mean": numbers.mean, "sd": numbers.sd, "n": numbers.n, "not_finite": numbers.not_finite}


def _omission(omission: Omission) -> Json:
    return {
        "method": omission.method,
        "subject": omission.subject,
        "view": omission.view,
        "reason": omission.reason,
        "message": omission.message,
    }


def _head(name: str) -> str:
    metric = METRICS[name]
    arrow = {"higher": "↑", "lower": "↓", "near 1": "→1"}[metric.better]
    return f"{name} {arrow}" + (f" [{metric.unit}]" if metric.unit else "")


def _cell(numbers: Statistic) -> str:
    if numbers.mean is None:
        return "–"
    spread = f" ± {numbers.sd:.3f}" if numbers.sd is not None else ""
    left_out = f" ({numbers.not_finite} not finite)" if numbers.not_finite else ""
    return f"{numbers.mean:.3f}{spread}{left_out}"


def _is_lossy(name: str) -> bool:
    return "#" in name or Path(name).suffix.lower() in (".jpg", ".jpeg")


def _plain(text: str) -> str:
    """Text that cannot break a Markdown table or list."""
    return " ".join(text.split()).replace("|", "\\|")
