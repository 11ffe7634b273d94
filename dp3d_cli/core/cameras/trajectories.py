"""Target cameras along a path: the official trajectories of EG3D and PanoHead, and our own.

Angles are radians: `yaw > 0` moves the camera to +x, `pitch < 0` moves it above the face (see `camera.py`).
A closed trajectory does not repeat its first camera at the end.
"""

from __future__ import annotations

import numpy as np

from dp3d_cli.core.cameras.camera import PIVOT, Array, Trajectory

__all__ = ["Trajectory", "gen_videos"]

# The released scripts of EG3D and PanoHead write 3.14 where they mean pi. The published frames and the
# reference numbers were made so; with the true pi the cameras would differ from them by up to 0.003 rad.
_SCRIPTS_PI = 3.14


def gen_videos(num_views: int = 16) -> Trajectory:
    """The closed loop of EG3D's `gen_videos.py`: yaw within +-0.35 rad, pitch within -0.05 +- 0.25 rad.

    Raises:
        ValueError: fewer than one view.
    """
    phase = _phase(num_views)
    return _from_official_angles(
        "gen-videos",
        horizontal=_SCRIPTS_PI / 2 + 0.35 * np.sin(phase),
        vertical=_SCRIPTS_PI / 2 - 0.05 + 0.25 * np.cos(phase),
    )


def _phase(num_views: int, pi: float = _SCRIPTS_PI) -> Array:
    if num_views < 1:
        raise ValueError(f"A trajectory needs at least one view, got {num_views}.")
    return 2 * pi * np.arange(num_views) / num_views


def _from_official_angles(
    name: str, horizontal: Array, vertical: Array, pivot: tuple[float, float, float] = PIVOT
) -> Trajectory:
    yaws, pitches = horizontal - np.pi / 2, vertical - np.pi / 2
    return Trajectory.from_angles(name, yaws, pitches, closed=True, pivot=pivot)
