"""dp3d synthesize: novel views of aligned portraits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dp3d_cli.commands.options import (
    Device,
    Output,
    Overrides,
    PresetName,
    References,
    ReferencesOption,
    RunFlags,
    Sources,
    batch_command,
)
from dp3d_cli.commands.runner import execute, find_items


@batch_command
def synthesize(
    sources: Sources,
    flags: RunFlags,
    output: Output = Path("views"),
    preset: PresetName = "nano",
    override: Overrides = None,
    cameras: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            show_default=False,
            help="Cameras and condition images from `dp3d render-cams`; by default made from the preset.",
        ),
    ] = None,
    proxies: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            show_default=False,
            help="Proxies from `dp3d proxy`, or made elsewhere; by default made here from the preset.",
        ),
    ] = None,
    references: ReferencesOption = References.each,
    device: Device = "auto",
) -> None:
    """Make novel views of aligned portraits with the diffusion core."""
    from dp3d_cli.core.images import IMAGE_SUFFIXES  # pulls in numpy and Pillow
    from dp3d_cli.core.presets import load_preset
    from dp3d_cli.stages.synthesize import SynthesizeStage
    from dp3d_cli.stages.targets import make_targets, read_targets

    resolved = load_preset(preset, override or ())
    items = find_items(sources, flags, suffixes=IMAGE_SUFFIXES, group=references.group)
    targets = (
        read_targets(cameras, resolved.size)
        if cameras
        else make_targets(resolved.cameras, resolved.size, device=device)
    )
    stage = SynthesizeStage(resolved, targets, proxies, device)
    execute(stage, stage.items_of(items), output, flags)
