"""Which views are denoised together: the views of a group see one another, groups run in lockstep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dp3d_cli.core.diffusion.view_attention import MAX_VIEWS

GroupKind = Literal["contiguous", "strided", "overlap"]


@dataclass(frozen=True)
class ViewGroup:
    """How views are shared out.

    Attributes:
        size: largest number of views in a group, 1 to 32; DiffPortrait3D uses 8.
        kind: "contiguous": 0..7, 8..15, ...; what is left over forms a smaller last group (the released code
            drops it). "strided": every g-th view, so that each group spans the whole trajectory.
            "overlap": windows that share `overlap` views with the next; where windows meet, predictions are
            averaged.
        overlap: shared views of neighbouring windows, 0 <= overlap < size; used by "overlap" only.
    """

    size: int = 8
    kind: GroupKind = "contiguous"
    overlap: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MAX_VIEWS:
            raise ValueError(f"a view group holds 1 to {MAX_VIEWS} views, not {self.size}")
        if self.kind not in ("contiguous", "strided", "overlap"):
            raise ValueError(f"unknown view grouping {self.kind!r}: use contiguous, strided or overlap")
        if self.kind == "overlap" and not 0 <= self.overlap < self.size:
            raise ValueError(
                f"groups of {self.size} views can overlap by 0 to {self.size - 1}, not {self.overlap}"
            )


def view_groups(num_views: int, group: ViewGroup, *, closed: bool = False) -> list[tuple[int, ...]]:
    """Share out views 0 .. `num_views` - 1. Every view is in at least one group.

    Args:
        num_views: at least 1.
        group: size and kind.
        closed: the trajectory is a ring: overlapping windows run across its seam. No effect on the other
            kinds.

    Returns:
        Groups of view indices, each of at most `group.size` different views, in the order of the trajectory.

    Raises:
        ValueError: there is no view.
    """
    if num_views < 1:
        raise ValueError("there is no view to group")
    size = min(group.size, num_views)
    if group.kind == "contiguous" or size == num_views:
        return [tuple(range(start, min(start + size, num_views))) for start in range(0, num_views, size)]
    if group.kind == "strided":
        count = -(-num_views // size)
        return [tuple(range(start, num_views, count)) for start in range(count)]
    step = size - group.overlap
    if closed:
        starts = range(0, num_views, step)
        return [tuple((start + i) % num_views for i in range(size)) for start in starts]
    starts_open = [
        *range(0, num_views - size, step),
        num_views - size,
    ]  # the last window ends with the last view
    return [tuple(range(start, start + size)) for start in starts_open]
