"""`dp3d evaluate` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dp3d_cli.app import app
from dp3d_cli.core.images import write_png
from tests.stages.view_pictures import picture, write_views


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


@pytest.fixture
def work(tmp_path: Path) -> Path:
    for name in ("anna", "bob"):
        write_views(tmp_path / "gt" / name, 3)
        write_views(tmp_path / "views" / name, 3, seed=30)
        write_png(tmp_path / "aligned" / f"{name}.png", picture(1))
    return tmp_path


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".dp3d" not in path.parts
    }


def test_report_is_written_and_its_files_are_printed(work: Path) -> None:
    output = work / "report"
    result = run(
        work / "views", "--gt", work / "gt", "--references", work / "aligned", "-o", output, "--size", 32
    )
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{output}/{name}" for name in ("metrics.json", "per_image.csv", "report.md", "report.html")
    ]
    assert "| reference-copied | 6 |" in result.stderr
    metrics = json.loads((output / "metrics.json").read_text())
    assert [method["pairs"] for method in metrics["methods"]] == [6, 6]


def test_second_run_scores_nothing_anew_and_ends_the_same(work: Path) -> None:
    arguments = (work / "views", "--gt", work / "gt", "-o", work / "report", "--size", 32)
    run(*arguments)
    before = files_of(work / "report")
    result = run(*arguments, "--json")
    assert {json.loads(line)["status"] for line in result.stdout.splitlines()} == {"skipped"}
    assert files_of(work / "report") == before


def test_shards_make_the_same_report(work: Path) -> None:
    run(work / "views", "--gt", work / "gt", "-o", work / "whole", "--size", 32)
    for number in range(4):
        result = run(
            work / "views", "--gt", work / "gt", "-o", work / "parts", "--size", 32, "--shard", f"{number}/4"
        )
        assert result.exit_code == 0
    assert files_of(work / "parts") == files_of(work / "whole")


def test_one_unreadable_picture_gives_status_1_and_a_report(work: Path) -> None:
    (work / "views" / "bob" / "001.png").write_text("no picture")
    for flag in ("--quiet", "--no-quiet"):
        result = run(
            work / "views", "--gt", work / "gt", "-o", work / "report", "--size", 32, flag, "--overwrite"
        )
        assert result.exit_code == 1
        assert "1 pairs could not be scored" in result.stderr
    metrics = json.loads((work / "report" / "metrics.json").read_text())
    assert metrics["methods"][0]["pairs"] == 5
    assert metrics["bad_pairs"][0]["reason"] == "unreadable-image"


def test_several_methods_by_name(work: Path) -> None:
    result = run(
        f"a={work / 'views'}", f"b={work / 'gt'}", "--gt", work / "gt", "-o", work / "report", "--size", 32,
        "--metrics", "zncc", "--crop", "0:20,0:20",
    )  # fmt: skip
    assert result.exit_code == 0
    metrics = json.loads((work / "report" / "metrics.json").read_text())
    assert [method["method"] for method in metrics["methods"]] == ["a", "b"]
    assert metrics["methods"][1]["metrics"]["zncc"]["mean"] == pytest.approx(1)


def test_dry_run_writes_nothing(work: Path) -> None:
    result = run(work / "views", "--gt", work / "gt", "-o", work / "report", "--dry-run")
    assert result.exit_code == 0
    assert result.stdout == "would-run\tviews/anna\nwould-run\tviews/bob\n"
    assert not (work / "report").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--metrics", "vmaf"), "psnr, ssim, lpips_alex"),
        (("--crop", "nose"), "56:196,62:194"),
        (("--size", "1"), "between 16 and 4096"),
        (("--min-yaw", "0.2"), "--cameras"),
        (("--gt-name", "other"), "no views found"),
    ],
)
def test_wrong_options_end_with_status_2(work: Path, arguments: tuple, message: str) -> None:
    result = run(work / "views", "--gt", work / "gt", "-o", work / "report", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (work / "report").exists()


@pytest.fixture
def no_backbones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DP3D_WEIGHTS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home" / "torch"))


@pytest.mark.usefixtures("no_backbones")
def test_a_metric_without_its_weights_is_named_with_the_command_and_the_status_is_0(work: Path) -> None:
    arguments = (work / "views", "--gt", work / "gt", "-o", work / "report", "--size", 32)
    result = run(*arguments, "--metrics", "psnr,fid")
    assert result.exit_code == 0
    assert "fid is unavailable" in result.stderr
    assert "dp3d weights fetch fid-inception" in result.stderr
    metrics = json.loads((work / "report" / "metrics.json").read_text())
    assert [entry["metric"] for entry in metrics["unavailable"]] == ["fid"]
    assert metrics["methods"][0]["metrics"]["psnr"]["n"] == 6


@pytest.mark.usefixtures("no_backbones")
def test_a_required_metric_without_a_number_ends_with_status_1_and_a_report(work: Path) -> None:
    arguments = (work / "views", "--gt", work / "gt", "-o", work / "report", "--size", 32)
    for flag in ("--quiet", "--no-quiet"):
        result = run(*arguments, "--require", "lpips_alex,fid,ssim", flag)
        assert result.exit_code == 1
        assert "Required, but without a number: fid, lpips_alex." in result.stderr
        assert (work / "report" / "metrics.json").is_file()
        assert (work / "report" / "report.md").is_file()
    assert run(*arguments, "--require", "ssim", "--overwrite").exit_code == 0


def test_references_alone_are_enough(work: Path) -> None:
    output = work / "report"
    arguments = ("--references", work / "aligned", "-o", output, "--size", 32)
    result = run(work / "views", *arguments, "--metrics", "grain,consistency")
    assert result.exit_code == 0
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["protocol"]["against"] == "references"
    assert [method["method"] for method in metrics["methods"]] == ["views"]


def test_neither_truth_nor_references_ends_with_status_2(work: Path) -> None:
    result = run(work / "views", "-o", work / "report")
    assert result.exit_code == 2
    assert "--gt FOLDER" in result.stderr


@pytest.mark.usefixtures("no_backbones")
def test_protocol_is_named_with_its_deviations(work: Path) -> None:
    arguments = (work / "views", "--gt", work / "gt", "-o", work / "report")
    result = run(*arguments, "--protocol", "diffportrait3d-256", "--size", 32)
    assert result.exit_code == 0
    protocol = json.loads((work / "report" / "metrics.json").read_text())["protocol"]
    assert protocol["name"] == "diffportrait3d-256"
    assert protocol["deviations"][0] == "size: 32 instead of 256."
    assert "lpips_alex is unavailable." in protocol["deviations"]


def test_no_pairs_ends_with_status_2(work: Path) -> None:
    result = run(work / "aligned", "--gt", work / "gt", "-o", work / "report")
    assert result.exit_code == 2
    assert "no views found" in result.stderr
