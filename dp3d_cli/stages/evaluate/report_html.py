"""report.html: one page that needs nothing beside itself, with tables, plots, pictures and a turntable."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dp3d_cli import __version__
from dp3d_cli.stages.engine.stage import Json
from dp3d_cli.stages.evaluate.pairing import BASELINE
from dp3d_cli.stages.evaluate.report_figures import (
    ARROWS,
    Figure,
    best_method,
    count,
    figure,
    json_text,
    known_angles,
    measured_row_metrics,
    number,
    shown,
    skipped_text,
    software,
    unavailable_everywhere,
    unit,
    warnings_text,
)
from dp3d_cli.stages.evaluate.report_plots import Series, angle_plot, box_plot, interval_bar, mark
from dp3d_cli.stages.evaluate.report_published import published_part
from dp3d_cli.stages.evaluate.report_turntable import MAX_VIEWS, Turntable, extremes, looked_at, turntable
from dp3d_cli.stages.evaluate.results import MethodResults, MetricFacts, Results, Unavailable

MAX_PICTURE_BYTES = 11_000_000
"""Of base64 in the turntable; with best and worst pairs, plots and tables a page stays below 15 MB."""

_ASSETS = Path(__file__).with_name("assets")
_LISTED = 200  # subjects, and things left out
_MAX_EXTREME_METHODS = 8

# Parts of the protocol with a place of their own in the page.
_ELSEWHERE = ("packages", "cameras", "deviations", "notes", "stated", "published_tables", "pairs", "skipped")
_UNSAID: tuple[Json, ...] = (None, 0, [], (), {})
_NAMES = {
    "name": "Protocol",
    "crop": "Scored part",
    "min_yaw": "Least yaw",
    "against": "Compared with",
    "dtype": "Number format",
    "pose": "Head pose by",
    "outside_yaw": "Pairs below the least yaw",
    "outside_five": "Pairs outside the five views",
}

View = Mapping[str, object]


def report_html(results: Results, max_picture_bytes: int = MAX_PICTURE_BYTES) -> str:
    """The page. Equal results and pictures give equal texts; it names no folder.

    Args:
        results: what to tell; its matches' files are read for the pictures.
        max_picture_bytes: bound on the turntable's pictures, in bytes of base64.
    """
    environment = Environment(
        loader=FileSystemLoader(_ASSETS), autoescape=True, undefined=StrictUndefined, trim_blocks=False
    )
    styles = method_styles(results)
    content = {
        "version": __version__,
        "title": _title(results),
        "lead": lead(results),
        "css": Markup((_ASSETS / "report.css").read_text("utf-8")),
        "js": Markup((_ASSETS / "report.js").read_text("utf-8")),
        "facts": _facts(results),
        "warnings": [shown(text) for text in warnings_text(results)],
        "methods": [
            {"name": shown(method.method), "mark": mark(style), "size": _method_size(method)}
            for method, style in zip(results.methods, styles, strict=True)
        ],
        "rows": [_row(results, facts, styles) for facts in results.metrics],
        "turntable": _turntable(turntable(results, max_picture_bytes)),
        "plots": list(_plots(results, styles)),
        "extremes": _extremes(results, styles),
        "extreme_methods": _MAX_EXTREME_METHODS if len(results.methods) > _MAX_EXTREME_METHODS else None,
        "by_subject": _by_subject(results),
        "published": published_part(results, styles),
        "metrics": [_metric(results, facts) for facts in results.metrics],
        "remarks": _remarks(results),
        "omissions": _omissions(results)[:_LISTED],
        "more_omissions": max(0, len(_omissions(results)) - _LISTED),
    }
    return environment.get_template("report.html.j2").render(content).rstrip("\n") + "\n"


def method_styles(results: Results) -> list[int | None]:
    """Number of every method's colour and mark; None for the baseline."""
    others = iter(range(len(results.methods)))
    return [None if method.method == BASELINE else next(others) for method in results.methods]


def lead(results: Results) -> str:
    """How much was compared, in one line."""
    subjects = {subject.subject for method in results.methods for subject in method.subjects}
    size = results.protocol.get("size")
    parts = [
        count(len(results.methods), "method"),
        count(len(subjects), "subject"),
        count(sum(len(method.rows) for method in results.methods), "pair"),
    ]
    if isinstance(size, int):
        parts.append(f"{size} × {size} px")
    return " · ".join(parts)


def _title(results: Results) -> str:
    names = [shown(method.method) for method in results.methods if method.method != BASELINE]
    return "Evaluation" + (f": {', '.join(names)}" if names else "")


def _method_size(method: MethodResults) -> str:
    return f"{count(len(method.rows), 'pair')}, {count(len(method.subjects), 'subject')}"


def _facts(results: Results) -> list[View]:
    """The protocol's block: what decides all numbers. Keys without a name here are shown as they are."""
    rule = results.protocol
    facts = [
        _fact("Pairs", str(sum(len(method.rows) for method in results.methods))),
        _fact("Left out", skipped_text(results)),
    ]
    for key, value in rule.items():
        if key in _ELSEWHERE or value in _UNSAID:
            continue
        text = f"{value} × {value} px" if key == "size" else json_text(value)
        if key == "min_yaw":
            text = f"{text} rad"
        facts.append(_fact(_NAMES.get(key, key.replace("_", " ").capitalize()), text))
    cameras = rule.get("cameras")
    if isinstance(cameras, Sequence) and not isinstance(cameras, str):
        facts.append(_fact("Cameras", f"{len(cameras)} given by a trajectory"))
    facts.append(_fact("Software", software(results)))
    return sorted(facts, key=lambda fact: bool(fact["wide"]))


def _fact(name: str, value: str) -> View:
    return {"name": name, "value": shown(value), "wide": len(value) > 60}


def _direction(facts: MetricFacts) -> str:
    return f"{ARROWS[facts.better]} {facts.better}" if facts.better != "near 1" else "→1"


def _head(facts: MetricFacts) -> dict[str, object]:
    return {"name": facts.name, "direction": _direction(facts), "unit": unit(facts)}


def _row(results: Results, facts: MetricFacts, styles: Sequence[int | None]) -> View:
    figures = [figure(results, method, facts.name) for method in results.methods]
    best, is_behind = best_method(facts, results) or (None, False)
    return {
        **_head(facts),
        "formula": facts.formula,
        "unavailable": [_unavailable(entry) for entry in unavailable_everywhere(results, facts.name)],
        "cells": [
            {
                "best": n == best,
                "behind": n == best and is_behind,
                "mean": number(facts, own.value),
                "bar": interval_bar(own, figures, style),
                "interval": _interval(facts, own),
                "counts": _counts(own),
                "partial": own.coverage is not None and own.coverage.found < own.coverage.tried,
                "unavailable": _unavailable(own.unavailable),
            }
            for n, (own, style) in enumerate(zip(figures, styles, strict=True))
        ],
    }


def _unavailable(entry: Unavailable | None) -> View | None:
    if entry is None:
        return None
    return {
        "method": shown(entry.method) if entry.method is not None else "",
        "reason": entry.reason,
        "message": shown(entry.message),
        "command": shown(entry.command),
        "is_told": bool(entry.command) and entry.command in entry.message,
    }


def _interval(facts: MetricFacts, own: Figure) -> str:
    if own.has_interval:
        return f"[{number(facts, own.low)}, {number(facts, own.high)}]"
    if own.sd is not None:
        return f"± {number(facts, own.sd)}" + (" over subsets" if own.counted == "pictures" else " s.d.")
    return ""


def _counts(own: Figure) -> str:
    parts = [f"n = {own.n} {own.counted if own.n != 1 else own.counted[:-1]}"] if own.n else []
    if own.not_finite:
        parts.append(f"{own.not_finite} not finite")
    if own.coverage is not None:
        parts.append(f"faces in {own.coverage.found} of {own.coverage.tried}")
        if own.coverage.without_truth:
            parts.append(f"none in {own.coverage.without_truth} of the truth")
    return ", ".join(parts)


def _turntable(table: Turntable) -> View | None:
    if not table.subjects:
        return None
    some = table.subjects < table.of_subjects
    note = (
        f"{table.subjects} of {count(table.of_subjects, 'subject')} embedded"
        + (", the first by name, to bound the file's size" if some else "")
        + (
            f"; of up to {table.thinned} views at most {MAX_VIEWS}, at equal distances"
            if table.thinned
            else ""
        )
        + ". Drag sideways on the pictures, or use the arrow keys, the slider or Play."
    )
    return {"note": note, "data": Markup(table.data)}


def _plots(results: Results, styles: Sequence[int | None]) -> Iterator[View]:
    angles = known_angles(results)
    for facts in measured_row_metrics(results):
        boxes: list[Series] = []
        turned: tuple[list[Series], list[Series]] = ([], [])
        for method, style in zip(results.methods, styles, strict=True):
            rows = [
                (row.values[facts.name], angles[subject.subject, row.view])
                for subject, row in method.rows
                if math.isfinite(row.values.get(facts.name, math.nan))
            ]
            boxes.append(Series(style, method.method, tuple(value for value, _ in rows)))
            for axis, series in enumerate(turned):
                known = [(value, math.degrees(a)) for value, own in rows if (a := own[axis]) is not None]
                values, degrees = tuple(value for value, _ in known), tuple(a for _, a in known)
                series.append(Series(style, method.method, values, degrees))
        box = box_plot(boxes, facts)
        if box:
            yield {
                **_head(facts),
                "box": box,
                "yaw": angle_plot(turned[0], facts, "yaw"),
                "pitch": angle_plot(turned[1], facts, "pitch"),
            }


def _extremes(results: Results, styles: Sequence[int | None]) -> list[View]:
    parts: list[View] = []
    for facts in looked_at(results):
        methods = [
            {
                "name": shown(own.method),
                "mark": mark(own.style),
                "best": [_extreme_view(pair) for pair in own.best],
                "worst": [_extreme_view(pair) for pair in own.worst],
            }
            for own in extremes(results, facts, styles, _MAX_EXTREME_METHODS)
        ]
        if methods:
            parts.append({**_head(facts), "methods": methods})
    return parts


def _extreme_view(pair: object) -> View:
    return {**vars(pair), "subject": shown(vars(pair)["subject"])}


def _by_subject(results: Results) -> View | None:
    metrics = [
        facts
        for facts in results.metrics
        if facts.kind != "set" and any(facts.name in method.statistics for method in results.methods)
    ]
    ids = sorted({subject.subject for method in results.methods for subject in method.subjects})
    if not ids or not metrics:
        return None
    return {
        "metrics": [f"{facts.name} {ARROWS[facts.better]}" for facts in metrics],
        "rows": [
            {
                "subject": shown(identity),
                "groups": [
                    [number(facts, _mean(method, identity, facts.name)) for method in results.methods]
                    for facts in metrics
                ],
            }
            for identity in ids[:_LISTED]
        ],
        "left_out": max(0, len(ids) - _LISTED),
    }


def _mean(method: MethodResults, identity: str, metric: str) -> float | None:
    own = method.by_subject.get(identity, {}).get(metric)
    if own is not None:
        return own.mean
    for subject in method.subjects:
        if subject.subject == identity and metric in subject.sequences:
            return subject.sequences[metric]
    return None


def _metric(results: Results, facts: MetricFacts) -> View:
    return {
        **_head(facts),
        "formula": facts.formula,
        "implementation": [
            (key.replace("_", " "), json_text(value)) for key, value in facts.implementation.items()
        ],
        "unavailable": [_unavailable(entry) for entry in results.unavailable if entry.metric == facts.name],
    }


def _remarks(results: Results) -> list[View]:
    parts: list[View] = []
    titles = {
        "stated": "What the protocol's paper states",
        "notes": "What it leaves open, and what is taken here",
        "deviations": "Where this report deviates from the protocol",
    }
    for key, title in titles.items():
        texts = results.protocol.get(key)
        if isinstance(texts, Sequence) and not isinstance(texts, str) and texts:
            parts.append({"title": title, "texts": [shown(json_text(text)) for text in texts]})
    return parts


def _omissions(results: Results) -> list[View]:
    listed: list[View] = [
        {
            "method": shown(entry.method),
            "subject": shown(entry.subject),
            "view": "all" if entry.view is None else entry.view,
            "reason": entry.reason,
            "message": shown(entry.message),
        }
        for entry in results.omissions
    ]
    listed += [
        {
            "method": shown(method.method),
            "subject": shown(subject.subject),
            "view": bad.view,
            "reason": bad.reason,
            "message": shown(bad.message),
        }
        for method in results.methods
        for subject in method.subjects
        for bad in subject.bad
    ]
    return listed
