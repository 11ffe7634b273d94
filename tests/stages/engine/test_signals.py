from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from dp3d_cli.stages.engine.run import RunOptions, run_stage
from dp3d_cli.stages.engine.signals import STOP_SIGNALS, Interrupted, catch_signals
from dp3d_cli.stages.engine.stage import Item
from tests.fakes.progress import Recorder
from tests.fakes.shout import Shout
from tests.fakes.trees import results, snapshot, write_texts


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_raises_the_flag_and_nothing_else(number: int) -> None:
    before = [signal.getsignal(each) for each in STOP_SIGNALS]
    announced: list[int] = []
    with catch_signals(announced.append) as interruption:
        interruption.check()
        signal.raise_signal(number)
        assert (interruption.signal, announced) == (number, [number])
        with pytest.raises(Interrupted):
            interruption.check()
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == before


def test_the_first_signal_counts_and_repeats_are_ignored() -> None:
    with catch_signals() as interruption:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
        assert interruption.signal == signal.SIGTERM


def test_a_second_ctrl_c_is_left_to_the_system() -> None:
    with catch_signals():
        signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL


def test_nested_uses_share_the_flag() -> None:
    with catch_signals() as outer:
        with catch_signals() as inner:
            signal.raise_signal(signal.SIGTERM)
        assert inner is outer
        assert outer.signal == signal.SIGTERM


def test_another_thread_may_run_a_stage(tmp_path: Path) -> None:
    worker = threading.Thread(
        target=run_stage, args=(Shout(), [Item("a", ())], tmp_path / "out", RunOptions(), Recorder())
    )
    worker.start()
    worker.join()
    assert results(tmp_path / "out") == {"a.txt": "0"}


def test_an_interrupted_item_leaves_nothing_and_the_next_run_goes_on(tmp_path: Path) -> None:
    write_texts(tmp_path, {"a.txt": "a", "b.txt": "slow", "c.txt": "c"})
    items = [Item(name, (tmp_path / f"{name}.txt",)) for name in "abc"]

    def interrupt(item_id: str, done: int) -> None:
        if (item_id, done) == ("b", 3):
            os.kill(os.getpid(), signal.SIGTERM)

    recorder = Recorder(on_step=interrupt)
    summary = run_stage(Shout(), items, tmp_path / "out", RunOptions(), recorder)
    assert [(outcome.id, outcome.status) for outcome in summary.outcomes] == [("a", "done")]
    assert (summary.interrupted_by, summary.exit_status, summary.total) == (signal.SIGTERM, 143, 3)
    assert recorder.events[-1] == ("finished", "shout")
    assert sorted(snapshot(tmp_path / "out")) == [".dp3d", ".dp3d/shout", ".dp3d/shout/a.json", "a.txt"]
    assert run_stage(Shout(), items, tmp_path / "out", RunOptions(), Recorder()).exit_status == 0
    run_stage(Shout(), items, tmp_path / "undisturbed", RunOptions(), Recorder())
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "undisturbed")


def test_a_signal_during_the_last_step_of_the_last_item_interrupts_nothing(tmp_path: Path) -> None:
    def interrupt(_: str, done: int) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)

    recorder = Recorder(on_step=interrupt)
    summary = run_stage(Shout(), [Item("a", ())], tmp_path / "out", RunOptions(), recorder)
    assert (summary.interrupted_by, summary.exit_status) == (None, 0)


def test_a_signal_between_two_stages_stops_the_second(tmp_path: Path) -> None:
    with catch_signals():
        signal.raise_signal(signal.SIGTERM)
        summary = run_stage(Shout(), [Item("a", ())], tmp_path / "out", RunOptions(), Recorder())
    assert (summary.outcomes, summary.exit_status) == ((), 143)
