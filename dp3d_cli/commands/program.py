"""What makes commands one program: every error is reported in the same way, wherever it comes from."""

from __future__ import annotations

import logging
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from dp3d_cli.commands.runner import reporting_errors
from dp3d_cli.commands.screen import printable_lines, say

log = logging.getLogger(__name__)


class Commands(TyperGroup):
    """A group of commands that end in a message and a status, in the order in which they were added."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the line names."""
        with reporting_errors():
            return super().invoke(ctx)

    def list_commands(self, ctx: Any) -> list[str]:
        """Commands in the order of the work, not of the alphabet."""
        return list(self.commands)


def run_program(program: typer.Typer) -> None:
    """Run a program so that not even a bug shows a traceback, unless asked for."""
    try:
        program()
    except Exception as error:
        log.debug("unexpected error", exc_info=True)
        message = f"{type(error).__name__}: {error}. This is a bug; --verbose shows where it happens."
        say(f"dp3d: {printable_lines(message)}")
        sys.exit(1)
