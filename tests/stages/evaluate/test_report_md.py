from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from dp3d_cli.stages.evaluate.published import published_tables
from dp3d_cli.stages.evaluate.report_figures import best_of, figure, number, warnings_text
from dp3d_cli.stages.evaluate.report_md import methods_table, plain, report_md
from dp3d_cli.stages.evaluate.results import SetValue
from tests.stages.evaluate.report_results import (
    FID,
    PSNR,
    SHARPNESS,
    SSIM,
    made_up_results,
    without_numbers,
)


def section(text: str, title: str) -> str:
    """The part of a Markdown file under a heading."""
    return text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_intervals_counts_and_coverage_are_told(tmp_path: Path) -> None:
    results = made_up_results(tmp_path)
    own = figure(results, results.methods[1], "id_gt")
    interval = f"[{own.low:.3f}, {own.high:.3f}]"
    line = f"| id_gt ↑ | ours | {own.value:.3f} | {interval} | 10 views | 10 of 12 (83 %) |"
    assert line in section(report_md(results), "Intervals and counts")
    assert "| consistency ↓ [grey levels] | ours | 4.250 | [4.000, 4.500] | 2 subjects | – |" in report_md(
        results
    )
    assert "| fid ↓ | ours | 59.00 | – | 12 pictures | – |" in report_md(results)


def test_unavailable_metrics_name_reason_and_command(tmp_path: Path) -> None:
    results = made_up_results(tmp_path)
    text = report_md(results)
    line = "- **lpips_alex** (weights-missing): alexnet is not here. `dp3d weights fetch alexnet`"
    assert line in section(text, "Unavailable")
    assert "- **kid** for reference-copied, ours, theirs (too-few-pictures): KID needs 50 pictures" in text
    assert "lpips_alex" not in methods_table(results)
    some = replace(results, unavailable=(replace(results.unavailable[0], metric="fid", method="ours"),))
    lacking = [replace(m, sets={}) if m.method == "ours" else m for m in results.methods]
    assert "| unavailable |" in methods_table(replace(some, methods=tuple(lacking)))


def test_commands_inside_messages_stay_code_and_are_not_repeated(tmp_path: Path) -> None:
    results = made_up_results(tmp_path)
    told = replace(results.unavailable[0], message="No [x]. Get it with `dp3d weights fetch alexnet`.")
    text = section(report_md(replace(results, unavailable=(told,))), "Unavailable")
    assert text.strip().endswith(r"No \[x\]. Get it with `dp3d weights fetch alexnet`.")


def test_same_warning_of_several_methods_is_said_once(tmp_path: Path) -> None:
    results = made_up_results(tmp_path)
    texts = ("ours: 3 pairs are odd.", "All are odd.", "theirs: 3 pairs are odd.", "theirs: 4 pairs are odd.")
    said = warnings_text(replace(results, warnings=texts))
    assert said[:3] == ["ours, theirs: 3 pairs are odd.", "All are odd.", "theirs: 4 pairs are odd."]


def test_published_rows_are_marked_and_apart_from_ours(tmp_path: Path) -> None:
    results = made_up_results(tmp_path)
    text = section(report_md(results), "Published figures")
    published = {method for own in published_tables() for group in own.groups for method in group.rows}
    rows = [line for line in text.splitlines() if line.startswith("| ") and "| method |" not in line]
    marked = [line for line in rows if "*published*" in line]
    ours = [line for line in rows if line.startswith("| this report | ")]
    assert sorted([*marked, *ours]) == sorted(rows)
    assert all(line.split(" | ")[1].removesuffix(" *published*") in published for line in marked)
    assert any("(ssim)" in line for line in ours)
    assert "| NeRSemble, novel views | DiffPortrait3D *published* | 0.0068 | 0.23 | 0.62 | 0.21 |" in text
    assert "diffportrait360" not in text.lower()  # no metric of that table was asked for


def test_means_do_not_contain_published_rows(tmp_path: Path) -> None:
    results = made_up_results(tmp_path)
    assert methods_table(results).count("\n") == 2 + len(results.methods)
    assert "published" not in methods_table(results)


def test_names_cannot_begin_markup(tmp_path: Path) -> None:
    assert plain("a|b\nc") == "a\\|b c"
    assert plain("![x](http://y) <script>`*\x1b[1m") == "!\\[x\\](http://y) \\<script\\>\\`\\*\\\\x1b\\[1m"
    results = made_up_results(tmp_path, methods=("a|b", "<b>"), subjects=("x|y\nz",))
    tables = [line for line in report_md(results).splitlines() if line.startswith("| ")]
    assert not any("<b>" in line for line in tables)
    heads = {
        line.replace("\\|", "").count("|")
        for line in section(report_md(results), "By subject").splitlines()
        if line
    }
    assert len(heads) == 1


def test_numbers_that_are_none_are_dashes_and_never_nan(tmp_path: Path) -> None:
    results = made_up_results(tmp_path)
    for value in (math.nan, math.inf, -math.inf):
        text = report_md(without_numbers(results, value))
        assert "nan" not in text
        assert "| – (12 not finite) |" not in text
    assert number(PSNR, math.inf) == "∞"
    assert number(PSNR, -math.inf) == "-∞"
    assert number(PSNR, math.nan) == "undefined"
    assert number(SSIM, None) == "–"
    assert number(SSIM, 0.00004) == "4.0e-05"
    assert number(SSIM, 0.0) == "0.000"


def test_set_metrics_without_a_finite_number_have_none(tmp_path: Path) -> None:
    results = made_up_results(tmp_path)
    method = replace(results.methods[0], sets={"fid": SetValue(math.nan, None, 1, 1)})
    results = replace(results, methods=(method,))
    assert figure(results, method, "fid").value is None


def test_best_is_the_best_by_the_metrics_direction_and_only_if_it_shows() -> None:
    assert best_of(SSIM, [0.5, None, 0.7]) == 2
    assert best_of(FID, [30.0, 20.0, math.nan]) == 1
    assert best_of(SHARPNESS, [0.5, 1.2, 1.4]) == 1
    assert best_of(SSIM, [0.50001, 0.50002]) is None
    assert best_of(SSIM, [0.5]) is None
    assert best_of(SSIM, []) is None


def test_empty_results_give_a_text(tmp_path: Path) -> None:
    results = replace(made_up_results(tmp_path, methods=()), unavailable=())
    text = report_md(results)
    assert text.startswith("# Evaluation")
    assert "By subject" not in text
