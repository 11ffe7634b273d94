"""What people see of a training run, on standard error: a bar on a terminal, lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from dp3d_cli.commands.screen import PLAIN_INTERVAL_S, printable, say

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


class TrainingScreen:
    """Shows the steps of one stage after another.

    Args:
        quiet: say nothing.
        terminal: show a bar; None: if standard error is a terminal.
    """

    def __init__(self, *, quiet: bool, terminal: bool | None = None) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty() if terminal is None else terminal
        self._bars: Bars | None = None
        self._task: TaskID | None = None
        self._stage, self._total, self._first = "", 0, 0
        self._started = self._said = 0.0

    def started(self, stage: str, done: int, total: int, folder: Path) -> None:
        """Say what begins, or goes on."""
        self._stage, self._total, self._first = stage, total, done
        self._started = self._said = time.monotonic()
        if self._quiet:
            return
        behind = f", {done} of them done before" if done else ""
        say(f"{stage}: {total} steps{behind}, in {printable(str(folder))}")
        if self._terminal:
            self._show_bar(stage, done, total)

    def step(self, done: int, numbers: Mapping[str, float]) -> None:
        """Move the bar; in a log, say now and then how far it is."""
        if self._quiet:
            return
        note = f"loss {numbers['loss']:.4f}{self._time_left(done)}"
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=done, note=note)
        elif not self._terminal and time.monotonic() - self._said >= PLAIN_INTERVAL_S:
            self._said = time.monotonic()
            say(f"{self._stage}: {done}/{self._total}, {note}")

    def finished(
        self, stage: str, done: int, total: int, validation: Mapping[str, tuple[float, float]]
    ) -> None:
        """Take the bar away and say what came out."""
        self.close()
        if self._quiet:
            return
        figures = [f"{name} {first:.4g} -> {last:.4g}" for name, (first, last) in validation.items()]
        spent = timedelta(seconds=round(time.monotonic() - self._started))
        held_out = f"; on held-out subjects {', '.join(figures)}" if figures else ""
        say(f"{stage}: {done} of {total} steps in {spent}{held_out}")

    def close(self) -> None:
        """Give the terminal back, whatever happened."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _time_left(self, done: int) -> str:
        worked, spent_s = done - self._first, time.monotonic() - self._started
        if worked < 2 or spent_s <= 0:
            return ""
        return f", {timedelta(seconds=round(spent_s / worked * (self._total - done)))} left"

    def _show_bar(self, stage: str, done: int, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bars.add_task(stage, total=total, completed=done, note="")
        self._bars.start()
