"""Gradient checkpointing: less memory for more arithmetic, without a change to the networks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from diffusers.models.attention import FeedForward
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dp3d_cli.core.diffusion.view_attention import ViewAttention

BLOCKS = (ResnetBlock2D, FeedForward, ViewAttention)
"""What holds most of the intermediate results; the attention kernels keep little by themselves."""


def recompute_blocks(network: nn.Module) -> int:
    """Let the outermost residual blocks, feed-forwards and view attentions keep only their inputs.

    What is inside them is computed again in the backward pass. Values and gradients do not change. Without
    gradients, and in evaluation mode, nothing is computed twice.

    Args:
        network: changed in place; its parameters and their names stay.

    Returns:
        How many blocks were changed; those that already were do not count.
    """
    changed = 0
    for child in network.children():
        if not isinstance(child, BLOCKS):
            changed += recompute_blocks(child)
        elif "forward" not in vars(child):
            child.forward = partial(_recomputed, child, child.forward)  # type: ignore[method-assign]
            changed += 1
    return changed


def _recomputed(block: nn.Module, forward: Callable[..., Tensor], *inputs: Any, **options: Any) -> Tensor:
    if not block.training:
        return forward(*inputs, **options)
    return checkpoint(forward, *inputs, use_reentrant=False, **options)
