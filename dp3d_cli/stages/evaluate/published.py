"""Figures that papers state, to stand beside measured ones: read from `published_tables.json`.

They are facts about other test sets. A report shows them in rows of their own, marked as published, next to
what differs from its own rule; nothing here enters a mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from dp3d_cli.stages.evaluate.results import Results

TABLES_FILE = Path(__file__).with_name("published_tables.json")
_FORMAT = "dp3d-published-tables"


@dataclass(frozen=True)
class PublishedColumn:
    """A metric as a paper names it.

    Attributes:
        name: the paper's word.
        better: which way is better.
        decimals: as printed in the paper; None where that varies.
        measured: names of our metrics that come closest, the closest first.
        remark: what the paper leaves open about it; "" if nothing.
    """

    name: str
    better: Literal["higher", "lower"]
    decimals: int | None
    measured: tuple[str, ...]
    remark: str = ""


@dataclass(frozen=True)
class PublishedGroup:
    """Rows of one setting: method → column → number; what the paper leaves out is absent."""

    setting: str
    rows: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class PublishedTable:
    """One table of a paper.

    Attributes:
        id: short name ("diffportrait3d-1a").
        paper: authors, title, where published.
        place: where in the paper.
        title: what it shows, in our words.
        size: side of the pictures [px]; None where the paper does not say.
        background: "kept", "removed" or "not stated".
        remarks: what to know when comparing.
        columns: in the paper's order.
        groups: one per setting.
    """

    id: str
    paper: str
    place: str
    title: str
    size: int | None
    background: str
    remarks: tuple[str, ...]
    columns: tuple[PublishedColumn, ...]
    groups: tuple[PublishedGroup, ...]


@cache
def published_tables() -> tuple[PublishedTable, ...]:
    """All tables, in the file's order."""
    content = json.loads(TABLES_FILE.read_text("utf-8"))
    if content["format"] != _FORMAT or content["version"] != 1:
        raise ValueError(f"{TABLES_FILE.name}: not the tables of this version.")
    papers: dict[str, str] = content["papers"]
    return tuple(
        PublishedTable(
            id=table["id"],
            paper=papers[table["paper"]],
            place=table["place"],
            title=table["title"],
            size=table["size"],
            background=table["background"],
            remarks=tuple(table["remarks"]),
            columns=tuple(
                PublishedColumn(
                    name,
                    column["better"],
                    column.get("decimals"),
                    tuple(column["measured"]),
                    column.get("remark", ""),
                )
                for name, column in table["columns"].items()
            ),
            groups=tuple(PublishedGroup(group["setting"], group["rows"]) for group in table["groups"]),
        )
        for table in content["tables"]
    )


def published_number(column: PublishedColumn, value: float | None) -> str:
    """A figure with the digits of the paper; "–" for none."""
    if value is None:
        return "–"
    if column.decimals is None:
        return f"{value:.1f}" if value == round(value, 1) else f"{value:g}"
    return f"{value:.{column.decimals}f}"


def measured_here(table: PublishedTable, results: Results) -> bool:
    """Whether the report has a metric of this table at all."""
    asked = {facts.name for facts in results.metrics}
    return any(name in asked for column in table.columns for name in column.measured)


def is_closest(table: PublishedTable, results: Results) -> bool:
    """Whether the table is one of the report's protocol; without one, whether size and a metric agree."""
    rule = results.protocol
    own = rule.get("published_tables")
    if rule.get("name") is not None and isinstance(own, Sequence):
        return table.id in own
    return measured_here(table, results) and table.size is not None and table.size == rule.get("size")


def differences(table: PublishedTable, results: Results) -> tuple[str, ...]:
    """What stands between the published rows and the measured ones, as sentences."""
    rule = results.protocol
    subjects = {subject.subject for method in results.methods for subject in method.subjects}
    pairs = max((len(method.rows) for method in results.methods), default=0)
    settings = "; ".join(group.setting for group in table.groups)
    texts = [
        f"Test pictures: the paper's own ({settings}); here {pairs} {_plural(pairs, 'view')} of "
        f"{len(subjects)} {_plural(len(subjects), 'subject')}."
    ]
    size = rule.get("size")
    if isinstance(size, int) and table.size != size:
        there = "not stated in the paper" if table.size is None else f"{table.size} × {table.size} there"
        texts.append(f"Size [px]: {there}, {size} × {size} here.")
    if table.background == "removed":
        texts.append("Background: removed there; here the pictures are taken as they are.")
    crop = rule.get("crop")
    if isinstance(crop, str) and crop != "none":
        texts.append(f"Part: whole pictures there, {crop} here.")
    min_yaw = rule.get("min_yaw")
    if isinstance(min_yaw, int | float):
        texts.append(f"Cameras: all there, only those turned by more than {min_yaw:g} rad here.")
    asked = {facts.name for facts in results.metrics}
    texts += [
        column.remark for column in table.columns if column.remark and asked.intersection(column.measured)
    ]
    return (*texts, *table.remarks)


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"
