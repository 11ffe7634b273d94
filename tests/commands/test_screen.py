from __future__ import annotations

import io
import signal
import sys
from pathlib import Path

import pytest

from dp3d_cli.commands.screen import (
    PlainScreen,
    QuietScreen,
    RichScreen,
    Tally,
    failure_line,
    make_screen,
    printable,
    summary_lines,
)
from dp3d_cli.stages.engine.progress import Outcome, Progress, Summary

DONE = Outcome("a", "done", (Path("a.png"),), elapsed_s=30.0)
FAILED = Outcome("b\x1b[2J", "failed", reason="no-face", message="b.jpg: no\nface", elapsed_s=1.0)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_could_act_on_a_terminal_is_escaped() -> None:
    assert printable("é \x1b[2J\n\udcff ж") == "é \\x1b[2J\\n\\udcff ж"
    assert failure_line(FAILED) == "failed b\\x1b[2J: [no-face] b.jpg: no\\nface"


def test_the_pace_counts_only_items_that_took_time() -> None:
    clock = Clock()
    tally = Tally(10, clock)
    assert tally.pace() == ""
    for _ in range(5):
        tally.add(Outcome("s", "skipped"))
    clock.now = 60.0
    tally.add(DONE)
    assert tally.pace() == "1.0/min, 0:04:00 left"
    clock.now = 0.5
    assert tally.pace() == "2.0/s, 0:00:02 left"


def test_a_log_gets_a_line_at_the_start_now_and_then_and_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    screen = PlainScreen(clock)
    screen.stage_started("align", 3, "here")
    screen.item_step("a", 1, 4, "x")
    clock.now = 31.0
    screen.item_step("a", 2, 4, "looking")
    screen.item_finished(DONE)
    screen.item_finished(FAILED)
    clock.now = 62.0
    screen.item_finished(Outcome("c", "done", elapsed_s=5.0))
    screen.stage_finished(Summary("align", (DONE, FAILED), elapsed_s=62.0, total=2))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[:5] == [
        "align: 3 items; here",
        "align: 0/3; a looking 2/4",
        "failed b\\x1b[2J: [no-face] b.jpg: no\\nface",
        "align: 3/3, 1 failed, 2.9/min, 0:00:00 left",
        "align: 1 done, 1 failed in 0:01:02",
    ]


def test_the_summary_groups_failures_by_reason() -> None:
    failures = [Outcome(f"n{n}", "failed", reason="no-face", message=f"m{n}") for n in range(5)]
    other = Outcome("x", "failed", reason="empty-file", message="e")
    assert summary_lines(Summary("align", (DONE, other, *failures), elapsed_s=5.2, total=7)) == [
        "align: 1 done, 6 failed in 0:00:05",
        "  no-face: 5",
        "    n0: m0",
        "    n1: m1",
        "    n2: m2",
        "    and 2 more",
        "  empty-file: 1",
        "    x: e",
        "Failed items are tried again with --retry-failed, or when their input changes.",
    ]


def test_the_summary_of_an_interrupted_run_says_how_to_go_on() -> None:
    assert summary_lines(Summary("align", (DONE,), interrupted_by=signal.SIGTERM, elapsed_s=1, total=4)) == [
        "align: 1 done, 3 not reached in 0:00:01",
        "Interrupted by SIGTERM. Nothing is half-written; the same command goes on from here.",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_screen_suits_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(make_screen(quiet=False), PlainScreen)
    assert isinstance(make_screen(quiet=True), QuietScreen)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert isinstance(make_screen(quiet=False), RichScreen)


def test_bars_step_aside_for_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    screen = RichScreen()
    screen.stage_started("align", 2, "here")
    for _ in range(2):
        with screen.aside():
            erased = terminal.getvalue()
            assert erased.endswith("\x1b[2K")  # the line is free
        screen.item_finished(DONE)
        assert len(terminal.getvalue()) > len(erased)
    screen.stage_finished(Summary("align", (DONE, DONE), total=2))


@pytest.mark.parametrize("no_color", ["", "1"])
def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch, no_color: str) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", no_color)
    screen: Progress = RichScreen()
    screen.stage_started("align", 3, "here")
    screen.item_started("a")
    screen.item_step("a", 3, 4, "looking")
    screen.item_finished(DONE)
    screen.item_finished(FAILED)
    screen.stage_finished(Summary("align", (DONE, FAILED), elapsed_s=2, total=3))
    shown = terminal.getvalue()
    assert "here\n" in shown
    assert "failed b\\x1b[2J: [no-face] b.jpg: no\\nface" in shown
    assert shown.rstrip().endswith("or when their input changes.")
    assert ("\x1b[31m" in shown) == (not no_color)
