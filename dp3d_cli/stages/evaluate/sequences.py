"""Metrics of all views of a subject, fed one after another: no more than four pictures are held."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.metrics.consistency import Consistency, WarpedError, flow_consistency
from dp3d_cli.core.metrics.pictures import Picture

if TYPE_CHECKING:
    from dp3d_cli.core.metrics.pose import HeadAngles

SHARE = "consistency_share"
"""Beside `consistency`: the share of pixels that could be followed, in [0, 1]."""

LEAST_TURNS = 3
"""Views with a face that `pose_camera_rel_deg` needs; fewer leave little beside the shared rotation."""

_View = tuple[Picture, Picture | None]


class SequenceMeter:
    """Consistency of one subject's views in order.

    Args:
        metrics: which of "consistency" and "consistency_gt".
        closed: whether the first view follows the last.
    """

    def __init__(self, metrics: Sequence[str], *, closed: bool) -> None:
        self._metrics, self._closed = metrics, closed
        self._first: _View | None = None
        self._last: _View | None = None
        self._count = 0
        self._own: list[WarpedError] = []
        self._guided: list[WarpedError] = []
        self._true: list[WarpedError] = []

    def add(self, view: Picture, truth: Picture | None) -> None:
        """The next view, uint8 [S, S, 3] RGB, and the true one."""
        current = view, truth
        if self._last is not None:
            self._compare(self._last, current)
        self._first, self._last = self._first or current, current
        self._count += 1

    def values(self) -> dict[str, float]:
        """Metric → number, where the views gave one; empty for fewer than two views."""
        if self._first is not None and self._last is not None and self._closed and self._count > 2:
            self._compare(self._last, self._first)
            self._closed = False  # asked again, the ring is closed already
        values: dict[str, float] = {}
        if self._own:
            consistency = Consistency(tuple(self._own))
            values["consistency"] = consistency.error
            values[SHARE] = consistency.share
        if self._true:
            guided, true = Consistency(tuple(self._guided)), Consistency(tuple(self._true))
            values["consistency_gt"] = guided.relative_to(true)
        return {name: value for name, value in values.items() if not math.isnan(value)}

    def _compare(self, one: _View, other: _View) -> None:
        views = [one[0], other[0]]
        if "consistency" in self._metrics:
            self._own += flow_consistency(views).pairs
        if "consistency_gt" in self._metrics and one[1] is not None and other[1] is not None:
            truths = [one[1], other[1]]
            self._guided += flow_consistency(views, guide=truths).pairs
            self._true += flow_consistency(truths).pairs


def relative_turns_deg(turns: Sequence[tuple[HeadAngles, Camera]]) -> float | None:
    """Mean angle between estimated and requested cameras after taking off the rotation that all share.

    Args:
        turns: of each view with a face and a known camera, in order.

    Returns:
        Degrees; None for fewer than three views.
    """
    from dp3d_cli.core.metrics.pose import geodesic_deg, shared_offset

    if len(turns) < LEAST_TURNS:
        return None
    offset = shared_offset([angles for angles, _ in turns], [camera for _, camera in turns])
    return math.fsum(geodesic_deg(angles, camera, offset) for angles, camera in turns) / len(turns)
