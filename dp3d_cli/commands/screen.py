"""What people see of a run, on standard error: bars on a terminal, lines in a log, failures when quiet."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from signal import Signals
from typing import TYPE_CHECKING

from dp3d_cli.stages.engine.progress import Outcome, Progress, Summary

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

PLAIN_INTERVAL_S = 30.0
_SHOWN_PER_REASON = 3


def make_screen(*, quiet: bool) -> Progress:
    """The screen that suits standard error."""
    if quiet:
        return QuietScreen()
    return RichScreen() if sys.stderr.isatty() else PlainScreen()


def say(text: str) -> None:
    """One message for people."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is the screen


def printable(text: str) -> str:
    """The text in one line, with whatever could act on a terminal shown as an escape."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def printable_lines(text: str) -> str:
    """The same for messages of several lines."""
    return "\n".join(printable(line) for line in text.split("\n"))


@dataclass
class Tally:
    """Counts and pace of one stage. Skipped items cost no time and do not count for the pace."""

    total: int
    clock: Callable[[], float] = time.monotonic
    counts: Counter[str] = field(default_factory=Counter)
    worked: int = 0
    started: float = 0.0

    def __post_init__(self) -> None:
        self.started = self.clock()

    def add(self, outcome: Outcome) -> None:
        """Count one more item."""
        self.counts[outcome.status] += 1
        self.worked += outcome.elapsed_s > 0

    @property
    def finished(self) -> int:
        """Items behind us."""
        return sum(self.counts.values())

    def pace(self) -> str:
        """Rate and time left, as in "4.2/min, 0:03:10 left"; empty before the first item."""
        elapsed_s = self.clock() - self.started
        if not self.worked or elapsed_s <= 0:
            return ""
        per_s = self.worked / elapsed_s
        rate = f"{per_s:.1f}/s" if per_s >= 1 else f"{per_s * 60:.1f}/min"
        left = timedelta(seconds=round((self.total - self.finished) / per_s))
        return f"{rate}, {left} left"


def failure_line(outcome: Outcome) -> str:
    """One line that says which item failed and why."""
    return f"failed {printable(outcome.id)}: [{outcome.reason}] {printable(outcome.message)}"


def summary_lines(summary: Summary) -> list[str]:
    """Counts, failures by reason, and how to go on."""
    counts = [
        f"{summary.count(status)} {status}"
        for status in ("done", "skipped", "would-run", "failed")
        if summary.count(status) or (status == "done" and not summary.count("would-run"))
    ]
    elapsed = timedelta(seconds=round(summary.elapsed_s))
    left = summary.total - len(summary.outcomes)
    lines = [f"{summary.stage}: {', '.join(counts)}{f', {left} not reached' if left else ''} in {elapsed}"]
    failed = [outcome for outcome in summary.outcomes if outcome.status == "failed"]
    for reason, count in Counter(outcome.reason for outcome in failed).most_common():
        lines.append(f"  {reason}: {count}")
        those = [outcome for outcome in failed if outcome.reason == reason]
        for outcome in those[:_SHOWN_PER_REASON]:
            lines.append(f"    {printable(outcome.id)}: {printable(outcome.message)}")
        if count > _SHOWN_PER_REASON:
            lines.append(f"    and {count - _SHOWN_PER_REASON} more")
    if failed:
        lines.append("Failed items are tried again with --retry-failed, or when their input changes.")
    if summary.interrupted_by is not None:
        name = Signals(summary.interrupted_by).name
        lines.append(f"Interrupted by {name}. Nothing is half-written; the same command goes on from here.")
    return lines


class QuietScreen:
    """Only what failed."""

    def stage_started(self, stage: str, total: int, note: str = "") -> None:
        """Say nothing."""

    def item_started(self, item_id: str) -> None:
        """Say nothing."""

    def item_step(self, item_id: str, done: int, total: int, label: str) -> None:
        """Say nothing."""

    def item_finished(self, outcome: Outcome) -> None:
        """Say it if the item failed."""
        if outcome.status == "failed":
            say(failure_line(outcome))

    def stage_finished(self, summary: Summary) -> None:
        """Say nothing."""


class PlainScreen:
    """Lines for a log: at the start, now and then, at each failure, at the end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tally = Tally(0, clock)
        self._stage = ""
        self._said_at = 0.0

    def stage_started(self, stage: str, total: int, note: str = "") -> None:
        """Say what begins."""
        self._stage, self._tally, self._said_at = stage, Tally(total, self._clock), self._clock()
        say(f"{stage}: {total} items; {printable(note)}")

    def item_started(self, item_id: str) -> None:
        """Say nothing; the item may be short."""

    def item_step(self, item_id: str, done: int, total: int, label: str) -> None:
        """Say how far it is, if nothing was said for a while."""
        self._say_sometimes(f"; {printable(item_id)} {label + ' ' if label else ''}{done}/{total}")

    def item_finished(self, outcome: Outcome) -> None:
        """Say it if the item failed, and now and then how far the stage is."""
        self._tally.add(outcome)
        if outcome.status == "failed":
            say(failure_line(outcome))
        self._say_sometimes("")

    def stage_finished(self, summary: Summary) -> None:
        """Say what came out."""
        say("\n".join(summary_lines(summary)))

    def _say_sometimes(self, detail: str) -> None:
        if self._clock() - self._said_at < PLAIN_INTERVAL_S:
            return
        self._said_at = self._clock()
        tally, pace = self._tally, self._tally.pace()
        failed = f", {tally.counts['failed']} failed" if tally.counts["failed"] else ""
        say(f"{self._stage}: {tally.finished}/{tally.total}{failed}{', ' + pace if pace else ''}{detail}")


class RichScreen:
    """Two bars on a terminal: the items of the stage, and the steps of the item at hand."""

    def __init__(self) -> None:
        self._tally = Tally(0)
        self._bars: Bars | None = None
        self._stage_task: TaskID | None = None
        self._item_task: TaskID | None = None

    def stage_started(self, stage: str, total: int, note: str = "") -> None:
        """Show the bars."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._tally = Tally(total)
        say(printable(note))
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        self._stage_task = self._bars.add_task(stage, total=total, pace="")
        self._item_task = self._bars.add_task("", total=None, pace="", visible=False)
        self._bars.start()

    def item_started(self, item_id: str) -> None:
        """Clear the item's bar."""
        self._update_item(description=printable(item_id), completed=0, total=None, visible=False, pace="")

    def item_step(self, item_id: str, done: int, total: int, label: str) -> None:
        """Move the item's bar."""
        self._update_item(completed=done, total=total, visible=True, pace=printable(label))

    def item_finished(self, outcome: Outcome) -> None:
        """Move the stage's bar; leave a line if the item failed."""
        self._tally.add(outcome)
        self._update_item(visible=False)
        if self._bars is None or self._stage_task is None:
            return
        failed = self._tally.counts["failed"]
        pace = ", ".join(filter(None, [self._tally.pace(), f"{failed} failed" if failed else ""]))
        self._bars.update(self._stage_task, completed=self._tally.finished, pace=pace)
        if outcome.status == "failed":
            self._bars.console.print(failure_line(outcome), markup=False, highlight=False, style="red")

    def stage_finished(self, summary: Summary) -> None:
        """Take the bars away and say what came out."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        say("\n".join(summary_lines(summary)))

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Without the bars for a moment, so that a result can be printed on the same terminal."""
        if self._bars is not None:
            self._bars.stop()
        try:
            yield
        finally:
            if self._bars is not None:
                self._bars.start()

    def _update_item(
        self,
        *,
        description: str | None = None,
        completed: float | None = None,
        total: float | None = None,
        visible: bool | None = None,
        pace: str = "",
    ) -> None:
        if self._bars is not None and self._item_task is not None:
            self._bars.update(
                self._item_task,
                description=description,
                completed=completed,
                total=total,
                visible=visible,
                pace=pace,
            )
