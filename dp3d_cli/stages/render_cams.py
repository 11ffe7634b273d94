"""The render-cams stage: camera conditions, images of another subject seen from each target camera.

One item is one trajectory. Below the output folder stand `<name>/cameras.json`, one `<view>.png` a view, and
`<name>/transforms.json` for other tools.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dp3d_cli.core.cameras.camera import Trajectory, is_trajectory_name, view_names
from dp3d_cli.core.cameras.files import CameraList, write_camera_list, write_transforms
from dp3d_cli.core.errors import UsageError
from dp3d_cli.core.images import write_png
from dp3d_cli.core.renderers.images import ConditionImages
from dp3d_cli.stages.engine.stage import Item, Json, Product, StepProgress


@dataclass(frozen=True)
class ProceduralCameras:
    """Render the procedural head of this seed; another seed is another person.

    Attributes:
        seed: identity of the head, >= 0.
        device: "cpu", "cuda", "cuda:0", "mps", or "auto" for CUDA where there is one; no part of the result.

    Raises:
        UsageError: no such kind of device.
    """

    seed: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]+)?", self.device):
            raise UsageError(f"'{self.device}' is not a device: use auto, cpu, cuda, cuda:0 or mps.")


@dataclass(frozen=True)
class ImageCameras:
    """Take images made elsewhere.

    Attributes:
        images: a folder or a driving video.
        resample: take evenly spread images if there are more than views.
        centre_crop: cut images that are not square.
    """

    images: ConditionImages
    resample: bool = False
    centre_crop: bool = False


@dataclass(frozen=True)
class RenderCamsStage:
    """Camera conditions of one trajectory.

    Attributes:
        trajectory: the cameras; None if they are unknown, which only `ImageCameras` can do.
        size: width and height of the images [px].
        backend: where the images come from.
        name_without_cameras: the item's name if there is no trajectory.
        views_without_cameras: number of views if there is no trajectory; None takes all images.

    Raises:
        UsageError: nothing to render, or not as many images as views.
    """

    trajectory: Trajectory | None
    size: int
    backend: ProceduralCameras | ImageCameras = ProceduralCameras()
    name_without_cameras: str = "images"
    views_without_cameras: int | None = None

    def __post_init__(self) -> None:
        if self.trajectory is None and isinstance(self.backend, ProceduralCameras):
            raise UsageError("The procedural head needs a trajectory; only images can do without cameras.")
        if not is_trajectory_name(self._id):
            raise UsageError(f"'{self._id}' cannot name a trajectory, because it cannot name a folder.")
        if isinstance(self.backend, ImageCameras):
            self._chosen(self.backend)

    @property
    def name(self) -> str:
        """Command name."""
        return "render-cams"

    @property
    def item(self) -> Item:
        """The one item of this stage."""
        inputs = self.backend.images.files if isinstance(self.backend, ImageCameras) else ()
        return Item(self._id, inputs)

    @property
    def settings(self) -> Mapping[str, Json]:
        """The cameras, by digest, and how the images are made."""
        known: dict[str, Json] = {"num_views": self._num_views, "size": self.size, "cameras": None}
        if self.trajectory is not None:
            digest = hashlib.sha256(self.trajectory.labels.astype("<f4").tobytes()).hexdigest()
            known |= {"cameras": digest, "closed": self.trajectory.closed}
        if isinstance(self.backend, ProceduralCameras):
            return known | {"backend": "procedural", "seed": self.backend.seed}
        crop: Json = self.backend.centre_crop
        return known | {"backend": "images", "resample": self.backend.resample, "centre_crop": crop}

    @property
    def weights(self) -> Mapping[str, str]:
        """No backend of this stage has weights."""
        return {}

    def process(self, item: Item, draft: Path, progress: StepProgress) -> Product:
        """Write the images and the camera files of the trajectory.

        Raises:
            InputError: an image cannot be read or is not square.
        """
        folder = draft / item.id
        folder.mkdir(parents=True)
        views = view_names(self._num_views)
        files = [f"{view}.png" for view in views]
        for done, (file, image) in enumerate(zip(files, self._images(), strict=True), start=1):
            write_png(folder / file, image)
            progress.step(done, len(files), "views")
        outputs = ["cameras.json", *files]
        if self.trajectory is None:
            unknown = CameraList(item.id, (None,) * len(files), tuple(files))
            write_camera_list(folder / "cameras.json", unknown)
        else:
            known = CameraList(item.id, self.trajectory.cameras, tuple(files), self.trajectory.closed)
            write_camera_list(folder / "cameras.json", known)
            write_transforms(folder / "transforms.json", self.trajectory, self.size, files)
            outputs.append("transforms.json")
        return Product(
            outputs=tuple(f"{item.id}/{output}" for output in outputs),
            info={"num_views": len(files), "size": self.size, "cameras_known": self.trajectory is not None},
        )

    @property
    def _id(self) -> str:
        return self.name_without_cameras if self.trajectory is None else self.trajectory.name

    @property
    def _num_views(self) -> int:
        if isinstance(self.backend, ImageCameras):
            return len(self._chosen(self.backend))
        assert self.trajectory is not None
        return len(self.trajectory)

    def _chosen(self, backend: ImageCameras) -> tuple[int, ...]:
        wanted = self.views_without_cameras if self.trajectory is None else len(self.trajectory)
        return backend.images.choose(wanted, resample=backend.resample)

    def _images(self) -> Iterator[NDArray[np.uint8]]:
        if isinstance(self.backend, ImageCameras):
            chosen = self._chosen(self.backend)
            return self.backend.images.read(chosen, self.size, centre_crop=self.backend.centre_crop)
        from dp3d_cli.core.renderers.conditions import render_conditions

        assert self.trajectory is not None
        return render_conditions(
            self.trajectory, self.size, seed=self.backend.seed, device=self.backend.device
        )
