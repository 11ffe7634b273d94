"""Point rendering: samples with baked colours into images, for any camera.

A sample's depth and colour share one 64-bit number, depth in the high bits, so that a single scatter-minimum
finds the visible colour of every pixel. Samples lie closer together than the pixels of the buffer; the few
pixels between them that stay open are closed from their neighbours, then the buffer is averaged down.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

EMPTY = 2**62
COLOUR_BITS = 24
DEPTH_STEPS = float(2**24)  # depth units per world unit: 6e-8, finer than float32 needs
NEAR = 0.05  # nearer samples are not drawn [world units]
GAP_DEPTH = 0.012  # a pixel this far behind all around it is an opening between samples [world units]


@dataclass(frozen=True)
class Rendering:
    """Views of one subject.

    Attributes:
        image: [V, 3, S, S] sRGB in [0, 1].
        depth: [V, 1, S, S] distance along the optical axis in world units, of the nearest surface in the
            pixel; 0 where there is only background.
        mask: [V, 1, S, S] share of the pixel covered by the subject, in [0, 1].
    """

    image: Tensor
    depth: Tensor
    mask: Tensor


def pack_colours(colours: Tensor) -> Tensor:
    """[3, N] sRGB in [0, 1] to [N] int64 numbers of 24 bits."""
    r, g, b = (colours.clamp(0, 1) * 255 + 0.5).floor().unbind(0)
    return (r * 65536 + g * 256 + b).to(torch.int64)  # 24 bits are exact in float32


def _extreme(values: Tensor, smallest: bool) -> Tensor:
    """Minimum or maximum over 3 x 3 neighbours; [R, R]."""
    pick = torch.minimum if smallest else torch.maximum
    rows = values.clone()
    rows[1:] = pick(rows[1:], values[:-1])
    rows[:-1] = pick(rows[:-1], values[1:])
    out = rows.clone()
    out[:, 1:] = pick(out[:, 1:], rows[:, :-1])
    out[:, :-1] = pick(out[:, :-1], rows[:, 1:])
    return out


def _close(keys: Tensor) -> Tensor:
    """Fill openings of up to two pixels through which something far behind shows; [R, R]."""
    covered = _extreme(_extreme(keys, True), False)
    gap = int(GAP_DEPTH * DEPTH_STEPS) << COLOUR_BITS
    return torch.where(keys - covered > gap, covered, keys)


def splat(points: Tensor, colours: Tensor, label: Tensor, resolution: int) -> Tensor:
    """The nearest sample of every pixel.

    Args:
        points: [3, N] world positions.
        colours: [N] from `pack_colours`.
        label: [25] camera.
        resolution: R, pixels along one side.

    Returns:
        [R, R] int64: depth and colour, `EMPTY` where nothing was drawn.
    """
    cam2world = label[:16].reshape(4, 4)
    intrinsics = label[16:25].reshape(3, 3)
    world2cam = cam2world[:3, :3].T
    pixels = torch.cat([intrinsics[:2] * resolution, intrinsics[2:]])
    projection = (pixels[:, :, None] * world2cam[None]).sum(1)
    offset = -(projection * cam2world[:3, 3]).sum(1, keepdim=True)
    # Written out, because a matrix product may be rounded to TF32 on a GPU: errors of half a pixel.
    image = torch.addcmul(offset, projection[:, :1], points[:1])  # [3, N]: u z, v z, z
    image.addcmul_(projection[:, 1:2], points[1:2]).addcmul_(projection[:, 2:], points[2:])
    depth = image[2]
    inverse = depth.clamp_min(NEAR).reciprocal()
    column = (image[0] * inverse).floor_()
    row = (image[1] * inverse).floor_()
    inside = (column >= 0) & (column < resolution) & (row >= 0) & (row < resolution) & (depth > NEAR)
    index = row.mul_(resolution).add_(column)
    # What is outside goes to one spare cell at the end.
    index = torch.where(inside, index, float(resolution * resolution)).to(torch.int64)
    keys = (depth * DEPTH_STEPS).to(torch.int64)
    keys = keys.bitwise_left_shift_(COLOUR_BITS).bitwise_or_(colours)
    buffer = torch.full((resolution * resolution + 1,), EMPTY, dtype=torch.int64, device=points.device)
    buffer.scatter_reduce_(0, index, keys, "amin")
    return _close(buffer[:-1].reshape(resolution, resolution))


def resolve(keys: Tensor, backdrop: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Average a buffer of keys down to an image over its background.

    Args:
        keys: [R, R], R a multiple of `size`.
        backdrop: [3, size, size] sRGB in [0, 1].
        size: S.

    Returns:
        Image [3, S, S], depth [1, S, S], mask [1, S, S].
    """
    factor = keys.shape[0] // size
    covered = keys < EMPTY
    channels = torch.stack([(keys >> 16) & 255, (keys >> 8) & 255, keys & 255]).to(backdrop.dtype)
    channels = torch.cat([channels * covered, covered[None].to(backdrop.dtype)])
    mean = F.avg_pool2d(channels[None], factor)[0]
    mask = mean[3:]
    image = mean[:3] / 255 + (1 - mask) * backdrop
    depth = (keys >> COLOUR_BITS).to(backdrop.dtype) / DEPTH_STEPS
    nearest = -F.max_pool2d(-depth[None], factor)[0]
    return image, torch.where(mask > 0, nearest, torch.zeros_like(nearest)), mask
