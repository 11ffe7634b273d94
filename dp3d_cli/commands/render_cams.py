"""`dp3d render-cams`: camera conditions for a trajectory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dp3d_cli.commands.options import Output, RunFlags, batch_command
from dp3d_cli.commands.runner import execute
from dp3d_cli.core.errors import UsageError

if TYPE_CHECKING:
    from dp3d_cli.core.cameras.camera import Trajectory
    from dp3d_cli.stages.render_cams import ImageCameras, ProceduralCameras

_CAMERAS = "Which cameras"
_IMAGES = "What they see"

_Source = Annotated[
    str | None,
    typer.Argument(
        metavar="TRAJECTORY",
        show_default=False,
        help="gen-videos (if left out), panohead, sweep, ring, grid; a YAML, cameras.json, transforms.json.",
    ),
]
_ANGLES_HELP = "start:stop:count, or a list with commas."
_Yaw = Annotated[
    str | None,
    typer.Option(
        metavar="DEGREES",
        show_default=False,
        help=f"Yaws instead of a trajectory: {_ANGLES_HELP} Positive is to the viewer's right.",
        rich_help_panel=_CAMERAS,
    ),
]
_Pitch = Annotated[
    str | None,
    typer.Option(
        metavar="DEGREES",
        show_default=False,
        help=f"Pitches, each for every yaw: {_ANGLES_HELP} Negative is above the face (EG3D). Default 0.",
        rich_help_panel=_CAMERAS,
    ),
]
_Paired = Annotated[
    bool,
    typer.Option(
        "--paired/--no-paired",
        help="Take the first yaw with the first pitch and so on, not every yaw at every pitch.",
        rich_help_panel=_CAMERAS,
    ),
]
_NumViews = Annotated[
    int | None,
    typer.Option(
        min=1,
        show_default=False,
        help="Number of views on the trajectory, instead of its own.",
        rich_help_panel=_CAMERAS,
    ),
]
_Name = Annotated[
    str | None,
    typer.Option(
        show_default=False,
        help="Name of the folder with the images, instead of the trajectory's.",
        rich_help_panel=_CAMERAS,
    ),
]
_Size = Annotated[
    int,
    typer.Option(
        min=16, max=4096, metavar="PIXELS", help="Width and height of the images.", rich_help_panel=_IMAGES
    ),
]
_Seed = Annotated[
    int,
    typer.Option(min=0, help="Which procedural head; every seed is another person.", rich_help_panel=_IMAGES),
]
_Device = Annotated[
    str,
    typer.Option(
        help="Torch device that renders; auto takes CUDA where there is one.", rich_help_panel=_IMAGES
    ),
]
_Images = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER|VIDEO",
        show_default=False,
        help="Take these images, or the frames of this driving video, instead of rendering a head.",
        rich_help_panel=_IMAGES,
    ),
]
_Cameras = Annotated[
    bool,
    typer.Option(
        "--cameras/--no-cameras",
        help="With --images: the cameras are those of TRAJECTORY, or unknown. Proxies need known cameras.",
        rich_help_panel=_IMAGES,
    ),
]
_Resample = Annotated[
    bool,
    typer.Option(
        "--resample/--no-resample",
        help="With --images: take evenly spread ones if there are more than views.",
        rich_help_panel=_IMAGES,
    ),
]
_CentreCrop = Annotated[
    bool,
    typer.Option(
        "--centre-crop/--no-centre-crop",
        help="With --images: cut those that are not square.",
        rich_help_panel=_IMAGES,
    ),
]


@batch_command
def render_cams(
    *,
    trajectory: _Source = None,
    output: Output = Path("cameras"),
    yaw: _Yaw = None,
    pitch: _Pitch = None,
    paired: _Paired = False,
    num_views: _NumViews = None,
    name: _Name = None,
    size: _Size = 256,
    seed: _Seed = 1,
    device: _Device = "auto",
    images: _Images = None,
    cameras: _Cameras = True,
    resample: _Resample = False,
    centre_crop: _CentreCrop = False,
    flags: RunFlags,
) -> None:
    """Make camera conditions: images of another person seen from each target camera.

    Writes OUTPUT/NAME/cameras.json, transforms.json and one PNG a view.
    """
    from dp3d_cli.stages.render_cams import RenderCamsStage

    if not cameras and (images is None or trajectory or yaw or pitch):
        raise UsageError("--no-cameras goes with --images, and with neither a trajectory nor angles.")
    if cameras and images is not None and not (trajectory or yaw or pitch):
        raise UsageError(
            f"--images {images}: name the trajectory whose cameras saw them, "
            "or say --no-cameras if they are unknown."
        )
    if images is None and (resample or centre_crop):
        raise UsageError("--resample and --centre-crop go with --images.")
    path = _trajectory(trajectory, yaw, pitch, paired, num_views) if cameras else None
    if path is not None and name is not None:
        path = _renamed(path, name)
    stage = RenderCamsStage(
        path,
        size,
        _backend(images, seed, device, resample, centre_crop),
        name_without_cameras=name or (images.stem if images else ""),
        views_without_cameras=num_views,
    )
    execute(stage, [stage.item], output, flags)


def _trajectory(
    source: str | None, yaw: str | None, pitch: str | None, paired: bool, num_views: int | None
) -> Trajectory:
    from dp3d_cli.core.cameras.trajectories import load_trajectory, trajectory_from_flags

    if yaw is None and pitch is None:
        if paired:
            raise UsageError("--paired goes with --yaw and --pitch.")
        return load_trajectory(source or "gen-videos", num_views)
    if source is not None or num_views is not None:
        raise UsageError(
            "--yaw and --pitch list the cameras; a trajectory or --num-views cannot go with them."
        )
    return trajectory_from_flags(yaw or "0", pitch or "0", paired=paired)


def _renamed(trajectory: Trajectory, name: str) -> Trajectory:
    try:
        return replace(trajectory, name=name)
    except ValueError as error:
        raise UsageError(f"--name: {error}") from error


def _backend(
    images: Path | None, seed: int, device: str, resample: bool, centre_crop: bool
) -> ProceduralCameras | ImageCameras:
    from dp3d_cli.stages.render_cams import ImageCameras, ProceduralCameras

    if images is None:
        return ProceduralCameras(seed, device)
    from dp3d_cli.core.renderers.images import find_condition_images

    return ImageCameras(find_condition_images(images), resample, centre_crop)
