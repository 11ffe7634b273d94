"""VGG-16's convolutions written out in float64, for the slow versions of the metrics built on it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d

_STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


def as_unit(picture: np.ndarray) -> Tensor:
    """float64 [1, 3, H, W] in [0, 1]."""
    return torch.tensor(picture.astype(np.float64) / 255).permute(2, 0, 1)[None]


def less_imagenet_mean(x: Tensor) -> Tensor:
    mean, deviation = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (_MEAN, _DEVIATION))
    return (x - mean) / deviation


def vgg_stages(state: dict[str, Tensor], x: Tensor, pool: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """The five activations before each pooling."""
    found = []
    for stage in _STAGES:
        if found:
            x = pool(x)
        for layer in stage:
            x = conv2d(
                x,
                state[f"features.{layer}.weight"].double(),
                state[f"features.{layer}.bias"].double(),
                padding=1,
            ).relu()
        found.append(x)
    return found
