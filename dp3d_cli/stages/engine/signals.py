"""Interruption: a signal sets a flag, and the work stops at the next safe point.

SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 all ask to stop (batch systems send any of them ahead of a kill). A
second SIGINT ends the process at once; repeats of the others change nothing, so that clean-up is never cut
short by a scheduler that sends them twice.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

_active: Interruption | None = None


class Interrupted(BaseException):
    """Ends the current item. Not an Exception, so that no stage takes it for an error of its own."""


@dataclass
class Interruption:
    """Whether a signal asked to stop, and which one came first."""

    signal: int | None = None

    def check(self) -> None:
        """Raise `Interrupted` if a signal has arrived."""
        if self.signal is not None:
            raise Interrupted(self.signal)


@contextlib.contextmanager
def catch_signals(announce: Callable[[int], None] | None = None) -> Iterator[Interruption]:
    """Turn stop signals into a flag while the body runs.

    Nested uses share the outermost flag and handlers. Outside the main thread, where Python allows no
    handlers, the flag simply never rises.

    Args:
        announce: called within the handler at the first signal; must be safe there (a raw write, no locks).
    """
    global _active
    if _active is not None:
        yield _active
        return
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if interruption.signal is None:
            interruption.signal = number
            if announce:
                announce(number)

    previous = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    _active = interruption
    try:
        yield interruption
    finally:
        _active = None
        for number, handler in previous.items():
            signal.signal(number, handler)
