"""How far a download is, on standard error: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from dp3d_cli.commands.screen import PLAIN_INTERVAL_S, printable, say

Report = Callable[[int, int | None], None]


@contextlib.contextmanager
def transfer_screen(name: str) -> Iterator[Report]:
    """A function that is told (bytes done, bytes in all if known) and shows it under `name`."""
    with _bar(name) if sys.stderr.isatty() else contextlib.nullcontext(_lines(name)) as report:
        yield report


@contextlib.contextmanager
def _bar(name: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(printable(name), total=None, visible=False)
        yield lambda done, total: bars.update(task, completed=done, total=total, visible=True)


def _lines(name: str, clock: Callable[[], float] = time.monotonic) -> Report:
    said_at = clock()

    def report(done: int, total: int | None) -> None:
        nonlocal said_at
        if clock() - said_at >= PLAIN_INTERVAL_S:
            said_at = clock()
            say(f"{printable(name)}: {done / 1e6:.0f}{f' of {total / 1e6:.0f}' if total else ''} MB")

    return report
