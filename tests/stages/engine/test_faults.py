from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dp3d_cli.core.errors import Dp3dError, InputError, UsageError, WeightsError
from dp3d_cli.stages.engine import faults
from dp3d_cli.stages.engine.faults import Fault, OutputError, fault_of


class OutOfMemoryError(RuntimeError):
    """By the name that torch gives it."""


def test_expected_errors_keep_their_reason_and_message() -> None:
    assert fault_of(InputError("a.jpg: no face", reason="no-face"), "a.jpg", Path()) == Fault(
        "no-face", "a.jpg: no face"
    )


@pytest.mark.parametrize("error", [MemoryError(), OutOfMemoryError("CUDA out of memory")])
def test_memory_has_a_reason_of_its_own(error: Exception) -> None:
    fault = fault_of(error, "a.jpg", Path())
    assert fault.reason == "out-of-memory"
    assert fault.message.startswith("a.jpg: not enough memory")


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("division by zero"), SystemExit(3), PermissionError(13, "no")]
)
def test_anything_else_is_an_internal_error(error: Exception) -> None:
    fault = fault_of(error, "a.jpg", Path())
    assert fault.reason == "internal-error"
    assert type(error).__name__ in fault.message


@pytest.mark.parametrize("error", [UsageError("x"), WeightsError("x"), BrokenPipeError()])
def test_what_concerns_every_item_is_passed_on(error: Exception) -> None:
    with pytest.raises(type(error)):
        fault_of(error, "a.jpg", Path())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_ends_the_run(number: int) -> None:
    with pytest.raises(OutputError, match=r"out: cannot write .*same command again") as raised:
        fault_of(OSError(number, os.strerror(number)), "a.jpg", Path("out"))
    assert isinstance(raised.value, Dp3dError)
    assert raised.value.exit_status == 1


def test_a_failed_write_without_a_cause_is_a_full_disk_if_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError("encoder error -2 when writing image file")
    assert fault_of(error, "a.jpg", tmp_path).reason == "internal-error"
    monkeypatch.setattr(faults, "_LEAST_FREE_BYTES", 1 << 80)
    with pytest.raises(OutputError, match=r"No space left"):
        fault_of(error, "a.jpg", tmp_path)
