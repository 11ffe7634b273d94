"""`dp3d align` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dp3d_cli.app import app
from tests.core.faces.pictures import astronaut


def run(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["align", *map(str, arguments)], input=stdin)


@pytest.fixture
def portraits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("dp3d_cli.core.faces.insightface.DEFAULT_MODELS", tmp_path / "no-models")
    monkeypatch.setattr("dp3d_cli.core.faces.detect.find_backbone", lambda _name: None)
    folder = tmp_path / "portraits"
    (folder / "team").mkdir(parents=True)
    Image.fromarray(astronaut()[:270, 80:350]).save(folder / "team" / "eileen.jpg", quality=95)
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(folder / "wall.png")
    return folder


def test_paths_on_stdout_failures_in_the_status(tmp_path: Path, portraits: Path) -> None:
    output = tmp_path / "aligned"
    result = run(portraits, "-o", output)
    assert result.exit_code == 1
    assert result.stdout == f"{output}/team/eileen.png\n"
    assert "Faces are found by opencv" in result.stderr
    assert "no-face" in result.stderr
    with Image.open(output / "team/eileen.png") as image:
        assert image.size == (512, 512)
    other = run(portraits / "team/eileen.jpg", "-o", output, "--root", portraits, "--size", 256)
    assert other.exit_code == 2
    assert "settings.size: 512 -> 256" in other.stderr


def test_given_box_and_size(tmp_path: Path, portraits: Path) -> None:
    result = run(portraits / "wall.png", "-o", tmp_path, "--box", "10,10,30,30", "--size", 128, "--json")
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert facts["info"]["method"] == "box"
    written = json.loads((tmp_path / "wall.json").read_text())
    assert written["box"]["original"] == [10, 10, 30, 30]
    assert written["detector"] == "given"


def test_no_align_takes_pictures_without_a_face(tmp_path: Path, portraits: Path) -> None:
    result = run(portraits / "wall.png", "-o", tmp_path, "--no-align")
    assert result.exit_code == 0
    assert "no face found" in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--box", "1,2,3"),
        ("--face", "smallest"),
        ("--frames", "some"),
        ("--landmarks", "missing.json"),
        ("--backend", "dlib"),
        ("--size", 8),
    ],
)
def test_wrong_options_end_with_status_2(
    tmp_path: Path, portraits: Path, options: tuple[object, ...]
) -> None:
    result = run(portraits, "-o", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert str(options[0]) in result.stderr or str(options[1]) in result.stderr
    assert not (tmp_path / "out").exists()


def test_missing_models_are_said_before_any_work(tmp_path: Path, portraits: Path) -> None:
    result = run(portraits, "-o", tmp_path / "out", "--backend", "insightface")
    assert result.exit_code == 1
    assert "--backend opencv" in result.stderr
    assert not (tmp_path / "out").exists()
