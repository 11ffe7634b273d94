"""A program around the shout stage, wired as dp3d is.

python -m tests.fakes.shout_command shout SOURCE... -o FOLDER [--loud 2] [any option of a batch]
"""

from __future__ import annotations

import typer

from dp3d_cli.commands.options import Output, RunFlags, Sources, batch_command
from dp3d_cli.commands.program import Commands, run_program
from dp3d_cli.commands.runner import execute, find_items
from dp3d_cli.stages.engine.stage import Item
from tests.fakes.shout import SUFFIXES, Shout


@batch_command
def shout(sources: Sources, output: Output, flags: RunFlags, loud: int = 1) -> None:
    """Write each text in capitals."""
    items = find_items(sources, flags, suffixes=SUFFIXES)
    execute(Shout(loud), items, output, flags)


@batch_command
def chant(output: Output, flags: RunFlags) -> None:
    """Write one text that needs no input."""
    execute(Shout(name="chant"), [Item("chant", ())], output, flags)


app = typer.Typer(cls=Commands, pretty_exceptions_enable=False)
app.command("shout")(shout)
app.command("chant")(chant)

if __name__ == "__main__":
    run_program(app)
