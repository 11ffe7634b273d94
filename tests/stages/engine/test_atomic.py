from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dp3d_cli.stages.engine import atomic
from dp3d_cli.stages.engine.atomic import Drafts, move_into_place


def test_drafts_leave_nothing(tmp_path: Path) -> None:
    with Drafts(tmp_path, "align") as drafts:
        assert list(tmp_path.iterdir()) == []
        with drafts.fresh() as draft:
            (draft / "team").mkdir()
            (draft / "team/a.png").write_text("kept")
            (draft / "scratch").write_text("dropped")
            move_into_place(draft / "team/a.png", tmp_path / "team/a.png")
        drafts.write(tmp_path / "record.json", b"{}")
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".dp3d", "a.png", "record.json", "team"]


def test_a_failed_draft_leaves_the_previous_result(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")

    def fail_halfway() -> None:
        with Drafts(tmp_path, "align") as drafts, drafts.fresh() as draft:
            (draft / "a.txt").write_text("ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert [path.read_text() for path in tmp_path.rglob("*") if path.is_file()] == ["old"]


def test_only_drafts_of_dead_processes_of_this_host_are_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host, own = atomic._host(), f"{os.getpid()}-{atomic._start_time(os.getpid())}"
    names = {
        f"align.{host}.{ended.pid}-123.aaaaaaaa": False,
        f"align.{host}.{os.getpid()}-1.aaaaaaaa": False,  # our number, but another process had it
        f"align.{host}.{own}.aaaaaaaa": True,
        f"align.other.host.{ended.pid}-123.aaaaaaaa": True,
        "somebody's": True,
    }
    for name in names:
        (tmp_path / ".dp3d/drafts" / name / "sub").mkdir(parents=True)
    with Drafts(tmp_path, "proxy", active=False):
        assert len(list((tmp_path / ".dp3d/drafts").iterdir())) == len(names)
    with Drafts(tmp_path, "proxy"):
        pass
    left = {path.name for path in (tmp_path / ".dp3d/drafts").iterdir()}
    assert left == {name for name, stays in names.items() if stays}


def test_two_runs_at_once_keep_out_of_each_others_way(tmp_path: Path) -> None:
    with Drafts(tmp_path, "align") as first, first.fresh() as draft:
        with Drafts(tmp_path, "align") as second, second.fresh() as other:
            assert other != draft
        assert draft.is_dir()
    assert not (tmp_path / ".dp3d/drafts").exists()
