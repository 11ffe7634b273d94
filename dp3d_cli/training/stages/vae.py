"""The stage `vae`: the codec of the small networks, see `dp3d_cli.training.codec`.

It learns on crops: generated textures, photographs, and pictures of the subjects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dp3d_cli.core.contact_sheet import contact_sheet
from dp3d_cli.core.diffusion.codec import downsampling
from dp3d_cli.core.diffusion.configs import Networks, build_networks
from dp3d_cli.core.diffusion.pipeline import to_uint8
from dp3d_cli.core.errors import UsageError
from dp3d_cli.core.metrics.psnr import psnr
from dp3d_cli.core.metrics.ssim import ssim
from dp3d_cli.training.codec import (
    CodecBatches,
    CodecData,
    principal_start,
    reconstruct,
    reconstruction_loss,
    scaling_factor,
)
from dp3d_cli.training.data import Subjects, open_subjects
from dp3d_cli.training.export import tidy
from dp3d_cli.training.loop import sample_noise
from dp3d_cli.training.preset import StageName, TrainPreset
from dp3d_cli.training.settings import build as checked
from dp3d_cli.training.start import load_start

_START_BATCHES = 50  # crops behind the principal components


@dataclass(frozen=True)
class VaeStep:
    """What a step of the codec looks like.

    Attributes:
        crop_px: side of a crop.
        batch: crops per step.
        heads: of these, how many are crops of subjects.
        head_pictures: pictures of subjects to crop from, made once and kept in memory.
        leaves: share of generated dead leaves among the other crops; the rest are photographs.
        photos_folder: photographs to crop; None takes those that scikit-image installs.
        held_out_subjects: whole pictures to validate on.
    """

    crop_px: int = 128
    batch: int = 8
    heads: int = 2
    head_pictures: int = 64
    leaves: float = 0.4
    photos_folder: str | None = None
    held_out_subjects: int = 4


@dataclass(frozen=True)
class CropBatch:
    """B crops.

    Attributes:
        images: [B, 3, S, S] in [-1, 1].
        seeds: [B] int64, of the posterior's noise.
    """

    images: Tensor
    seeds: Tensor


class CropBatches(Dataset[CropBatch]):
    """Item `i` is step `i`'s batch, a function of (seed, i)."""

    def __init__(self, step: VaeStep, subjects: Subjects, size: int, seed: int, steps: int) -> None:
        self.step, self.subjects, self.size, self.seed, self.steps = step, subjects, size, seed, steps
        self.crops = CodecBatches(_codec_data(step), seed, steps)
        self._pictures: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> CropBatch:
        rng = np.random.default_rng((self.seed, step, 1))
        images = self.crops[step].clone()
        for place in range(self.step.heads):
            picture, crop = self._picture(int(rng.integers(self.step.head_pictures))), self.step.crop_px
            top, left = rng.integers(0, self.size - crop + 1, 2)
            images[place] = picture[:, top : top + crop, left : left + crop]
        seeds = torch.from_numpy(rng.integers(1 << 62, size=len(images)))
        return CropBatch(images, seeds)

    def _picture(self, number: int) -> Tensor:
        if number not in self._pictures:
            rng = np.random.default_rng((self.seed, 1 << 32, number))  # no step's numbers
            subject = int(rng.integers(len(self.subjects)))
            self._pictures[number] = self.subjects.sample(subject, 2, rng, self.size).images[1] * 2 - 1
        return self._pictures[number]


@dataclass(frozen=True)
class VaeStage:
    """See the module docstring."""

    name: StageName = "vae"

    def build(self, preset: TrainPreset) -> AutoencoderKL:
        """The codec, from `preset.start` or from principal components if its shape allows it."""
        step = checked(VaeStep, preset.step)
        if not 0 <= step.heads <= step.batch or step.batch < 1 or (step.heads and step.head_pictures < 1):
            raise UsageError(
                f"heads {step.heads} of a batch of {step.batch}, from {step.head_pictures} pictures."
            )
        torch.manual_seed(preset.loop.seed)
        networks: Networks = build_networks(preset.sizes)
        unit = downsampling(networks.vae)
        if not 0 < step.crop_px <= preset.size or step.crop_px % unit or preset.size % unit:
            raise UsageError(
                f"Crops of {step.crop_px} px from pictures of {preset.size} px; this codec takes multiples "
                f"of {unit} px, and a crop is no larger than the picture."
            )
        if preset.start:
            vae = load_start(networks, preset.start, ("vae",)).vae
        else:
            vae = networks.vae
            if len(vae.config.block_out_channels) == 1:
                first = CodecBatches(_codec_data(step), preset.loop.seed + 2, _START_BATCHES)
                principal_start(vae, torch.cat([first[number] for number in range(_START_BATCHES)]))
        vae.preset, vae.held_out = preset, None  # for later; a stage itself keeps nothing
        return vae

    def batches(self, preset: TrainPreset, subjects: Subjects, seed: int, steps: int) -> CropBatches:
        """See `TrainingStage`."""
        return CropBatches(checked(VaeStep, preset.step), subjects, preset.size, seed, steps)

    def loss(
        self, module: AutoencoderKL, batch: CropBatch, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        """See `reconstruction_loss`; `generator` is not needed."""
        side = batch.images.shape[-1] // downsampling(module)
        noise = sample_noise(batch.seeds, (module.config.latent_channels, side, side), batch.images)
        return reconstruction_loss(module, batch.images, noise)

    def validate(self, module: AutoencoderKL) -> dict[str, float]:
        """PSNR [dB] and SSIM of whole held-out pictures."""
        images = self._held_out(module)
        pairs = list(zip(to_uint8(reconstruct(module, images)), to_uint8(images), strict=True))
        return {
            "psnr": float(np.mean([psnr(one, other) for one, other in pairs])),
            "ssim": float(np.mean([ssim(one, other) for one, other in pairs])),
        }

    def grid(self, module: AutoencoderKL) -> NDArray[np.uint8]:
        """Held-out pictures, before and behind the codec."""
        images = self._held_out(module)
        rows = [list(to_uint8(images)), list(to_uint8(reconstruct(module, images)))]
        return contact_sheet(rows, ["truth", "codec"], tile=min(images.shape[-1], 256))

    def _held_out(self, module: AutoencoderKL) -> Tensor:
        if module.held_out is not None:
            kept: Tensor = module.held_out
            return kept
        preset = module.preset
        subjects = open_subjects(preset.held_out or preset.data, "val")
        count = min(checked(VaeStep, preset.step).held_out_subjects, len(subjects))
        pictures = [
            subjects.sample(index, 1, np.random.default_rng((0, index)), preset.size).images
            for index in range(count)
        ]
        images = (torch.cat(pictures) * 2 - 1).to(module.device)
        module.held_out = images
        return images

    def export(self, module: AutoencoderKL, folder: Path) -> None:
        """Write the codec with the scaling factor that gives its latents unit variance."""
        step = checked(VaeStep, module.preset.step)
        sample = CodecBatches(_codec_data(step), module.preset.loop.seed + 1, 8)
        images = torch.cat([sample[number] for number in range(8)]).to(module.device)
        module.register_to_config(scaling_factor=scaling_factor(module, images))
        module.save_pretrained(folder / "vae")
        tidy(folder)


def _codec_data(step: VaeStep) -> CodecData:
    return CodecData(
        crop_px=step.crop_px, batch=step.batch, leaves=step.leaves, photos_folder=step.photos_folder
    )
