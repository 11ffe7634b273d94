"""dp3d video: clips out of views."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dp3d_cli.commands.options import Output, RunFlags, Sources, batch_command
from dp3d_cli.commands.runner import execute, find_items


@batch_command
def video(
    sources: Sources,
    flags: RunFlags,
    output: Output = Path("video"),
    formats: Annotated[
        str,
        typer.Option("--format", metavar="FORMAT,...", help="Any of mp4, gif, webm, sheet (contact sheet)."),
    ] = "mp4",
    fps: Annotated[float, typer.Option(help="Views per second.")] = 10.0,
    mode: Annotated[
        str,
        typer.Option(
            metavar="auto|loop|ping-pong|once",
            help="How views are played; auto: there and back where the path of cameras is open.",
        ),
    ] = "auto",
    repeats: Annotated[int, typer.Option(help="How often the whole is played within the file.")] = 1,
    side_by_side: Annotated[
        str,
        typer.Option(metavar="reference,proxy", help="Panels to the left of the views.", show_default=False),
    ] = "",
    references: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Aligned portraits; by default what views.json names."),
    ] = None,
    proxy: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Proxies of the same cameras.")] = None,
    size: Annotated[int | None, typer.Option(help="Height in pixels; by default the views' own.")] = None,
) -> None:
    """Make a video of each folder of numbered views: ours or any other method's."""
    from dp3d_cli.core.errors import UsageError
    from dp3d_cli.core.images import IMAGE_SUFFIXES  # pulls in numpy and Pillow
    from dp3d_cli.stages.video import VideoStage, parse_video_settings
    from dp3d_cli.stages.view_folders import DESCRIPTION

    settings = parse_video_settings(formats, side_by_side, fps=fps, mode=mode, repeats=repeats, size=size)
    stage = VideoStage(settings, references, proxy)
    found = find_items(sources, flags, suffixes=IMAGE_SUFFIXES, names=[DESCRIPTION], group="folder")
    items = stage.items_of(found)
    if not items:
        raise UsageError(
            f"{sources[0]}: no folder with numbered views (000.png, 001.png, ...).",
            reason="nothing-found",
        )
    execute(stage, items, output, flags)
