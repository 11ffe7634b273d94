"""What an exception inside one item means: a failure of that item, or the end of the run."""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from dp3d_cli.core.errors import Dp3dError, UsageError, WeightsError

log = logging.getLogger(__name__)

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_LEAST_FREE_BYTES = 1 << 20


class OutputError(Dp3dError):
    """The output folder takes no more files. Ends the run: every further item would fail the same way."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="output-not-writable")


@dataclass(frozen=True)
class Fault:
    """Why an item failed: a kebab-case reason for scripts, a sentence for people."""

    reason: str
    message: str


def fault_of(error: Exception | SystemExit, item_name: str, output: Path) -> Fault:
    """The failure that this exception is for one item.

    Raises:
        OutputError: the file system of `output` is full or read-only.
        UsageError, WeightsError, BrokenPipeError: these concern every item; passed on.
    """
    if isinstance(error, (UsageError, WeightsError, BrokenPipeError)):
        raise error
    if isinstance(error, Dp3dError):
        return Fault(error.reason, str(error))
    if isinstance(error, OSError) and (error.errno in _NO_ROOM or (error.errno is None and _is_full(output))):
        raise OutputError(
            f"{output}: cannot write ({os.strerror(error.errno or errno.ENOSPC)}). Make room, then give the "
            "same command again; what is done stays done. Or choose another --output."
        ) from error
    log.debug("%s: %s", item_name, type(error).__name__, exc_info=error)
    # torch and CUDA name their own error OutOfMemoryError; it is no MemoryError.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Fault(
            "out-of-memory",
            f"{item_name}: not enough memory. Use a smaller input or batch, or a machine with more memory, "
            "then --retry-failed.",
        )
    return Fault(
        "internal-error",
        f"{item_name}: {type(error).__name__}: {error}. This is a bug or a damaged installation; "
        "--verbose --retry-failed shows where it happens.",
    )


def _is_full(output: Path) -> bool:
    """Whether no room is left. Some encoders report a failed write without its cause."""
    try:
        state = os.statvfs(output)
    except OSError:
        return False
    return state.f_bavail * state.f_frsize < _LEAST_FREE_BYTES
