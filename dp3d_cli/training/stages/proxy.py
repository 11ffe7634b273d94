"""The stage `proxy`: the network S of DiffPortrait3D, from one portrait to other views (supplement A.1).

A step shows some heads by one portrait each, varied as photographs are (`dp3d_cli.training.augment`) and with
an imperfect mask, and asks for other views of them. The loss is squared error and a perceptual distance, as
in the paper, and two terms of ours that teach the volume its shape: opacity against the head's mask, and the
portrait's pixels, moved to where the volume says that they are, against the truth.

The perceptual distance is that of VGG-16's first three blocks where its weights are on this machine; else L1
between Laplacian pyramids. The log names the one that was used: `vgg16` or `pyramid`.

A rendered head costs as much as some steps. `dp3d_cli.training.rendered` makes a folder of them once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from dp3d_cli.core.errors import UsageError
from dp3d_cli.core.metrics.psnr import psnr
from dp3d_cli.core.proxies.template import to_uint8
from dp3d_cli.core.proxies.volume import FOLDER, VolumeProxy, VolumeViews
from dp3d_cli.core.weights.backbones import find_backbone
from dp3d_cli.training.augment import AugmentSettings, dented, estimated_camera, randomise, segmented
from dp3d_cli.training.data import Subjects, SubjectViews, open_subjects
from dp3d_cli.training.export import tidy
from dp3d_cli.training.preset import TrainPreset
from dp3d_cli.training.settings import build

_PYRAMID_LEVELS = 4
_VGG_LAYERS = (3, 8, 15)  # relu1_2, relu2_2, relu3_3 in torchvision's VGG-16
_VGG_MEAN, _VGG_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision states them
_GRID_ROWS = 4


@dataclass(frozen=True)
class ProxySettings:
    """What a step of the stage is made of.

    Attributes:
        network: sizes of the network that differ from the defaults of `VolumeProxy`; `size` is the preset's.
        subjects: heads per step.
        views: targets per head.
        small_steps: how many of the first steps use pictures of half the preset's size.
        turned: share of portraits that are any view of the head instead of a near frontal one.
        estimated: share of portraits whose camera is as the tool estimates it; the others have the true one.
        segmented: share of portraits whose mask is found as the proxy stage finds it, leaks included; the
            others have the true one with an imperfect outline.
        augment: how portraits and views vary. What stands in front of a head belongs to the person and has to
            turn with it, so nothing is put there.
        perceptual: weight of the perceptual distance.
        opacity: weight of the mask's error.
        warp: weight of the moved pixels' error.
        held_out: heads that figures and the sample grid show.
    """

    network: Mapping[str, Any] = field(default_factory=dict)
    subjects: int = 2
    views: int = 3
    small_steps: int = 0
    turned: float = 0.0
    estimated: float = 0.25
    segmented: float = 0.0
    augment: AugmentSettings = field(default_factory=lambda: AugmentSettings(occlude=0.0))
    perceptual: float = 0.2
    opacity: float = 0.2
    warp: float = 0.5
    held_out: int = 8


@dataclass(frozen=True)
class ProxyBatch:
    """One step's portraits and targets; B heads, V targets.

    Attributes:
        references: [B, 3, S, S] in [0, 1].
        reference_masks: [B, 1, S, S] in [0, 1], as the network is told them.
        reference_labels: [B, 25] as the network is told them.
        labels: [B, V, 25] target cameras.
        images: [B, V, 3, S, S] in [0, 1].
        masks: [B, V, 1, S, S] in [0, 1]; None where a data set has none.
    """

    references: Tensor
    reference_masks: Tensor
    reference_labels: Tensor
    labels: Tensor
    images: Tensor
    masks: Tensor | None


class ProxyBatches(Dataset[ProxyBatch]):
    """Steps' batches, each a function of (seed, step).

    Args:
        subjects: where heads come from.
        settings: see `ProxySettings`.
        size: side of the pictures [px].
        seed: of everything random.
        steps: how many there are.
        augment: vary and degrade; False shows the heads as they are, each in its turn, but for masks.
    """

    def __init__(
        self,
        subjects: Subjects,
        settings: ProxySettings,
        size: int,
        seed: int,
        steps: int,
        *,
        augment: bool = True,
    ) -> None:
        self.subjects, self.settings, self.size = subjects, settings, size
        self.seed, self.steps, self.augment = seed, steps, augment

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> ProxyBatch:
        rng = np.random.default_rng((self.seed, step))
        size = self.size // 2 if step < self.settings.small_steps else self.size
        parts = []
        for number in range(self.settings.subjects):
            turn = step * self.settings.subjects + number
            index = int(rng.integers(len(self.subjects))) if self.augment else turn % len(self.subjects)
            parts.append(self._head(index, size, rng))
        masks = [part.masks for part in parts if part.masks is not None]
        return ProxyBatch(
            torch.cat([part.references for part in parts]),
            torch.cat([part.reference_masks for part in parts]),
            torch.cat([part.reference_labels for part in parts]),
            torch.cat([part.labels for part in parts]),
            torch.cat([part.images for part in parts]),
            torch.cat(masks) if len(masks) == len(parts) else None,
        )

    def _head(self, index: int, size: int, rng: np.random.Generator) -> ProxyBatch:
        shown = self.subjects.sample(index, 1 + self.settings.views, rng, size)
        if self.augment:
            if rng.random() < self.settings.turned:
                shown = _reversed(shown)
            shown = randomise(shown, rng, self.settings.augment)
        images, labels, masks = shown.images, shown.labels, shown.mask
        own = labels[:1]
        mask = None if masks is None else masks[:1]
        if mask is None or rng.random() < self.settings.segmented:
            mask = segmented(images[:1], mask)
        elif self.augment:
            mask = dented(mask, rng)
        if self.augment and rng.random() < self.settings.estimated:
            own = estimated_camera(images[:1])[None]
        return ProxyBatch(
            images[:1],
            mask,
            own,
            labels[None, 1:],
            images[None, 1:],
            None if masks is None else masks[None, 1:],
        )


def _reversed(shown: SubjectViews) -> SubjectViews:
    """The last view first: the portrait and a target change places."""
    mask, depth = (None if part is None else part.flip(0) for part in (shown.mask, shown.depth))
    return replace(shown, images=shown.images.flip(0), labels=shown.labels.flip(0), mask=mask, depth=depth)


class Perceptual:
    """Distance between pictures as a perceiver has it: VGG-16 features, or Laplacian pyramids without them.

    Attributes:
        name: which of the two: "vgg16" or "pyramid".
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        path = find_backbone("vgg16")
        self.name = "pyramid" if path is None else "vgg16"
        self._layers: list[nn.Module] = []
        if path is not None:
            from torchvision.models import vgg16

            count = _VGG_LAYERS[-1] + 1
            with torch.device("meta"):  # most of its weights are not needed
                features = vgg16(weights=None).features[:count]
            tensors = torch.load(path, map_location="cpu", weights_only=True)
            kept = {name: tensors[f"features.{name}"] for name in features.state_dict()}
            features.load_state_dict(kept, assign=True)
            features.eval().requires_grad_(False).to(device)
            self._layers = list(features)

    def __call__(self, images: Tensor, truths: Tensor) -> Tensor:
        """Mean distance of [M, 3, S, S] in [0, 1]."""
        if not self._layers:
            return _pyramid_distance(images, truths)
        mean, deviation = (
            torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (_VGG_MEAN, _VGG_SD)
        )
        one, other = (images - mean) / deviation, (truths - mean) / deviation
        total = images.new_zeros(())
        for index, layer in enumerate(self._layers):
            one, other = layer(one), layer(other)
            if index in _VGG_LAYERS:
                total = total + (one - other).abs().mean() / len(_VGG_LAYERS)
        return total


def _pyramid_distance(images: Tensor, truths: Tensor) -> Tensor:
    difference = images - truths  # a pyramid is linear
    total = images.new_zeros(())
    for _ in range(_PYRAMID_LEVELS):
        coarse = functional.avg_pool2d(difference, 2)
        raised = functional.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        total = total + (difference - raised).abs().mean()
        difference = coarse
    return (total + difference.abs().mean()) / (_PYRAMID_LEVELS + 1)


class ProxyModule(nn.Module):
    """The network, and what its loss and its figures need.

    Args:
        network: to be trained.
        settings: see `ProxySettings`.
        held_out: subjects that are not trained on.
        size: of the pictures [px].
    """

    def __init__(self, network: VolumeProxy, settings: ProxySettings, held_out: Subjects, size: int) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self.held_out = held_out
        self.size = size
        self.perceptual: Perceptual | None = None

    def forward(self, batch: ProxyBatch) -> VolumeViews:
        """The batch's targets."""
        views: VolumeViews = self.network(
            batch.references, batch.reference_masks, batch.labels, batch.reference_labels
        )
        return views


class ProxyStage:
    """See the module docstring."""

    name = "proxy"

    def build(self, preset: TrainPreset) -> ProxyModule:
        """A fresh network at the preset's sizes, or the one in `preset.start`.

        Raises:
            UsageError: a setting makes no sense, or `preset.start` has no such network.
        """
        settings = build(ProxySettings, preset.step)
        if preset.start:
            found = [place for folder in preset.start for place in _places(folder) if place.is_dir()]
            if not found:
                raise UsageError(f"{preset.start[-1]}: no '{FOLDER}' here to start from.")
            network = VolumeProxy.from_pretrained(found[-1], low_cpu_mem_usage=False).float()
        else:
            try:
                sizes = {
                    key: tuple(value) if isinstance(value, list) else value
                    for key, value in settings.network.items()
                }
                network = VolumeProxy(**{**sizes, "size": preset.size})
            except (TypeError, ValueError) as error:
                raise UsageError(f"The sizes in 'step.network' make no network: {error}") from error
        held_out = open_subjects(preset.held_out or preset.data, "val")
        return ProxyModule(network, settings, held_out, preset.size)

    def batches(self, preset: TrainPreset, subjects: Subjects, seed: int, steps: int) -> ProxyBatches:
        """Item i is step i's batch."""
        return ProxyBatches(subjects, build(ProxySettings, preset.step), preset.size, seed, steps)

    def loss(
        self, module: ProxyModule, batch: ProxyBatch, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        """The loss and its parts; nothing in it is random."""
        settings = module.settings
        if module.perceptual is None:
            module.perceptual = Perceptual(batch.images.device)
        views: VolumeViews = module(batch)
        squared = (views.images - batch.images).square().mean()
        perceptual = module.perceptual(views.images.flatten(0, 1), batch.images.flatten(0, 1))
        loss = squared + settings.perceptual * perceptual
        numbers = {"squared": float(squared.detach()), module.perceptual.name: float(perceptual.detach())}
        trusted = views.visible.detach()
        if batch.masks is not None:
            opacity = (views.coverage - batch.masks).square().mean()
            loss = loss + settings.opacity * opacity
            numbers["opacity"] = float(opacity.detach())
            trusted = trusted * batch.masks
        else:
            trusted = trusted * views.coverage.detach()
        moved = ((views.warped - batch.images).square() * trusted).mean()
        numbers["warp"] = float(moved.detach())
        return loss + settings.warp * moved, numbers

    def validate(self, module: ProxyModule) -> Mapping[str, float]:
        """Mean PSNR [dB] of the held-out heads' views, and that of the portrait itself."""
        made, copied = [], []
        for batch, views in _held_out(module):
            reference = to_uint8(batch.references)[0]
            for view, truth in zip(to_uint8(views), to_uint8(batch.images[0]), strict=True):
                made.append(psnr(view, truth))
                copied.append(psnr(reference, truth))
        return {"psnr": float(np.mean(made)), "psnr_of_copy": float(np.mean(copied))}

    def grid(self, module: ProxyModule) -> NDArray[np.uint8]:
        """Per row a head: the portrait, then truth and view in turn."""
        rows = []
        for batch, views in _held_out(module):
            pairs = torch.stack([batch.images[0], views], 1).flatten(0, 1)
            rows.append(np.concatenate(list(to_uint8(torch.cat([batch.references, pairs]))), 1))
            if len(rows) == _GRID_ROWS:
                break
        return np.concatenate(rows)

    def export(self, module: ProxyModule, folder: Path) -> None:
        """Write the network in half precision to `folder/proxy`, with a manifest in `folder`."""
        half = VolumeProxy.from_config(module.network.config)
        half.load_state_dict(module.network.state_dict())
        nn.Module.to(half, torch.float16)  # that of diffusers warns of modules that it keeps, which are none
        half.save_pretrained(folder / FOLDER, safe_serialization=True)
        tidy(folder)


def _places(folder: Path) -> tuple[Path, ...]:
    """Where a run, or a folder of weights, may have the network."""
    return folder / FOLDER, folder / "export" / FOLDER


def _held_out(module: ProxyModule) -> Iterator[tuple[ProxyBatch, Tensor]]:
    """The held-out heads one by one, and their views [V, 3, S, S]."""
    as_found = float(module.settings.segmented > 0)  # what a network has learned to live with
    settings = ProxySettings(subjects=1, views=4, segmented=as_found)
    count = min(module.settings.held_out, len(module.held_out))
    batches = ProxyBatches(module.held_out, settings, module.size, 0, count, augment=False)
    device = module.network.device
    for step in range(count):
        batch = batches[step]
        with torch.inference_mode():
            portrait = (batch.references, batch.reference_masks, batch.reference_labels)
            known = module.network.encode(*(part.to(device) for part in portrait))
            views = module.network.render(known, batch.labels.to(device))
        yield batch, views.images[0].float().clamp(0, 1).cpu()
