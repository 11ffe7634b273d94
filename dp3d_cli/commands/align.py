"""`dp3d align`: photos to square portraits."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import typer

from dp3d_cli.commands.options import Output, RunFlags, Sources, batch_command
from dp3d_cli.commands.runner import execute, find_items
from dp3d_cli.commands.screen import say
from dp3d_cli.core.errors import UsageError

_FACE = "Which face"
_CROP = "How it is cut"


class Backend(str, Enum):
    """Which face detector; see `dp3d_cli.core.faces.detect`."""

    auto = "auto"
    opencv = "opencv"
    insightface = "insightface"


class _Border(str, Enum):
    auto = "auto"
    black = "black"
    blur = "blur"


_BackendOption = Annotated[
    Backend,
    typer.Option(
        help="Face detector; auto takes insightface if its models are there, else opencv.",
        rich_help_panel=_FACE,
    ),
]
_Models = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        show_default="where `dp3d weights fetch buffalo_l` puts them",
        help="Models of insightface. Never downloaded from here.",
        rich_help_panel=_FACE,
    ),
]
_FaceOption = Annotated[
    str,
    typer.Option(
        metavar="largest|N",
        help="Which one, if there are several: N counts from 0, the largest first.",
        rich_help_panel=_FACE,
    ),
]
_Box = Annotated[
    str | None,
    typer.Option(
        metavar="X,Y,WIDTH,HEIGHT",
        show_default=False,
        help="The face, from brows to chin, in pixels of the upright picture; nothing is detected.",
        rich_help_panel=_FACE,
    ),
]
_Landmarks = Annotated[
    Path | None,
    typer.Option(
        metavar="JSON",
        show_default=False,
        help="5 or 68 points [x, y] in pixels of the upright picture, or an object of id to points.",
        rich_help_panel=_FACE,
    ),
]
_Frames = Annotated[
    str,
    typer.Option(
        metavar="first|all|every:N",
        help="Of a video: the first frame with a face (among 100), or all or every N-th that have one.",
        rich_help_panel=_FACE,
    ),
]
_Align = Annotated[
    bool,
    typer.Option(
        "--align/--no-align",
        help="Place the face, or take the centre square as it is.",
        rich_help_panel=_CROP,
    ),
]
_Realign = Annotated[
    bool,
    typer.Option(
        "--realign/--no-realign", help="Cut also what looks aligned already.", rich_help_panel=_CROP
    ),
]
_Size = Annotated[
    int, typer.Option(min=64, max=4096, metavar="PIXELS", help="Width and height.", rich_help_panel=_CROP)
]
_BorderOption = Annotated[
    _Border,
    typer.Option(
        help="Beyond the picture's edge: black as EG3D has it, or mirrored and blurred; auto is black for "
        "crops from landmarks and blur for crops from a box.",
        rich_help_panel=_CROP,
    ),
]


@batch_command
def align(
    *,
    sources: Sources,
    output: Output = Path("aligned"),
    backend: _BackendOption = Backend.auto,
    models: _Models = None,
    face: _FaceOption = "largest",
    box: _Box = None,
    landmarks: _Landmarks = None,
    frames: _Frames = "first",
    align: _Align = True,
    realign: _Realign = False,
    size: _Size = 512,
    border: _BorderOption = _Border.auto,
    flags: RunFlags,
) -> None:
    """Cut photos and video frames to portraits with the face in the place that the model expects.

    Writes OUTPUT/ID.png and ID.json; for a video OUTPUT/ID/FRAME.png and .json.
    """
    from dp3d_cli.core.faces.detect import load_detector
    from dp3d_cli.core.faces.files import read_landmarks
    from dp3d_cli.core.faces.portrait import AlignOptions
    from dp3d_cli.core.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES
    from dp3d_cli.stages.align import AlignStage, parse_box, parse_frames

    options = AlignOptions(size, _which(face), align, realign, border.value)
    given_box = None if box is None else parse_box(box)
    points = None if landmarks is None else read_landmarks(landmarks)
    detector = load_detector(backend.value, models)
    stage = AlignStage(detector, options, parse_frames(frames), points, given_box)
    items = find_items(sources, flags, suffixes=IMAGE_SUFFIXES | VIDEO_SUFFIXES)
    if backend is Backend.auto and not flags.quiet and points is None and given_box is None:
        say(f"Faces are found by {detector.name}")
    execute(stage, items, output, flags)


def _which(face: str) -> int | Literal["largest"]:
    if face == "largest":
        return "largest"
    if face.isascii() and face.isdigit():
        return int(face)
    raise UsageError(f"--face {face}: expected largest, or a number from 0.")
