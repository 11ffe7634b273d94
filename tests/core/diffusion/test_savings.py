"""What our step saves against the released sampler's, at the same result."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.as_published import as_published_step
from dp3d_cli.core.diffusion.configs import sd15
from dp3d_cli.core.diffusion.grouping import ViewGroup, view_groups
from dp3d_cli.core.diffusion.pipeline import DiffPortraitPipeline, explicit_hint
from tests.core.diffusion.tiny import random_images, shake, tiny_sizes

GROUPS = view_groups(8, ViewGroup(4))


@pytest.mark.parametrize("hint_channels", [0, 6])
def test_our_step_equals_the_released_samplers(hint_channels: int) -> None:
    pipeline = shake(DiffPortraitPipeline.from_sizes(tiny_sizes(explicit_hint_channels=hint_channels)))
    latents, reference, cameras = torch.randn(8, 4, 4, 4), torch.randn(1, 4, 4, 4), random_images(8)
    hint = explicit_hint(torch.randn(8, 4, 4, 4), None, None) if hint_channels else None
    with torch.no_grad():
        conditions = pipeline.conditions(reference, cameras, hint)
        found = pipeline.denoiser().predict_groups(latents, 500, conditions, GROUPS, 3.0)
        expected = as_published_step(pipeline, latents, 500, reference, cameras, GROUPS, 3.0, hint)
    assert (found - expected).abs().max() <= 1e-4 * expected.square().mean().sqrt()


@pytest.mark.slow
def test_the_published_size_needs_a_quarter_fewer_operations() -> None:
    with torch.device("meta"), torch.no_grad():
        pipeline = DiffPortraitPipeline.from_sizes(sd15())
        latents, reference = torch.empty(16, 4, 64, 64), torch.empty(1, 4, 64, 64)
        cameras, groups = torch.empty(16, 3, 512, 512), view_groups(16, ViewGroup(8))
        conditions = pipeline.conditions(reference, cameras)
        with FlopCounterMode(display=False) as ours:
            pipeline.denoiser().predict_groups(latents, 500, conditions, groups, 3.0)
        with FlopCounterMode(display=False) as published:
            as_published_step(pipeline, latents, 500, reference, cameras, groups, 3.0)
    assert published.get_total_flops() >= 1.32 * ours.get_total_flops()
