"""Marching target rays through the solid between two surfaces over a reference camera's canvas.

Axes: V views, S output side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dp3d_cli.core.proxies.geometry import MARGIN, camera_rays, pivot_depth

_STEPS = 44  # marching steps per ray
_BISECTIONS = 5
_NARROW = 2  # steps; neighbours whose hits differ by no more are one surface


@dataclass(frozen=True)
class Rays:
    """Target rays in the reference camera's axes: start + t * step, with t the depth for the target.

    Attributes:
        start: [V, 3, 1, 1].
        step: [V, 3, S, S].
    """

    start: Tensor
    step: Tensor


class Scene:
    """The solid between two surfaces over the reference camera's canvas."""

    def __init__(self, surfaces: Tensor, camera: Tensor) -> None:
        self.surfaces = surfaces  # [1, 2, h, w]
        self.camera = camera  # [25]
        self.depth = float(pivot_depth(camera.view(1, 25)))
        solid = surfaces[:, :1] > surfaces[:, 1:]
        self.near = float(torch.where(solid, surfaces[:, :1], -1.0).max()) + 0.01
        self.far = float(torch.where(solid, surfaces[:, 1:], 1.0).min()) - 0.01
        self.is_empty = not bool(solid.any())

    def rays(self, cameras: Tensor, size: int) -> Rays:
        """Rays through the pixel centres of the target cameras [V, 25]."""
        positions = (torch.arange(size, device=cameras.device, dtype=torch.float32) + 0.5) / size
        origin, direction = camera_rays(cameras, positions)
        cam2world = self.camera[:16].view(4, 4)
        start = torch.einsum("ji,vjhw->vihw", cam2world[:3, :3], origin - cam2world[:3, 3].view(1, 3, 1, 1))
        return Rays(start, torch.einsum("ji,vjhw->vihw", cam2world[:3, :3], direction))

    def project(self, rays: Rays, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Points on the rays → sampling grid on the canvas [V, S, S, 2] and height [V, 1, S, S]."""
        x, y, z = (rays.start + rays.step * distance).unbind(1)
        z_safe = z.clamp_min(0.1)
        intrinsics = self.camera[16:]
        u = (intrinsics[0] * x + intrinsics[1] * y) / z_safe + intrinsics[2]
        v = intrinsics[4] * y / z_safe + intrinsics[5]
        grid = torch.stack([u, v], -1).add_(MARGIN).mul_(2 / (1 + 2 * MARGIN)).sub_(1)
        return grid, (self.depth - z).unsqueeze(1)

    def thickness(self, rays: Rays, distance: Tensor) -> Tensor:
        """[V, 1, S, S], positive inside the solid."""
        grid, height = self.project(rays, distance)
        found = sample(self.surfaces, grid)
        # Beyond the canvas its border repeats, so that a point there would count as inside: it is not.
        outside = torch.maximum(grid[..., 0].abs(), grid[..., 1].abs()).unsqueeze(1) > 1
        return torch.minimum(found[:, :1] - height, height - found[:, 1:]).masked_fill(outside, -1.0)

    def towards(self, rays: Rays) -> Tensor:
        """[V, 3, S, S] unit directions to the target's camera, axes (right, down, towards the reference)."""
        x, y, z = rays.step.unbind(1)
        return torch.stack([-x, -y, z], 1) / (x * x + y * y + z * z).sqrt().unsqueeze(1)

    def span(self, cameras: Tensor) -> tuple[Tensor, Tensor]:
        """Ray parameters [V, 1, 1, 1] between which each target camera's rays can meet the solid.

        The solid lies in the slab far <= height <= near around the reference's axis, and in a ball around the
        pivot.
        """
        middle = pivot_depth(cameras).view(-1, 1, 1, 1)
        cam2world = cameras[:, :16].view(-1, 4, 4)
        forward = cam2world[:, :3, 2] @ self.camera[:16].view(4, 4)[:3, 2]
        aligned = forward.view(-1, 1, 1, 1)
        tilt = (1 - aligned**2).clamp_min(0).sqrt()
        reach = 0.45  # half extent across the reference's axis
        toward = torch.maximum(aligned * self.near, aligned * self.far) + tilt * reach
        away = torch.minimum(aligned * self.near, aligned * self.far) - tilt * reach
        return middle - toward - 0.02, middle - away + 0.02


def first_hits(scene: Scene, cameras: Tensor, rays: Rays, size: int) -> tuple[Tensor, Tensor]:
    """Where the rays enter the solid: [V, 1, S, S] bool and ray parameters (any number where they miss).

    March at half the resolution. Where all neighbours of a ray entered at about the same step, bisect there;
    where they did not, an edge is near and the ray is marched itself.
    """
    near, far = scene.span(cameras)
    if scene.is_empty:
        return torch.zeros_like(rays.step[:, :1], dtype=torch.bool), far.expand_as(rays.step[:, :1]).clone()
    stride = (far - near) / _STEPS
    coarse = scene.rays(cameras, size // 2)
    entry = torch.full_like(coarse.step[:, :1], _STEPS + 1)
    for index in range(_STEPS, -1, -1):
        entry = torch.where(scene.thickness(coarse, near + stride * index) > 0, float(index), entry)
    latest = functional.interpolate(functional.max_pool2d(entry, 3, 1, 1), scale_factor=2.0, mode="nearest")
    earliest = functional.interpolate(
        -functional.max_pool2d(-entry, 3, 1, 1), scale_factor=2.0, mode="nearest"
    )

    hit = earliest <= _STEPS
    outer = near + stride * (earliest - 1)
    inner = near + stride * latest
    edge = hit & (latest - earliest > _NARROW)
    view, _, row, column = edge.nonzero(as_tuple=True)
    if len(view):
        one = Rays(
            rays.start[view, :, 0, 0].T[None, :, None], rays.step[view, :, row, column].T[None, :, None]
        )  # [1, 3, 1, N]
        first = earliest[view, 0, row, column] - 1
        last = latest[view, 0, row, column].clamp_max(_STEPS)
        begin, pace = near[view, 0, 0, 0], stride[view, 0, 0, 0]
        entered = torch.full_like(first, torch.inf)
        for index in range(_STEPS, -1, -1):
            inside = scene.thickness(one, (begin + pace * index).view(1, 1, 1, -1)).view(-1) > 0
            inside &= (index >= first) & (index <= last)
            entered = torch.where(inside, float(index), entered)
        found = torch.isfinite(entered)
        entered = torch.where(found, entered, last)
        hit[view, 0, row, column] = found
        inner[view, 0, row, column] = begin + pace * entered
        outer[view, 0, row, column] = begin + pace * (entered - 1)
    for _ in range(_BISECTIONS):
        middle = (inner + outer) / 2
        inside = scene.thickness(rays, middle) > 0
        inner, outer = torch.where(inside, middle, inner), torch.where(inside, outer, middle)
    return hit, inner


def sample(maps: Tensor, grid: Tensor) -> Tensor:
    """Bilinear samples of maps [1, C, h, w] at grids [V, S, S, 2] → [V, C, S, S]."""
    views, height, width, _ = grid.shape
    flat = functional.grid_sample(
        maps,
        grid.reshape(1, views * height, width, 2),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return flat.view(maps.shape[1], views, height, width).transpose(0, 1)
