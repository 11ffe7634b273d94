"""`dp3d proxy`: blurry but 3D-consistent views of aligned portraits."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from dp3d_cli.commands.options import (
    Output,
    References,
    ReferencesOption,
    RunFlags,
    Sources,
    batch_command,
)
from dp3d_cli.commands.runner import execute, find_items
from dp3d_cli.core.errors import UsageError


class Backend(str, Enum):
    """What makes the proxies."""

    template = "template"
    volume = "volume"


_Cameras = Annotated[
    str,
    typer.Option(
        metavar="TRAJECTORY",
        help="A trajectory's name, YAML, cameras.json, transforms.json, or a folder with one.",
    ),
]
_NumViews = Annotated[
    int | None,
    typer.Option(min=1, show_default=False, help="Number of views on the trajectory, instead of its own."),
]
_Size = Annotated[int, typer.Option(min=32, max=2048, metavar="PIXELS", help="Width and height; even.")]
_Images = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        show_default=False,
        help="Take proxies made elsewhere: a folder per portrait, named by its id, with an image per view.",
    ),
]

_Backend = Annotated[
    Backend | None,
    typer.Option(
        show_default="volume",
        help="The trained network of --weights, or a head template that needs none.",
    ),
]
_Weights = Annotated[
    str,
    typer.Option(metavar="NAME|FOLDER", help="Weights whose folder 'proxy' has the network of 'volume'."),
]


@batch_command
def proxy(
    *,
    sources: Sources,
    output: Output = Path("proxy"),
    cameras: _Cameras = "gen-videos",
    num_views: _NumViews = None,
    size: _Size = 256,
    images: _Images = None,
    backend: _Backend = None,
    weights: _Weights = "nano",
    references: ReferencesOption = References.each,
    flags: RunFlags,
) -> None:
    """Turn aligned portraits to each target camera: soft at the edges, but one solid in all views.

    Writes OUTPUT/ID/VIEW.png, ID/confidence/VIEW.png, ID/coverage/VIEW.png and ID/proxy.json.
    """
    from dp3d_cli.core.cameras.trajectories import load_trajectory
    from dp3d_cli.core.images import IMAGE_SUFFIXES
    from dp3d_cli.stages.proxy import ProxyStage

    if size % 2:
        raise UsageError(f"--size {size}: must be even.")
    if images is not None and backend is not None:
        raise UsageError("--images takes proxies as they are, --backend makes them: give one of both.")
    folder_cameras = Path(cameras) / "cameras.json"
    trajectory = load_trajectory(str(folder_cameras) if folder_cameras.is_file() else cameras, num_views)
    volume = None if images is not None or backend is Backend.template else weights
    stage = ProxyStage(trajectory, size, images, volume)
    items = find_items(sources, flags, suffixes=IMAGE_SUFFIXES, group=references.group)
    execute(stage, stage.items_of(items), output, flags)
