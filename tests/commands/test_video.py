"""`dp3d video` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dp3d_cli.app import app
from dp3d_cli.core.images import write_png
from dp3d_cli.core.videos import count_frames
from tests.stages.view_pictures import picture, write_views


def run(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["video", *map(str, arguments)], input=stdin)


@pytest.fixture
def views(tmp_path: Path) -> Path:
    folder = tmp_path / "views"
    write_views(folder / "team" / "anna", 3)
    write_views(folder / "bob", 2)
    write_png(folder / "bob" / "contact_sheet.png", picture(9))
    write_views(folder / "bob" / "coverage", 2)
    (folder / "bob" / "proxy.json").write_text("{}")
    return folder


def test_one_clip_per_subject_and_nothing_new_the_second_time(tmp_path: Path, views: Path) -> None:
    output = tmp_path / "video"
    result = run(views, "-o", output)
    assert (result.exit_code, result.stdout) == (0, f"{output}/bob.mp4\n{output}/team/anna.mp4\n")
    assert count_frames(output / "team" / "anna.mp4") == 3
    again = run(views, "-o", output, "--json")
    assert [json.loads(line)["status"] for line in again.stdout.splitlines()] == ["skipped", "skipped"]
    other = run(views, "-o", output, "--fps", 25)
    assert other.exit_code == 2
    assert "settings.fps: 10.0 -> 25.0" in other.stderr


def test_paths_on_standard_input(tmp_path: Path, views: Path) -> None:
    text = json.dumps({"views": [{"view": "000", "file": "000.png"}, {"view": "001", "file": "001.png"}]})
    description = views / "team" / "anna" / "views.json"
    description.write_text(text)
    (views / ".dp3d").mkdir()
    result = run("-", "-o", tmp_path / "video", stdin=f"{description}\n")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path}/video/team/anna.mp4\n")
    assert count_frames(tmp_path / "video" / "team" / "anna.mp4") == 2


def test_a_changed_view_is_made_again(tmp_path: Path, views: Path) -> None:
    run(views, "-o", tmp_path / "video")
    write_png(views / "bob" / "001.png", picture(77))
    result = run(views, "-o", tmp_path / "video", "--json")
    assert [json.loads(line)["status"] for line in result.stdout.splitlines()] == ["done", "skipped"]


def test_shards_and_order_give_the_same_bytes(tmp_path: Path, views: Path) -> None:
    run(views, "-o", tmp_path / "whole")
    for shard in ("0/2", "1/2"):
        assert run(views / "team", views, "-o", tmp_path / "parts", "--shard", shard).exit_code == 0
    for path in sorted((tmp_path / "whole").rglob("*.mp4")):
        other = tmp_path / "parts" / path.relative_to(tmp_path / "whole")
        assert other.read_bytes() == path.read_bytes()


def test_one_bad_subject_fails_alone(tmp_path: Path, views: Path) -> None:
    (views / "bob" / "000.png").write_text("no picture")
    result = run(views, "-o", tmp_path / "video", "--json")
    outcomes = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 1
    assert [(o["id"], o["status"], o["reason"]) for o in outcomes] == [
        ("bob", "failed", "unreadable-image"),
        ("team/anna", "done", ""),
    ]


def test_several_formats_with_a_panel(tmp_path: Path, views: Path) -> None:
    write_png(tmp_path / "aligned" / "bob.png", picture(5))
    write_png(tmp_path / "aligned" / "team" / "anna.png", picture(6))
    result = run(
        views, "-o", tmp_path / "video", "--format", "gif,sheet", "--side-by-side", "reference",
        "--references", tmp_path / "aligned", "--size", 40, "--mode", "ping-pong",
    )  # fmt: skip
    assert result.exit_code == 0
    made = sorted(path.name for path in (tmp_path / "video").rglob("*.*") if ".dp3d" not in path.parts)
    assert made == ["anna.gif", "anna.png", "bob.gif", "bob.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "avi"), "mp4, gif, webm, sheet"),
        (("--mode", "back"), "auto, loop, ping-pong or once"),
        (("--side-by-side", "proxy"), "--proxy DIR"),
        (("--fps", "0"), "rate must lie"),
    ],
)
def test_wrong_options_end_with_status_2(tmp_path: Path, views: Path, arguments: tuple, message: str) -> None:
    result = run(views, "-o", tmp_path / "video", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "video").exists()


def test_nothing_to_do_ends_with_status_2(tmp_path: Path) -> None:
    write_png(tmp_path / "in" / "anna.png", picture(1))
    result = run(tmp_path / "in", "-o", tmp_path / "video")
    assert result.exit_code == 2
    assert "no folder with numbered views" in result.stderr
