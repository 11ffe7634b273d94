"""The shout command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(**more: str) -> dict[str, str]:
    """A fixed world: no colours, no cluster, this working tree."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "NO_COLOR": "1", **more}


def start(*arguments: str | bytes | Path, **options: object) -> subprocess.Popen[bytes]:
    """Start `shout ARGUMENTS...`."""
    env = environment(**options.pop("env", {}))  # type: ignore[arg-type]
    command = [sys.executable, "-m", "tests.fakes.shout_command", "shout", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": ROOT, **options}
    return subprocess.Popen(command, env=env, **pipes)  # type: ignore[call-overload, no-any-return]


def run(*arguments: str | bytes | Path, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run `shout ARGUMENTS...` to its end."""
    command = [sys.executable, "-m", "tests.fakes.shout_command", "shout", *arguments]
    return subprocess.run(
        command, input=stdin, capture_output=True, cwd=ROOT, env=environment(**env), timeout=60, check=False
    )
