"""Smooth filling of unknown pixels, batched in torch on any device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_COARSEST = 2  # side of the last pyramid level [px]


def fill_smoothly(image: Tensor, weight: Tensor) -> Tensor:
    """Fill pixels of low weight from known ones by a pull-push pyramid (Gortler et al. 1996).

    Known pixels (weight 1) stay as they are. The farther a pixel is from known ones, the coarser the level
    that fills it, so that fillings are smooth and never streaks.

    Args:
        image: [B, C, H, W] float32; values where `weight` is 0 do not matter.
        weight: [B, 1, H, W] float32 in [0, 1].

    Returns:
        [B, C, H, W]; all zero where a whole picture has no known pixel.

    Raises:
        ValueError: the shapes do not fit.
    """
    if image.dim() != 4 or weight.shape != (image.shape[0], 1, *image.shape[2:]):
        raise ValueError(f"image {list(image.shape)} and weight {list(weight.shape)} do not fit.")
    return _fill(image * weight, weight)


def _fill(premultiplied: Tensor, weight: Tensor) -> Tensor:
    height, width = weight.shape[2:]
    if min(height, width) <= _COARSEST:
        total = weight.sum((2, 3), keepdim=True)
        mean = premultiplied.sum((2, 3), keepdim=True) / total.clamp_min(1e-6)
        return premultiplied + (1 - weight) * mean
    # Pull: average, and let a cell with any knowledge count more than its share (saturates at 1).
    gain = 1.0 / functional.avg_pool2d(weight, 2, ceil_mode=True).clamp_min(0.25)
    coarse_weight = functional.avg_pool2d(weight, 2, ceil_mode=True) * gain
    coarse = _fill(functional.avg_pool2d(premultiplied, 2, ceil_mode=True) * gain, coarse_weight)
    # Push: interpolate from below where this level knows nothing.
    finer = functional.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    return premultiplied + (1 - weight) * finer


def blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of [B, C, H, W] with replicated borders; `sigma` in pixels. Large ones use a pyramid."""
    if sigma <= 0:
        return image
    if sigma > 4:
        height, width = image.shape[2:]
        half = functional.interpolate(image, size=((height + 1) // 2, (width + 1) // 2), mode="area")
        return functional.interpolate(
            blur(half, sigma / 2), size=(height, width), mode="bilinear", align_corners=False
        )
    radius = max(1, round(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    channels = image.shape[1]
    padded = functional.pad(image, (radius, radius, radius, radius), mode="replicate")
    rows = functional.conv2d(padded, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return functional.conv2d(rows, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def distance_inside(mask: Tensor) -> Tensor:
    """Exact Euclidean distance in pixels from each pixel of a mask to the nearest pixel outside it.

    Args:
        mask: [B, 1, H, W] bool. Beyond the borders counts as inside, so that what a frame cuts has no rim
            there.

    Returns:
        [B, 1, H, W] float32; 0 outside, at most H + W where the mask covers everything.
    """
    batch, _, height, width = mask.shape
    far = float(height + width)
    columns = torch.where(mask, far, 0.0)
    # Along each column: distance to the nearest pixel outside, by running minima downward and upward.
    steps = torch.arange(height, device=mask.device, dtype=torch.float32).view(1, 1, -1, 1)
    down = torch.cummin(columns - steps, dim=2).values + steps
    up = torch.flip(torch.cummin(torch.flip(columns + steps, [2]), dim=2).values, [2]) - steps
    vertical = torch.minimum(down, up).clamp(0, far).reshape(batch * height, 1, width)
    # Along each row: lower envelope of parabolas, by the definition (cheap at the sizes used here).
    x = torch.arange(width, device=mask.device, dtype=torch.float32)
    offsets = (x.view(-1, 1) - x.view(1, -1)) ** 2
    squared = torch.empty(batch * height, width, device=mask.device)
    for start in range(0, batch * height, 256):
        part = slice(start, start + 256)
        squared[part] = (vertical[part] ** 2 + offsets).amin(-1)
    return squared.sqrt().clamp_max(far).view(batch, 1, height, width)
