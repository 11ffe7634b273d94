"""Tiny networks with random weights, and pictures of noise for them."""

from dataclasses import replace

import torch

from dp3d_cli.core.diffusion.configs import Sizes, TrunkSizes
from dp3d_cli.core.diffusion.pipeline import DiffPortraitPipeline


def tiny_sizes(*, explicit_hint_channels: int = 0) -> Sizes:
    """Two levels, 4-channel latents, codec of 4x downsampling: 16 x 16 images are 4 x 4 latents."""
    return Sizes(
        trunk=TrunkSizes(
            in_channels=4,
            block_out_channels=(16, 32),
            layers_per_block=1,
            attention_levels=(True, True),
            num_attention_heads=2,
            cross_attention_dim=8,
            norm_num_groups=8,
        ),
        unet={
            "out_channels": 4,
            "view_attention_levels": (True, True),
            "view_attention_heads": 2,
            "view_attention_in_middle": True,
            "explicit_hint_channels": explicit_hint_channels,
        },
        controlnet={"hint_channels": (8, 8, 8)},
        vae={
            "in_channels": 3,
            "out_channels": 3,
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "block_out_channels": (8, 8, 8),
            "layers_per_block": 1,
            "latent_channels": 4,
            "norm_num_groups": 4,
            "scaling_factor": 0.5,
        },
        prompt_tokens=3,
    )


def published_sizes() -> Sizes:
    """As `tiny_sizes`, but with the 32 norm groups and the image encoder that every published layout has."""
    sizes = tiny_sizes()
    return replace(
        sizes,
        trunk=TrunkSizes(**{**sizes.trunk, "block_out_channels": (32, 64), "norm_num_groups": 32}),
        controlnet={"hint_channels": (16, 32, 96, 256)},
        vae={**sizes.vae, "block_out_channels": (32, 32, 32), "norm_num_groups": 32},
    )


def shake(pipeline: DiffPortraitPipeline, seed: int = 0) -> DiffPortraitPipeline:
    """Give every parameter a random value, those that start at zero too."""
    generator = torch.Generator().manual_seed(seed)
    for network in (
        pipeline.unet,
        pipeline.reference_unet,
        pipeline.controlnet,
        pipeline.vae,
        pipeline.empty_prompt,
    ):
        for parameter in network.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 10
            parameter.data = torch.randn(parameter.shape, generator=generator) * fan_in**-0.5
    return pipeline


def random_images(count: int, seed: int = 0, size: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1
