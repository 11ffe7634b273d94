"""The rule by which numbers are made. All of it is written into the report."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from dp3d_cli.core.errors import InputError, UsageError
from dp3d_cli.core.metrics.gradient_ncc import gradient_ncc
from dp3d_cli.core.metrics.grain import PATCH, grain
from dp3d_cli.core.metrics.pictures import Window
from dp3d_cli.core.metrics.psnr import psnr
from dp3d_cli.core.metrics.sharpness import sharpness
from dp3d_cli.core.metrics.ssim import MIN_SIDE, ssim
from dp3d_cli.core.metrics.zncc import zncc
from dp3d_cli.stages.engine.stage import Json

Picture = NDArray[np.uint8]
PairMetric = Callable[[Picture, Picture, Window | None], float]

# The face in an aligned portrait, in rows and columns of a 256 x 256 picture.
_FACE_256 = (56, 196, 62, 194)

_LEAST_SIZE = 16
_LARGEST_SIZE = 4096


@dataclass(frozen=True)
class Metric:
    """One column of the report.

    Attributes:
        name: as in `--metrics` and in the report's files.
        function: (prediction, truth, window) → number; NaN where undefined.
        better: which way is better.
        unit: of the number; "" for a plain one.
        formula: what is computed, by which package.
        packages: distributions whose version decides the number.
    """

    name: str
    function: PairMetric
    better: Literal["higher", "lower", "near 1"]
    unit: str
    formula: str
    packages: tuple[str, ...] = ()


def _grain(prediction: Picture, truth: Picture, window: Window | None) -> float:
    return grain(prediction)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("psnr", psnr, "higher", "dB", "mean of per-image 10 log10(255^2 / MSE) over RGB"),
        Metric(
            "ssim",
            ssim,
            "higher",
            "",
            "Wang et al. 2004: Gaussian 11 x 11, sigma 1.5, population covariance, data range 255, RGB mean",
            ("scikit-image",),
        ),
        Metric("zncc", zncc, "higher", "", "correlation of BT.601 luma less its mean in the window"),
        Metric(
            "gradient_ncc",
            gradient_ncc,
            "higher",
            "",
            "normalised correlation of Sobel gradient fields of BT.601 luma after a Gaussian of sigma 1.5 px",
            ("opencv-python",),
        ),
        Metric(
            "sharpness",
            sharpness,
            "near 1",
            "x truth",
            "s.d. of the 3 x 3 Laplacian of BT.601 luma over that of the truth",
            ("opencv-python",),
        ),
        Metric(
            "grain",
            _grain,
            "lower",
            "grey levels",
            "of the prediction alone, whole picture: median s.d. of the luma's Laplacian in "
            f"{PATCH} x {PATCH} px patches at the left and right border",
            ("opencv-python",),
        ),
    )
}

DEFAULT_METRICS = ("psnr", "ssim")


@dataclass(frozen=True)
class Protocol:
    """How a pair of pictures becomes numbers.

    Attributes:
        metrics: names from `METRICS`, in the report's order.
        size: every picture is brought to this side [px].
        window: the part that is scored, in pixels at `size`; None for all.
        min_yaw: only cameras turned further than this [rad] are scored (applied in pairing); None for all.
        cameras: the yaw of every view [rad], where a trajectory was named.
    """

    metrics: tuple[str, ...] = DEFAULT_METRICS
    size: int = 256
    window: Window | None = None
    min_yaw: float | None = None
    cameras: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown or not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise UsageError(
                f"Metrics must be different names out of {', '.join(METRICS)}; "
                f"got '{','.join(self.metrics)}'.",
                reason="unknown-metric",
            )
        if not _LEAST_SIZE <= self.size <= _LARGEST_SIZE:
            raise UsageError(
                f"The size must lie between {_LEAST_SIZE} and {_LARGEST_SIZE} pixels, got {self.size}.",
                reason="bad-size",
            )
        if self.window is not None:
            window = self.window
            if max(window.bottom, window.right) > self.size:
                raise UsageError(
                    f"The crop {window_text(window)} reaches beyond {self.size} x {self.size} pixels.",
                    reason="bad-crop",
                )
            if min(window.bottom - window.top, window.right - window.left) < MIN_SIDE:
                raise UsageError(
                    f"The crop {window_text(window)} is smaller than {MIN_SIDE} x {MIN_SIDE} pixels.",
                    reason="bad-crop",
                )

    def describe(self) -> dict[str, Json]:
        """Everything that decides a number, for the report and for the records."""
        packages = sorted(
            {"numpy", "pillow", "opencv-python"}.union(*(METRICS[n].packages for n in self.metrics))
        )
        return {
            "size": self.size,
            "resize": "OpenCV on uint8: INTER_AREA when shrinking, INTER_CUBIC when enlarging",
            "range": "uint8 RGB, 0..255, alpha over white, EXIF rotation applied",
            "crop": window_text(self.window) if self.window else "none",
            "min_yaw": self.min_yaw,
            "cameras": list(self.cameras) if self.cameras is not None else None,
            "device": "cpu",
            "dtype": "float64",
            "mean": "over pairs; sd with N - 1; a metric that is not finite is counted and left out",
            "metrics": {
                name: {
                    "formula": METRICS[name].formula,
                    "unit": METRICS[name].unit,
                    "better": METRICS[name].better,
                    "packages": list(METRICS[name].packages),
                }
                for name in self.metrics
            },
            "packages": {package: version(package) for package in packages},
            "python": platform.python_version(),
        }


def parse_crop(text: str, size: int) -> Window | None:
    """A window [px] from "none", "face" (of an aligned portrait, scaled) or "top:bottom,left:right".

    Raises:
        UsageError: none of these.
    """
    if text == "none":
        return None
    if text == "face":
        return Window(*(round(edge * size / 256) for edge in _FACE_256))
    try:
        rows, columns = (part.split(":") for part in text.split(","))
        top, bottom, left, right = (int(edge) for edge in (*rows, *columns))
        return Window(top, bottom, left, right)
    except ValueError:
        raise UsageError(
            f"The crop '{text}' is none of: face, none, top:bottom,left:right in pixels (56:196,62:194).",
            reason="bad-crop",
        ) from None


def window_text(window: Window) -> str:
    """A window as `parse_crop` reads it."""
    return f"{window.top}:{window.bottom},{window.left}:{window.right}"


def bring_to_size(picture: Picture, size: int, name: str) -> Picture:
    """Resize a square picture by the protocol's filters.

    Raises:
        InputError: the picture is not square (reason "not-square"); squeezing it would falsify every number.
    """
    height, width = picture.shape[:2]
    if height != width:
        raise InputError(
            f"{name}: the picture is {width} x {height}; only square ones are compared. Crop it first.",
            reason="not-square",
        )
    if height == size:
        return picture
    filter_ = cv2.INTER_AREA if height > size else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (size, size), interpolation=filter_), np.uint8)
