"""`dp3d weights` as a user types it."""

from __future__ import annotations

import pickle
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dp3d_cli.app import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["weights", *map(str, arguments)])


def test_list_names_all_and_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DP3D_WEIGHTS", str(tmp_path))
    result = run("list")
    assert result.exit_code == 0
    assert re.search(r"^diffportrait3d\tmissing\t", result.stdout, re.MULTILINE)


def test_a_folder_is_described_and_verified(tiny_weights: Path) -> None:
    assert run("path", tiny_weights).stdout == f"{tiny_weights}\n"
    assert "sha256: " in run("info", tiny_weights).stdout
    assert run("verify", tiny_weights).exit_code == 0


def test_a_changed_file_is_found(tiny_weights: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_weights, copy)
    with (copy / "unet" / "config.json").open("a", encoding="utf-8") as file:
        file.write(" ")
    result = run("verify", copy)
    assert result.exit_code == 1
    assert "unet/config.json: sha256" in result.stderr


def test_missing_weights_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DP3D_WEIGHTS", str(tmp_path))
    assert "dp3d weights fetch diffportrait3d --from" in run("info", "diffportrait3d").stdout
    result = run("path", "diffportrait3d")
    assert result.exit_code == 1
    assert "dp3d weights fetch diffportrait3d --from" in result.stderr


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.target,))


def test_a_malicious_checkpoint_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "evil.th").write_bytes(pickle.dumps({"state_dict": Malicious(tmp_path / "executed")}))
    result = run("convert", tmp_path / "evil.th", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "evil.th" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["evil.th"]


def test_an_existing_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "some.th").touch()
    (tmp_path / "out").mkdir()
    result = run("convert", tmp_path / "some.th", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "exists already" in result.stderr
