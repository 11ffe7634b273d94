"""Cross-view consistency: does a view, moved to its neighbour's place, show what the neighbour shows?

Two ways to move it. `flow_consistency` needs pictures only: dense optical flow finds where each pixel went.
`depth_consistency` needs depth and cameras: geometry says where each pixel must be. Ours; DiffPortrait3D
reports no number for consistency, and the many "warping errors" of video papers differ in flow and mask, so
compare values only with values made here.

What the number does not say:

- A blurred sequence scores well by construction, because there is little left to differ; a constant one
  scores 0. Read it beside LPIPS or sharpness, and where ground truth exists take `Consistency.relative_to`,
  in which 1 is as consistent as the truth and *less than 1 means blurrier, not better*.
- Flow estimated on the views themselves follows a head that wobbles or swims, and so forgives it; what is
  left is flicker of texture and light. With the flow of the ground truth (`guide`), or with depth and
  cameras, wrong motion counts too.
- Pixels whose neighbours cannot be found are left out, so that an error is worth as much as its `share`.

Symbols: i, j neighbouring views; x a pixel of i; f flow from i to j, g from j to i, in pixels; V the set of
pixels of i that are used; (.)[y] bilinear interpolation at a place y.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.errors import InputError
from dp3d_cli.core.metrics.pictures import Picture, check_pair, check_picture

Plane: TypeAlias = NDArray[np.float64]
Field: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]

MIN_SIDE = 32
"""Shortest side [px]. OpenCV's DIS crashes the process on sides of 12 px and less."""
# Forward and backward flow agree if |f + g[x + f]|^2 < 0.01 (|f|^2 + |g|^2) + 0.5, the rule and numbers of
# Sundaram, Brox and Keutzer (ECCV 2010).
_FLOW_RELATIVE, _FLOW_ABSOLUTE = 0.01, 0.5
# A surface is the same one in both views if its depths differ by less than this share; 0.027 world units at
# EG3D's distance, half the height of a nose wing.
_DEPTH_TOLERANCE = 0.01


@dataclass(frozen=True)
class WarpedError:
    """One pair of neighbouring views.

    Attributes:
        error: mean absolute difference of RGB after warping, 0..255; NaN if no pixel could be used.
        share: of all pixels of both views, those used, in [0, 1].
    """

    error: float
    share: float


@dataclass(frozen=True)
class Consistency:
    """All pairs of one subject's view sequence, in view order; a closed ring ends with (last, first).

    Attributes:
        pairs: at least one.
    """

    pairs: tuple[WarpedError, ...]

    @property
    def error(self) -> float:
        """Mean of the pairs' errors, each pair counting once, 0..255; NaN if no pair has one."""
        errors = [pair.error for pair in self.pairs if not math.isnan(pair.error)]
        return math.fsum(errors) / len(errors) if errors else math.nan

    @property
    def share(self) -> float:
        """Mean share of pixels used, in [0, 1]; a pair without pixels counts as 0."""
        return math.fsum(pair.share for pair in self.pairs) / len(self.pairs)

    def relative_to(self, truth: Consistency) -> float:
        """Error as a multiple of the ground truth's own, over the pairs in which both have one.

        Interpolation, light that changes with the view and imperfect flow leave an error in true pictures
        too; this takes them out. It is the ratio of the two means. Both should be made with one flow and one
        mask: `flow_consistency(views, guide=truth_views)` against `flow_consistency(truth_views)`, or both
        with the same depth and cameras.

        Args:
            truth: of the ground truth, same views in the same order.

        Returns:
            1 is as consistent as the truth, larger is worse, less than 1 means blurrier than the truth; NaN
            if the truth's error is 0 or no pair has an error in both.

        Raises:
            ValueError: the two do not have the same number of pairs.
        """
        if len(self.pairs) != len(truth.pairs):
            raise ValueError(f"{len(self.pairs)} pairs cannot be compared with {len(truth.pairs)}.")
        both = [
            (mine.error, theirs.error)
            for mine, theirs in zip(self.pairs, truth.pairs, strict=True)
            if not (math.isnan(mine.error) or math.isnan(theirs.error))
        ]
        own, reference = (math.fsum(column) for column in zip(*both, strict=True)) if both else (0.0, 0.0)
        return own / reference if reference > 0 else math.nan


def flow_consistency(
    views: Sequence[Picture], *, closed: bool = False, guide: Sequence[Picture] | None = None
) -> Consistency:
    """Difference between neighbouring views after dense optical flow has aligned them.

    For each pair, with V the pixels x of i for which x + f(x) lies in the picture and the way back agrees,
    |f(x) + g[x + f(x)]|^2 < 0.01 (|f(x)|^2 + |g[x + f(x)]|^2) + 0.5:

        E(i, j) = sum over x in V, RGB of |i(x) - j[x + f(x)]|,   error = (E(i, j) + E(j, i)) / 3 (|V| + |V'|)

    so that a sequence and its reverse score the same. Flow: OpenCV's DIS, preset "medium", on grey pictures,
    on one thread.

    Args:
        views: uint8 [H, W, 3] RGB of one size, neighbours in order, at least 2.
        closed: whether the first view follows the last one.
        guide: pictures to estimate flow and mask on, one per view and of the same size, usually the ground
            truth; the views themselves if None.

    Raises:
        ValueError: not uint8 RGB pictures of one size, or not as many guides as views.
        InputError: fewer than two views ("too-few-views") or pictures smaller than 32 px ("small-image").
    """
    _check_views(views)
    if guide is not None:
        if len(guide) != len(views):
            raise ValueError(f"{len(views)} views need as many guides, got {len(guide)}.")
        _check_views([views[0], *guide])
    greys = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (views if guide is None else guide)]

    def places(i: int, j: int) -> tuple[Field, Mask]:
        return _flow_places(*flows[i, j])

    with _one_thread():
        search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        flows: dict[tuple[int, int], tuple[Field, Field]] = {}
        for i, j in _neighbours(len(views), closed):
            forward = search.calc(greys[i], greys[j], None)
            backward = search.calc(greys[j], greys[i], None)
            flows[i, j], flows[j, i] = (forward, backward), (backward, forward)
        return _consistency(views, closed, places)


def depth_consistency(
    views: Sequence[Picture],
    depths: Sequence[NDArray[np.floating]],
    cameras: Sequence[Camera],
    *,
    closed: bool = False,
) -> Consistency:
    """Difference between neighbouring views after known geometry has aligned them.

    A pixel x of i at depth d lies at the world point X = cam2world_i (d K_i^-1 (x + 1/2, 1)) and is expected
    at y = K_j world2cam_j X - 1/2 in j, at depth z. V are the x that have a depth, land inside j, and see the
    same surface there, |depth_j[y] - z| < 0.01 z; edges of depth, where pixels mix two surfaces, are left out
    on both sides, and so is everything without depth. The error is that of `flow_consistency` with
    x + f(x) = y.

    Args:
        views: uint8 [H, W, 3] RGB of one size, neighbours in order, at least 2.
        depths: [H, W] per view, distance along the optical axis in world units, 0 where there is none; those
            of the ground truth or of a known model, since views carry none.
        cameras: one per view.
        closed: whether the first view follows the last one.

    Raises:
        ValueError: not uint8 RGB pictures of one size; depths or cameras that do not match the views; depths
            that are negative or not finite.
        InputError: as `flow_consistency`.
    """
    _check_views(views)
    if not len(views) == len(depths) == len(cameras):
        raise ValueError(
            f"{len(views)} views need as many depths and cameras, got {len(depths)} and {len(cameras)}."
        )
    for depth in depths:
        if depth.shape != views[0].shape[:2]:
            raise ValueError(f"A depth map must be {views[0].shape[:2]} as its view, got {depth.shape}.")
        if not (np.isfinite(depth).all() and (depth >= 0).all()):
            raise ValueError("Depths must be finite and not negative; 0 says that there is none.")
    solid = [_solid(depth) for depth in depths]

    def places(i: int, j: int) -> tuple[Field, Mask]:
        return _depth_places((depths[i], depths[j]), (solid[i], solid[j]), (cameras[i], cameras[j]))

    with _one_thread():
        return _consistency(views, closed, places)


def _neighbours(count: int, closed: bool) -> list[tuple[int, int]]:
    pairs = [(index, index + 1) for index in range(count - 1)]
    # The ring of two views is one pair, not the same one twice.
    return [*pairs, (count - 1, 0)] if closed and count > 2 else pairs


def _consistency(
    views: Sequence[Picture], closed: bool, places: Callable[[int, int], tuple[Field, Mask]]
) -> Consistency:
    """Errors of all pairs; `places(i, j)` says where in j the pixels of i are, and which can be used."""
    pairs = []
    for i, j in _neighbours(len(views), closed):
        there, there_used = _difference(views[i], views[j], *places(i, j))
        back, back_used = _difference(views[j], views[i], *places(j, i))
        used = there_used + back_used
        error = (there + back) / (3 * used) if used else math.nan
        pairs.append(WarpedError(error, used / (2 * views[i].shape[0] * views[i].shape[1])))
    return Consistency(tuple(pairs))


def _difference(here: Picture, there: Picture, places: Field, used: Mask) -> tuple[float, int]:
    """Sum of absolute RGB differences over the used pixels, and how many pixels these are."""
    moved = _sample(there.astype(np.float32), places[used])
    difference = np.abs(here[used] - moved)
    return float(difference.sum(dtype=np.float64)), len(moved)


def _flow_places(flow: Field, way_back: Field) -> tuple[Field, Mask]:
    """Where each pixel went [H, W, 2] (x, y), and whether the way back confirms it [H, W]."""
    places = _pixel_grid(flow.shape[0], flow.shape[1]) + flow
    returned = _sample(way_back, places)
    miss = ((flow + returned) ** 2).sum(-1)
    allowed = _FLOW_RELATIVE * ((flow**2).sum(-1) + (returned**2).sum(-1)) + _FLOW_ABSOLUTE
    return places, _inside(places) & (miss < allowed)


def _depth_places(
    depths: tuple[NDArray[np.floating], NDArray[np.floating]],
    solid: tuple[Mask, Mask],
    cameras: tuple[Camera, Camera],
) -> tuple[Field, Mask]:
    """As `_flow_places`, from the depth of the first view and both cameras."""
    height, width = depths[0].shape
    here, there = (camera.pixel_intrinsics(width, height) for camera in cameras)
    centres = np.dstack([_pixel_grid(height, width) + 0.5, np.ones((height, width))]).astype(np.float64)
    points = centres @ np.linalg.inv(here).T * depths[0][..., None]
    relative = cameras[1].world2cam @ cameras[0].cam2world
    moved = points @ relative[:3, :3].T + relative[:3, 3]
    z = moved[..., 2]
    in_front = solid[0] & (z > 0)
    projected = moved @ there.T
    places = np.full((height, width, 2), -1.0, np.float32)
    places[in_front] = projected[in_front, :2] / projected[in_front, 2:] - 0.5
    seen = _sample(depths[1].astype(np.float32), places)
    whole = _sample(solid[1].astype(np.float32), places) > 0.999  # all pixels that are mixed are solid
    is_same = np.abs(seen - z) < _DEPTH_TOLERANCE * np.abs(z)
    return places, in_front & _inside(places) & whole & is_same


def _solid(depth: NDArray[np.floating]) -> Mask:
    """Pixels with a depth that all their eight neighbours share."""
    plane = depth.astype(np.float32)
    kernel = np.ones((3, 3), np.uint8)
    nearest, farthest = cv2.erode(plane, kernel), cv2.dilate(plane, kernel)
    return np.asarray((nearest > 0) & (farthest - nearest < _DEPTH_TOLERANCE * farthest))


def _pixel_grid(height: int, width: int) -> Field:
    """[H, W, 2] index (x, y) of each pixel."""
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.dstack([columns, rows])


def _inside(places: Field) -> Mask:
    height, width = places.shape[:2]
    x, y = places[..., 0], places[..., 1]
    return np.asarray((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1))


def _sample(values: Field, places: Field) -> Field:
    """Bilinear interpolation of [H, W] or [H, W, C] at places [..., 2]; the edge goes on beyond the picture.

    OpenCV's `remap` rounds places to 1/32 px, which on a sharp texture adds up to 4 of 255; hence by hand.
    """
    height, width = values.shape[:2]
    x = places[..., 0].clip(0, width - 1)
    y = places[..., 1].clip(0, height - 1)
    left, top = np.minimum(x, width - 2).astype(np.intp), np.minimum(y, height - 2).astype(np.intp)
    flat, corner = values.reshape(height * width, -1), top * width + left
    across, down = (x - left)[..., None], (y - top)[..., None]
    upper = flat.take(corner, axis=0) * (1 - across) + flat.take(corner + 1, axis=0) * across
    corner += width
    lower = flat.take(corner, axis=0) * (1 - across) + flat.take(corner + 1, axis=0) * across
    sampled = upper * (1 - down) + lower * down
    return np.asarray(sampled if values.ndim == 3 else sampled[..., 0], np.float32)


def _check_views(views: Sequence[Picture]) -> None:
    if len(views) < 2:
        raise InputError(
            f"Consistency compares neighbouring views, got {len(views)}. Give at least two views.",
            reason="too-few-views",
        )
    check_picture(views[0])
    for view in views[1:]:
        check_pair(view, views[0])
    if min(views[0].shape[:2]) < MIN_SIDE:
        raise InputError(
            f"The views are {views[0].shape[1]} x {views[0].shape[0]} px; consistency needs sides of "
            f"{MIN_SIDE} px or more. Give larger views.",
            reason="small-image",
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """OpenCV on one thread, so that no build of it can let the flow depend on their number."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
