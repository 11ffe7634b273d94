"""The canvas of a reference camera: the portrait laid onto it, and continued beyond its borders.

The canvas is wider than the frame by `geometry.MARGIN` on every side, because other cameras see what the
portrait's borders cut. Axes: B portraits, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dp3d_cli.core.proxies.background import blur, fill_smoothly
from dp3d_cli.core.proxies.geometry import MARGIN
from dp3d_cli.core.proxies.placement import Placement

_SIDE_REACH = 0.06  # how far hair that the portrait's side cuts goes on [frames]
_SHOULDER_FALL = 1.0  # how much farther shoulders go on per box width below the chin [frames]
_HEAD_ABOVE = 0.84  # from the face box's centre to the top of the hair [box widths]
_DETAIL_SIGMA = 0.012  # coarser structure than this is not mirrored beyond the border [canvas sides]


def lay_out(layers: Tensor, places: Sequence[Placement], side: int) -> tuple[Tensor, Tensor]:
    """Portrait layers [B, C, H, W] → on the canvas [B, C, side, side]; and where the portrait is."""
    centres = (torch.arange(side, device=layers.device) + 0.5) / side * (1 + 2 * MARGIN) - MARGIN
    canvases, valids = [], []
    for layer, place in zip(layers, places, strict=True):
        pixels = max(8, round(place.scale * side / (1 + 2 * MARGIN)))
        resized = layer.unsqueeze(0)
        if resized.shape[2:] != (pixels, pixels):
            resized = functional.interpolate(
                resized, size=(pixels, pixels), mode="bicubic", antialias=True, align_corners=False
            )
        u = (centres - place.shift_u) / place.scale
        v = (centres - place.shift_v) / place.scale
        grid = torch.stack(torch.meshgrid(2 * u - 1, 2 * v - 1, indexing="xy"), -1).unsqueeze(0)
        canvases.append(
            functional.grid_sample(resized, grid, mode="bicubic", padding_mode="border", align_corners=False)
        )
        inside_u, inside_v = ((u > 0) & (u < 1)).float(), ((v > 0) & (v < 1)).float()
        valids.append(inside_v.view(1, 1, -1, 1) * inside_u.view(1, 1, 1, -1))
    return torch.cat(canvases), torch.cat(valids)


def continue_mask(mask: Tensor, valid: Tensor, box: Tensor) -> Tensor:
    """Let what the border cuts go on: a dome above the head, the torso downward, hair a little sideways."""
    side = mask.shape[-1]
    centres = (torch.arange(side, device=mask.device) + 0.5) / side * (1 + 2 * MARGIN) - MARGIN
    u, v = centres.view(1, 1, 1, -1), centres.view(1, 1, -1, 1)
    _, y = _box_units(side, box)
    pixel = (1 + 2 * MARGIN) / side
    beyond_u, _ = _distance_beyond(valid.amax(2, keepdim=True), 3, pixel)
    _, first_row = _distance_beyond(valid.amax(3, keepdim=True), 2, pixel)
    reach = _SIDE_REACH + _SHOULDER_FALL * (y - 0.55).clamp_min(0)
    last = _nearest_inside(
        _nearest_inside(mask, valid.amax(2, keepdim=True), 3), valid.amax(3, keepdim=True), 2
    )
    sideways = blur(last, 0.01 * side) - 0.5 * beyond_u / reach

    # Above: a parabola over the run of foreground at the top border, up to where a head of this size ends.
    run = torch.gather(mask, 2, first_row.expand(-1, -1, 1, side)) * (valid.amax(2, keepdim=True) > 0)
    weight = run.sum(3, keepdim=True)
    centre = (run * u).sum(3, keepdim=True) / weight.clamp_min(1)
    half = (weight * pixel / 2).clamp_min(pixel)
    top = box[:, 1] + box[:, 3] / 2 - _HEAD_ABOVE * box[:, 2]
    border = first_row.float() * pixel - MARGIN
    apex = torch.minimum((border - top.view(-1, 1, 1, 1)).clamp_min(0.03), 0.5 * half)
    cap = (1 - ((u - centre) / half) ** 2) - (border - v) / apex
    above = 0.5 + cap * apex / pixel * 0.5
    score = torch.where(
        (v < border) & (weight > 2), torch.where(beyond_u > 0, above.clamp_max(0), above), sideways
    )
    outside = ((score - 0.5) * 4 + 0.5).clamp(0, 1)
    return torch.where(valid > 0, mask, outside)


def continue_colours(texture: Tensor, sure: Tensor, valid: Tensor, box: Tensor) -> Tensor:
    """Give what lies beyond the portrait's border the colours of hair and clothes.

    The portrait's own detail is mirrored outward, so that hair goes on as hair and not as a smear.
    """
    side = texture.shape[-1]
    x, y = _box_units(side, box)
    beside_face = ramp((x / 0.50) ** 2 + ((y + 0.05) / 0.64) ** 2, 1.0, 1.15)
    smooth = fill_or_mean(texture, sure * beside_face, sure)
    pixel = (1 + 2 * MARGIN) / side
    beyond_u, _ = _distance_beyond(valid.amax(2, keepdim=True), 3, pixel)
    beyond_v, _ = _distance_beyond(valid.amax(3, keepdim=True), 2, pixel)
    beyond = (beyond_u**2 + beyond_v**2).sqrt()
    detail = texture - blur(texture, _DETAIL_SIGMA * side)
    mirrored = _mirror_outward(
        _mirror_outward(detail, valid.amax(2, keepdim=True), 3), valid.amax(3, keepdim=True), 2
    )
    continued = torch.lerp(texture, smooth, ramp(beyond, 0.0, 0.04)) + mirrored * (
        1 - ramp(beyond, 0.05, 0.15)
    )
    return torch.where(valid > 0, texture, continued).clamp(0, 1)


def fill_or_mean(colours: Tensor, known: Tensor, anything: Tensor) -> Tensor:
    """`fill_smoothly`, or the colours of `anything` where hardly anything is known."""
    trust = (known.mean((1, 2, 3), keepdim=True) / 0.005).clamp(0, 1)
    return torch.lerp(fill_smoothly(colours, anything), fill_smoothly(colours, known), trust)


def _mirror_outward(image: Tensor, valid: Tensor, dim: int) -> Tensor:
    """Replace what lies outside the run of ones of `valid` along `dim` by the mirror image of the inside."""
    index, first, last = _run(valid, dim)
    source = torch.where(index < first, 2 * first - index, torch.where(index > last, 2 * last - index, index))
    source = torch.minimum(torch.maximum(source, first), last).long()
    return torch.gather(image, dim, source.expand_as(image))


def _nearest_inside(image: Tensor, valid: Tensor, dim: int) -> Tensor:
    """Replace what lies outside the run of ones of `valid` along `dim` by the nearest value inside."""
    index, first, last = _run(valid, dim)
    source = torch.minimum(torch.maximum(index, first), last).long()
    return torch.gather(image, dim, source.expand_as(image))


def _box_units(side: int, box: Tensor) -> tuple[Tensor, Tensor]:
    """Canvas positions from the box centre in box widths: x [B, 1, 1, side] and y [B, 1, side, 1]."""
    centres = (torch.arange(side, device=box.device) + 0.5) / side * (1 + 2 * MARGIN) - MARGIN
    left, top, width, height = (column.view(-1, 1, 1, 1) for column in box.unbind(1))
    x = (centres.view(1, 1, 1, -1) - left - width / 2) / width
    return x, (centres.view(1, 1, -1, 1) - top - height / 2) / width


def _run(valid: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Index along `dim`, and first and last index of the one run of ones (all float)."""
    index = torch.arange(valid.shape[dim], device=valid.device, dtype=torch.float32)
    index = index.view([-1 if axis == dim else 1 for axis in range(4)]).expand_as(valid)
    first = torch.where(valid > 0, index, torch.inf).amin(dim, keepdim=True)
    last = torch.where(valid > 0, index, -torch.inf).amax(dim, keepdim=True)
    return index, first, last


def _distance_beyond(valid: Tensor, dim: int, pixel: float) -> tuple[Tensor, Tensor]:
    """Distance outside the run of ones along `dim`, `pixel` per step, and the run's first index."""
    index, first, last = _run(valid, dim)
    return torch.maximum(first - index, index - last).clamp_min(0) * pixel, first.long()


def ramp(values: Tensor, low: float, high: float) -> Tensor:
    """0 up to `low`, 1 from `high`, linear between."""
    return ((values - low) / (high - low)).clamp(0, 1)
