"""What a subject wears besides a garment: collar and glasses, as surfaces."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from dp3d_cli.core.renderers.procedural.features import EYE_X, EYE_Y, unit
from dp3d_cli.core.renderers.procedural.geometry import Patch, finer_of, loft
from dp3d_cli.core.renderers.procedural.subject import Subject

_COLLAR_SLICES = (
    (-0.258, 0.072, -0.222, -0.152, -0.225, 0.118, -0.045, 2.0),
    (-0.268, 0.096, -0.224, -0.176, -0.234, 0.142, -0.045, 2.0),
    (-0.312, 0.128, -0.252, -0.212, -0.272, 0.205, -0.050, 2.0),
    (-0.340, 0.140, -0.280, -0.236, -0.304, 0.262, -0.055, 2.0),
)


def worn_patches(subject: Subject, head: Patch, detail: float, device: torch.device) -> list[Patch]:
    """Collar and glasses of a subject, if there are any."""
    patches = []
    if subject.clothes.collar:
        patches.append(_collar(subject, detail, device))
    if subject.clothes.glasses != "none":
        patches += _glasses(subject, head, detail, device)
    return patches


def _collar(subject: Subject, detail: float, device: torch.device) -> Patch:
    """A turned-down collar, open in front."""
    rows, columns = round(36 * detail**0.5), round(200 * detail**0.5)
    table = np.array(_COLLAR_SLICES)
    table[:, 5] *= 0.5 * subject.shape.neck + 0.5
    angle = math.pi * torch.linspace(-1, 1, columns, device=device)
    along = torch.linspace(0, 1, rows, device=device)
    position = loft(table, rows, angle)
    # The points of the collar spread: the opening is widest at its lower edge.
    opening = 0.16 + 0.50 * (along - 0.55)[:, None].abs()
    return Patch("collar", position, along, angle, finer_of(detail), keep=angle.abs()[None] - opening)


def tube(line: Tensor, radius: float, sides: int, finer: int) -> Patch:
    """A round tube along a line of points.

    Args:
        line: [3, N] middle line.
        radius: world units.
        sides: points once round the tube.
        finer: see `Patch`.
    """
    tangent = torch.gradient(line, dim=1)[0]
    tangent = unit(tangent)
    # Any direction that no part of a pair of glasses runs along.
    second = line.new_tensor([0.35, 0.55, 0.76])[:, None].expand_as(line)
    second = second - tangent * (second * tangent).sum(0, keepdim=True)
    second = unit(second)
    first = torch.linalg.cross(tangent, second, dim=0)
    turn = torch.linspace(0, 2 * math.pi, sides, device=line.device)
    position = line[:, :, None] + radius * (
        first[:, :, None] * torch.cos(turn) + second[:, :, None] * torch.sin(turn)
    )
    return Patch("frame", position, torch.linspace(0, 1, line.shape[1], device=line.device), turn, finer)


def _glasses(subject: Subject, head: Patch, detail: float, device: torch.device) -> list[Patch]:
    """Two rims, a bridge and two temples; dark ones also have lenses."""
    kind = subject.clothes.glasses
    finer = finer_of(detail)
    count = round(90 * detail**0.5)
    power = 2.2 if kind == "round" else 4.0
    half_width, half_height = (0.043, 0.041) if kind == "round" else (0.050, 0.034)
    thickness = 0.0030 if kind == "round" else 0.0048
    x, y, z = head.position.unbind(0)
    # In front of everything that the rims pass over.
    zone = (y > 0.02) & (y < 0.11) & (x.abs() < 0.13) & (x.abs() > 0.03)
    front = torch.where(zone, z + 0.9 * x * x, torch.full_like(z, -1.0)).max() + 0.004
    bridge = torch.where((y - 0.082).abs() < 0.006, z, torch.full_like(z, -1.0)).max() + 0.006

    def depth(px: Tensor) -> Tensor:
        return front - 0.9 * px * px

    turn = torch.linspace(0, 2 * math.pi, count, device=device)
    s, c = torch.sin(turn), torch.cos(turn)
    reach = (s.abs() ** power + c.abs() ** power) ** (-1 / power)
    patches = []
    for side in (-1.0, 1.0):
        px = side * (EYE_X + 0.002) + half_width * reach * s
        py = EYE_Y - 0.006 + half_height * reach * c
        rim = torch.stack([px, py, depth(px)])
        patches.append(tube(rim, thickness, 12, finer))
        if kind == "dark":
            share = torch.linspace(0, 1, count // 2, device=device)[:, None]
            middle = rim.mean(dim=1, keepdim=True)
            lens = middle[:, :, None] + (rim - middle)[:, None] * share
            patches.append(Patch("lens", lens, share[:, 0], turn, finer))
        t = torch.linspace(0, 1, count, device=device)
        hinge = EYE_X + half_width
        tx = side * (hinge + (0.190 * subject.shape.width - hinge) * t**0.6)
        tz = depth(px.new_tensor(hinge)) + (-0.05 - 0.2) * t
        patches.append(tube(torch.stack([tx, 0.082 - 0.012 * t, tz]), thickness, 12, finer))
    span = torch.linspace(-1, 1, count // 2, device=device)
    bx = span * (EYE_X + 0.004 - half_width)
    arch = torch.maximum(bridge, front) - torch.minimum(bridge, front)
    bz = depth(bx) + arch * (1 - span**2) * (bridge > front)
    patches.append(tube(torch.stack([bx, EYE_Y + 0.008 + 0.006 * (1 - span**2), bz]), thickness, 12, finer))
    return patches
