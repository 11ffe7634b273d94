"""What a detector says about a face.

Coordinates are those of the upright picture, x to the right and y down. Boxes are continuous (pixel i covers
[i, i + 1)); landmarks are pixel indices, as landmark files everywhere have them (the centre of pixel i is i).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

LandmarksKind = Literal["detected", "given", "box-prior"]


@dataclass(frozen=True)
class FaceBox:
    """An upright rectangle [px].

    Attributes:
        x: left edge.
        y: top edge.
        width: > 0.
        height: > 0.
    """

    x: float
    y: float
    width: float
    height: float

    def __post_init__(self) -> None:
        if not (self.width > 0 and self.height > 0):
            raise ValueError(f"a face box needs a positive size, got {self.width} x {self.height}")

    @property
    def centre(self) -> tuple[float, float]:
        """Centre (x, y)."""
        return self.x + self.width / 2, self.y + self.height / 2

    def overlap(self, other: FaceBox) -> float:
        """Intersection over union, in [0, 1]."""
        width = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        height = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        common = max(width, 0.0) * max(height, 0.0)
        return common / (self.width * self.height + other.width * other.height - common)

    def as_list(self) -> list[float]:
        """[x, y, width, height]."""
        return [self.x, self.y, self.width, self.height]


@dataclass(frozen=True, eq=False)
class Face:
    """One face in a picture.

    Attributes:
        box: where it is. Detectors differ in what a box encloses; `detector` says whose convention it is.
        detector: "opencv", "insightface" or "given".
        score: the detector's certainty, larger is surer; comparable only within one detector. 0 if unknown.
        landmarks: [5, 2] float64 pixel indices in the order image-left eye, image-right eye, nose,
            image-left mouth corner, image-right mouth corner; None if unknown.
        landmarks_kind: "detected" or "given" points are real; "box-prior" points are where an average frontal
            face has them inside the box, good enough to draw, not to estimate a pose.
        roll: in-plane rotation [rad], positive when the image-right eye is lower; None if unknown.
        is_certain: False if only one of the detector's own checks agreed.
    """

    box: FaceBox
    detector: str
    score: float = 0.0
    landmarks: NDArray[np.float64] | None = None
    landmarks_kind: LandmarksKind | None = None
    roll: float | None = None
    is_certain: bool = True

    @property
    def has_real_landmarks(self) -> bool:
        """Whether the landmarks were seen rather than assumed."""
        return self.landmarks is not None and self.landmarks_kind != "box-prior"


def five_landmarks(points: ArrayLike) -> NDArray[np.float64]:
    """The five alignment points from 5 or 68 points.

    Args:
        points: [5, 2], returned as they are, or [68, 2] in iBUG order. Of the 68 an eye is the mean of its
            two corners (36 and 39, 42 and 45, counted from 0), as EG3D's alignment takes them.

    Returns:
        [5, 2] float64.

    Raises:
        ValueError: another number of points, or numbers that are not finite.
    """
    array: NDArray[np.float64] = np.array(points, np.float64)
    if array.shape not in ((5, 2), (68, 2)):
        raise ValueError(f"expected 5 or 68 points of (x, y), got an array of shape {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError("landmarks must be finite numbers")
    if len(array) == 5:
        return array
    left_eye, right_eye = array[[36, 39]].mean(0), array[[42, 45]].mean(0)
    return np.array([left_eye, right_eye, array[30], array[48], array[54]], np.float64)


def eye_roll(landmarks: NDArray[np.float64]) -> float:
    """In-plane rotation [rad] of the line through the eyes of [5, 2] points."""
    x, y = landmarks[1] - landmarks[0]
    return math.atan2(y, x)


def choose_face(faces: Sequence[Face], which: int | Literal["largest"]) -> Face:
    """One of the faces that a detector returned.

    Args:
        faces: as detectors sort them, the most prominent first.
        which: "largest" or a position counted from 0.

    Raises:
        IndexError: there are not so many faces.
    """
    position = 0 if which == "largest" else which
    if not 0 <= position < len(faces):
        raise IndexError(f"face {position} was asked for, {len(faces)} found")
    return faces[position]
