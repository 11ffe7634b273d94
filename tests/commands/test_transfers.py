"""What is seen of a download."""

from __future__ import annotations

import io
import re

import pytest

from dp3d_cli.commands import transfers


class Terminal(io.StringIO):
    """Standard error that claims to be a screen."""

    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 1.0, 31.0, 31.0, 40.0, 62.0, 62.0])
    report = transfers._lines("vgg16", clock=lambda: next(times))
    report(1_000_000, 9_000_000)
    report(2_000_000, 9_000_000)
    report(3_000_000, 9_000_000)
    report(4_000_000, None)
    assert capsys.readouterr().err == "vgg16: 2 of 9 MB\nvgg16: 4 MB\n"


def test_a_terminal_gets_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("dp3d_cli.commands.transfers.PLAIN_INTERVAL_S", 0)
    with transfers.transfer_screen("vgg16") as report:
        for done in range(0, 9_000_001, 3_000_000):
            report(done, 9_000_000)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
    assert "vgg16" in shown
    assert "9.0/9.0 MB" in shown
    assert terminal.getvalue().rstrip().endswith("\x1b[2K")
