from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from dp3d_cli.core.errors import InputError, UsageError
from dp3d_cli.core.images import write_png
from dp3d_cli.core.metrics.pictures import Window
from dp3d_cli.core.metrics.psnr import psnr
from dp3d_cli.core.metrics.ssim import ssim
from dp3d_cli.core.videos import write_video
from dp3d_cli.stages.evaluate.collect import collect
from dp3d_cli.stages.evaluate.metrics import METRICS
from dp3d_cli.stages.evaluate.networks import Networks
from dp3d_cli.stages.evaluate.pairing import Pairing
from dp3d_cli.stages.evaluate.plan import Request, plan
from dp3d_cli.stages.evaluate.protocol import Protocol, bring_to_size, parse_crop
from dp3d_cli.stages.evaluate.report import write_report
from dp3d_cli.stages.evaluate.rows import SubjectScores
from dp3d_cli.stages.evaluate.score import score_match
from dp3d_cli.stages.evaluate.statistics import statistic
from tests.stages.evaluate.runs import NoProgress, evaluate, plain, prepare
from tests.stages.view_pictures import picture, write_views


def rows_of(output: Path) -> list[dict[str, str]]:
    with (output / "per_image.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_numbers_are_those_of_the_metrics(tmp_path: Path) -> None:
    truth = write_views(tmp_path / "gt" / "anna", 3)
    own = write_views(tmp_path / "views" / "anna", 3, seed=40)
    _, metrics = evaluate(Request((tmp_path / "views",), tmp_path / "gt", size=32), tmp_path / "report")
    expected = [(psnr(a, b), ssim(a, b)) for a, b in zip(own, truth, strict=True)]
    rows = rows_of(tmp_path / "report")
    assert [(float(row["psnr"]), float(row["ssim"])) for row in rows] == expected
    assert [row["view"] for row in rows] == ["0", "1", "2"]
    (method,) = metrics["methods"]
    decibels = [value for value, _ in expected]
    assert method["metrics"]["psnr"]["mean"] == pytest.approx(np.mean(decibels), rel=1e-14)
    assert method["metrics"]["psnr"]["sd"] == pytest.approx(np.std(decibels, ddof=1), rel=1e-12)
    assert method["metrics"]["psnr"]["n"] == method["pairs"] == 3
    assert method["by_subject"]["anna"]["ssim"]["mean"] == method["metrics"]["ssim"]["mean"]


def test_protocol_states_what_decides_a_number(tmp_path: Path) -> None:
    write_views(tmp_path / "gt" / "anna", 1)
    write_views(tmp_path / "views" / "anna", 1, seed=5)
    names = "psnr,ssim,zncc,gradient_ncc,sharpness,grain"
    request = Request((tmp_path / "views",), tmp_path / "gt", metrics=names, size=32, crop="4:30,2:28")
    _, metrics = evaluate(request, tmp_path / "report")
    protocol = metrics["protocol"]
    assert ",".join(metrics["metrics"]) == names
    assert protocol["crop_applies_to"] == ["psnr", "ssim", "zncc", "gradient_ncc", "sharpness"]
    assert (protocol["size"], protocol["crop"]) == (32, "4:30,2:28")
    assert "INTER_AREA" in protocol["resize"]
    assert (protocol["device"], protocol["pairs"]) == ("cpu", 1)
    assert "float64" in protocol["dtype"]
    assert set(protocol["packages"]) == {"numpy", "opencv-python", "pillow", "scikit-image"}
    text = (tmp_path / "report" / "report.md").read_text()
    for name in names.split(","):
        assert METRICS[name].formula in text


def test_report_is_the_same_wherever_the_files_lie(tmp_path: Path) -> None:
    contents = []
    for place in ("here", "there/deep"):
        root = tmp_path / place
        write_views(root / "gt" / "anna", 2)
        write_views(root / "views" / "anna", 2, seed=5)
        (root / "views" / "anna" / "001.png").write_bytes(b"")
        evaluate(Request((root / "views",), root / "gt", size=32), root / "report")
        contents.append([p.read_bytes() for p in sorted((root / "report").rglob("*")) if p.is_file()])
    assert contents[0] == contents[1]
    assert len(contents[0]) == 5


def test_unreadable_picture_is_recorded_and_all_others_are_scored(tmp_path: Path) -> None:
    write_views(tmp_path / "gt" / "anna", 5)
    write_views(tmp_path / "views" / "anna", 5, seed=5)
    (tmp_path / "views" / "anna" / "001.png").write_text("no picture")
    (tmp_path / "gt" / "anna" / "002.png").write_bytes(b"")
    write_png(tmp_path / "views" / "anna" / "003.png", picture(3, 32, 40))
    report, metrics = evaluate(Request((tmp_path / "views",), tmp_path / "gt", size=32), tmp_path / "report")
    assert report.bad_pairs == 3
    assert [row["view"] for row in rows_of(tmp_path / "report")] == ["0", "4"]
    assert [(bad["view"], bad["reason"]) for bad in metrics["bad_pairs"]] == [
        (1, "unreadable-image"),
        (2, "empty-file"),
        (3, "not-square"),
    ]
    assert metrics["methods"][0]["skipped"] == {"empty-file": 1, "not-square": 1, "unreadable-image": 1}
    text = (tmp_path / "report" / "report.md").read_text()
    assert "## Not scored" in text
    assert "003.png: the picture is 40 x 32" in text


def test_unreadable_video_frames_fail_their_pairs_only(tmp_path: Path) -> None:
    write_views(tmp_path / "views" / "anna", 2)
    (tmp_path / "gt").mkdir()
    film = tmp_path / "gt" / "anna.mp4"
    write_video(film, np.stack([picture(n) for n in range(2)]), fps=10)
    protocol, pairing = plan(Request((tmp_path / "views",), tmp_path / "gt", size=32))
    film.write_bytes(b"gone")
    scores = score_match(pairing.matches[0], protocol, ["psnr"], Networks()).scores
    assert [bad.reason for bad in scores.bad] == ["unreadable-video"] * 2


def test_video_frames_are_scored_against_the_view_of_their_number(tmp_path: Path) -> None:
    views = write_views(tmp_path / "views" / "anna", 20, side=32)
    (tmp_path / "gt").mkdir()
    write_video(tmp_path / "gt" / "anna.mp4", np.stack(views), fps=10)
    evaluate(Request((tmp_path / "views",), tmp_path / "gt", metrics="psnr", size=32), tmp_path / "report")
    rows = rows_of(tmp_path / "report")
    assert [row["truth"] for row in rows] == [f"anna.mp4#{n}" for n in range(20)]
    assert min(float(row["psnr"]) for row in rows) > 20


def test_identical_pictures_are_counted_apart_and_warned_of(tmp_path: Path) -> None:
    write_views(tmp_path / "gt" / "anna", 3)
    write_views(tmp_path / "views" / "anna", 2)
    write_png(tmp_path / "views" / "anna" / "002.png", picture(77))
    report, metrics = evaluate(Request((tmp_path / "views",), tmp_path / "gt", size=32), tmp_path / "report")
    numbers = metrics["methods"][0]["metrics"]
    assert (numbers["psnr"]["n"], numbers["psnr"]["not_finite"], numbers["psnr"]["sd"]) == (1, 2, None)
    assert math.isfinite(numbers["psnr"]["mean"])
    assert (numbers["ssim"]["n"], numbers["ssim"]["not_finite"]) == (3, 0)
    assert rows_of(tmp_path / "report")[0]["psnr"] == "inf"
    assert any("2 predictions equal the ground truth" in text for text in report.warnings)


def test_methods_side_by_side_and_a_warning_if_pairs_differ(tmp_path: Path) -> None:
    write_views(tmp_path / "gt" / "anna", 3)
    write_views(tmp_path / "good" / "anna", 3, seed=1)
    write_views(tmp_path / "short" / "anna", 2, seed=1)
    write_png(tmp_path / "aligned" / "anna.png", picture(0))
    folders = (tmp_path / "short", tmp_path / "good")
    report, metrics = evaluate(
        Request(folders, tmp_path / "gt", tmp_path / "aligned", size=32), tmp_path / "report"
    )
    assert [m["method"] for m in metrics["methods"]] == ["reference-copied", "short", "good"]
    assert any("not scored on the same pairs" in text for text in report.warnings)
    table = write_report(tmp_path / "report", report).table
    assert table.count("\n") == 5


def test_mixed_sizes_are_brought_to_one_and_enlarging_is_warned_of(tmp_path: Path) -> None:
    write_png(tmp_path / "gt" / "anna" / "0.png", np.kron(picture(1), np.ones((2, 2, 1))).astype(np.uint8))
    write_png(tmp_path / "views" / "anna" / "0.png", picture(1))
    report, metrics = evaluate(Request((tmp_path / "views",), tmp_path / "gt", size=32), tmp_path / "report")
    assert metrics["methods"][0]["metrics"]["ssim"]["mean"] == 1
    assert not any("enlarged" in text for text in report.warnings)
    report, _ = evaluate(Request((tmp_path / "views",), tmp_path / "gt", size=64), tmp_path / "report")
    assert any("in 1 pairs a picture is below 64 px" in text for text in report.warnings)


def test_lossy_against_lossless_is_warned_of(tmp_path: Path) -> None:
    from PIL import Image

    write_views(tmp_path / "gt" / "anna", 1)
    (tmp_path / "views" / "anna").mkdir(parents=True)
    Image.fromarray(picture(0)).save(tmp_path / "views" / "anna" / "000.jpg")
    report, _ = evaluate(Request((tmp_path / "views",), tmp_path / "gt", size=32), tmp_path / "report")
    assert any("lossy" in text for text in report.warnings)


def test_names_cannot_break_the_tables(tmp_path: Path) -> None:
    name = "a|b\nc ünï"
    write_views(tmp_path / "gt" / name, 1)
    write_views(tmp_path / "views" / name, 1, seed=3)
    _, metrics = evaluate(Request((tmp_path / "views",), tmp_path / "gt", size=32), tmp_path / "report")
    assert list(metrics["methods"][0]["by_subject"]) == [name]
    assert rows_of(tmp_path / "report")[0]["subject"] == name
    assert "| views | a\\|b c ünï | 1 |" in (tmp_path / "report" / "report.md").read_text()


def test_no_report_while_scores_are_missing_but_failed_ones_are_listed(tmp_path: Path) -> None:
    for name in ("anna", "bob"):
        write_views(tmp_path / "gt" / name, 1)
        write_views(tmp_path / "views" / name, 1, seed=3)
    stage, pairing = prepare(Request((tmp_path / "views",), tmp_path / "gt", size=32), tmp_path / "report")
    protocol = stage.protocol
    stage.process(stage.items[0], tmp_path / "report", NoProgress())
    results = collect(tmp_path / "report", protocol, pairing, plain(protocol), {})
    assert results.missing == 1
    with pytest.raises(ValueError, match="1 matches"):
        write_report(tmp_path / "report", results)
    assert not (tmp_path / "report" / "metrics.json").exists()
    failed = {"views/bob": ("out-of-memory", "bob: not enough memory")}
    results = collect(tmp_path / "report", protocol, pairing, plain(protocol), failed)
    write_report(tmp_path / "report", results)
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert metrics["methods"][0]["skipped"] == {"out-of-memory": 1}


def test_item_inputs_are_all_files_of_the_pairs(tmp_path: Path) -> None:
    write_views(tmp_path / "gt" / "anna", 2)
    write_views(tmp_path / "views" / "anna", 1)
    stage, _ = prepare(Request((tmp_path / "views",), tmp_path / "gt", size=32), tmp_path / "report")
    (item,) = stage.items
    assert item.id == "views/anna"
    assert item.inputs == (tmp_path / "views" / "anna" / "000.png", tmp_path / "gt" / "anna" / "000.png")


def test_scores_survive_the_file(tmp_path: Path) -> None:
    write_views(tmp_path / "gt" / "anna", 2)
    write_views(tmp_path / "views" / "anna", 1)
    (tmp_path / "views" / "anna" / "001.png").write_bytes(b"")
    protocol, pairing = plan(Request((tmp_path / "views",), tmp_path / "gt", size=32))
    scores = score_match(pairing.matches[0], protocol, ["psnr", "consistency", "grain"], Networks()).scores
    assert SubjectScores.from_bytes(scores.to_bytes()) == scores
    assert scores.rows[0].values["psnr"] == math.inf


def test_statistic_leaves_out_what_is_not_finite() -> None:
    numbers = statistic([1.0, math.inf, 3.0, math.nan])
    assert (numbers.mean, numbers.sd, numbers.n, numbers.not_finite) == (2.0, math.sqrt(2), 2, 2)
    assert statistic([math.nan]).mean is None
    values = np.random.default_rng(0).normal(size=100).tolist()
    assert statistic(values).mean == statistic(values[::-1]).mean
    assert statistic(values).sd == pytest.approx(np.std(values, ddof=1), rel=1e-14)


def test_shrinking_averages_areas() -> None:
    large = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mean = large.reshape(32, 2, 32, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(bring_to_size(large, 32, "x") - mean).max() <= 0.5
    assert bring_to_size(large, 64, "x") is large
    with pytest.raises(InputError, match=r"x: the picture is 64 x 32"):
        bring_to_size(large[:32], 32, "x")


@pytest.mark.parametrize(
    ("text", "size", "window"),
    [
        ("none", 256, None),
        ("face", 256, Window(56, 196, 62, 194)),
        ("face", 512, Window(112, 392, 124, 388)),
        ("0:20, 5:30", 256, Window(0, 20, 5, 30)),
    ],
)
def test_crops(text: str, size: int, window: Window | None) -> None:
    assert parse_crop(text, size) == window


@pytest.mark.parametrize("text", ["", "nose", "1:2", "1:2,3", "a:b,c:d", "20:10,0:20", "1:2:3,4:5"])
def test_other_crops_are_usage_errors(text: str) -> None:
    with pytest.raises(UsageError, match="56:196,62:194"):
        parse_crop(text, 256)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": ("psnr", "vmaf")}, "psnr, ssim"),
        ({"metrics": ()}, "psnr, ssim"),
        ({"metrics": ("psnr", "psnr")}, "different names"),
        ({"size": 8}, "between 16 and 4096"),
        ({"size": 64, "window": Window(0, 65, 0, 20)}, "reaches beyond 64 x 64"),
        ({"size": 64, "window": Window(0, 10, 0, 20)}, "smaller than 11 x 11"),
    ],
)
def test_impossible_protocols_are_usage_errors(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Protocol(**settings)  # type: ignore[arg-type]


def test_empty_pairing_gives_an_empty_report(tmp_path: Path) -> None:
    report = write_report(tmp_path, collect(tmp_path, Protocol(), Pairing(()), plain(Protocol()), {}))
    assert len(report.files) == 4
