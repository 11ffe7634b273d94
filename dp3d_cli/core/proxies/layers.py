"""A portrait taken apart by its mask: what turns with the head, and what stands still behind it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dp3d_cli.core.proxies.background import blur
from dp3d_cli.core.proxies.canvas import fill_or_mean, ramp

_RING = 0.025  # width of the ring around the foreground whose colours are mixed with it [sides]


@dataclass(frozen=True)
class Layers:
    """Portraits taken apart.

    Attributes:
        head: [B, 3, S, S] the foreground, its colours continued smoothly beyond its outline.
        behind: [B, 3, S, S] the background, filled smoothly where the head hides it.
        clear: [B, 1, S, S] in [0, 1]: 1 where the portrait shows the background.
    """

    head: Tensor
    behind: Tensor
    clear: Tensor


def separate(reference: Tensor, mask: Tensor) -> Layers:
    """Take portraits [B, 3, S, S] in [0, 1] apart by their masks [B, 1, S, S] in [0, 1], 1 on the head.

    What is near the outline belongs to neither: its colours are mixed.
    """
    sure = ramp(-functional.max_pool2d(-mask, 3, 1, 1), 0.6, 1.0)
    reach = round(_RING * mask.shape[-1])
    rows = functional.max_pool2d(mask, (2 * reach + 1, 1), 1, (reach, 0))
    clear = (1 - functional.max_pool2d(rows, (1, 2 * reach + 1), 1, (0, reach))).clamp(0, 1)
    whole = torch.ones_like(mask)
    return Layers(
        head=fill_or_mean(reference, sure, whole),
        behind=torch.lerp(fill_or_mean(reference, clear, whole), reference, clear),
        clear=blur(clear, 1.0),
    )
