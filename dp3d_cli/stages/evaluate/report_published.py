"""The published tables of report.html: a paper's rows, our rows, and what differs between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dp3d_cli.stages.evaluate.published import (
    PublishedTable,
    differences,
    is_closest,
    published_number,
    published_tables,
)
from dp3d_cli.stages.evaluate.report_figures import ARROWS, figure, number, shown
from dp3d_cli.stages.evaluate.report_plots import mark
from dp3d_cli.stages.evaluate.results import MethodResults, MetricFacts, Results

View = Mapping[str, object]


def published_part(results: Results, styles: Sequence[int | None]) -> list[View]:
    """What the page's template needs of every table, those whose rule is nearest first."""
    tables = sorted(published_tables(), key=lambda table: not is_closest(table, results))
    return [_published(table, results, styles) for table in tables]


def _published(table: PublishedTable, results: Results, styles: Sequence[int | None]) -> View:
    asked = {facts.name: facts for facts in results.metrics}
    wanted = [names for column in table.columns if not asked.keys() & set(names := column.measured)]
    return {
        "title": table.title,
        "paper": table.paper,
        "place": table.place,
        "size": f"{table.size} × {table.size} px" if table.size else "size not stated",
        "open": is_closest(table, results),
        "columns": [f"{column.name} {ARROWS[column.better]}" for column in table.columns],
        "groups": [
            {
                "setting": group.setting,
                "rows": [
                    {
                        "method": method,
                        "cells": [
                            published_number(column, values.get(column.name)) for column in table.columns
                        ],
                    }
                    for method, values in group.rows.items()
                ],
            }
            for group in table.groups
        ],
        "measured": [
            {
                "method": shown(method.method),
                "mark": mark(style),
                "cells": [
                    _measured(results, method, [asked[name] for name in column.measured if name in asked])
                    for column in table.columns
                ],
            }
            for method, style in zip(results.methods, styles, strict=True)
        ],
        "differences": differences(table, results),
        "not_measured": ",".join(names[0] for names in wanted),
    }


def _measured(results: Results, method: MethodResults, columns: Sequence[MetricFacts]) -> list[View]:
    """A method's numbers in a published column; "unavailable" where all that were asked for are."""
    numbers = [(facts, figure(results, method, facts.name)) for facts in columns]
    known: list[View] = [
        {"name": facts.name, "value": number(facts, own.value)}
        for facts, own in numbers
        if own.value is not None
    ]
    if not known and any(own.unavailable is not None for _, own in numbers):
        return [{"name": "unavailable", "value": ""}]
    return known
