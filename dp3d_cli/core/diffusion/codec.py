"""Images to latents and back, in slices.

The codec is diffusers' `AutoencoderKL`. One that takes 3 * p * p channels works on images whose patches of p
x p pixels have become channels; p follows from the channel count.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

logger = logging.getLogger(__name__)


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


def in_slices(function: Callable[[slice], Tensor], count: int, size: int) -> Tensor:
    """The results of `function` for slices of `count` images, joined along the batch.

    The slices halve when a CUDA device runs out of memory, down to single images.

    Args:
        function: gives [n, ...] for a slice of n images.
        count: images in all.
        size: images in one slice.
    """
    parts: list[Tensor] = []
    start = 0
    while start < count:
        part = slice(start, min(start + size, count))
        try:
            parts.append(function(part))
        except torch.cuda.OutOfMemoryError:
            if size == 1:
                raise
            size = max(size // 2, 1)
            logger.warning("out of GPU memory with %d images at once: now %d", part.stop - start, size)
            torch.cuda.empty_cache()
            continue
        start = part.stop
    return torch.cat(parts)


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

    def encode(part: slice) -> Tensor:
        posterior = vae.encode(functional.pixel_unshuffle(images[part].to(dtype), patch)).latent_dist
        mean: Tensor = posterior.mean.float()
        return mean if noise is None else mean + posterior.std.float() * noise[part]

    scaled: Tensor = in_slices(encode, images.shape[0], slice_size) * vae.config.scaling_factor
    return scaled


def decode_latents(vae: AutoencoderKL, latents: Tensor, *, slice_size: int = 4) -> Tensor:
    """Decode scaled latents [N, C, h, w] to images [N, 3, H, W], RGB float32 around [-1, 1], not clamped."""
    patch, dtype = patch_size(vae), vae.dtype

    def decode(part: slice) -> Tensor:
        decoded = vae.decode((latents[part] / vae.config.scaling_factor).to(dtype)).sample
        return functional.pixel_shuffle(decoded, patch).float()

    return in_slices(decode, latents.shape[0], slice_size)
