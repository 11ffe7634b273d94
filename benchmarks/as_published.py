"""One denoising step as the released DiffPortrait3D sampler computes it, on this project's networks.

What it does more often than needed (or in more memory traffic) is repeated here to measure what is saved:

* the reference network runs on one copy of the reference latents per view, and again for every group;
* its features are projected to keys and values once per view;
* the empty prompt and the timestep are repeated per view, and so are their projections;
* the camera conditions are encoded anew in every call of the control network;
* the control network runs for the unconditional call as well, whose result does not use it;
* the two calls of the backbone follow each other, group after group;
* tokens are copied into view-major order and back for each view attention.

Attention itself runs through the same kernel (SDPA) as in our step, so that a ratio of the two says what is
computed less, not what is computed by a better kernel. The dead end of the reference network (0.04 of 34.7
TFLOP) is not built here either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor

from dp3d_cli.core.diffusion.attention import ReferenceBank
from dp3d_cli.core.diffusion.pipeline import DiffPortraitPipeline
from dp3d_cli.core.diffusion.view_attention import ViewAttention


def view_major_attention(module: ViewAttention, hidden_states: Tensor, num_views: int) -> Tensor:
    """`ViewAttention.forward` on tokens that are copied to [B * H * W, V, C] first."""
    batch, channels, height, width = hidden_states.shape
    tokens = module.norm(hidden_states).view(-1, num_views, channels, height * width)
    tokens = tokens.permute(0, 3, 1, 2).reshape(-1, num_views, channels)
    tokens, block = module.proj_in(tokens), module.block
    place = block.pos_embed.pe[:, :num_views].to(tokens.dtype)

    def placed(tokens: Tensor) -> Tensor:
        return (tokens + place).unsqueeze(2)  # every position is a subject of its own: [B * H * W, V, 1, C]

    for norm, attention in ((block.norm1, block.attn1), (block.norm2, block.attn2)):
        tokens = tokens + attention(placed(norm(tokens))).view_as(tokens)
    tokens = module.proj_out(tokens + block.ff(block.norm3(tokens)))
    tokens = tokens.view(-1, height * width, num_views, channels).permute(0, 2, 3, 1)
    return hidden_states + tokens.reshape(batch, channels, height, width)


@contextmanager
def copied_tokens() -> Iterator[None]:
    """View attention on copied tokens."""
    with mock.patch.object(ViewAttention, "forward", view_major_attention):
        yield


def as_published_step(
    pipeline: DiffPortraitPipeline,
    latents: Tensor,
    timestep: int,
    reference_latents: Tensor,
    camera_conditions: Tensor,
    groups: Sequence[tuple[int, ...]],
    guidance_scale: float,
    explicit_hint: Tensor | None = None,
) -> Tensor:
    """The guided prediction of all views, [V, C, h, w].

    Args:
        pipeline: the networks.
        latents: [V, C, h, w].
        timestep: the current one.
        reference_latents: [1, C, h, w].
        camera_conditions: [V, 3, H, W] in [-1, 1].
        groups: disjoint, each of the views that attend to one another.
        guidance_scale: of classifier-free guidance.
        explicit_hint: [V, Ch, h, w], for networks that take it (the published one does not).
    """
    out = torch.empty_like(latents)
    with copied_tokens():
        for group in groups:
            views, count = list(group), len(group)
            hint = None if explicit_hint is None else explicit_hint[views]
            timesteps = torch.full((count,), timestep, device=latents.device)
            prompt = pipeline.empty_prompt().to(pipeline.unet.dtype).repeat(count, 1, 1)
            sample = latents[views].to(pipeline.unet.dtype)
            reference = reference_latents.repeat(count, 1, 1, 1).to(sample)
            bank = ReferenceBank(pipeline.reference_unet(reference, timesteps, prompt).features)
            predictions = []
            for conditional in (True, False):
                embedded = pipeline.controlnet.embed_hint(camera_conditions[views].to(sample))
                control = pipeline.controlnet(sample, timesteps, prompt, hint_embedding=embedded)
                predictions.append(
                    pipeline.unet(
                        sample,
                        timesteps,
                        prompt,
                        num_views=count,
                        reference_bank=bank if conditional else None,
                        control_residuals=control if conditional else None,
                        hint=hint,
                        mid_view_attention=pipeline.config.mid_view_attention,
                    ).float()
                )
            conditioned, unconditioned = predictions
            out[views] = unconditioned + guidance_scale * (conditioned - unconditioned)
    return out
