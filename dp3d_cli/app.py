"""The command `dp3d`: nothing but wiring. Heavy imports wait inside the commands, so that --help is quick."""

from __future__ import annotations

import contextlib
import importlib
from typing import Annotated

import typer

from dp3d_cli import __version__
from dp3d_cli.commands.program import Commands, run_program

app = typer.Typer(
    name="dp3d",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
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
    with contextlib.suppress(ModuleNotFoundError):  # until all of them exist
        _module = importlib.import_module(f"dp3d_cli.commands.{_module_name}")
        app.command(_name)(getattr(_module, _module_name))
with contextlib.suppress(ModuleNotFoundError):
    app.add_typer(importlib.import_module("dp3d_cli.commands.weights").app, name="weights")


def main() -> None:
    """Entry of the console script."""
    run_program(app)
