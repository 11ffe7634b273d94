"""Train the codec: a small AutoencoderKL on images whose 8x8 patches have become channels.

It starts as the principal components of such patches (`principal_start`), which saves the training that
would rediscover them. It learns on crops and is used on whole images, so it has no attention. Loss: L1 + 2
MSE + L1 of the image gradients (keeps edges) + a very small KL term (the decoder must bear a little latent
noise). Ours; the paper uses Stable Diffusion's codec.

    python -m dp3d_cli.training.codec --preset presets/train/nano-codec.yaml --output RUN
"""

import argparse
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import yaml
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.utils.data import Dataset

from dp3d_cli.core.diffusion.codec import downsampling, encode_images, patch_size
from dp3d_cli.training.loop import LoopSettings, load_average, train
from dp3d_cli.training.photos import open_photos
from dp3d_cli.training.textures import (
    Image,
    dead_leaves,
    photo_crop,
    read_photos,
    recolour,
)

KL_WEIGHT = 1e-4
_CONSTANT = 8.0  # value of the constant channels beside unit-variance ones, see `principal_start`


@dataclass(frozen=True)
class CodecData:
    """What the codec is trained on.

    Attributes:
        crop_px: side of a training crop.
        batch: crops per step.
        heads: share of crops of head images out of `heads_folder`; 0 needs no folder.
        leaves: share of dead leaves; the rest are photographs.
        photos_folder: photographs to crop; None takes those that scikit-image installs.
        heads_folder: `*.npy` files [N, S, S, 3] uint8.
    """

    crop_px: int = 128
    batch: int = 8
    heads: float = 0.0
    leaves: float = 0.4
    photos_folder: str | None = None
    heads_folder: str | None = None


class CodecBatches(Dataset[Tensor]):
    """Item `i` is step `i`'s batch: [B, 3, S, S] in [-1, 1], a function of (seed, i)."""

    def __init__(self, data: CodecData, seed: int, steps: int) -> None:
        self.data, self.seed, self.steps = data, seed, steps
        self.photos = open_photos(None if data.photos_folder is None else Path(data.photos_folder))
        self.heads: list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]] = []
        if data.heads > 0:
            if data.heads_folder is None:
                raise ValueError("`heads` > 0 needs `heads_folder`, a folder of head images.")
            files = sorted(Path(data.heads_folder).glob("*.npy"))
            if not files:
                raise ValueError(f"{data.heads_folder}: no *.npy file of head images.")
            self.heads = [np.load(file, mmap_mode="r") for file in files]

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Tensor:
        rng = np.random.default_rng((self.seed, step))
        crops = np.stack([self._crop(rng) for _ in range(self.data.batch)])
        return to_tensor(crops)

    def _crop(self, rng: np.random.Generator) -> Image:
        kind, size = rng.random(), self.data.crop_px
        if kind < self.data.heads:
            images = self.heads[int(rng.integers(len(self.heads)))]
            image = np.asarray(images[int(rng.integers(len(images)))])
            side = int(rng.integers(size, image.shape[0] + 1)) if rng.random() < 0.4 else size
            top, left = rng.integers(0, image.shape[0] - side + 1, 2)
            crop = cv2.resize(
                image[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA
            )
            return recolour(crop, rng)
        if kind < self.data.heads + self.data.leaves:
            return dead_leaves(size, rng)
        return photo_crop(self.photos, size, rng)


def to_tensor(images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:
    """[N, H, W, 3] uint8 -> [N, 3, H, W] float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def codec_loss(
    vae: AutoencoderKL, images: Tensor, generator: torch.Generator
) -> tuple[Tensor, Mapping[str, float]]:
    """Reconstruction and KL of [B, 3, S, S] images in [-1, 1]; see the module docstring."""
    side = images.shape[-1] // downsampling(vae)
    noise = torch.randn((len(images), vae.config.latent_channels, side, side), generator=generator)
    return reconstruction_loss(vae, images, noise)


def reconstruction_loss(
    vae: AutoencoderKL, images: Tensor, noise: Tensor
) -> tuple[Tensor, Mapping[str, float]]:
    """The same with given noise [B, C, h, w] of the posterior."""
    posterior = vae.encode(F.pixel_unshuffle(images, patch_size(vae))).latent_dist
    latents = posterior.mean + posterior.std * noise
    output = F.pixel_shuffle(vae.decode(latents).sample, patch_size(vae))
    error = output - images
    mse = error.square().mean()
    edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (
        error[..., 1:, :] - error[..., :-1, :]
    ).abs().mean()
    kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
    loss = error.abs().mean() + 2 * mse + 0.5 * edges + KL_WEIGHT * kl
    return loss, {"psnr": psnr_db(float(mse.detach())), "kl": float(kl.detach())}


def principal_start(vae: AutoencoderKL, images: Tensor) -> None:
    """Set a codec without down- or upsampling up as a linear one: principal components of image patches.

    The residual blocks start as identities. The non-linearities before the last convolutions are passed
    exactly by pairs, silu(x) - silu(-x) = x, and the group norms nearly, because each group also holds a
    pair of large constants +-c that fix its mean and standard deviation. A component of standard deviation
    s becomes a latent of standard deviation proportional to sqrt(s): half-way between pixel units, where
    the fine components would drown in the diffusion's noise, and whitening, where they would count as much
    as the mean colour.

    Args:
        vae: one block per side, no attention, no 1x1 convolutions around the latents.
        images: [N, 3, S, S] in [-1, 1].

    Raises:
        ValueError: too few channels for the components.
    """
    count, groups = int(vae.config.latent_channels), int(vae.config.norm_num_groups)
    width = int(vae.config.block_out_channels[0])
    per_group = -(-count // groups)
    if len(vae.config.block_out_channels) != 1 or 2 * per_group + 2 > width // groups:
        need = groups * (2 * per_group + 2)
        raise ValueError(f"A principal start of {count} latents needs one block of >= {need} channels.")
    patches = F.pixel_unshuffle(images, patch_size(vae)).permute(0, 2, 3, 1).flatten(0, 2).double()
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    deviation = values.flip(0)[:count].clamp_min(1e-8).sqrt()
    basis = vectors.flip(1)[:, :count].T  # [C, 3 p p]
    latent_scale = deviation.sqrt() / deviation.mean().sqrt()
    plus = torch.tensor([(i % groups) * (width // groups) + 2 * (i // groups) for i in range(count)])
    constant = torch.arange(groups) * (width // groups) + 2 * per_group
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if ".conv2." in name:
                parameter.zero_()
        for side, inward, outward, offset in (
            (vae.encoder, basis / deviation[:, None], torch.diag(latent_scale), -mean),
            (vae.decoder, torch.diag(1 / latent_scale), (basis * deviation[:, None]).T, None),
        ):
            conv_in, conv_out = side.conv_in, side.conv_out
            for rows, sign in ((plus, 1), (plus + 1, -1)):
                conv_in.weight[rows] = 0
                conv_in.weight[rows, :, 1, 1] = sign * inward.float()
                conv_in.bias[rows] = 0 if offset is None else sign * (inward @ offset).float()
            for rows, sign in ((constant, 1), (constant + 1, -1)):
                conv_in.weight[rows] = 0
                conv_in.bias[rows] = sign * _CONSTANT
            side.conv_norm_out.weight.fill_(_CONSTANT * math.sqrt(2 / (width // groups)))
            conv_out.weight.zero_()
            conv_out.bias.zero_()
            conv_out.weight[: outward.shape[0], plus, 1, 1] = outward.float()
            conv_out.weight[: outward.shape[0], plus + 1, 1, 1] = -outward.float()
        vae.encoder.conv_out.bias[count:] = -6.0  # log-variance of the posterior
        vae.decoder.conv_out.bias.copy_(mean.float())


def psnr_db(mse: float) -> float:
    """PSNR in dB of a mean squared error in the [-1, 1] range."""
    return 10 * math.log10(4 / max(mse, 1e-12))


def reconstruct(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """decode(encode(images)), posterior mean; [N, 3, S, S] in [-1, 1]."""
    latents = vae.encode(F.pixel_unshuffle(images, patch_size(vae))).latent_dist.mean
    return F.pixel_shuffle(vae.decode(latents).sample, patch_size(vae))


def validation(files: Sequence[Path], size: int = 256) -> Tensor:
    """Whole images for validation: [N, 3, size, size] in [-1, 1]."""
    images = [
        cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) for image in read_photos(list(files))
    ]
    return to_tensor(np.stack(images).astype(np.uint8))


def scaling_factor(vae: AutoencoderKL, images: Tensor) -> float:
    """1 / s.d. of the latents of [N, 3, S, S] images in [-1, 1]."""
    with torch.inference_mode():
        latents = vae.encode(F.pixel_unshuffle(images, patch_size(vae))).latent_dist.mean
    return 1 / float(latents.std())


def whiten(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Scale each latent channel so that it has standard deviation 1 on [N, 3, S, S] images in [-1, 1].

    What the codec decodes stays the same. The diffusion's noise then hides all channels alike: in channels
    much weaker than it, which hold the fine detail, a network's error would stay as grain.

    Args:
        vae: without 1x1 convolutions around the latents; changed in place, its scaling factor becomes 1.
        images: decide.

    Returns:
        [C] the standard deviations of the scaled latents before.
    """
    with torch.no_grad():
        deviation = encode_images(vae, images).std((0, 2, 3))
        gain = vae.config.scaling_factor / deviation
        count = len(gain)
        last, first = vae.encoder.conv_out, vae.decoder.conv_in
        last.weight[:count] *= gain.view(-1, 1, 1, 1)
        last.bias[:count] *= gain
        last.bias[count:] += 2 * gain.log()  # log-variance of the posterior
        first.weight /= gain.view(1, -1, 1, 1)
    vae.register_to_config(scaling_factor=1.0)
    return deviation


def main() -> None:
    """Train as the preset says, then write the averaged codec with its scaling factor."""
    parser = argparse.ArgumentParser(description="Train the codec.")
    parser.add_argument("--preset", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="Folder of checkpoint, log and the codec.")
    parser.add_argument("--validate", type=Path, nargs="*", default=[], help="Images to report PSNR on.")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    preset = yaml.safe_load(arguments.preset.read_text())
    data, settings = _build(CodecData, preset["data"]), _build(LoopSettings, preset["loop"])
    torch.manual_seed(settings.seed)
    vae = AutoencoderKL(**preset["codec"])
    batches = CodecBatches(data, settings.seed, settings.steps)
    first = CodecBatches(data, settings.seed + 2, 50)
    principal_start(vae, torch.cat([first[step] for step in range(50)]))

    def validate(module: nn.Module) -> dict[str, float]:
        images = validation(arguments.validate)
        errors = (reconstruct(module, images).clamp(-1, 1) - images).square().mean((1, 2, 3))
        rows = {
            file.parent.name: psnr_db(float(e)) for file, e in zip(arguments.validate, errors, strict=True)
        }
        return {**rows, "psnr": sum(rows.values()) / len(rows)}

    train(vae, batches, codec_loss, settings, arguments.output, validate if arguments.validate else None)
    load_average(arguments.output, vae)
    vae.eval()
    sample = torch.cat([CodecBatches(data, settings.seed + 1, 8)[step] for step in range(8)])
    whiten(vae, sample)
    vae.save_pretrained(arguments.output / "vae")


def _build(kind: type, values: Mapping[str, object]):  # type: ignore[no-untyped-def]
    """A settings dataclass from a preset's mapping; an unknown key is an error that names it."""
    unknown = sorted(set(values) - {field.name for field in fields(kind)})
    if unknown:
        raise ValueError(
            f"Unknown key {unknown[0]!r}; {kind.__name__} knows {[f.name for f in fields(kind)]}."
        )
    return kind(**values)


if __name__ == "__main__":
    main()
