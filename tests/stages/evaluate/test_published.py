from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dp3d_cli.stages.evaluate.metrics import METRICS
from dp3d_cli.stages.evaluate.published import (
    PublishedTable,
    differences,
    is_closest,
    published_number,
    published_tables,
)
from dp3d_cli.stages.evaluate.results import MetricFacts
from tests.stages.evaluate.report_results import METRICS as METRICS_HERE
from tests.stages.evaluate.report_results import PSNR, made_up_results

# Figures as the papers print them, typed in from the papers: table, setting, method → column → text.
PRINTED = {
    ("diffportrait3d-1a", "NeRSemble, novel views", "DiffPortrait3D"): {
        "POSE": "0.0068", "LPIPS": "0.23", "SSIM": "0.62", "DISTS": "0.21", "ID": "0.70", "FID": "27.4",
    },
    ("diffportrait3d-1a", "In the wild, reconstruction", "EG3D-PTI"): {
        "POSE": "–", "LPIPS": "0.36", "SSIM": "0.46", "DISTS": "0.27", "ID": "0.12", "FID": "95.0",
    },
    ("diffportrait3d-1b", "NeRSemble, novel views", "reference aligned"): {
        "LPIPS": "0.27", "SSIM": "0.68", "DISTS": "0.18", "ID": "0.70", "FID": "25.37",
    },
    ("diffportrait3d-2", "NeRSemble, novel views", "random noise"): {
        "LPIPS": "0.32", "SSIM": "0.65", "DISTS": "0.21", "ID": "0.70", "FID": "26.81",
    },
    ("diffportrait3d-3", "NeRSemble, novel views", "Zero-1-to-3"): {
        "LPIPS": "–", "SSIM": "–", "DISTS": "–", "ID": "0.09", "FID": "113.8",
    },
    ("diffportrait3d-b4", "All test portraits, difference between the two", "DiffPortrait3D"): {
        "POSE": "0.0041", "LPIPS": "0.09",
    },
    ("portrait-diffusion-1", "Five views against the reference", "Portrait Diffusion"): {
        "CLIP-I": "0.9986", "LPIPS": "0.3616", "ID": "0.3440",
    },
}  # fmt: skip
SHARED_TABLES = Path(__file__).parents[3] / "../shared/papers/tables.json"
SETTINGS = {
    "NeRSemble, novel views": "nersemble_novel_view",
    "NeRSemble, reconstruction": "nersemble_reconstruction",
    "In the wild, reconstruction": "in_the_wild_reconstruction",
}


def table(name: str) -> PublishedTable:
    return next(table for table in published_tables() if table.id == name)


@pytest.mark.parametrize(("place", "texts"), PRINTED.items(), ids=lambda value: str(value)[:60])
def test_figures_are_shown_as_printed(place: tuple[str, str, str], texts: dict[str, str]) -> None:
    name, setting, method = place
    own = table(name)
    (group,) = (group for group in own.groups if group.setting == setting)
    shown = {c.name: published_number(c, group.rows[method].get(c.name)) for c in own.columns}
    assert shown == texts


@pytest.mark.skipif(not SHARED_TABLES.is_file(), reason="no ../shared/papers/tables.json here")
def test_every_figure_is_that_of_the_extracted_tables() -> None:
    extracted = json.loads(SHARED_TABLES.read_text())
    names = {name.replace("_table", "-").replace("_", "-"): name for name in extracted}
    assert set(names) == {own.id for own in published_tables()}
    for own in published_tables():
        single = SETTINGS.get(own.groups[0].setting, "")
        ours = [
            (SETTINGS.get(group.setting, ""), column, value)
            for group in own.groups
            for row in group.rows.values()
            for column, value in row.items()
        ]
        theirs = []
        for row in extracted[names[own.id]]["rows"].values():
            for column, value in row.items():
                by_setting = value if isinstance(value, dict) else {single: value}
                theirs += [(s, column, number) for s, number in by_setting.items() if number is not None]
        assert sorted(ours) == sorted(theirs)


def test_tables_are_complete_and_name_metrics_that_exist() -> None:
    for own in published_tables():
        names = {column.name for column in own.columns}
        assert own.paper
        assert own.place
        assert own.size in (None, 256, 512)
        assert own.background in ("kept", "removed", "not stated")
        for group in own.groups:
            for row in group.rows.values():
                assert row
                assert set(row) <= names
        for column in own.columns:
            assert column.measured
            assert set(column.measured) <= set(METRICS)
            assert all(METRICS[name].better == column.better for name in column.measured)


def test_what_differs_is_said(tmp_path: Path) -> None:
    results = made_up_results(tmp_path)
    texts = differences(table("diffportrait3d-3"), results)
    assert any("512 × 512 there, 256 × 256 here" in text for text in texts)
    assert any("Background: removed there" in text for text in texts)
    assert any("here 12 views of 2 subjects" in text for text in texts)
    assert any("does not name LPIPS's network" in text for text in texts)
    assert not any("CLIP" in text for text in texts)
    cropped = replace(results, protocol={**results.protocol, "crop": "56:196,62:194", "min_yaw": 0.2})
    texts = differences(table("diffportrait3d-1a"), cropped)
    assert any("whole pictures there, 56:196,62:194 here" in text for text in texts)
    assert any("more than 0.2 rad" in text for text in texts)
    assert not any("Size" in text for text in texts)
    assert any("Size [px]: not stated" in t for t in differences(table("diffportrait3d-b4"), results))


def test_tables_of_the_protocol_are_close_else_those_of_its_size(tmp_path: Path) -> None:
    results = made_up_results(tmp_path)
    free = {key: value for key, value in results.protocol.items() if key not in ("name", "published_tables")}

    def close(rule: dict[str, object], metrics: tuple[MetricFacts, ...] = METRICS_HERE) -> set[str]:
        own = replace(results, protocol=rule, metrics=metrics)
        return {table.id for table in published_tables() if is_closest(table, own)}

    assert close({**free, "name": "x", "published_tables": ["portrait-diffusion-1"]}) == {
        "portrait-diffusion-1"
    }
    assert close(free) == {"diffportrait3d-1a"}
    assert close({**free, "size": 512}) == {"diffportrait3d-1b", "diffportrait3d-2", "diffportrait3d-3"}
    assert close({**free, "size": 128}) == set()
    assert close(free, (PSNR,)) == set()
