"""Where each of our parameters is found in the published checkpoint.

The published names are those of the original Stable Diffusion code; ours are diffusers'. Every function takes
one of our names and the number of residual blocks per level, and gives the published one without its
network's prefix.
"""

from __future__ import annotations

import re
from collections.abc import Callable

UNET = "model.diffusion_model."
REFERENCE = "control_model."
CONTROL = "pose_control_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model."

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VIEW = {
    "block.attn1": "transformer_blocks.0.attention_blocks.0",
    "block.attn2": "transformer_blocks.0.attention_blocks.1",
    "block.norm1": "transformer_blocks.0.norms.0",
    "block.norm2": "transformer_blocks.0.norms.1",
    "block.norm3": "transformer_blocks.0.ff_norm",
    "block.ff": "transformer_blocks.0.ff",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_PLAIN = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "controlnet_mid_block": "middle_block_out.0",
    "controlnet_cond_embedding.conv_in": "input_hint_block.0",
}


def _resnet(rest: str) -> str:
    name, _, kind = rest.partition(".")
    return f"{_RESNET[name]}.{kind}"


def _layer(kind: str, rest: str) -> str:
    return f"0.{_resnet(rest)}" if kind == "resnets" else f"1.{rest}"


def _view_attention(rest: str) -> str:
    for ours, theirs in _VIEW.items():
        if rest.startswith(ours + "."):
            return f"temporal_transformer.{theirs}{rest.removeprefix(ours)}"
    return f"temporal_transformer.{rest}"


def network_name(name: str, layers: int, has_attention: Callable[[int], bool], hint_convs: int = 8) -> str:
    """The published name of a parameter of the backbone, the reference or the control network.

    Args:
        name: ours.
        layers: residual blocks on each encoder level.
        has_attention: whether a decoder level, counted in the order in which they run, has spatial attention.
        hint_convs: convolutions of the control network's image encoder.

    Returns:
        The name below the network's prefix.

    Raises:
        KeyError: the parameter has no counterpart.
    """
    module, _, kind = name.rpartition(".")
    if module in _PLAIN:
        return f"{_PLAIN[module]}.{kind}"
    if module == "controlnet_cond_embedding.conv_out":
        return f"input_hint_block.{2 * (hint_convs - 1)}.{kind}"
    stride = layers + 1
    if match := re.fullmatch(r"controlnet_cond_embedding\.blocks\.(\d+)", module):
        return f"input_hint_block.{2 * int(match[1]) + 2}.{kind}"
    if match := re.fullmatch(r"controlnet_down_blocks\.(\d+)", module):
        return f"zero_convs.{match[1]}.0.{kind}"
    if match := re.fullmatch(r"down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name):
        index = 1 + int(match[1]) * stride + int(match[3])
        return f"input_blocks.{index}.{_layer(match[2], match[4])}"
    if match := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv", module):
        return f"input_blocks.{(int(match[1]) + 1) * stride}.0.op.{kind}"
    if match := re.fullmatch(r"mid_block\.resnets\.(\d)\.(.*)", name):
        return f"middle_block.{2 * int(match[1])}.{_resnet(match[2])}"
    if match := re.fullmatch(r"mid_block\.attentions\.0\.(.*)", name):
        return f"middle_block.1.{match[1]}"
    if match := re.fullmatch(r"up_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name):
        index = int(match[1]) * stride + int(match[3])
        return f"output_blocks.{index}.{_layer(match[2], match[4])}"
    if match := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv", module):
        place = 2 if has_attention(int(match[1])) else 1
        return f"output_blocks.{int(match[1]) * stride + layers}.{place}.conv.{kind}"
    if match := re.fullmatch(r"(down|up)_view_attention\.(\d+)\.(\d+)\.(.*)", name):
        side = "input" if match[1] == "down" else "output"
        return f"{side}_blocks_motion_module.{match[2]}.{match[3]}.{_view_attention(match[4])}"
    if match := re.fullmatch(r"mid_view_attention\.(.*)", name):
        return f"middle_block_motion_module.0.{_view_attention(match[1])}"
    raise KeyError(name)


def vae_name(name: str, levels: int) -> str:
    """The published name of a parameter of `AutoencoderKL` of so many levels, below the codec's prefix."""
    name = name.replace("conv_norm_out", "norm_out")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = re.sub(r"mid_block\.attentions\.0\.", "mid.attn_1.", name)
    for ours, theirs in _VAE_ATTENTION.items():
        name = name.replace(f"mid.attn_1.{ours}.", f"mid.attn_1.{theirs}.")
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.", lambda m: f"up.{levels - 1 - int(m[1])}.", name)
    name = re.sub(r"up\.(\d+)\.resnets\.(\d+)", r"up.\1.block.\2", name)
    name = re.sub(r"up\.(\d+)\.upsamplers\.0", r"up.\1.upsample", name)
    return name.replace("conv_shortcut", "nin_shortcut")
