"""Whatever is wrong with pictures has a defined answer, and costs nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dp3d_cli.core.errors import UsageError
from dp3d_cli.core.images import write_png
from dp3d_cli.stages.evaluate.plan import Request, plan
from dp3d_cli.stages.evaluate.results import Results
from tests.stages.evaluate.runs import evaluate, prepare, score
from tests.stages.view_pictures import picture, write_views


def request_for(root: Path, **options: object) -> Request:
    return Request((root / "views",), root / "gt", **{"size": 32, **options})  # type: ignore[arg-type]


def warned(results: Results, text: str) -> bool:
    return any(text in warning for warning in results.warnings)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    write_views(tmp_path / "gt" / "anna", 3)
    write_views(tmp_path / "views" / "anna", 3, seed=20)
    return tmp_path


def test_one_unreadable_of_a_thousand_loses_nothing_else(tmp_path: Path) -> None:
    tiny = [picture(n, 16) for n in range(10)]
    for number in range(1000):
        for name, shift in (("gt", 0), ("views", 3)):
            path = tmp_path / name / "anna" / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(tiny[(number + shift) % 10]).save(path)
    (tmp_path / "views" / "anna" / "0500.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    results = score(request_for(tmp_path, size=16, metrics="psnr"), tmp_path / "report")
    assert len(results.methods[0].rows) == 999
    assert [(bad.view, bad.reason) for bad in results.methods[0].subjects[0].bad] == [
        (500, "truncated-image")
    ]


def test_a_file_that_is_gone_fails_its_pair_only(world: Path) -> None:
    stage, _ = prepare(request_for(world), world / "report")
    whole = stage.items[0].inputs
    (world / "views" / "anna" / "001.png").unlink()
    (world / "views" / "anna" / "001.png").symlink_to(world / "nowhere.png")
    assert (
        len(stage.items[0].inputs) == len(whole) - 1
    )  # the engine fails an item whose inputs it cannot read
    (world / "views" / "anna" / "views.json").write_text(
        json.dumps({"views": [{"view": f"00{n}"} for n in range(3)]})
    )
    results = score(request_for(world), world / "report")
    assert [row.view for _, row in results.methods[0].rows] == [0, 2]
    assert results.methods[0].skipped == {"missing-file": 1}


def test_pictures_of_floating_point_numbers_are_refused_nan_or_not(world: Path) -> None:
    for number, value in enumerate((np.nan, 0.5)):
        plane = np.full((32, 32), value, np.float32)
        (world / "views" / "anna" / f"00{number}.png").unlink()
        Image.fromarray(plane).save(world / "views" / "anna" / f"00{number}.tif")
    results, content = evaluate(request_for(world), world / "report")
    assert [bad["reason"] for bad in content["bad_pairs"]] == ["unsupported-format"] * 2
    assert "no stated range" in content["bad_pairs"][0]["message"]
    assert [row.view for _, row in results.methods[0].rows] == [2]


def test_mixed_sizes_are_named(world: Path) -> None:
    write_png(world / "views" / "anna" / "001.png", picture(3, 64))
    results = score(request_for(world), world / "report")
    assert warned(results, "predictions of mixed sizes (2 of 32 px, 1 of 64 px); all were brought to 32 px")
    assert warned(results, "in 1 pairs the pictures differ in size (001.png 64 px, 001.png 32 px")


def test_jpeg_against_png_is_named(world: Path) -> None:
    for path in (world / "views" / "anna").glob("*.png"):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    assert warned(score(request_for(world), world / "report"), "in 3 pairs one picture has lossy compression")


@pytest.mark.parametrize(("alpha", "expected"), [(0, True), (255, False)])
def test_alpha_is_named_where_it_shows(world: Path, alpha: int, expected: bool) -> None:
    path = world / "views" / "anna" / "001.png"
    rgba = np.dstack([picture(5), np.full((32, 32), 255, np.uint8)])
    rgba[:4, :4, 3] = alpha
    Image.fromarray(rgba).save(path)
    assert (
        warned(score(request_for(world), world / "report"), "in 1 pairs a picture has an alpha") is expected
    )


def test_the_same_picture_twice_is_named_though_the_files_differ(world: Path) -> None:
    Image.open(world / "views" / "anna" / "000.png").save(
        world / "views" / "anna" / "002.png", compress_level=1
    )
    results = score(request_for(world), world / "report")
    assert warned(results, "2 predictions are only 1 different pictures (anna/000.png and anna/002.png")


def test_the_truth_given_as_prediction_is_named(world: Path) -> None:
    results = score(
        Request((f"cheat={world / 'gt'}",), world / "gt", size=32, metrics="ssim"), world / "report"
    )
    assert warned(results, "cheat: 3 predictions equal the ground truth exactly")


def test_two_methods_of_the_same_pictures_are_named(world: Path) -> None:
    methods = (f"a={world / 'views'}", f"b={world / 'views'}")
    results = score(Request(methods, world / "gt", size=32), world / "report")
    assert warned(results, "a and b have the same predictions")


def test_reports_name_no_path_of_this_machine(world: Path) -> None:
    write_views(world / "gt" / "bob", 1)
    write_views(world / "views" / "bob", 1)
    (world / "views" / "bob" / "views.json").write_text("{")
    (world / "views" / "anna" / "001.png").write_bytes(b"")
    request = request_for(world, metrics="all")
    evaluate(request, world / "report")
    for name in ("metrics.json", "per_image.csv", "report.md"):
        text = (world / "report" / name).read_text()
        assert str(world) not in text
        assert str(Path.home()) not in text
        assert str(Path(__file__).parents[3]) not in text


def test_the_copied_reference_is_not_called_a_repetition(world: Path) -> None:
    write_png(world / "aligned" / "anna.png", picture(70))
    request = Request((world / "views",), world / "gt", world / "aligned", size=32)
    assert not warned(score(request, world / "report"), "different pictures")


def test_an_unreadable_view_breaks_the_sequence_and_says_so(world: Path) -> None:
    (world / "views" / "anna" / "001.png").write_bytes(b"")
    results, content = evaluate(request_for(world, metrics="psnr,consistency"), world / "report")
    assert warned(results, "views/anna: no consistency")
    assert list(content["methods"][0]["metrics"]) == ["psnr"]
    assert [(entry.metric, entry.reason) for entry in results.unavailable] == [("consistency", "no-rows")]


def test_a_choice_of_views_has_no_neighbours(world: Path) -> None:
    request = request_for(world, metrics="psnr,consistency", min_yaw=0.1, cameras="gen-videos")
    results = score(request, world / "report")
    assert [(entry.metric, entry.reason) for entry in results.unavailable] == [("consistency", "no-sequence")]


def test_pictures_too_small_for_a_metric_are_said_with_the_size(world: Path) -> None:
    results = score(request_for(world, size=24, metrics="psnr,consistency"), world / "report")
    assert [(entry.metric, entry.reason, entry.command) for entry in results.unavailable] == [
        ("consistency", "too-small", "dp3d evaluate ... --size 32")
    ]


def test_empty_folders_and_no_pairs_are_usage_errors(tmp_path: Path) -> None:
    for name in ("views", "gt"):
        (tmp_path / name).mkdir()
    with pytest.raises(UsageError) as caught:
        plan(request_for(tmp_path))
    assert caught.value.reason == "no-pairs"
    write_views(tmp_path / "views" / "anna", 1)
    write_views(tmp_path / "gt" / "bob", 1)
    with pytest.raises(UsageError, match="'anna' against 'bob'"):
        plan(request_for(tmp_path))
