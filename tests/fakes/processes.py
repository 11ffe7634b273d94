"""The shout command in a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(**more: str) -> dict[str, str]:
    """A fixed world: no colours, no cluster, this working tree."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "NO_COLOR": "1", **more}


@contextlib.contextmanager
def started(*arguments: str | bytes | Path, quiet: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """Start `shout ARGUMENTS...`; it is gone when the body ends."""
    pipe = subprocess.DEVNULL if quiet else subprocess.PIPE
    command = [sys.executable, "-m", "tests.fakes.shout_command", "shout", *arguments]
    with subprocess.Popen(command, env=environment(), stdout=pipe, stderr=pipe, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def run(*arguments: str | bytes | Path, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run `shout ARGUMENTS...` to its end."""
    command = [sys.executable, "-m", "tests.fakes.shout_command", "shout", *arguments]
    return subprocess.run(
        command, input=stdin, capture_output=True, cwd=ROOT, env=environment(**env), timeout=60, check=False
    )
