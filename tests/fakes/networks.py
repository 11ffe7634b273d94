"""A pipeline of tiny random networks, in the layout of the embedded weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from dp3d_cli.core.diffusion.configs import TrunkSizes, nano
from dp3d_cli.core.diffusion.pipeline import DiffPortraitPipeline
from dp3d_cli.core.weights.manifest import write_manifest
from tests.fakes.volume import write_tiny_volume


def write_tiny_weights(folder: Path) -> Path:
    """Write a folder of networks for 256 px images that run in a second; every part has an effect."""
    sizes = nano()
    trunk = TrunkSizes(
        **{**sizes.trunk, "block_out_channels": (16, 32, 32), "num_attention_heads": (1, 2, 2)}
    )
    sizes = replace(
        sizes,
        trunk=trunk,
        unet={**sizes.unet, "view_attention_heads": (1, 2, 2)},
        vae={**sizes.vae, "block_out_channels": tuple(16 for _ in sizes.vae["block_out_channels"])},
    )
    torch.manual_seed(0)
    pipeline = DiffPortraitPipeline.from_sizes(sizes, prediction_type="v_prediction", spacing="trailing")
    for network in (pipeline.unet, pipeline.reference_unet, pipeline.controlnet):
        for parameter in network.parameters():
            if not parameter.any():  # what starts at zero would hide whether its branch runs
                torch.nn.init.normal_(parameter, std=0.05)
    pipeline.save_pretrained(folder)
    write_tiny_volume(folder)
    write_manifest(folder)
    return folder
