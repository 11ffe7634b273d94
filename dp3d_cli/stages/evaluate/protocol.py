"""The rule by which numbers are made. All of it is written into the report.

Rules that a paper states are shipped as files (`--protocol NAME`): what the paper says, what it leaves open
and how that is settled here. An option that says otherwise is reported as a deviation.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.errors import InputError, UsageError
from dp3d_cli.core.metrics.pictures import Picture, Window
from dp3d_cli.core.metrics.ssim import MIN_SIDE
from dp3d_cli.core.presets import explain, presets_folder, read_yaml_mapping
from dp3d_cli.stages.engine.stage import Json
from dp3d_cli.stages.evaluate.metrics import METRICS
from dp3d_cli.stages.evaluate.networks import PoseBackend

# The face in an aligned portrait, in rows and columns of a 256 x 256 picture.
_FACE_256 = (56, 196, 62, 194)

_LEAST_SIZE = 16
_LARGEST_SIZE = 4096

DEFAULT_METRICS = ("psnr", "ssim")
DEFAULT_SIZE = 256

Views = Literal["all", "five"]
Against = Literal["ground truth", "references", "references, as reconstructions"]


class PublishedProtocol(BaseModel):
    """The rule of a paper, as a shipped file states it.

    Attributes:
        description: one sentence for people.
        paper: which paper and tables.
        tables: ids of the published tables to show beside.
        metrics: names, in the report's order.
        size: side of the pictures [px].
        crop: as in `--crop`.
        views: all, or the five of Portrait Diffusion.
        min_yaw: as in `--min-yaw` [rad].
        strict: as in `--strict`.
        stated: what the paper says.
        open: what it leaves open, and how that is settled here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str
    paper: str
    tables: tuple[str, ...] = ()
    metrics: tuple[str, ...]
    size: int = Field(ge=_LEAST_SIZE, le=_LARGEST_SIZE)
    crop: str = "none"
    views: Views = "all"
    min_yaw: float | None = None
    strict: bool = False
    stated: tuple[str, ...] = ()
    open: tuple[str, ...] = ()


@dataclass(frozen=True)
class Protocol:
    """How pictures become numbers.

    Attributes:
        metrics: names from `METRICS`, in the report's order.
        size: every picture is brought to this side [px].
        window: the part that is scored, in pixels at `size`; None for all.
        min_yaw: only cameras turned further than this [rad] are scored (applied in pairing); None for all.
        cameras: the camera of every view, where a trajectory was named.
        views: all, or five of each subject (applied in pairing).
        strict: a prediction without a face scores a metric's worst value (applied in summing up).
        against: what predictions are compared with.
        device: torch device of the networks.
        pose: the pose estimator asked for.
        name: of the shipped protocol, if one was named.
        published: that protocol.
        deviations: how this rule differs from it, as sentences.
    """

    metrics: tuple[str, ...] = DEFAULT_METRICS
    size: int = DEFAULT_SIZE
    window: Window | None = None
    min_yaw: float | None = None
    cameras: tuple[Camera, ...] | None = None
    views: Views = "all"
    strict: bool = False
    against: Against = "ground truth"
    device: str = "cpu"
    pose: PoseBackend = "auto"
    name: str | None = None
    published: PublishedProtocol | None = None
    deviations: tuple[str, ...] = field(default=())

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
            if self.scored_side("psnr") < MIN_SIDE:
                raise UsageError(
                    f"The crop {window_text(window)} is smaller than {MIN_SIDE} x {MIN_SIDE} pixels.",
                    reason="bad-crop",
                )

    def scored_side(self, metric: str) -> int:
        """Shorter side of what a metric looks at [px]."""
        if self.window is None or not METRICS[metric].is_windowed:
            return self.size
        return min(self.window.bottom - self.window.top, self.window.right - self.window.left)

    def describe(self) -> dict[str, Json]:
        """Everything that decides a number, for the report; networks describe themselves."""
        packages = {"numpy", "pillow", "opencv-python"}
        packages.update(*(METRICS[name].packages for name in self.metrics))
        published = self.published
        return {
            "name": self.name,
            "paper": published.paper if published else None,
            "published_tables": list(published.tables) if published else [],
            "stated": list(published.stated) if published else [],
            "notes": list(published.open) if published else [],
            "deviations": list(self.deviations),
            "size": self.size,
            "resize": "OpenCV on uint8: INTER_AREA when shrinking, INTER_CUBIC when enlarging",
            "range": "uint8 RGB, 0..255, alpha over white, EXIF rotation applied",
            "crop": window_text(self.window) if self.window else "none",
            "crop_applies_to": [name for name in self.metrics if METRICS[name].is_windowed],
            "against": self.against,
            "views": self.views,
            "min_yaw": self.min_yaw,
            "cameras": [camera.yaw for camera in self.cameras] if self.cameras is not None else None,
            "strict": self.strict,
            "faces": (
                "a prediction without a face scores the metric's worst value; a truth or reference without "
                "one leaves the row out"
                if self.strict
                else "rows without a face are left out; see coverage"
            ),
            "pose": self.pose,
            "device": self.device,
            "dtype": "float64; networks float32",
            "mean": "over rows; sd with N - 1; a number that is not finite is counted and left out; "
            "interval: 95 % bootstrap over subjects, 2000 resamples, fixed seed",
            "packages": {package: _version(package) for package in sorted(packages)},
            "python": platform.python_version(),
        }

    def settings(self) -> dict[str, Json]:
        """What decides the scores of a subject, besides its files and the networks."""
        described = self.describe()
        keys = ("size", "resize", "range", "crop", "against", "device", "pose", "packages", "python")
        labels = None
        if self.cameras is not None:
            labels = [[float(number) for number in camera.label] for camera in self.cameras]
        return {
            **{key: described[key] for key in keys},
            "camera_labels": labels,
            "formulas": {name: METRICS[name].formula for name in self.metrics},
        }


def protocols_folder() -> Path:
    """Where the shipped protocols lie."""
    return presets_folder() / "evaluate"


def protocol_names() -> list[str]:
    """Names of the shipped protocols, sorted."""
    return sorted(path.stem for path in protocols_folder().glob("*.yaml"))


def load_protocol(name: str) -> PublishedProtocol:
    """A shipped protocol.

    Raises:
        UsageError: no such name, or the file is not one.
    """
    path = protocols_folder() / f"{name}.yaml"
    if name not in protocol_names():
        raise UsageError(
            f"No protocol '{name}'. Shipped protocols: {', '.join(protocol_names())}.",
            reason="unknown-protocol",
        )
    try:
        return PublishedProtocol.model_validate(read_yaml_mapping(path))
    except ValidationError as error:
        raise UsageError(f"{path}: {explain(error, PublishedProtocol)}") from error


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


def _version(package: str) -> str | None:
    """Installed version; None for an optional package that is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
