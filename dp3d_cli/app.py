"""The command `dp3d`: nothing but wiring. Heavy imports wait inside the commands, so that --help is quick."""

from __future__ import annotations

from typing import Annotated

import typer

from dp3d_cli import __version__
from dp3d_cli.commands import weights
from dp3d_cli.commands.align import align
from dp3d_cli.commands.evaluate import evaluate
from dp3d_cli.commands.program import Commands, run_program
from dp3d_cli.commands.proxy import proxy
from dp3d_cli.commands.render_cams import render_cams
from dp3d_cli.commands.run import run
from dp3d_cli.commands.synthesize import synthesize
from dp3d_cli.commands.train import train
from dp3d_cli.commands.video import video

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


app.command()(align)
app.command()(render_cams)
app.command()(proxy)
app.command()(synthesize)
app.command()(video)
app.command()(evaluate)
app.command()(run)
app.command()(train)
app.add_typer(weights.app, name="weights")


def main() -> None:
    """Entry of the console script."""
    run_program(app)
