"""Trajectories as users name them: shipped, from a YAML file, from options, or read back from a camera file.

Here, in YAML and on the command line, angles are degrees. `yaw > 0` moves the camera to +x, the viewer's
right; **`pitch < 0` moves it above the face**, EG3D's sign and measure (see `camera.py`).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dp3d_cli.core.cameras.camera import FOCAL, PIVOT, RADIUS, Rig, Trajectory, is_trajectory_name
from dp3d_cli.core.cameras.files import read_cameras
from dp3d_cli.core.cameras.paths import gen_videos, grid, panohead, ring, sweep
from dp3d_cli.core.errors import UsageError
from dp3d_cli.core.presets import explain, presets_folder, read_yaml_mapping

__all__ = [
    "Trajectory",
    "gen_videos",
    "grid",
    "load_trajectory",
    "panohead",
    "parse_angles",
    "ring",
    "sweep",
    "trajectory_from_flags",
    "trajectory_names",
]

MAX_VIEWS = 10_000
"""More is a typing error rather than a wish."""


def load_trajectory(source: str | Path | Mapping[str, Any], num_views: int | None = None) -> Trajectory:
    """The trajectory of this name, file or mapping.

    Args:
        source: a shipped name ("gen-videos"); the path of a trajectory YAML, of a `cameras.json`, of a NeRF
            `transforms.json` or of a folder that holds a `cameras.json`; or the content of a YAML.
        num_views: cameras on it; None keeps the trajectory's own number.

    Raises:
        UsageError: no such trajectory, a wrong YAML, or a number of views that the trajectory cannot have.
        InputError: the JSON file cannot be read or holds no usable cameras.
    """
    if isinstance(source, Mapping):
        return _from_mapping(dict(source), "The trajectory", num_views)
    path = _find(str(source))
    if path.suffix.lower() == ".json":
        return _with_num_views(read_cameras(path), num_views, str(path))
    return _from_mapping({"name": path.stem, **read_yaml_mapping(path)}, str(path), num_views)


def trajectory_from_flags(
    yaw: str, pitch: str = "0", *, paired: bool = False, name: str = "angles"
) -> Trajectory:
    """The cameras of `--yaw` and `--pitch`, both in degrees as `parse_angles` reads them.

    By default every yaw is taken at every pitch (see `grid`); `paired` takes the first yaw with the first
    pitch, the second with the second, and so on. The lengths never decide which of the two is meant.

    Raises:
        UsageError: not angles, or pairs of unequal length.
    """
    kind = "angles" if paired else "grid"
    data = {"kind": kind, "name": name, "yaw_deg": yaw, "pitch_deg": pitch}
    return _from_mapping(data, "The angles", None)


def trajectory_names() -> list[str]:
    """Names of the shipped trajectories, sorted."""
    return sorted(path.stem for path in _shipped().glob("*.yaml"))


def parse_angles(text: str) -> tuple[float, ...]:
    """Angles in degrees from "start:stop:count" (both ends included), from "a,b,c", or from a mix of both.

    Raises:
        ValueError: not of this form; the message says what is wrong.
    """
    angles: list[float] = []
    for part in text.split(","):
        numbers = part.split(":")
        if len(numbers) not in (1, 3):
            raise ValueError(f"'{part.strip()}' is neither an angle nor start:stop:count, as in -30:30:9")
        try:
            start, stop = float(numbers[0]), float(numbers[-2] if len(numbers) == 3 else numbers[0])
            count = int(numbers[2]) if len(numbers) == 3 else 1
        except ValueError:
            raise ValueError(
                f"'{part.strip()}' is neither an angle nor start:stop:count, as in -30:30:9"
            ) from None
        if not 1 <= count <= MAX_VIEWS - len(angles):
            raise ValueError(
                f"'{part.strip()}' asks for {count} angles; 1 to {MAX_VIEWS} in all are possible"
            )
        if len(numbers) == 3 and count == 1 and start != stop:
            raise ValueError(f"'{part.strip()}' is one angle with two values; write the angle alone")
        angles += np.linspace(start, stop, count).tolist()
    return tuple(angles)


def _angle_list(value: object) -> object:
    if isinstance(value, str):
        return parse_angles(value)
    return (value,) if isinstance(value, int | float) else value


def _folder_name(name: str) -> str:
    if not is_trajectory_name(name):
        raise ValueError("must be able to name a folder")
    return name


_Name: TypeAlias = Annotated[str, AfterValidator(_folder_name)]
_NumViews: TypeAlias = Annotated[int, Field(ge=1, le=MAX_VIEWS)]
_Yaw: TypeAlias = Annotated[float, Field(ge=-360, le=360)]
_Pitch: TypeAlias = Annotated[float, Field(gt=-90, lt=90)]  # the poles, where a look-at camera has no up
_Yaws: TypeAlias = Annotated[tuple[_Yaw, ...], BeforeValidator(_angle_list), Field(min_length=1)]
_Pitches: TypeAlias = Annotated[tuple[_Pitch, ...], BeforeValidator(_angle_list), Field(min_length=1)]


class _Spec(BaseModel):
    """What every kind of trajectory file may say besides its kind."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: _Name
    description: str = ""


class _RigSpec(_Spec):
    radius: float = Field(default=RADIUS, gt=0)
    pivot: tuple[float, float, float] = PIVOT
    focal: float = Field(default=FOCAL, gt=0)

    @property
    def rig(self) -> Rig:
        return Rig(self.radius, self.pivot, self.focal)


class _GenVideos(_Spec):
    kind: Literal["gen-videos"]
    num_views: _NumViews = 16

    def build(self) -> Trajectory:
        return replace(gen_videos(self.num_views), name=self.name)


class _PanoHead(_Spec):
    kind: Literal["panohead"]
    num_views: _NumViews = 16
    model: Literal["head", "ffhq"] = "head"

    def build(self) -> Trajectory:
        return replace(panohead(self.num_views, self.model), name=self.name)


class _Sweep(_RigSpec):
    kind: Literal["sweep"]
    num_views: _NumViews = 9
    yaw_deg: tuple[_Yaw, _Yaw] = (-35.0, 35.0)
    pitch_deg: _Pitch = 0.0

    def build(self) -> Trajectory:
        start, stop = (math.radians(angle) for angle in self.yaw_deg)
        return sweep(
            self.num_views, (start, stop), math.radians(self.pitch_deg), name=self.name, rig=self.rig
        )


class _Ring(_RigSpec):
    kind: Literal["ring"]
    num_views: _NumViews = 16
    yaw_deg: _Yaw = 25.0
    pitch_deg: _Pitch = 15.0
    centre_yaw_deg: _Yaw = 0.0
    centre_pitch_deg: _Pitch = 0.0

    def build(self) -> Trajectory:
        if abs(self.centre_pitch_deg) + abs(self.pitch_deg) >= 90:
            raise ValueError(
                "settings 'pitch_deg' and 'centre_pitch_deg' together reach the pole at 90 degrees."
            )
        return ring(
            self.num_views,
            math.radians(self.yaw_deg),
            math.radians(self.pitch_deg),
            centre=(math.radians(self.centre_yaw_deg), math.radians(self.centre_pitch_deg)),
            name=self.name,
            rig=self.rig,
        )


class _Grid(_RigSpec):
    kind: Literal["grid"]
    yaw_deg: _Yaws
    pitch_deg: _Pitches = (0.0,)

    def build(self) -> Trajectory:
        yaws, pitches = np.radians(self.yaw_deg).tolist(), np.radians(self.pitch_deg).tolist()
        return grid(yaws, pitches, name=self.name, rig=self.rig)


class _Angles(_RigSpec):
    kind: Literal["angles"]
    yaw_deg: _Yaws
    pitch_deg: _Pitches = (0.0,)
    closed: bool = False

    def build(self) -> Trajectory:
        count = max(len(self.yaw_deg), len(self.pitch_deg))
        yaws, pitches = (
            np.radians(angles * count if len(angles) == 1 else angles)
            for angles in (self.yaw_deg, self.pitch_deg)
        )
        return Trajectory.from_angles(self.name, yaws, pitches, closed=self.closed, rig=self.rig)


_KINDS: dict[str, type[_GenVideos | _PanoHead | _Sweep | _Ring | _Grid | _Angles]] = {
    "gen-videos": _GenVideos,
    "panohead": _PanoHead,
    "sweep": _Sweep,
    "ring": _Ring,
    "grid": _Grid,
    "angles": _Angles,
}


def _from_mapping(data: dict[str, Any], source: str, num_views: int | None) -> Trajectory:
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        found = "is missing" if kind is None else f"is {kind!r}"
        raise UsageError(f"{source}: setting 'kind' {found}; expected one of {', '.join(_KINDS)}.")
    model = _KINDS[kind]
    if num_views is not None and "num_views" in model.model_fields:
        data = {**data, "num_views": num_views}
    try:
        trajectory = model.model_validate({"name": kind, **data}).build()
    except ValidationError as error:
        raise UsageError(f"{source}: {explain(error, model)}") from error
    except ValueError as error:
        raise UsageError(f"{source}: {error}") from error
    return _with_num_views(trajectory, num_views, source)


def _with_num_views(trajectory: Trajectory, num_views: int | None, source: str) -> Trajectory:
    if num_views is not None and num_views != len(trajectory):
        raise UsageError(
            f"{source}: the trajectory has {len(trajectory)} views, {num_views} were asked for. "
            "Its cameras are listed one by one; leave the number of views open (null) or change the list."
        )
    return trajectory


def _find(name_or_path: str) -> Path:
    shipped = _shipped() / f"{name_or_path}.yaml"
    if "/" not in name_or_path and shipped.is_file():
        return shipped
    path = Path(name_or_path)
    if path.is_dir() and (path / "cameras.json").is_file():
        return path / "cameras.json"
    if path.is_file():
        if path.suffix.lower() in (".yaml", ".yml", ".json"):
            return path
        raise UsageError(f"{path}: a trajectory file ends in .yaml, .yml or .json, not '{path.suffix}'.")
    names = trajectory_names()
    near = difflib.get_close_matches(name_or_path, names, n=1)
    hint = f"Did you mean '{near[0]}'?" if near else f"Shipped trajectories: {', '.join(names)}."
    raise UsageError(f"No trajectory '{name_or_path}', neither by name nor as a file. {hint}")


def _shipped() -> Path:
    return presets_folder() / "trajectories"
