"""dp3d weights: what is here, whether it is intact, and how the published weights get here."""

from __future__ import annotations

import secrets
import shutil
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from dp3d_cli.commands.screen import say
from dp3d_cli.core.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="List, find, check and convert weights.")

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


class NumberFormat(str, Enum):
    """How converted weights are stored."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


@app.command()
def convert(
    checkpoint: Annotated[
        Path, typer.Argument(help="The published file (.th, .pt, .ckpt) or a safetensors file.", exists=True)
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FOLDER", show_default=False, help="Folder to make; new."),
    ],
    config: Annotated[
        Path | None,
        typer.Option(metavar="JSON", show_default=False, help="Sizes, if not those of the released model."),
    ] = None,
    dtype: Annotated[NumberFormat, typer.Option(help="Number format of the result.")] = NumberFormat.float32,
    max_shard_size: Annotated[str, typer.Option(help="Larger files are split.")] = "10GB",
) -> None:
    """Convert the published DiffPortrait3D checkpoint into a folder that presets can name.

    Nothing in the file is executed, and every tensor is used or named as dropped.
    """
    if output.exists():
        raise UsageError(f"{output}: exists already. Name a new folder.")
    import torch

    from dp3d_cli.core.diffusion.convert import convert_checkpoint
    from dp3d_cli.core.weights.manifest import write_manifest

    draft = output.with_name(f".{output.name}.{secrets.token_hex(4)}")
    try:
        result = convert_checkpoint(
            checkpoint,
            draft,
            config=config,
            dtype=getattr(torch, dtype.value),
            max_shard_size=max_shard_size,
        )
        write_manifest(draft)
        draft.rename(output)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    say(f"{len(result.used)} tensors used, {len(result.dropped)} dropped:")
    for reason in sorted(set(result.dropped.values())):
        say(f"  {sum(why == reason for why in result.dropped.values())}: {reason}")
    typer.echo(str(output))
