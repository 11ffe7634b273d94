"""Sizes of the networks: the published ones, the embedded nano ones, and networks built from either."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

from diffusers import AutoencoderKL

from dp3d_cli.core.diffusion.control import ViewControlNet
from dp3d_cli.core.diffusion.prompt import EmptyPrompt
from dp3d_cli.core.diffusion.reference_unet import ReferenceUNet
from dp3d_cli.core.diffusion.view_unet import ViewUNet


class TrunkSizes(TypedDict):
    """What the three networks have in common."""

    in_channels: int
    block_out_channels: tuple[int, ...]
    layers_per_block: int
    attention_levels: tuple[bool, ...]
    num_attention_heads: int | tuple[int, ...]
    cross_attention_dim: int
    norm_num_groups: int


@dataclass(frozen=True)
class Sizes:
    """Constructor arguments of every network of a pipeline.

    Attributes:
        trunk: shared by the three networks.
        unet: what only `ViewUNet` has.
        controlnet: what only `ViewControlNet` has.
        vae: arguments of `AutoencoderKL`.
        prompt_tokens: tokens of the empty-prompt embedding.
    """

    trunk: TrunkSizes
    unet: Mapping[str, object]
    controlnet: Mapping[str, object]
    vae: Mapping[str, object]
    prompt_tokens: int


@dataclass(frozen=True)
class Networks:
    """The networks of a pipeline, not yet trained or loaded."""

    unet: ViewUNet
    reference_unet: ReferenceUNet
    controlnet: ViewControlNet
    vae: AutoencoderKL
    empty_prompt: EmptyPrompt


def sd15() -> Sizes:
    """DiffPortrait3D as published: Stable Diffusion 1.5 with 27 view-attention modules, 512 x 512 pixels."""
    return Sizes(
        trunk=TrunkSizes(
            in_channels=4,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            attention_levels=(True, True, True, False),
            num_attention_heads=8,
            cross_attention_dim=768,
            norm_num_groups=32,
        ),
        unet={
            "out_channels": 4,
            "view_attention_levels": (True, True, True, True),
            "view_attention_heads": 8,
            "view_attention_in_middle": True,
        },
        controlnet={"hint_channels": (16, 32, 96, 256)},
        vae={
            "in_channels": 3,
            "out_channels": 3,
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "block_out_channels": (128, 256, 512, 512),
            "layers_per_block": 2,
            "latent_channels": 4,
            "norm_num_groups": 32,
            "sample_size": 512,
            "scaling_factor": 0.18215,
        },
        prompt_tokens=77,
    )


def nano() -> Sizes:
    """The embedded network: 256 x 256 pixels, latents of 32 x 32, views mixed at 16 x 16 and below."""
    return Sizes(
        trunk=TrunkSizes(
            in_channels=16,
            block_out_channels=(64, 64, 96),
            layers_per_block=1,
            attention_levels=(False, True, True),
            num_attention_heads=(2, 2, 3),
            cross_attention_dim=32,
            norm_num_groups=16,
        ),
        unet={
            "out_channels": 16,
            "view_attention_levels": (False, True, True),
            "view_attention_heads": (2, 2, 3),
            "view_attention_in_middle": True,
            "explicit_hint_channels": 18,
        },
        controlnet={"hint_channels": (32, 64), "hint_patch_size": 4},
        vae={
            "in_channels": 192,
            "out_channels": 192,
            "down_block_types": ("DownEncoderBlock2D",),
            "up_block_types": ("UpDecoderBlock2D",),
            "block_out_channels": (128,),
            "layers_per_block": 1,
            "latent_channels": 16,
            "norm_num_groups": 8,
            "sample_size": 32,
            "mid_block_add_attention": False,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
            "scaling_factor": 1.0,
        },
        prompt_tokens=1,
    )


def build_networks(sizes: Sizes) -> Networks:
    """Fresh networks of the given sizes; view attention, control and residual branches start at zero."""
    return Networks(
        unet=ViewUNet(**sizes.trunk, **sizes.unet),
        reference_unet=ReferenceUNet(**sizes.trunk),
        controlnet=ViewControlNet(**sizes.trunk, **sizes.controlnet),
        vae=AutoencoderKL(**sizes.vae),
        empty_prompt=EmptyPrompt(sizes.prompt_tokens, sizes.trunk["cross_attention_dim"]),
    )
