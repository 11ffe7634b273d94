"""Training of the foreground network: heads before other backgrounds, whose outline is known exactly.

Procedural hair is never wider than the shoulders, so some heads get a cloud of it behind them (`wide_hair`).

    python -m dp3d_cli.training.foreground train --preset presets/train/foreground.yaml --data HEADS --run RUN
    python -m dp3d_cli.training.foreground export --run RUN --output foreground.safetensors
"""

from __future__ import annotations

import argparse
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from dp3d_cli.core.faces.alignment import BOX_CENTRE, BOX_WIDTH
from dp3d_cli.core.presets import read_yaml_mapping
from dp3d_cli.core.proxies.foreground import SIDE, ForegroundNetwork
from dp3d_cli.training.augment import AugmentSettings, randomise
from dp3d_cli.training.data import Subjects, SubjectViews, open_subjects
from dp3d_cli.training.export import save_weights
from dp3d_cli.training.loop import LoopSettings, load_average, train
from dp3d_cli.training.settings import build
from dp3d_cli.training.textures import backdrops, noise_texture

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ForegroundSettings:
    """What a step shows.

    Attributes:
        subjects: heads per step.
        views: pictures of each; the first is near frontal.
        background: share of pictures with another background.
        hair: share with a cloud of hair behind the head.
        light: share with uneven light.
        augment: how pictures vary.
        box_shift: of the face box, standard deviation [sides].
        box_scale: of its width, as a logarithm.
        pictures: how many pictures to take backgrounds from.
    """

    subjects: int = 8
    views: int = 3
    background: float = 0.6
    hair: float = 0.3
    light: float = 0.5
    augment: AugmentSettings = field(default_factory=lambda: AugmentSettings(palette=0.15, occlude=0.0))
    box_shift: float = 0.025
    box_scale: float = 0.08
    pictures: int = 300


@dataclass(frozen=True)
class ForegroundBatch:
    """One step: pictures [B, 3, S, S], boxes [B, 4] [sides] and true masks [B, 1, S, S]."""

    pictures: Tensor
    boxes: Tensor
    masks: Tensor


class ForegroundBatches(Dataset[ForegroundBatch]):
    """Item i is the batch of step i."""

    def __init__(self, subjects: Subjects, settings: ForegroundSettings, seed: int, steps: int) -> None:
        self.subjects, self.settings, self.seed, self.steps = subjects, settings, seed, steps
        self.backdrops = [
            torch.from_numpy(picture).permute(2, 0, 1).float() / 255
            for picture in backdrops(np.random.default_rng((seed, 1)), SIDE, settings.pictures)
        ]

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> ForegroundBatch:
        if not 0 <= step < self.steps:
            raise IndexError(step)
        rng = np.random.default_rng((self.seed, 2, step))
        heads = [self._head(rng) for _ in range(self.settings.subjects)]
        pictures = torch.cat([head.images for head in heads])
        masks = torch.cat([head.mask for head in heads if head.mask is not None])
        boxes = torch.stack([self._box(rng) for _ in pictures])
        return ForegroundBatch(pictures, boxes, masks)

    def _head(self, rng: np.random.Generator) -> SubjectViews:
        shown = self.subjects.sample(int(rng.integers(len(self.subjects))), self.settings.views, rng, SIDE)
        if shown.mask is None:
            raise ValueError("Training of the foreground network needs subjects with masks.")
        images, masks = shown.images.clone(), shown.mask.clone()
        for picture, mask in zip(images, masks, strict=True):
            if rng.random() < self.settings.background:
                behind = self.backdrops[int(rng.integers(len(self.backdrops)))]
                picture.copy_(torch.lerp(behind, picture, mask))
            if rng.random() < self.settings.hair:
                hair, cover = wide_hair(picture, mask, rng)
                picture.copy_(torch.lerp(torch.lerp(picture, hair, cover), picture, mask))
                mask.copy_(torch.maximum(mask, cover))
            if rng.random() < self.settings.light:
                picture.copy_((picture * _light(rng)).clamp(0, 1))
        return randomise(replace(shown, images=images, mask=masks), rng, self.settings.augment)

    def _box(self, rng: np.random.Generator) -> Tensor:
        """Where a detector may see the face of an aligned portrait."""
        width, height = BOX_WIDTH * np.exp(rng.normal(0, self.settings.box_scale, 2))
        x, y = BOX_CENTRE + rng.normal(0, self.settings.box_shift, 2)
        return torch.tensor([x - width / 2, y - height / 2, width, height], dtype=torch.float32)


def wide_hair(picture: Tensor, mask: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Hair to stand behind a head: a blob with a ragged outline, in the colours of what grows there.

    Args:
        picture: [3, S, S] in [0, 1].
        mask: [1, S, S] of the head.
        rng: decides.

    Returns:
        colours [3, S, S] and cover [1, S, S] in [0, 1].
    """
    size = mask.shape[-1]
    rows = torch.nonzero(mask[0].amax(1) > 0.5)
    top = int(rows[0]) if len(rows) else 0
    crown = mask[0, top : top + size // 12].gt(0.9)
    own = picture[:, top : top + size // 12][:, crown]  # [3, N]
    if own.shape[1] < 16 or rng.random() < 0.1:  # another colour: a hat, a hood, a scarf
        own = torch.from_numpy(rng.random((3, 2)).astype(np.float32))
    mean = own.mean(1).view(3, 1, 1)
    grain = torch.from_numpy(noise_texture(size, rng) - 0.5)
    fine = torch.from_numpy(rng.normal(0, rng.uniform(0.0, 0.12), (size, size)).astype(np.float32))
    colours = (mean * (1 + rng.uniform(0.2, 1.2) * grain + fine) + rng.uniform(0, 0.1) * grain).clamp(0, 1)

    centre = np.array([0.5, 0.42]) + rng.normal(0, 0.04, 2)
    across, down = rng.uniform(0.3, 0.62), rng.uniform(0.35, 0.75)
    along = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = (along[None] - centre[0]) / across, (along[:, None] - centre[1]) / down
    angle = np.arctan2(y, x)
    edge = np.ones((size, size), np.float32)
    for wave in range(1, 12):
        edge += rng.normal(0, 0.16 / wave) * np.sin(wave * angle + rng.uniform(0, 2 * math.pi))
    edge += rng.uniform(0, 0.25) * (noise_texture(size, rng) - 0.5)
    sharpness = size * rng.uniform(0.04, 0.4)
    cover = np.clip((edge - np.hypot(x, y)) * sharpness + 0.5, 0, 1).astype(np.float32)
    bottom = rng.uniform(0.45, 1.4)  # of the hair, often above the shoulders
    cover *= np.clip((bottom - along[:, None]) * size / 4, 0, 1)
    return colours.float(), torch.from_numpy(cover)[None].float()


def _light(rng: np.random.Generator) -> Tensor:
    """[1, S, S] brighter to one side."""
    along = torch.linspace(-1, 1, SIDE)
    across, down = rng.normal(0, 0.3, 2)
    return torch.exp(across * along.view(1, 1, -1) + down * along.view(1, -1, 1))


def foreground_loss(
    network: nn.Module, batch: ForegroundBatch, generator: torch.Generator
) -> tuple[Tensor, Mapping[str, float]]:
    """Cross-entropy, and the intersection over union of what is more likely than not."""
    odds = network(batch.pictures, batch.boxes)
    loss = functional.binary_cross_entropy_with_logits(odds, batch.masks)
    found, true = odds.detach() > 0, batch.masks > 0.5
    union = (found | true).flatten(1).sum(1)
    iou = ((found & true).flatten(1).sum(1) / union.clamp_min(1)).mean()
    return loss, {"iou": float(iou)}


def _train(preset: Path, data: str, held_out: str, run: Path) -> None:
    content = read_yaml_mapping(preset)
    loop, settings = build(LoopSettings, content["loop"]), build(ForegroundSettings, content["step"])
    torch.manual_seed(loop.seed)
    batches = ForegroundBatches(open_subjects(data, "train"), settings, loop.seed, loop.steps)
    few = replace(settings, pictures=40)
    watched = ForegroundBatches(open_subjects(held_out, "val"), few, 7, 8)
    shown = [watched[step] for step in range(len(watched))]

    def validate(module: nn.Module) -> dict[str, float]:
        with torch.inference_mode():
            rows = [foreground_loss(module, batch, torch.Generator()) for batch in shown]
        return {
            "loss": math.fsum(float(loss) for loss, _ in rows) / len(rows),
            "iou": math.fsum(numbers["iou"] for _, numbers in rows) / len(rows),
        }

    train(ForegroundNetwork(), batches, foreground_loss, loop, run, validate)


def main() -> None:
    """Train, export the averaged weights."""
    parser = argparse.ArgumentParser(description="Train the foreground network.")
    actions = parser.add_subparsers(dest="action", required=True)
    fit = actions.add_parser("train", help="Train, or go on training.")
    fit.add_argument("--preset", type=Path, required=True)
    fit.add_argument("--data", required=True, help="subjects with masks, as `dp3d train --data` takes them")
    fit.add_argument("--held-out", default="procedural:64", help="those of figures")
    fit.add_argument("--run", type=Path, required=True)
    export = actions.add_parser("export", help="Write the averaged weights of a run.")
    export.add_argument("--run", type=Path, required=True)
    export.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if arguments.action == "export":
        network = ForegroundNetwork()
        step = load_average(arguments.run, network)
        save_weights(network, arguments.output)
        logger.info("step %d: %s", step, arguments.output)
    else:
        _train(arguments.preset, arguments.data, arguments.held_out, arguments.run)


if __name__ == "__main__":
    main()
