"""The report's files: metrics.json for programs, per_image.csv for statistics, report.md for people."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from dp3d_cli import __version__
from dp3d_cli.stages.evaluate.results import MetricFacts, Results
from dp3d_cli.stages.evaluate.statistics import Statistic

_LISTED = 20  # omissions and bad pairs shown in report.md; metrics.json has them all


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        files: metrics.json, per_image.csv, report.md.
        table: the Markdown table of methods and metrics.
    """

    files: tuple[Path, ...]
    table: str


def write_report(output: Path, results: Results) -> Report:
    """Write the report's files below `output`. Equal results give equal bytes.

    Raises:
        ValueError: results are missing, so that the numbers are not complete.
    """
    if results.missing:
        raise ValueError(f"{results.missing} matches are not scored yet.")
    table = methods_table(results)
    contents = {
        "metrics.json": results.to_json(),
        "per_image.csv": _per_image_csv(results),
        "report.md": _report_md(results, table),
    }
    output.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        draft = output / f".{name}.draft"
        draft.write_bytes(text.encode("utf-8", "surrogateescape"))
        draft.replace(output / name)
    return Report(tuple(output / name for name in contents), table)


def methods_table(results: Results) -> str:
    """Markdown: one line per method, mean ± sd per metric, and the number of pairs."""
    heads = [_head(facts) for facts in results.metrics]
    lines = [f"| method | pairs | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
    for method in results.methods:
        cells = []
        for facts in results.metrics:
            if facts.name in method.sets:
                value = method.sets[facts.name]
                cells.append(f"{value.value:.3f}" + (f" ± {value.sd:.3f}" if value.sd is not None else ""))
            else:
                cells.append(_cell(method.statistics.get(facts.name)))
        lines.append(f"| {_plain(method.method)} | {len(method.rows)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _per_image_csv(results: Results) -> str:
    names = [facts.name for facts in results.metrics if facts.kind not in ("set", "sequence")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "subject", "view", "yaw", "prediction", "truth", *names])
    for method in results.methods:
        for subject, row in method.rows:
            yaw = "" if row.yaw is None else repr(row.yaw)
            values = [repr(float(row.values[name])) if name in row.values else "" for name in names]
            head = [method.method, subject.subject, row.view, yaw, row.prediction, row.truth or ""]
            writer.writerow([*head, *values])
    return text.getvalue()


def _report_md(results: Results, table: str) -> str:
    protocol = results.protocol
    lines = ["# Evaluation", "", table]
    lines.append(
        "Mean ± standard deviation over pairs. ↑ higher is better, ↓ lower is better, →1 near 1 is better."
    )
    lines += ["", *(f"**Note.** {_plain(text)}" for text in results.warnings)]
    lines += [f"**Unavailable.** {_plain(entry.message)}" for entry in results.unavailable]
    lines += ["", "## Protocol", ""]
    yaw = protocol["min_yaw"]
    lines.append(f"- Pairs: {protocol['pairing']}{'' if yaw is None else f', |yaw| > {yaw} rad'}.")
    size = protocol["size"]
    lines.append(f"- Pictures: {protocol['range']}; brought to {size} × {size}: {protocol['resize']}.")
    lines.append(f"- Scored part: rows and columns {protocol['crop']}.")
    lines += [f"- {facts.name}: {facts.formula}." for facts in results.metrics]
    packages = protocol["packages"]
    assert isinstance(packages, dict)
    lines.append(
        f"- dp3d {__version__}, " + ", ".join(f"{name} {text}" for name, text in packages.items()) + "."
    )
    names = [facts for facts in results.metrics if facts.kind not in ("set", "sequence")]
    lines += ["", "## By subject", ""]
    lines.append(f"| method | subject | pairs | {' | '.join(_head(facts) for facts in names)} |")
    lines.append("|---" * (len(names) + 3) + "|")
    for method in results.methods:
        for subject in method.subjects:
            stats = method.by_subject[subject.subject]
            cells = [_cell(stats.get(facts.name)) for facts in names]
            lines.append(
                f"| {_plain(method.method)} | {_plain(subject.subject)} | {len(subject.rows)} "
                f"| {' | '.join(cells)} |"
            )
    left_out = [_plain(omission.message) for omission in results.omissions]
    left_out += [
        _plain(bad.message) for method in results.methods for own in method.subjects for bad in own.bad
    ]
    if left_out:
        lines += ["", "## Not scored", "", *(f"- {text}" for text in left_out[:_LISTED])]
        if len(left_out) > _LISTED:
            lines.append(f"- and {len(left_out) - _LISTED} more, listed in metrics.json")
    return "\n".join(lines) + "\n"


def _head(facts: MetricFacts) -> str:
    arrow = {"higher": "↑", "lower": "↓", "near 1": "→1"}[facts.better]
    return f"{facts.name} {arrow}" + (f" [{facts.unit}]" if facts.unit else "")


def _cell(numbers: Statistic | None) -> str:
    if numbers is None or numbers.mean is None:
        return "–"
    spread = f" ± {numbers.sd:.3f}" if numbers.sd is not None else ""
    left_out = f" ({numbers.not_finite} not finite)" if numbers.not_finite else ""
    return f"{numbers.mean:.3f}{spread}{left_out}"


def _plain(text: str) -> str:
    """Text that cannot break a Markdown table or list."""
    return " ".join(text.split()).replace("|", "\\|")
