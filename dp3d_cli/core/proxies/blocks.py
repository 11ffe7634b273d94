"""Layers that the networks of this folder share.

Axes: B pictures, C channels, S side of the pictures, a multiple of 4 times 2 for every further level.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

PATCH = 4
"""Image pixels per feature of the finest level, along one side."""
_GROUPS = 8


class Encoder(nn.Module):
    """Pictures → their features and further maps, both at a quarter of their size, through a U-net.

    Args:
        inputs: channels of the pictures.
        channels: of the features at 1/4, 1/8, 1/16, ... of the size.
        slices: channels of the further maps.
    """

    def __init__(self, inputs: int, channels: tuple[int, ...], slices: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(inputs * PATCH**2, channels[0], 3, padding=1)
        self.down = nn.ModuleList()
        for fine, coarse in pairwise(channels):
            self.down.append(
                nn.Sequential(nn.Conv2d(fine, coarse, 3, stride=2, padding=1), Residual2d(coarse))
            )
        self.first = Residual2d(channels[0])
        self.up = nn.ModuleList()
        for fine, coarse in pairwise(channels):
            self.up.append(nn.Conv2d(coarse, fine, 1))
        self.merge = nn.ModuleList(Residual2d(fine) for fine in channels[:-1])
        self.slices = nn.Conv2d(channels[0], slices, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """[B, inputs, S, S] in [0, 1] → [B, C0, S/4, S/4] and [B, slices, S/4, S/4]."""
        levels = [self.first(self.stem(functional.pixel_unshuffle(image * 2 - 1, PATCH)))]
        for down in self.down:
            levels.append(down(levels[-1]))
        value = levels.pop()
        for index in range(len(levels) - 1, -1, -1):
            raised = functional.interpolate(self.up[index](value), scale_factor=2.0, mode="nearest")
            value = self.merge[index](levels[index] + raised)
        return value, self.slices(value)


class Residual2d(nn.Module):
    """Norm, activation, convolution, twice, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups_of(channels), channels)
        self.one = nn.Conv2d(channels, channels, 3, padding=1)
        self.two = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, value: Tensor) -> Tensor:
        """[B, C, H, W] → the same."""
        out: Tensor = value + self.two(functional.silu(self.one(functional.silu(self.norm(value)))))
        return out


def groups_of(channels: int) -> int:
    """Of a group norm over so many channels."""
    return _GROUPS if channels % _GROUPS == 0 else 1
