"""The synthesize stage: one subject's references in, its views from every target camera out.

One item is one subject. Below the output folder stand `<id>/<view>.png`, `<id>/views.json` (how they were
made), `<id>/transforms.json` (their cameras, for NeRF tools) and `<id>/contact_sheet.png`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dp3d_cli import __version__
from dp3d_cli.core.cameras.files import write_transforms
from dp3d_cli.core.contact_sheet import contact_sheet
from dp3d_cli.core.errors import InputError
from dp3d_cli.core.images import read_image, resize, write_png
from dp3d_cli.core.presets import Preset, as_settings
from dp3d_cli.core.weights.manifest import digest, sha256
from dp3d_cli.core.weights.registry import resolve
from dp3d_cli.stages.engine.stage import Item, Json, Product, StepProgress
from dp3d_cli.stages.proxy import (
    ProxyPictures,
    choose_reference,
    load_network,
    portrait_weights,
    proxy_files,
    read_proxies,
    references_of,
    sidecar_of,
    template_proxies,
    volume_proxies,
    volume_weights,
)
from dp3d_cli.stages.targets import Targets

if TYPE_CHECKING:
    import torch

    from dp3d_cli.core.diffusion.pipeline import DiffPortraitPipeline
    from dp3d_cli.core.proxies.volume import VolumeProxy

SHEET_TILE = 128  # px
SHEET_COLUMNS = 8


@dataclass(frozen=True)
class SynthesizeStage:
    """Views of subjects by the diffusion core. Build the items with `items_of`.

    Attributes:
        preset: everything that decides the result besides the subject and the targets.
        targets: where the views are seen from.
        proxies: folder that `dp3d proxy` wrote; None makes the same proxies here.
        device: torch device; "auto" takes CUDA where there is one.
    """

    preset: Preset
    targets: Targets
    proxies: Path | None = None
    device: str = "auto"
    name: str = field(default="synthesize", init=False)

    @property
    def settings(self) -> Mapping[str, Json]:
        """The resolved preset and the targets."""
        return {
            "preset": as_settings(self.preset),
            "targets": self.targets.digest,
            "proxies": "from files" if self.proxies else self.preset.proxy.backend,
        }

    @cached_property
    def weights(self) -> Mapping[str, str]:
        """Digest of the networks.

        Raises:
            WeightsError: not on this machine, or damaged.
        """
        weights = {self.preset.weights: digest(resolve(self.preset.weights))}
        if self.proxies is None:
            weights |= portrait_weights()
        if self._sees_volume:
            weights |= volume_weights(self.preset.weights)
        return weights

    @property
    def _sees_volume(self) -> bool:
        """Whether the proxies are made here, by the trained network."""
        return self.proxies is None and self.preset.proxy.backend == "volume"

    @cached_property
    def _volume(self) -> VolumeProxy:
        """The network that makes proxies, loaded once for all items."""
        return load_network(self.preset.weights)

    def items_of(self, subjects: Sequence[Item]) -> list[Item]:
        """The subjects with every file that decides their views as inputs: references, sidecars, proxies."""
        items = []
        for subject in subjects:
            extra = [path for path in map(sidecar_of, subject.inputs) if path.is_file()]
            if self.proxies is not None:
                extra += proxy_files(self.proxies, subject.id)
            items.append(replace(subject, inputs=(*subject.inputs, *extra)))
        return items

    def process(self, item: Item, draft: Path, progress: StepProgress) -> Product:
        """Synthesize one subject.

        Raises:
            InputError: a reference or a proxy cannot be used.
        """
        size = self.preset.size
        paths = references_of(item)
        references = [_square(path, size) for path in paths]
        progress.step(0, 1, "proxies")
        proxies = self._proxies(item, paths)
        views = self._views(item.id, references, proxies, progress)

        folder = draft / item.id
        folder.mkdir(parents=True)
        names = self.targets.view_names
        files = [f"{name}.png" for name in names]
        for file, view in zip(files, views, strict=True):
            write_png(folder / file, view)
        rows = [references, list(proxies.images), list(views)]
        sheet = contact_sheet(
            rows, ["reference", "proxy", "view"], tile=SHEET_TILE, columns=min(SHEET_COLUMNS, len(files))
        )
        write_png(folder / "contact_sheet.png", sheet)
        description = self._description(item.id, paths)
        (folder / "views.json").write_text(
            json.dumps(description, indent=1) + "\n", encoding="utf-8", newline="\n"
        )
        outputs = ["views.json", *files, "contact_sheet.png"]
        if self.targets.trajectory is not None:
            write_transforms(folder / "transforms.json", self.targets.trajectory, size, files)
            outputs.append("transforms.json")
        return Product(
            outputs=tuple(f"{item.id}/{name}" for name in outputs),
            info={"views": len(files), "references": len(references), "preset": self.preset.name},
            warnings=proxies.warnings,
        )

    def _proxies(self, item: Item, references: Sequence[Path]) -> ProxyPictures:
        if self.proxies is not None:
            return read_proxies(self.proxies, item.id, self.targets.view_names, self.preset.size)
        reference, labels = choose_reference(references), self.targets.labels
        if self._sees_volume:
            return volume_proxies(reference, labels, self.preset.size, self._volume)
        return template_proxies(reference, labels, self.preset.size)

    def _views(
        self,
        subject_id: str,
        references: Sequence[NDArray[np.uint8]],
        proxies: ProxyPictures,
        progress: StepProgress,
    ) -> NDArray[np.uint8]:
        steps = self.preset.sampler.num_inference_steps
        output = self._pipeline(
            np.stack(references),
            self.targets.conditions,
            proxies.images,
            confidences=_unit_maps(proxies.confidences),
            coverages=_unit_maps(proxies.coverages),
            subject_id=subject_id,
            view_names=self.targets.view_names,
            closed=self.targets.closed,
            output_type="np",
            callback=lambda step, _timestep, _latents: progress.step(step + 1, steps, "denoising"),
        )
        return np.asarray(output.images, np.uint8)

    @cached_property
    def _pipeline(self) -> DiffPortraitPipeline:
        """The networks, loaded once for all items."""
        from diffusers.utils import logging

        from dp3d_cli.core.diffusion.pipeline import DiffPortraitPipeline

        logging.disable_progress_bar()
        return DiffPortraitPipeline.from_preset(self.preset, device=self.device)

    def _description(self, subject_id: str, references: Sequence[Path]) -> dict[str, Json]:
        """The content of views.json: which views, and everything that made them."""
        views = [
            {"view": name, "file": f"{name}.png"}
            | ({} if camera is None else _angles(camera.yaw, camera.pitch))
            for name, camera in zip(self.targets.view_names, self.targets.cameras, strict=True)
        ]
        return {
            "format": "dp3d-views",
            "version": 1,
            "id": subject_id,
            "size": self.preset.size,
            "closed": self.targets.closed,
            "trajectory": self.targets.name,
            "views": views,
            "references": [{"file": path.name, "sha256": sha256(path)} for path in references],
            "preset": as_settings(self.preset),
            "weights": dict(self.weights),
            "targets": self.targets.digest,
            "proxies": self.settings["proxies"],
            "made_with": f"dp3d {__version__}",
        }


def _square(path: Path, size: int) -> NDArray[np.uint8]:
    """An aligned portrait at the preset's size; what is not square was not aligned."""
    image = read_image(path)
    if image.shape[0] != image.shape[1]:
        raise InputError(
            f"{path}: {image.shape[1]}x{image.shape[0]} is not square, so it is not an aligned portrait. "
            "Run `dp3d align` first (its --no-align cuts the central square only).",
            reason="not-aligned",
        )
    return resize(image, size)


def _unit_maps(maps: NDArray[np.uint8]) -> torch.Tensor:
    """uint8 [V, H, W] → float [V, 1, H, W] in [0, 1]."""
    import torch

    return torch.from_numpy(maps).float().div(255).unsqueeze(1)


def _angles(yaw: float, pitch: float) -> dict[str, float]:
    return {"yaw_deg": round(float(np.degrees(yaw)), 4), "pitch_deg": round(float(np.degrees(pitch)), 4)}
