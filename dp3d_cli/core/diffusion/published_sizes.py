"""The sizes of a published checkpoint's networks.

Nearly all of them show in the tensors' shapes. Numbers of attention heads, the noise schedule and the scale
of the latents do not; they come from the checkpoint's configuration, or are those of the released model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from dp3d_cli.core.diffusion.configs import Sizes, TrunkSizes
from dp3d_cli.core.diffusion.published_names import CONTROL, UNET, VAE
from dp3d_cli.core.errors import WeightsError


@dataclass(frozen=True)
class PublishedConfig:
    """What the tensors do not tell. The defaults are the released model's.

    Attributes:
        heads: attention heads of the spatial transformers on every level.
        view_heads: attention heads of the view attention.
        beta_start: first beta of the noise schedule.
        beta_end: last beta of the noise schedule.
        train_timesteps: length of the noise schedule.
        scaling_factor: scale of the latents.
    """

    heads: int = 8
    view_heads: int = 8
    beta_start: float = 0.00085
    beta_end: float = 0.012
    train_timesteps: int = 1000
    scaling_factor: float = 0.18215


def read_published_config(config: Mapping[str, object]) -> PublishedConfig:
    """Read a configuration in the released layout (its YAML as a mapping, with or without the "model" level).

    Raises:
        WeightsError: a network has its own number of heads, or an entry is of the wrong kind.
    """
    default = PublishedConfig()
    model = _section(config, "model") or config
    model = _section(model, "params") or model
    unet = _section(_section(model, "unet_config"), "params")
    view = _section(_section(unet, "unet_additional_kwargs"), "motion_module_kwargs")
    heads = _integer(unet, "num_heads", default.heads)
    for stage in ("appearance_control_stage_config", "pose_control_stage_config"):
        other = _integer(_section(_section(model, stage), "params"), "num_heads", heads)
        if other != heads:
            raise WeightsError(
                f"{stage} has {other} attention heads, the backbone {heads}: expected the same."
            )
    return PublishedConfig(
        heads=heads,
        view_heads=_integer(view, "num_attention_heads", default.view_heads),
        beta_start=_number(model, "linear_start", default.beta_start),
        beta_end=_number(model, "linear_end", default.beta_end),
        train_timesteps=_integer(model, "timesteps", default.train_timesteps),
        scaling_factor=_number(model, "scale_factor", default.scaling_factor),
    )


def _section(config: Mapping[str, object], name: str) -> Mapping[str, object]:
    section = config.get(name)
    return cast("Mapping[str, object]", section) if isinstance(section, Mapping) else {}


def _number(config: Mapping[str, object], name: str, default: float) -> float:
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WeightsError(f"configuration entry {name} is {value!r}, expected a number.")
    return float(value)


def _integer(config: Mapping[str, object], name: str, default: int) -> int:
    return int(_number(config, name, default))


def infer_sizes(tensors: Mapping[str, Tensor], config: PublishedConfig, prompt: Tensor) -> Sizes:
    """Sizes of all networks of a checkpoint.

    Args:
        tensors: by published name.
        config: what the tensors do not tell.
        prompt: [1, T, D] empty-prompt embedding.

    Raises:
        WeightsError: tensors without which no size can be told are missing.
    """
    try:
        return _infer_sizes(tensors, config, prompt)
    except (KeyError, IndexError, ValueError) as error:
        raise WeightsError(
            f"the checkpoint's networks cannot be measured: {error} is missing.",
            reason="incomplete-checkpoint",
        ) from error


def _infer_sizes(tensors: Mapping[str, Tensor], config: PublishedConfig, prompt: Tensor) -> Sizes:
    widths, layers, attention = _encoder(tensors)
    context = tensors[f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight"].shape[1]
    trunk = TrunkSizes(
        in_channels=tensors[f"{UNET}input_blocks.0.0.weight"].shape[1],
        block_out_channels=widths,
        layers_per_block=layers,
        attention_levels=attention,
        num_attention_heads=config.heads,
        cross_attention_dim=context,
        norm_num_groups=32,
    )
    pattern = re.compile(re.escape(CONTROL) + r"input_hint_block\.(\d+)\.weight")
    hint = sorted((int(m[1]), name) for name in tensors if (m := pattern.fullmatch(name)))
    return Sizes(
        trunk=trunk,
        unet={
            "out_channels": tensors[f"{UNET}out.2.weight"].shape[0],
            "view_attention_levels": (True,) * len(widths),
            "view_attention_heads": config.view_heads,
            "view_attention_in_middle": any(
                name.startswith(f"{UNET}middle_block_motion_module") for name in tensors
            ),
        },
        controlnet={"hint_channels": tuple(tensors[name].shape[0] for _, name in hint[0:-1:2])},
        vae=_vae(tensors, config),
        prompt_tokens=prompt.shape[1],
    )


def _encoder(tensors: Mapping[str, Tensor]) -> tuple[tuple[int, ...], int, tuple[bool, ...]]:
    """Widths, layers per level and levels with attention, from the encoder's blocks in order."""
    levels: list[list[int]] = [[]]
    index = 1
    while True:
        block = f"{UNET}input_blocks.{index}"
        if f"{block}.0.op.weight" in tensors:
            levels.append([])
        elif f"{block}.0.in_layers.2.weight" in tensors:
            levels[-1].append(index)
        else:
            break
        index += 1
    first = [f"{UNET}input_blocks.{level[0]}" for level in levels]
    widths = tuple(tensors[f"{block}.0.in_layers.2.weight"].shape[0] for block in first)
    attention = tuple(f"{block}.1.norm.weight" in tensors for block in first)
    return widths, len(levels[0]), attention


def _vae(tensors: Mapping[str, Tensor], config: PublishedConfig) -> dict[str, object]:
    pattern = re.compile(re.escape(VAE) + r"encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight")
    blocks = {(int(m[1]), int(m[2])): name for name in tensors if (m := pattern.fullmatch(name))}
    levels, layers = 1 + max(level for level, _ in blocks), 1 + max(layer for _, layer in blocks)
    return {
        "in_channels": tensors[f"{VAE}encoder.conv_in.weight"].shape[1],
        "out_channels": tensors[f"{VAE}decoder.conv_out.weight"].shape[0],
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": tuple(tensors[blocks[level, 0]].shape[0] for level in range(levels)),
        "layers_per_block": layers,
        "latent_channels": tensors[f"{VAE}post_quant_conv.weight"].shape[0],
        "norm_num_groups": 32,
        "mid_block_add_attention": f"{VAE}encoder.mid.attn_1.q.weight" in tensors,
        "scaling_factor": config.scaling_factor,
    }
