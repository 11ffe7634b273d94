"""Real processes, really killed."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.fakes import processes
from tests.fakes.trees import snapshot, write_texts


@pytest.fixture
def source(tmp_path: Path) -> Path:
    texts = {f"n{n}.txt": f"slow {n}" for n in range(8)}
    return write_texts(tmp_path / "in", {**texts, "bad.txt": "fail", "team/it's = \n.txt": "slow"})


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"nothing appeared in {path}"
        time.sleep(0.01)


def test_killed_at_random_moments_and_resumed_equals_undisturbed(tmp_path: Path, source: Path) -> None:
    undisturbed = tmp_path / "undisturbed"
    assert processes.run(source, "-o", undisturbed).returncode == 1
    seed = random.randrange(1 << 30)
    moments = random.Random(seed)
    output = tmp_path / "out"
    kills = 0
    for _ in range(4):
        with processes.started(source, "-o", output, quiet=True) as process:
            wait_for(output)
            time.sleep(moments.uniform(0, 0.15))
            process.kill()
            kills += process.wait(30) == -signal.SIGKILL
    assert kills, f"seed {seed}: every run ended before its kill"
    assert processes.run(source, "-o", output).returncode == 1
    assert snapshot(output) == snapshot(undisturbed), f"seed {seed}"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_a_signal_ends_a_run_cleanly_and_says_how_to_go_on(tmp_path: Path, name: str) -> None:
    source = write_texts(tmp_path / "in", {"a.txt": "a", "b.txt": "sleep 30", "c.txt": "c"})
    output = tmp_path / "out"
    with processes.started(source, "-o", output) as process:
        wait_for(output / "a.txt")
        time.sleep(0.1)
        process.send_signal(signal.Signals[name])
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.Signals[name]
    assert stdout == b"%s/a.txt\n" % bytes(output)
    assert f"Interrupted by {name}".encode() in stderr
    assert b"the same command goes on from here" in stderr
    assert b"2 not reached" in stderr
    assert b"Traceback" not in stderr
    assert sorted(snapshot(output)) == [".dp3d", ".dp3d/shout", ".dp3d/shout/a.json", "a.txt"]


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    source = write_texts(tmp_path / "in", {"a.txt": "a", "b.txt": "stuck 30"})
    with processes.started(source, "-o", tmp_path / "out") as process:
        wait_for(tmp_path / "out/a.txt")
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
    assert process.returncode == -signal.SIGINT
    # What it left behind goes with the next run.
    write_texts(source, {"b.txt": "b"})
    assert processes.run(source, "-o", tmp_path / "out").returncode == 0
    assert not (tmp_path / "out/.dp3d/drafts").exists()


def test_shards_at_the_same_time_equal_one_process(tmp_path: Path, source: Path) -> None:
    with contextlib.ExitStack() as stack:
        shards = [
            stack.enter_context(processes.started(source, "-o", tmp_path / "out", "--shard", f"{index}/3"))
            for index in range(3)
        ]
        for process in shards:
            process.communicate(timeout=60)
    assert max(process.returncode for process in shards) == 1
    processes.run(source, "-o", tmp_path / "whole")
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


def test_the_same_command_twice_at_once_does_no_harm(tmp_path: Path, source: Path) -> None:
    with (
        processes.started(source, "-o", tmp_path / "out") as first,
        processes.started(source, "-o", tmp_path / "out") as second,
    ):
        for process in (first, second):
            process.communicate(timeout=60)
            assert process.returncode == 1
    processes.run(source, "-o", tmp_path / "alone")
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "alone")
