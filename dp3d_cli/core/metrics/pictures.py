"""What the metrics share: the check of a pair, luma, and the window that is scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Plane = NDArray[np.float64]
Scalar = TypeVar("Scalar", bound=np.generic)

# ITU-R BT.601 luma of gamma-coded RGB, as JPEG and most image libraries have it.
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Window:
    """The part of a picture that is scored: rows top..bottom-1, columns left..right-1 [px]."""

    top: int
    bottom: int
    left: int
    right: int

    def __post_init__(self) -> None:
        if not (0 <= self.top < self.bottom and 0 <= self.left < self.right):
            raise ValueError(f"Window must have 0 <= start < end on both axes, got {self}.")

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index for the first two axes of a picture."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def check_picture(picture: Picture) -> None:
    """Refuse everything but uint8 [H, W, 3].

    Raises:
        ValueError: another dtype (a float picture has no stated range) or shape.
    """
    if picture.dtype != np.uint8:
        raise ValueError(f"Metrics take uint8 pictures with range 0..255, got {picture.dtype}.")
    if picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise ValueError(f"Metrics take RGB pictures [H, W, 3], got shape {picture.shape}.")


def check_pair(prediction: Picture, truth: Picture) -> None:
    """Refuse a pair that is not two uint8 [H, W, 3] pictures of one size.

    Raises:
        ValueError: wrong dtype or shape, or the sizes differ.
    """
    check_picture(prediction)
    check_picture(truth)
    if prediction.shape != truth.shape:
        raise ValueError(f"A pair must have one size, got {prediction.shape[:2]} and {truth.shape[:2]}.")


def cut(plane: NDArray[Scalar], window: Window | None) -> NDArray[Scalar]:
    """The window of a picture or plane, or all of it.

    Raises:
        ValueError: the window reaches beyond the picture.
    """
    if window is None:
        return plane
    if window.bottom > plane.shape[0] or window.right > plane.shape[1]:
        raise ValueError(f"{window} reaches beyond a picture of {plane.shape[0]} x {plane.shape[1]} pixels.")
    return plane[window.slices]


def luma(picture: Picture) -> Plane:
    """BT.601 luma, float64 [H, W] in [0, 255]."""
    return np.asarray(picture.astype(np.float64) @ _LUMA, np.float64)


def correlation(a: Plane, b: Plane) -> float:
    """Cosine between two arrays as vectors, in [-1, 1]; 0 if one of them is zero everywhere."""
    norm = float(np.sqrt(np.sum(a * a) * np.sum(b * b)))
    return float(np.sum(a * b)) / norm if norm > 0 else 0.0
