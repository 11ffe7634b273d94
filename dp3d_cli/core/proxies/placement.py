"""Where a portrait lies in the frame of its reference camera, and how large its head is in the world.

Frame coordinates are (u, v) in [0, 1] across the image of the reference camera, u to the right, v down.
Portrait coordinates are the same across the portrait's own pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

CANONICAL_BOX_WIDTH = 0.645
"""Width of a frontal face box (OpenCV's frontalface cascade) in EG3D's crop, in frames (ours, measured)."""
CANONICAL_BOX_CENTRE = (0.50, 0.46)
"""Centre of that box in EG3D's crop, in frames (ours, measured)."""
KEPT_SCALE = 0.97
"""Scale of a crop whose box says nothing: published views show heads a little smaller than their portrait."""
TRUST_IN_BOX = 0.5
"""How far the crop is moved from "as it is" (0) to "box at its canonical size and place" (1).

A box varies with the person as well as with the crop: half of its deviation is taken as the crop's."""
_SCALE_LIMITS = (0.5, 1.5)  # beyond, the portrait was not aligned and the rule above means nothing

Box = tuple[float, float, float, float]
"""x, y, width, height in pixels of the portrait."""


@dataclass(frozen=True)
class Placement:
    """Similarity from portrait to frame: (u, v) = scale * (x / width, y / height) + (shift_u, shift_v).

    Attributes:
        scale: size of the portrait in frames.
        shift_u: frame position of the portrait's left border.
        shift_v: frame position of the portrait's top border.
    """

    scale: float = 1.0
    shift_u: float = 0.0
    shift_v: float = 0.0

    def apply(self, box: Box, width: int, height: int) -> Box:
        """A box in portrait pixels → the same box in frame coordinates."""
        x, y, box_width, box_height = box
        return (
            self.scale * x / width + self.shift_u,
            self.scale * y / height + self.shift_v,
            self.scale * box_width / width,
            self.scale * box_height / height,
        )


def check_box(box: Box, width: int, height: int) -> None:
    """Refuse a face box that does not lie in its portrait.

    Raises:
        ValueError: the box is empty, not finite, or its centre is outside the portrait.
    """
    x, y, box_width, box_height = box
    inside = 0 <= x + box_width / 2 <= width and 0 <= y + box_height / 2 <= height
    if not (all(map(math.isfinite, box)) and box_width > 0 and box_height > 0 and inside):
        raise ValueError(f"The face box {box} does not lie in a portrait of {width} x {height} px.")


def place_portrait(box: Box, width: int, height: int) -> Placement:
    """Placement of an aligned portrait from its face box alone (ours).

    Args:
        box: face box in portrait pixels.
        width: portrait width in pixels.
        height: portrait height in pixels.
    """
    check_box(box, width, height)
    x, y, box_width, box_height = box
    canonical = CANONICAL_BOX_WIDTH / (box_width / width)
    scale = canonical**TRUST_IN_BOX * KEPT_SCALE ** (1 - TRUST_IN_BOX)
    scale = min(max(scale, _SCALE_LIMITS[0]), _SCALE_LIMITS[1])
    shifts = []
    for centre, target in zip(
        ((x + box_width / 2) / width, (y + box_height / 2) / height), CANONICAL_BOX_CENTRE, strict=True
    ):
        kept = 0.5 + scale * (centre - 0.5)
        shifts.append(kept + TRUST_IN_BOX * (target - kept) - scale * centre)
    return Placement(scale, shifts[0], shifts[1])
