"""dp3d run: portraits in, views and videos out, all stages in one work folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dp3d_cli.commands.align import Backend
from dp3d_cli.commands.evaluate import report_scores
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
from dp3d_cli.commands.runner import find_items, session
from dp3d_cli.commands.screen import say


@batch_command
def run(
    *,
    sources: Sources,
    output: Output = Path("dp3d-output"),
    preset: PresetName = "nano",
    override: Overrides = None,
    backend: Annotated[Backend, typer.Option(help="Face detector of the align stage.")] = Backend.auto,
    align: Annotated[
        bool,
        typer.Option("--align/--no-align", help="Place the face, or take the centre square as it is."),
    ] = True,
    references: ReferencesOption = References.each,
    formats: Annotated[
        str, typer.Option("--format", metavar="FORMAT,...", help="Clips: any of mp4, gif, webm, sheet.")
    ] = "mp4",
    side_by_side: Annotated[
        str, typer.Option(metavar="reference,proxy", help="Panels to the left of the views in the clips.")
    ] = "",
    gt: Annotated[
        Path | None,
        typer.Option(
            "--gt", metavar="FOLDER", show_default=False, help="True views: also score against them."
        ),
    ] = None,
    device: Device = "auto",
    flags: RunFlags,
) -> None:
    """Run all stages: align, render-cams, proxy, synthesize, video, and evaluate where the truth is known.

    Writes OUTPUT/aligned, cameras, proxy, views, video and report: the same files as the stages one by one.
    """
    from dp3d_cli.core.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES
    from dp3d_cli.core.presets import load_preset

    resolved = load_preset(preset, override or ())
    portraits = find_items(sources, flags, suffixes=IMAGE_SUFFIXES | VIDEO_SUFFIXES)
    # What follows pulls in torch: a wrong word above is answered before.
    from dp3d_cli.core.faces.detect import load_detector
    from dp3d_cli.core.faces.portrait import AlignOptions
    from dp3d_cli.stages.align import AlignStage
    from dp3d_cli.stages.chain import Chain
    from dp3d_cli.stages.evaluate.plan import Request
    from dp3d_cli.stages.video import parse_video_settings

    chain = Chain(
        AlignStage(load_detector(backend.value), AlignOptions(align=align)),
        resolved,
        references.group,
        parse_video_settings(formats, side_by_side),
        device,
    )
    chosen = chain.choose(portraits, flags.options)
    for note in () if flags.quiet else flags.options.shard.note:
        say(f"{note}: {len(chosen)} of {len(portraits)} items")
    with session(flags) as stages:
        summaries = chain.run(chosen, output, stages)
        status = max(summary.exit_status for summary in summaries)
        if gt is not None and status in (0, 1) and not flags.options.dry_run:
            request = Request((output / "views", output / "proxy"), gt, references=output / "aligned")
            status = max(status, report_scores(request, output / "report", stages))
    raise typer.Exit(status)
