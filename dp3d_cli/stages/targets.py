"""What a view is synthesized for: the target cameras with their camera-condition images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dp3d_cli.core.cameras.camera import Camera, Trajectory, view_names
from dp3d_cli.core.cameras.files import read_camera_list
from dp3d_cli.core.cameras.trajectories import load_trajectory
from dp3d_cli.core.errors import InputError, UsageError
from dp3d_cli.core.images import read_image, resize
from dp3d_cli.core.presets import CameraSettings
from dp3d_cli.core.renderers.conditions import render_conditions


@dataclass(frozen=True)
class Targets:
    """Target views in order.

    Attributes:
        name: the trajectory's name.
        cameras: one per view; None where unknown (the frames of a driving video).
        conditions: uint8 [V, size, size, 3] RGB, another subject seen from each camera.
        closed: whether the first view follows the last.
    """

    name: str
    cameras: tuple[Camera | None, ...]
    conditions: NDArray[np.uint8]
    closed: bool

    @property
    def view_names(self) -> tuple[str, ...]:
        """The views' names: "000", "001", …."""
        return tuple(view_names(len(self.cameras)))

    @property
    def labels(self) -> NDArray[np.float32]:
        """[V, 25] camera labels.

        Raises:
            UsageError: a camera is unknown.
        """
        known = [camera.label for camera in self.cameras if camera is not None]
        if len(known) < len(self.cameras):
            raise UsageError(
                f"The cameras of '{self.name}' are not all known, so no proxies can be made for them. "
                "Give a trajectory of as many views with the images, or proxies made elsewhere (--proxies)."
            )
        return np.stack(known)

    @property
    def trajectory(self) -> Trajectory | None:
        """The cameras as a trajectory, or None if one is unknown."""
        known = tuple(camera for camera in self.cameras if camera is not None)
        return Trajectory(self.name, known, self.closed) if len(known) == len(self.cameras) else None

    @property
    def digest(self) -> str:
        """Sha256 of cameras and images: what of the targets decides a result."""
        hasher = hashlib.sha256(f"{self.conditions.shape} {self.closed}".encode())
        for camera in self.cameras:
            hasher.update(b"unknown" if camera is None else camera.label.astype("<f4").tobytes())
        hasher.update(self.conditions.tobytes())
        return hasher.hexdigest()


def make_targets(settings: CameraSettings, size: int, *, device: str = "cpu") -> Targets:
    """The targets that a preset describes, rendered here: the same images as `render-cams` writes.

    Raises:
        UsageError: the trajectory cannot be loaded.
    """
    trajectory = load_trajectory(settings.trajectory, settings.num_views)
    images = np.stack(list(render_conditions(trajectory, size, seed=settings.seed, device=device)))
    return Targets(trajectory.name, trajectory.cameras, images, trajectory.closed)


def read_targets(folder: Path, size: int) -> Targets:
    """The targets that `render-cams` wrote, brought to `size` pixels.

    Args:
        folder: a folder with cameras.json, or one that holds a single such folder.
        size: width and height of the condition images [px].

    Raises:
        UsageError: no cameras.json, or several.
        InputError: the file or an image cannot be used.
    """
    found = [folder] if (folder / "cameras.json").is_file() else _subfolders(folder)
    if len(found) != 1:
        names = ", ".join(str(path) for path in found) or "none"
        raise UsageError(
            f"{folder}: expected one folder with a cameras.json from `dp3d render-cams`; found {names}."
        )
    path = found[0] / "cameras.json"
    listed = read_camera_list(path)
    images = []
    for name in listed.file_names:
        image = read_image(found[0] / name)
        if image.shape[0] != image.shape[1]:
            raise InputError(f"{found[0] / name}: not square.", reason="not-square")
        images.append(resize(image, size))
    return Targets(listed.name, listed.cameras, np.stack(images), listed.closed)


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if (path / "cameras.json").is_file())
