"""The report's files: metrics.json and per_image.csv for programs, report.md and report.html for people."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from dp3d_cli.stages.evaluate.report_figures import row_metrics
from dp3d_cli.stages.evaluate.report_html import report_html
from dp3d_cli.stages.evaluate.report_md import methods_table, report_md
from dp3d_cli.stages.evaluate.results import Results

__all__ = ["Report", "methods_table", "write_report"]


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        files: metrics.json, per_image.csv, report.md, report.html.
        table: the Markdown table of methods and metrics.
    """

    files: tuple[Path, ...]
    table: str


def write_report(output: Path, results: Results) -> Report:
    """Write the report's files below `output`. Equal results and pictures give equal bytes.

    Names that are no valid Unicode keep their bytes, except in the page, which shows them as escapes.

    Raises:
        ValueError: results are missing, so that the numbers are not complete.
    """
    if results.missing:
        raise ValueError(f"{results.missing} matches are not scored yet.")
    contents = {
        "metrics.json": results.to_json(),
        "per_image.csv": _per_image_csv(results),
        "report.md": report_md(results),
        "report.html": report_html(results),
    }
    output.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        draft = output / f".{name}.draft"
        draft.write_bytes(text.encode("utf-8", "surrogateescape"))
        draft.replace(output / name)
    return Report(tuple(output / name for name in contents), methods_table(results))


def _per_image_csv(results: Results) -> str:
    names = [facts.name for facts in row_metrics(results)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "subject", "view", "yaw", "pitch", "prediction", "truth", *names])
    for method in results.methods:
        for subject, row in method.rows:
            angles = ["" if angle is None else repr(angle) for angle in (row.yaw, row.pitch)]
            values = [repr(float(row.values[name])) if name in row.values else "" for name in names]
            head = [method.method, subject.subject, row.view, *angles, row.prediction, row.truth or ""]
            writer.writerow([*head, *values])
    return text.getvalue()
