"""report.md: the numbers as text, for terminals, issues and papers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from dp3d_cli.stages.evaluate.published import (
    PublishedTable,
    differences,
    measured_here,
    published_number,
    published_tables,
)
from dp3d_cli.stages.evaluate.report_figures import (
    ARROWS,
    NOTHING,
    Figure,
    figure,
    heading,
    json_text,
    number,
    shown,
    skipped_text,
    software,
    unavailable_everywhere,
    warnings_text,
)
from dp3d_cli.stages.evaluate.results import MethodResults, MetricFacts, Results, Unavailable

_LISTED = 20  # omissions, bad pairs and subjects shown; metrics.json has them all
_LEGEND = (
    "Mean ± standard deviation. Intervals, further down, are 95 % bootstrap intervals of the mean, subjects "
    "resampled. ↑ higher is better, ↓ lower is better, →1 near 1 is better."
)


def report_md(results: Results) -> str:
    """The whole file. Equal results give equal texts."""
    lines = ["# Evaluation", "", methods_table(results)]
    lines += [_LEGEND, "", *(f"- **Note.** {plain(text)}" for text in warnings_text(results))]
    for title, part in (
        ("Intervals and counts", _intervals(results)),
        ("Unavailable", _unavailable(results)),
        ("Protocol", _protocol(results)),
        ("By subject", _by_subject(results)),
        ("Published figures", _published(results)),
        ("Not scored", _not_scored(results)),
    ):
        own = list(part)
        if own:
            lines += ["", f"## {title}", "", *own]
    return "\n".join(lines) + "\n"


def methods_table(results: Results) -> str:
    """Markdown: one line per method, mean ± sd per metric that any method has, and the number of pairs."""
    metrics = [facts for facts in results.metrics if not unavailable_everywhere(results, facts.name)]
    rows = [
        [
            plain(method.method),
            str(len(method.rows)),
            *(_cell(facts, figure(results, method, facts.name)) for facts in metrics),
        ]
        for method in results.methods
    ]
    return "\n".join(_table(["method", "pairs", *map(heading, metrics)], rows)) + "\n"


def plain(text: str) -> str:
    """Text in one line that Markdown takes for text: no table cell, link, tag or emphasis begins in it."""
    return _escaped(" ".join(text.split()))


def _escaped(text: str) -> str:
    return re.sub(r"([\\|`*\[\]<>])", r"\\\1", shown(text))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
        *(f"| {' | '.join(cells)} |" for cells in rows),
    ]


def _cell(facts: MetricFacts, own: Figure) -> str:
    if own.value is None:
        return "unavailable" if own.unavailable is not None else NOTHING
    spread = f" ± {number(facts, own.sd)}" if own.sd is not None else ""
    left_out = f" ({own.not_finite} not finite)" if own.not_finite else ""
    return f"{number(facts, own.value)}{spread}{left_out}"


def _intervals(results: Results) -> Iterator[str]:
    """One line per metric and method: mean, interval, what it rests on, coverage."""
    rows = []
    for facts in results.metrics:
        for method in results.methods:
            own = figure(results, method, facts.name)
            if own.value is None:
                continue
            interval = (
                f"[{number(facts, own.low)}, {number(facts, own.high)}]" if own.has_interval else NOTHING
            )
            coverage = NOTHING
            if own.coverage is not None:
                share = 100 * own.coverage.found / own.coverage.tried if own.coverage.tried else 0.0
                coverage = f"{own.coverage.found} of {own.coverage.tried} ({share:.0f} %)"
            mean = number(facts, own.value)
            n = f"{own.n} {own.counted if own.n != 1 else own.counted[:-1]}"
            rows.append([heading(facts), plain(method.method), mean, interval, n, coverage])
    if rows:
        yield from _table(["metric", "method", "mean", "95 % interval", "n", "faces found"], rows)


def _unavailable(results: Results) -> Iterator[str]:
    """One line per cause, with all metrics and methods that it keeps from having a number."""
    causes: dict[tuple[str, str, str], list[Unavailable]] = {}
    for entry in results.unavailable:
        causes.setdefault((entry.reason, entry.message, entry.command), []).append(entry)
    for (reason, message, command), entries in causes.items():
        metrics = ", ".join(dict.fromkeys(entry.metric for entry in entries))
        methods = ", ".join(dict.fromkeys(plain(e.method) for e in entries if e.method is not None))
        what_to_type = f" `{shown(command).replace('`', '')}`" if command and command not in message else ""
        whom = f" for {methods}" if methods else ""
        yield f"- **{metrics}**{whom} ({reason}): {_with_code(message)}{what_to_type}"


def _with_code(text: str) -> str:
    """A message with its parts in backquotes as code, the rest as plain text."""
    parts = " ".join(text.split()).split("`")
    if len(parts) % 2 == 0:
        return plain(text)
    return "".join(f"`{shown(part)}`" if n % 2 else _escaped(part) for n, part in enumerate(parts))


def _protocol(results: Results) -> Iterator[str]:
    rule = results.protocol
    size = rule.get("size")
    min_yaw = rule.get("min_yaw")
    yield f"- Pairs: {rule.get('pairing')}{'' if min_yaw is None else f', |yaw| > {min_yaw} rad'}."
    yield f"- Pictures: {rule.get('range')}; brought to {size} × {size}: {rule.get('resize')}."
    crop = rule.get("crop")
    yield f"- Scored part: {'all' if crop == 'none' else f'rows and columns {crop}'}."
    told = ("pairing", "min_yaw", "range", "size", "resize", "crop", "packages", "cameras", "skipped")
    for key, value in rule.items():
        if key not in told and value not in (None, [], (), {}, 0):
            yield f"- {key.replace('_', ' ').capitalize()}: {plain(json_text(value)).rstrip('.')}."
    yield f"- Skipped: {skipped_text(results)}."
    for facts in results.metrics:
        made_by = f" ({plain(json_text(facts.implementation))})" if facts.implementation else ""
        yield f"- {facts.name}: {facts.formula}{made_by}."
    yield f"- {software(results)}."


def _by_subject(results: Results) -> Iterator[str]:
    metrics = [facts for facts in results.metrics if facts.kind != "set"]
    rows = []
    for method in results.methods:
        for subject in method.subjects:
            cells = [_subject_cell(facts, method, subject.subject) for facts in metrics]
            rows.append([plain(method.method), plain(subject.subject), str(len(subject.rows)), *cells])
    most = _LISTED * max(1, len(results.methods))
    if rows:
        yield from _table(["method", "subject", "pairs", *map(heading, metrics)], rows[:most])
        if len(rows) > most:
            yield f"\nAnd {len(rows) - most} more, listed in metrics.json."


def _subject_cell(facts: MetricFacts, method: MethodResults, identity: str) -> str:
    numbers = method.by_subject.get(identity, {}).get(facts.name)
    if numbers is not None:
        return _cell(facts, Figure(numbers.mean, numbers.sd, not_finite=numbers.not_finite))
    for subject in method.subjects:
        if subject.subject == identity and facts.name in subject.sequences:
            return number(facts, subject.sequences[facts.name])
    return NOTHING


def _published(results: Results) -> Iterator[str]:
    """The tables that have a metric of the report, each with our rows first."""
    for table in published_tables():
        if measured_here(table, results):
            yield from _published_table(table, results)
            yield ""


def _published_table(table: PublishedTable, results: Results) -> Iterator[str]:
    size = f"{table.size} × {table.size} px" if table.size else "size not stated"
    yield f"### {table.title}"
    yield ""
    yield f"{table.paper}, {table.place}; {size}. Rows are measured here unless marked *published*."
    yield ""
    asked = {facts.name: facts for facts in results.metrics}
    rows = []
    for method in results.methods:
        cells = []
        for column in table.columns:
            known = [
                f"{number(asked[name], own.value)} ({name})"
                for name in column.measured
                if name in asked and (own := figure(results, method, name)).value is not None
            ]
            cells.append(", ".join(known) or NOTHING)
        rows.append(["this report", plain(method.method), *cells])
    for group in table.groups:
        for name, values in group.rows.items():
            cells = [published_number(column, values.get(column.name)) for column in table.columns]
            rows.append([group.setting, f"{name} *published*", *cells])
    heads = [f"{column.name} {ARROWS[column.better]}" for column in table.columns]
    yield from _table(["setting", "method", *heads], rows)
    yield ""
    yield "What differs:"
    yield ""
    yield from (f"- {text}" for text in differences(table, results))


def _not_scored(results: Results) -> Iterator[str]:
    left_out = [plain(omission.message) for omission in results.omissions]
    left_out += [
        plain(bad.message) for method in results.methods for own in method.subjects for bad in own.bad
    ]
    yield from (f"- {text}" for text in left_out[:_LISTED])
    if len(left_out) > _LISTED:
        yield f"- and {len(left_out) - _LISTED} more, listed in metrics.json"
