"""The path from a command line to standard output, standard error and exit status, on the shout command."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dp3d_cli.commands.options import RunFlags
from dp3d_cli.commands.runner import session
from dp3d_cli.stages.engine.run import RunOptions
from dp3d_cli.stages.engine.shards import Shard
from dp3d_cli.stages.engine.stage import Item
from tests.fakes import processes
from tests.fakes.processes import ROOT, environment
from tests.fakes.shout import Shout
from tests.fakes.shout_command import app
from tests.fakes.trees import results, write_texts


def shout(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "100", "NO_COLOR": "1"}).invoke(app, ["shout", *map(str, arguments)])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "in", {"a.txt": "a", "b b.txt": "fail", "team/c.txt": "print"})


def test_results_alone_are_on_standard_output(tmp_path: Path, source: Path) -> None:
    done = processes.run(source, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert done.stdout == b"%b/out/a.txt\n%b/out/team/c.txt\n" % (bytes(tmp_path), bytes(tmp_path))
    # What libraries print is kept, but not among the results.
    assert b"garbage\n" in done.stderr
    assert b"more garbage\n" in done.stderr


def test_standard_error_tells_the_story(tmp_path: Path, source: Path) -> None:
    (source / "notes.dat").write_text("x")
    write_texts(source, {"team/c.txt": "c"})
    lines = shout(source, "-o", tmp_path / "out").stderr.splitlines()
    story = f"{source / 'b b.txt'}: it says fail. Say something else."
    assert lines[0] == "Passed over as files of another kind: notes.dat"
    assert lines[1].startswith("shout: 3 items; dp3d ")
    assert lines[2:] == [
        f"failed b b: [says-fail] {story}",
        "shout: 2 done, 1 failed in 0:00:00",
        "  says-fail: 1",
        f"    b b: {story}",
        "Failed items are tried again with --retry-failed, or when their input changes.",
    ]


def test_quiet_says_only_what_failed(tmp_path: Path, source: Path) -> None:
    write_texts(source, {"team/c.txt": "c", "notes.dat": "x"})
    lines = shout(source, "-o", tmp_path / "out", "--quiet").stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["failed b b"]


def test_json_gives_an_object_per_item(tmp_path: Path, source: Path) -> None:
    first = [json.loads(line) for line in shout(source, "-o", tmp_path / "out", "--json").stdout.splitlines()]
    assert [(entry["id"], entry["status"]) for entry in first] == [
        ("a", "done"),
        ("b b", "failed"),
        ("team/c", "done"),
    ]
    assert first[0].pop("elapsed_s") > 0
    assert first[0] == {
        "stage": "shout",
        "id": "a",
        "status": "done",
        "outputs": [str(tmp_path / "out/a.txt")],
        "reason": "",
        "message": "",
        "info": {"letters": 1},
        "warnings": [],
    }
    assert first[1]["reason"] == "says-fail"
    again = [json.loads(line) for line in shout(source, "-o", tmp_path / "out", "--json").stdout.splitlines()]
    assert [entry["status"] for entry in again] == ["skipped", "failed", "skipped"]
    assert again[0]["outputs"] == first[0]["outputs"]


def test_dry_run_lists_what_would_happen(tmp_path: Path, source: Path) -> None:
    shout(source / "a.txt", "-o", tmp_path / "out")
    result = shout(source, "-o", tmp_path / "out", "--dry-run")
    assert result.stdout == "skipped\ta\nwould-run\tb b\nwould-run\tteam/c\n"
    assert result.exit_code == 0
    assert "shout: 1 skipped, 2 would-run" in result.stderr


def test_other_settings_are_refused_with_status_2(tmp_path: Path, source: Path) -> None:
    shout(source, "-o", tmp_path / "out")
    result = shout(source, "-o", tmp_path / "out", "--loud", "2")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "  settings.loud: 1 -> 2\nUse --overwrite" in result.stderr
    assert shout(source, "-o", tmp_path / "out", "--loud", "2", "--overwrite").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.txt"], "nowhere.txt: no such file or folder"),
        (["IN", "--shard", "3/2"], "--shard 3/2"),
        (["IN", "--json", "--print0"], "--json and --print0"),
        (["IN", "--quiet", "--verbose"], "--quiet and --verbose"),
        (["IN/a.txt", "--root", "IN/team"], "does not lie below --root"),
        (["IN", "--limit", "0"], "--limit"),
    ],
)
def test_usage_errors_have_status_2_and_no_traceback(
    tmp_path: Path, source: Path, arguments: list[str], words: str
) -> None:
    given = [argument.replace("IN", str(source)) for argument in arguments]
    result = shout(*given, "-o", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert "Traceback" not in result.stderr or "--verbose" in arguments
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_clear_sentence(tmp_path: Path) -> None:
    source = write_texts(tmp_path / "in", {"a.txt": "a", "b.txt": "full"})
    result = shout(source, "-o", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (1, f"{tmp_path}/out/a.txt\n")
    assert result.stderr.splitlines()[-1].startswith(f"dp3d: {tmp_path}/out: cannot write (No space left")


def test_tracebacks_are_shown_only_when_asked_for(tmp_path: Path) -> None:
    source = write_texts(tmp_path / "in", {"a.txt": "crash"})
    quiet = processes.run(source, "-o", tmp_path / "out")
    assert quiet.returncode == 1
    assert b"ZeroDivisionError: one by\\nzero" in quiet.stderr
    assert b"Traceback" not in quiet.stderr
    verbose = processes.run(source, "-o", tmp_path / "out", "--verbose", "--retry-failed")
    assert b"Traceback" in verbose.stderr
    usage = processes.run(tmp_path / "nowhere", "-o", tmp_path / "out")
    assert (usage.returncode, usage.stderr.count(b"\n")) == (2, 1)


def test_a_closed_pipe_ends_the_run_quietly(tmp_path: Path) -> None:
    source = write_texts(tmp_path / "in", {f"n{n}.txt": "slow" for n in range(30)})
    with processes.started(source, "-o", tmp_path / "out") as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        stderr = process.stderr.read()
        assert process.wait(30) == 141
    assert b"Traceback" not in stderr
    assert b"BrokenPipe" not in stderr
    assert 0 < len(list((tmp_path / "out/.dp3d/shout").iterdir())) < 30
    assert not (tmp_path / "out/.dp3d/drafts").exists()


def test_closed_standard_output_does_not_matter(tmp_path: Path, source: Path) -> None:
    command = f"'{sys.executable}' -m tests.fakes.shout_command shout '{source}' -o '{tmp_path}/out' >&-"
    done = subprocess.run(
        ["sh", "-c", command], cwd=ROOT, env=environment(), capture_output=True, check=False
    )
    assert done.returncode == 1
    assert sorted(results(tmp_path / "out")) == ["a.txt", "team/c.txt"]


def test_names_with_anything_in_them_go_through_a_pipeline(tmp_path: Path) -> None:
    names = [
        b"it's.txt",
        b'say "x" = 1.txt',
        b"two\nlines.txt",
        "Ü\u200bй.txt".encode(),
        b"\xff\xfe.txt",
        b"-x.txt",
    ]
    (tmp_path / "in").mkdir()
    for name in names:
        (tmp_path / "in" / os.fsdecode(name)).write_text("x")
    listed = b"".join(bytes(tmp_path / "in") + b"/" + name + b"\0" for name in names)
    first = processes.run("-0", "-", "-o", tmp_path / "one", "--print0", stdin=listed)
    assert first.returncode == 0, first.stderr
    second = processes.run("-0", "-", "-o", tmp_path / "two", "--print0", stdin=first.stdout)
    assert second.returncode == 0, second.stderr
    assert sorted(results(tmp_path / "two")) == sorted(os.fsdecode(name) for name in names)
    assert second.stdout == first.stdout.replace(b"/one/", b"/two/")
    as_json = processes.run(tmp_path / "in", "-o", tmp_path / "one", "--json")
    assert len([json.loads(line) for line in as_json.stdout.splitlines()]) == len(names)


def test_a_pipeline_keeps_ids(tmp_path: Path, source: Path) -> None:
    first = processes.run(source, "-o", tmp_path / "one")
    second = processes.run("-", "-o", tmp_path / "two", stdin=first.stdout)
    assert second.stdout == first.stdout.replace(b"/one/", b"/two/")


def test_a_newline_in_a_path_is_warned_about(tmp_path: Path) -> None:
    source = write_texts(tmp_path / "in", {"two\nlines.txt": "x"})
    result = shout(source, "-o", tmp_path / "out")
    assert "two\\nlines.txt has a newline in its name; use --print0 or --json" in result.stderr
    assert "newline" not in shout(source, "-o", tmp_path / "out", "--print0").stderr


def test_shards_come_from_slurm_only_when_asked_for(tmp_path: Path) -> None:
    source = write_texts(tmp_path / "in", {f"n{n}.txt": "x" for n in range(12)})
    slurm = {
        f"SLURM_ARRAY_TASK_{name}": value
        for name, value in {"ID": "1", "COUNT": "3", "MIN": "0", "MAX": "2", "STEP": "1"}.items()
    }
    part = processes.run(source, "-o", tmp_path / "part", "--shard", "auto", **slurm)
    assert b"shard 1/3 (auto: SLURM array element 1)" in part.stderr
    assert 0 < part.stdout.count(b"\n") < 12
    assert processes.run(source, "-o", tmp_path / "all", **slurm).stdout.count(b"\n") == 12


def test_a_command_without_sources_has_no_options_about_them(tmp_path: Path) -> None:
    runner = CliRunner(env={"COLUMNS": "100", "NO_COLOR": "1"})
    shown = runner.invoke(app, ["chant", "--help"]).stdout
    assert "--overwrite" in shown
    assert "--null" not in shown
    assert runner.invoke(app, ["chant", "-o", str(tmp_path)]).stdout == f"{tmp_path}/chant.txt\n"


def test_items_that_follow_from_a_selection_are_not_selected_again(tmp_path: Path) -> None:
    flags = RunFlags(RunOptions(shard=Shard(0, 1000), limit=1), quiet=True, stdout=io.BytesIO())
    items = [Item(name, ()) for name in "abc"]
    with session(flags) as run:
        assert run.run(Shout(), items, tmp_path, select=False).count("done") == 3
        assert run.run(Shout(), items, tmp_path).total == 0
