"""dp3d weights: which weights are here, and whether they are what they should be."""

from __future__ import annotations

from typing import Annotated

import typer

from dp3d_cli.commands.screen import say

app = typer.Typer(no_args_is_help=True, help="List, find and check weights.")

Name = Annotated[str, typer.Argument(metavar="NAME|FOLDER", help="As in a preset's `weights`.")]


@app.command("list")
def list_weights() -> None:
    """List the weights that dp3d knows, and which of them are on this machine."""
    from dp3d_cli.core.weights.registry import REGISTRY, find

    for entry in REGISTRY.values():
        typer.echo(f"{entry.name}\t{find(entry.name) or 'missing'}\t{entry.title}")


@app.command()
def path(name: Name) -> None:
    """Print the folder of these weights."""
    from dp3d_cli.core.weights.registry import resolve

    typer.echo(str(resolve(name)))


@app.command()
def info(name: Name) -> None:
    """Say what these weights are, where they come from, and under which licence."""
    from dp3d_cli.core.weights.manifest import digest, total_size
    from dp3d_cli.core.weights.registry import REGISTRY, find, user_folder

    folder = find(name)
    if entry := REGISTRY.get(name):
        typer.echo(f"{entry.name}: {entry.title}\nlicence: {entry.licence}\nsource: {entry.source}")
        if folder is None:
            typer.echo(f"missing: {entry.how_to_get.format(target=user_folder() / entry.name)}")
    if folder is not None:
        typer.echo(f"folder: {folder}\nsize: {total_size(folder) / 1e6:.1f} MB\nsha256: {digest(folder)}")
    elif entry is None:
        from dp3d_cli.core.weights.registry import resolve

        resolve(name)


@app.command()
def verify(name: Name) -> None:
    """Read every file of these weights and compare it with the manifest."""
    from dp3d_cli.core.weights.manifest import problems
    from dp3d_cli.core.weights.registry import resolve

    folder = resolve(name)
    found = problems(folder)
    for problem in found:
        say(problem)
    if found:
        raise typer.Exit(1)
    typer.echo(f"{folder}: every file is as its manifest says")
