"""Camera paths as functions: the official ones of EG3D and PanoHead, and our own.

Angles are radians: `yaw > 0` moves the camera to +x, the viewer's right, and **`pitch < 0` moves it above the
face**, EG3D's sign (see `camera.py`). A closed path does not repeat its first camera at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from dp3d_cli.core.cameras.camera import FFHQ_RIG, PANOHEAD_RIG, Array, Rig, Trajectory

# The released scripts of EG3D and PanoHead write 3.14 where they mean pi. The published frames and the
# reference numbers were made so; with the true pi the cameras would differ from them by up to 0.003 rad.
_SCRIPTS_PI = 3.14


def gen_videos(num_views: int = 16) -> Trajectory:
    """The closed loop of EG3D's `gen_videos.py`: yaw within +-0.35 rad, pitch within -0.05 +- 0.25 rad.

    Raises:
        ValueError: fewer than one view.
    """
    phase = _phase(num_views, _SCRIPTS_PI)
    horizontal = _SCRIPTS_PI / 2 + 0.35 * np.sin(phase)
    vertical = _SCRIPTS_PI / 2 - 0.05 + 0.25 * np.cos(phase)
    return _from_script("gen-videos", horizontal, vertical, FFHQ_RIG)


def panohead(num_views: int = 16, model: Literal["head", "ffhq"] = "head") -> Trajectory:
    """The closed loop of PanoHead's `gen_videos.py` (An et al. 2023, arXiv 2303.13071, released code).

    Args:
        num_views: cameras on the loop.
        model: "head" goes once around the head (360 degrees) and looks at the origin; "ffhq" swings by
            +-1.5 rad in front of the face and looks at EG3D's pivot.

    Raises:
        ValueError: fewer than one view.
    """
    phase = _phase(num_views, _SCRIPTS_PI)
    if model == "head":
        horizontal = _SCRIPTS_PI / 2 + phase
        vertical = _SCRIPTS_PI / 2 - 0.05 + 0.5 * np.sin(phase)
        return _from_script("panohead", horizontal, vertical, PANOHEAD_RIG)
    horizontal = _SCRIPTS_PI / 2 + 1.5 * np.sin(phase)
    vertical = _SCRIPTS_PI / 2 - 0.05 + 0.25 * np.cos(phase)
    return _from_script("panohead-ffhq", horizontal, vertical, FFHQ_RIG)


def sweep(
    num_views: int = 9,
    yaw: tuple[float, float] = (-math.radians(35), math.radians(35)),
    pitch: float = 0.0,
    *,
    name: str = "sweep",
    rig: Rig = FFHQ_RIG,
) -> Trajectory:
    """Cameras from one yaw to another, both included, at one pitch [rad].

    Raises:
        ValueError: fewer than one view.
    """
    _phase(num_views)
    yaws = np.linspace(*yaw, num_views) if num_views > 1 else np.array([sum(yaw) / 2])
    pitches = np.full(num_views, pitch)
    return Trajectory.from_angles(name, yaws, pitches, rig=rig)


def ring(
    num_views: int = 16,
    yaw: float = math.radians(25),
    pitch: float = math.radians(15),
    *,
    centre: tuple[float, float] = (0.0, 0.0),
    name: str = "ring",
    rig: Rig = FFHQ_RIG,
) -> Trajectory:
    """A closed ring in front of the face with these amplitudes [rad], from the top over +x.

    yaw(t) = centre[0] + yaw sin t and pitch(t) = centre[1] - pitch cos t for t = 2 pi i / num_views.

    Raises:
        ValueError: fewer than one view.
    """
    phase = _phase(num_views)
    yaws = centre[0] + yaw * np.sin(phase)
    pitches = centre[1] - pitch * np.cos(phase)
    return Trajectory.from_angles(name, yaws, pitches, closed=True, rig=rig)


def grid(
    yaws: Sequence[float],
    pitches: Sequence[float],
    *,
    name: str = "grid",
    rig: Rig = FFHQ_RIG,
) -> Trajectory:
    """Every yaw at every pitch [rad], row by row: all yaws of the first pitch, then of the second, ...

    Raises:
        ValueError: no yaw or no pitch.
    """
    pitch_grid, yaw_grid = np.meshgrid(np.array(pitches, float), np.array(yaws, float), indexing="ij")
    return Trajectory.from_angles(name, yaw_grid.ravel(), pitch_grid.ravel(), rig=rig)


def _phase(num_views: int, pi: float = math.pi) -> Array:
    if num_views < 1:
        raise ValueError(f"A trajectory needs at least one view, got {num_views}.")
    return 2 * pi * np.arange(num_views) / num_views


def _from_script(name: str, horizontal: Array, vertical: Array, rig: Rig) -> Trajectory:
    # The scripts count the angles from the -x axis and from above; ours are offsets from the frontal camera.
    yaws, pitches = horizontal - math.pi / 2, vertical - math.pi / 2
    return Trajectory.from_angles(name, yaws, pitches, closed=True, rig=rig)
