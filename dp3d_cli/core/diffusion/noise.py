"""Noise that does not depend on order, batch, shard or device, and the 3D-aware start of the sampler."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def view_generator(seed: int, subject_id: str, view: str) -> torch.Generator:
    """A CPU generator that belongs to one view of one subject.

    Args:
        seed: base seed.
        subject_id: id of the portrait.
        view: name of the view.

    Returns:
        A generator seeded by SHA-256 of the three.
    """
    digest = hashlib.sha256(f"{seed}\0{subject_id}\0{view}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def draw_views(generators: Sequence[torch.Generator], shape: Sequence[int], device: torch.device) -> Tensor:
    """One unit Gaussian per view, [V, *shape] float32, drawn on the CPU: the same numbers on every device."""
    return torch.stack([torch.randn(tuple(shape), generator=g) for g in generators]).to(device)


def three_d_aware_noise(proxy_latents: Tensor, noise: Tensor, alpha_cumprod: Tensor | float) -> Tensor:
    """Diffuse the proxy: x = sqrt(abar) E(proxy) + sqrt(1 - abar) noise.

    DiffPortrait3D (arXiv 2312.13016), Sec. 3.4.

    Args:
        proxy_latents: [V, C, h, w] scaled latents of the proxy views.
        noise: [V, C, h, w] unit Gaussians, one per view.
        alpha_cumprod: abar at the timestep at which sampling starts (released code: always at 999).

    Returns:
        [V, C, h, w].
    """
    alpha = torch.as_tensor(alpha_cumprod, dtype=proxy_latents.dtype, device=proxy_latents.device)
    return alpha.sqrt() * proxy_latents + (1 - alpha).sqrt() * noise
