"""The command `dp3d`: nothing but wiring. Heavy imports wait inside the commands, so that --help is quick."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dp3d_cli import __version__
from dp3d_cli.commands.runner import reporting_errors
from dp3d_cli.commands.screen import printable_lines, say

log = logging.getLogger(__name__)


class Commands(TyperGroup):
    """Reports every expected error in the same way, whichever command it comes from."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the line names."""
        with reporting_errors():
            return super().invoke(ctx)

    def list_commands(self, ctx: Any) -> list[str]:
        """Commands in the order of the work, not of the alphabet."""
        return list(self.commands)


app = typer.Typer(
    name="dp3d",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"dp3d {__version__}")
        raise typer.Exit


@app.callback()
def _dp3d(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Turn portraits into 3D-consistent novel views.

    Exit status: 0 all done, 1 some items failed, 2 wrong usage, 130/143 interrupted.
    """


for _name in ("align", "render-cams", "proxy", "synthesize", "video", "evaluate", "run"):
    _module_name = _name.replace("-", "_")
    try:
        _module = importlib.import_module(f"dp3d_cli.commands.{_module_name}")
    except ModuleNotFoundError:
        continue
    app.command(_name)(getattr(_module, _module_name))

with contextlib.suppress(ModuleNotFoundError):
    app.add_typer(importlib.import_module("dp3d_cli.commands.weights").app, name="weights")


def run(program: typer.Typer) -> None:
    """Run a program so that not even a bug shows a traceback, unless asked for."""
    try:
        program()
    except Exception as error:
        log.debug("unexpected error", exc_info=True)
        message = f"{type(error).__name__}: {error}. This is a bug; --verbose shows where it happens."
        say(f"dp3d: {printable_lines(message)}")
        sys.exit(1)


def main() -> None:
    """Entry of the console script."""
    run(app)
