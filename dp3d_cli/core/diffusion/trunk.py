"""The Stable Diffusion 1.5 UNet trunk, built from diffusers' blocks, that all three networks share.

The blocks keep the names diffusers gives them, so that the trunk's parameters are those of
`UNet2DConditionModel`. The networks walk through them themselves, because view attention and references act
between their layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_blocks import (
    CrossAttnDownBlock2D,
    CrossAttnUpBlock2D,
    DownBlock2D,
    UNetMidBlock2DCrossAttn,
    UpBlock2D,
)
from torch import Tensor, nn

from dp3d_cli.core.diffusion.attention import SharedContextAttnProcessor, repeat_over_views

RESNET_EPS = 1e-5
"""Epsilon of the group norms in residual blocks and in the output head (Stable Diffusion 1.5)."""


def per_level(value: int | Sequence[int], levels: int) -> tuple[int, ...]:
    """A number given once for all levels, or level by level."""
    values = (value,) * levels if isinstance(value, int) else tuple(value)
    if len(values) != levels:
        raise ValueError(f"{len(values)} values given for {levels} levels")
    return values


def time_embedding(channels: int) -> tuple[Timesteps, TimestepEmbedding]:
    """The sinusoidal encoding of the timestep (cosines first) and the two-layer network after it."""
    frequencies = Timesteps(channels, flip_sin_to_cos=True, downscale_freq_shift=0)
    return frequencies, TimestepEmbedding(channels, 4 * channels)


def down_blocks(
    widths: Sequence[int],
    layers: int,
    attention_levels: Sequence[bool],
    heads: Sequence[int],
    cross_attention_dim: int,
    norm_num_groups: int,
) -> nn.ModuleList:
    """The encoder: on each level `layers` residual blocks, with attention behind each if it has it."""
    blocks = nn.ModuleList()
    for level, width in enumerate(widths):
        sizes = {
            "num_layers": layers,
            "in_channels": widths[max(level - 1, 0)],
            "out_channels": width,
            "temb_channels": 4 * widths[0],
            "add_downsample": level + 1 < len(widths),
            "resnet_eps": RESNET_EPS,
            "resnet_groups": norm_num_groups,
        }
        if attention_levels[level]:
            block = CrossAttnDownBlock2D(
                **sizes, num_attention_heads=heads[level], cross_attention_dim=cross_attention_dim
            )
        else:
            block = DownBlock2D(**sizes)
        blocks.append(block)
    return blocks


def mid_block(
    width: int, temb_channels: int, heads: int, cross_attention_dim: int, norm_num_groups: int
) -> nn.Module:
    """Residual block, attention, residual block at the lowest resolution."""
    block: nn.Module = UNetMidBlock2DCrossAttn(
        in_channels=width,
        temb_channels=temb_channels,
        resnet_eps=RESNET_EPS,
        resnet_groups=norm_num_groups,
        num_attention_heads=heads,
        cross_attention_dim=cross_attention_dim,
    )
    return block


def up_blocks(
    widths: Sequence[int],
    layers: int,
    attention_levels: Sequence[bool],
    heads: Sequence[int],
    cross_attention_dim: int,
    norm_num_groups: int,
) -> nn.ModuleList:
    """The decoder, lowest resolution first: one layer more than the encoder on each level."""
    blocks = nn.ModuleList()
    for level in reversed(range(len(widths))):
        sizes = {
            "num_layers": layers + 1,
            "in_channels": widths[max(level - 1, 0)],
            "out_channels": widths[level],
            "prev_output_channel": widths[min(level + 1, len(widths) - 1)],
            "temb_channels": 4 * widths[0],
            "add_upsample": level > 0,
            "resnet_eps": RESNET_EPS,
            "resnet_groups": norm_num_groups,
        }
        if attention_levels[level]:
            block = CrossAttnUpBlock2D(
                **sizes, num_attention_heads=heads[level], cross_attention_dim=cross_attention_dim
            )
        else:
            block = UpBlock2D(**sizes)
        blocks.append(block)
    return blocks


def zero_init(module: nn.Module) -> None:
    """Set a module's own weight and bias to zero."""
    for parameter in module.parameters(recurse=False):
        nn.init.zeros_(parameter)


def prepare(network: nn.Module) -> None:
    """Give all attentions the shared-context processor and start every residual branch at zero.

    Zeroed as in Stable Diffusion's own construction: the last convolution of each residual block and the last
    projection of each spatial transformer. Loaded weights overwrite it.
    """
    for module in network.modules():
        if isinstance(module, Attention):
            module.set_processor(SharedContextAttnProcessor())
        last = (
            module.conv2
            if isinstance(module, ResnetBlock2D)
            else module.proj_out
            if isinstance(module, Transformer2DModel)
            else None
        )
        if last is not None:
            zero_init(last)


def embed_timestep(
    time_proj: nn.Module, embedding: nn.Module, timestep: Tensor | int, batch: int, like: Tensor
) -> Tensor:
    """The time embedding [1 or batch, 4 * C0] of one timestep for all, one per subject, or one per view.

    A single timestep is embedded once and broadcast, so the residual blocks project it once as well.
    """
    timesteps = torch.as_tensor(timestep, device=like.device).reshape(-1)
    emb: Tensor = embedding(time_proj(timesteps).to(like.dtype))
    return emb if emb.shape[0] == 1 else repeat_over_views(emb, batch)


def parts_of(block: nn.Module, name: str) -> list[nn.Module]:
    """The modules of one list of a block ("resnets", "upsamplers", ...), empty if it has none."""
    part = dict(block.named_children()).get(name)
    return [] if part is None else list(part.children())


def layers_of(block: nn.Module) -> list[tuple[nn.Module, nn.Module | None]]:
    """The layers of a block in the order in which they run: residual block and attention, if there is one."""
    resnets = parts_of(block, "resnets")
    attentions: list[nn.Module | None] = [*parts_of(block, "attentions")] or [None] * len(resnets)
    return list(zip(resnets, attentions, strict=True))


def unchanged(hidden_states: Tensor) -> Tensor:
    """Nothing happens between two layers."""
    return hidden_states


def run_down_blocks(
    blocks: nn.ModuleList,
    hidden_states: Tensor,
    temb: Tensor,
    attend: Callable[[nn.Module, Tensor], Tensor],
    after: Callable[[Tensor], Tensor] = unchanged,
) -> list[Tensor]:
    """Walk through the encoder.

    Args:
        blocks: from `down_blocks`.
        hidden_states: [N, C0, H, W], the first convolution's output.
        temb: time embedding.
        attend: runs one spatial transformer.
        after: runs on the output of every layer and downsample, before it is kept.

    Returns:
        The kept outputs, first convolution included; the last one goes on into the middle block.
    """
    kept = [hidden_states]
    for block in blocks:
        for resnet, attention in layers_of(block):
            hidden_states = resnet(hidden_states, temb)
            if attention is not None:
                hidden_states = attend(attention, hidden_states)
            hidden_states = after(hidden_states)
            kept.append(hidden_states)
        for downsample in parts_of(block, "downsamplers"):
            hidden_states = after(downsample(hidden_states))
            kept.append(hidden_states)
    return kept


def run_mid_block(
    block: nn.Module,
    hidden_states: Tensor,
    temb: Tensor,
    attend: Callable[[nn.Module, Tensor], Tensor],
    between: Callable[[Tensor], Tensor] = unchanged,
) -> Tensor:
    """Walk through the middle block; `between` runs behind its attention. All tensors [N, C, h, w]."""
    first, second = parts_of(block, "resnets")
    (attention,) = parts_of(block, "attentions")
    out: Tensor = second(between(attend(attention, first(hidden_states, temb))), temb)
    return out
