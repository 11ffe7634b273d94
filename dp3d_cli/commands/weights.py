"""dp3d weights: what is here, whether it is intact, and how the rest gets here. Only `fetch` goes online."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dp3d_cli.commands.screen import printable, printable_lines, say
from dp3d_cli.core.errors import Dp3dError, UsageError

if TYPE_CHECKING:
    from dp3d_cli.core.weights.catalogue import Described
    from dp3d_cli.core.weights.fetch import Fetched

app = typer.Typer(no_args_is_help=True, help="List, fetch, check and convert weights.")

Name = Annotated[
    str,
    typer.Argument(metavar="NAME|FOLDER", help="A name of `dp3d weights list`, or a folder of dp3d weights."),
]


@app.command("list")
def list_weights(
    json_lines: Annotated[
        bool, typer.Option("--json/--no-json", help="One JSON object per line and weights.")
    ] = False,
) -> None:
    """List the weights that dp3d can use, what needs them, and which are on this machine."""
    from dp3d_cli.core.weights.catalogue import describe, known_names

    for name in known_names():
        described = describe(name)
        typer.echo(_as_json(described) if json_lines else _as_summary(described))


@app.command()
def path(name: Name) -> None:
    """Print the file or folder of these weights."""
    from dp3d_cli.core.weights.catalogue import place_of

    typer.echo(str(place_of(name)))


@app.command()
def info(name: Name) -> None:
    """Say what these weights are, what needs them, where they come from, and under which licence."""
    from dp3d_cli.core.weights.catalogue import describe

    typer.echo(_as_text(describe(name)))


@app.command()
def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME|FOLDER]...", help="By default all that are here.", show_default=False),
    ] = None,
) -> None:
    """Read every byte of these weights and compare it with the manifest or the published digest."""
    from dp3d_cli.core.weights.catalogue import describe, known_names, place_of, problems_of

    failed = False
    for name in names or [name for name in known_names() if describe(name).path is not None]:
        try:
            wrong, unknown = problems_of(name)
        except Dp3dError as error:
            wrong, unknown = [str(error)], []
        for problem in (*wrong, *unknown):
            say(printable_lines(f"{name}: {problem}"))
        if wrong:
            failed = True
        elif unknown:
            typer.echo(f"{name}\tread\t{place_of(name)}")
        else:
            typer.echo(f"{name}\tintact\t{place_of(name)}")
    if failed:
        raise typer.Exit(1)


class Purpose(str, Enum):
    """Commands that use weights."""

    evaluate = "evaluate"
    synthesize = "synthesize"
    align = "align"


@app.command()
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Names of `dp3d weights list`.")
    ] = None,
    purpose: Annotated[
        Purpose | None, typer.Option("--for", help="All that this command can use.", show_default=False)
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE|URL",
            show_default=False,
            help="Take the one NAME from this file or address; the published checkpoint is converted.",
        ),
    ] = None,
    offline: Annotated[
        bool,
        typer.Option(
            "--offline/--no-offline",
            help="Open no connection, as with DP3D_OFFLINE=1 or HF_HUB_OFFLINE=1: say what is missing.",
        ),
    ] = False,
) -> None:
    """Download weights into $DP3D_WEIGHTS, if that is set, else into the cache of the library that uses them.

    What is here and intact is left alone. Each file is compared with its published digest. Where several are
    asked for, one that fails does not keep the others away.
    """
    from dp3d_cli.core.weights.catalogue import names_for, require_known
    from dp3d_cli.core.weights.fetch import offline_because

    wanted = list(dict.fromkeys([*(names or []), *(names_for(purpose.value) if purpose else [])]))
    if not wanted:
        raise UsageError("Nothing to fetch: give names of `dp3d weights list`, or --for evaluate.")
    if source is not None and len(wanted) != 1:
        raise UsageError(f"--from gives one file; it cannot stand for {', '.join(wanted)}. Give one NAME.")
    require_known(wanted)
    forbidden = "--offline" if offline else offline_because(os.environ)
    failed, kept_offline = 0, []
    for name in wanted:
        try:
            fetched = _fetch(name, source, forbidden)
        except Dp3dError as error:
            failed += 1
            if error.reason == "offline":
                kept_offline.append(name)
            else:
                say(printable_lines(f"failed {name}: [{error.reason}] {error}"))
        else:
            say(f"{name}: {'here already, and intact' if fetched.was_present else 'fetched, and intact'}")
            typer.echo(f"{name}\t{fetched.path}")
    if kept_offline:
        say(
            f"Offline ({forbidden}), so not fetched: {', '.join(kept_offline)}. Fetch where there is a "
            "network; `dp3d weights info NAME` says in which folder each belongs."
        )
    if failed:
        if failed > len(kept_offline) and len(wanted) > 1:
            say(f"{failed} of {len(wanted)} could not be fetched; the same command tries them again.")
        raise typer.Exit(1)


def _fetch(name: str, source: str | None, offline: str | None) -> Fetched:
    from dp3d_cli.commands.transfers import transfer_screen
    from dp3d_cli.core.weights.backbones import BACKBONES
    from dp3d_cli.core.weights.fetch import fetch_backbone, fetch_diffusion
    from dp3d_cli.core.weights.registry import REGISTRY

    with transfer_screen(name) as report:
        if name in BACKBONES:
            return fetch_backbone(BACKBONES[name], report, source=source, offline=offline)
        return fetch_diffusion(REGISTRY[name], report, source=source, offline=offline)


def _as_json(described: Described) -> str:
    content = asdict(described)
    content["files"] = [{"name": name, "size": size, "sha256": sha} for name, size, sha in described.files]
    return json.dumps(content, default=str)


def _as_summary(described: Described) -> str:
    sha256 = f"sha256 {described.sha256[:12]}" if described.sha256 else ""
    needed_by = f" (for {', '.join(described.needed_by)})" if described.needed_by else ""
    where = str(described.path)
    if described.state != "present":
        where = f"get it: {described.get or 'install dp3d again'}"
    first = "\t".join(filter(None, [described.name, described.state, _size(described), sha256]))
    lines = [
        f"{described.title}{needed_by}",
        f"licence: {described.licence}; source: {described.source}",
        *filter(None, [described.problem]),
        where,
    ]
    return "\n    ".join([first, *map(printable, lines)])


def _as_text(described: Described) -> str:
    lines = [f"{described.name}: {described.title}", f"state: {described.state}"]
    if described.problem:
        lines.append(f"problem: {described.problem}")
    if described.path is not None:
        lines.append(f"{'folder' if described.path.is_dir() else 'file'}: {described.path}")
    elif described.looked_in:
        lines.append(f"looked in: {', '.join(map(str, described.looked_in))}")
    lines.append(f"size: {_size(described)}")
    if described.sha256:
        lines.append(f"sha256: {described.sha256}")
    if len(described.files) > 1:
        lines += [f"    {name}\t{size}\t{sha256 or 'no digest'}" for name, size, sha256 in described.files]
    lines += [f"needed by: {', '.join(described.needed_by) or 'nothing that is shipped'}"]
    lines += [f"licence: {described.licence}", f"source: {described.source}"]
    if described.get and described.state != "present":
        lines.append(f"to get it: {described.get}")
    return "\n".join(lines)


def _size(described: Described) -> str:
    if not described.size:
        return "size unknown"
    about = "about " if described.path is None and not described.files else ""
    if described.size >= 1e9:
        return f"{about}{described.size / 1e9:.1f} GB"
    return f"{about}{described.size / 1e6:.{1 if described.size >= 1e6 else 3}f} MB"


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

    from dp3d_cli.core.weights.fetch import install_checkpoint

    result = install_checkpoint(
        checkpoint,
        output,
        config=config,
        dtype=getattr(torch, dtype.value),
        max_shard_size=max_shard_size,
    )
    say(f"{len(result.used)} tensors used, {len(result.dropped)} dropped:")
    for reason in sorted(set(result.dropped.values())):
        say(f"  {sum(why == reason for why in result.dropped.values())}: {reason}")
    typer.echo(str(output))
