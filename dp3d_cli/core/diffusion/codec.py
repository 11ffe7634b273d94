"""Images to latents and back, in slices.

The codec is diffusers' `AutoencoderKL`. One that takes 3 * p * p channels works on images whose patches of p
x p pixels have become channels; p follows from the channel count.
"""

from __future__ import annotations

import math

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional


def patch_size(vae: AutoencoderKL) -> int:
    """Side p of the patches that become channels: 1 for Stable Diffusion's codec.

    Raises:
        ValueError: the codec's channels are not 3 * p * p.
    """
    channels = int(vae.config.in_channels)
    side = math.isqrt(channels // 3)
    if 3 * side**2 != channels:
        raise ValueError(f"a codec of {channels} input channels fits no square patches of RGB pixels")
    return side


def downsampling(vae: AutoencoderKL) -> int:
    """Image pixels per latent pixel, along one side."""
    return int(patch_size(vae) * 2 ** (len(vae.config.block_out_channels) - 1))


def encode_images(
    vae: AutoencoderKL, images: Tensor, *, noise: Tensor | None = None, slice_size: int = 4
) -> Tensor:
    """Encode to scaled latents.

    Args:
        vae: the codec.
        images: [N, 3, H, W] RGB in [-1, 1].
        noise: [N, C, h, w] unit Gaussian: return mean + std * noise, the posterior sample which the released
            pipeline uses. None: the posterior's mean.
        slice_size: images encoded at once.

    Returns:
        [N, C, h, w] float32, multiplied by the codec's scaling factor.
    """
    patch, dtype = patch_size(vae), vae.dtype
    latents = []
    for start in range(0, images.shape[0], slice_size):
        part = slice(start, start + slice_size)
        posterior = vae.encode(functional.pixel_unshuffle(images[part].to(dtype), patch)).latent_dist
        mean = posterior.mean.float()
        latents.append(mean if noise is None else mean + posterior.std.float() * noise[part])
    scaled: Tensor = torch.cat(latents) * vae.config.scaling_factor
    return scaled


def decode_latents(vae: AutoencoderKL, latents: Tensor, *, slice_size: int = 4) -> Tensor:
    """Decode scaled latents [N, C, h, w] to images [N, 3, H, W], RGB float32 around [-1, 1], not clamped."""
    patch, dtype = patch_size(vae), vae.dtype
    images = []
    for part in torch.split(latents, slice_size):
        decoded = vae.decode((part / vae.config.scaling_factor).to(dtype)).sample
        images.append(functional.pixel_shuffle(decoded, patch).float())
    return torch.cat(images)
