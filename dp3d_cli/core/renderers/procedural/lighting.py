"""Baked light: a key light with soft shadows, a surrounding, and hollows that get less of it.

Highlights are those of a viewer in front and are baked too: a subject's colours do not depend on the camera,
which is what makes its views exactly consistent.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dp3d_cli.core.renderers.procedural.features import unit
from dp3d_cli.core.renderers.procedural.geometry import Patch, normals
from dp3d_cli.core.renderers.procedural.subject import Light, Subject

EXTENT = 0.62  # half width of a depth map [world units]
FAR = 1.0
# How far light creeps round into the dark side, by colour channel: skin scatters red furthest.
SKIN_WRAP = (0.38, 0.20, 0.15)
CLOSED = ("skin", "hair", "cloth", "hat", "collar", "frame")


def key_direction(light: Light, device: torch.device) -> Tensor:
    """[3] unit vector towards the key light."""
    flat = math.cos(light.pitch)
    return torch.tensor(
        [flat * math.sin(light.yaw), math.sin(light.pitch), flat * math.cos(light.yaw)], device=device
    )


def _frame(direction: Tensor) -> Tensor:
    """[3, 3] rows: two axes across `direction`, then itself."""
    up = torch.tensor([0.0, 1.0, 0.0], device=direction.device)
    across = torch.linalg.cross(up, direction)
    across = across / across.norm()
    return torch.stack([across, torch.linalg.cross(direction, across), direction])


def _blur(image: Tensor, sigma: float) -> Tensor:
    radius = max(1, math.ceil(2.5 * sigma))
    taps = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
    kernel = (kernel / kernel.sum())[None, None]
    channels = image.shape[0]
    wide = F.pad(image[None], (radius, radius, radius, radius), mode="replicate")
    wide = F.conv2d(wide, kernel[:, :, None].expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(wide, kernel[..., None].expand(channels, 1, -1, 1), groups=channels)[0]


def depth_map(points: Tensor, frame: Tensor, resolution: int) -> Tensor:
    """Orthographic height of the first surface met from a direction.

    Args:
        points: [3, N].
        frame: [3, 3] from `_frame`.
        resolution: R.

    Returns:
        [R, R] coordinate along the direction (large = near the light), -FAR where nothing is.
    """
    local = frame @ points
    cell = ((local[:2] / EXTENT * 0.5 + 0.5) * resolution).floor().clamp(0, resolution - 1).to(torch.int64)
    flat = torch.full((resolution * resolution,), -FAR, device=points.device)
    flat.scatter_reduce_(0, cell[1] * resolution + cell[0], local[2], "amax")
    heights = flat.reshape(1, 1, resolution, resolution)
    closed: Tensor = -F.max_pool2d(-F.max_pool2d(heights, 3, 1, 1), 3, 1, 1)[0, 0]
    return closed


def _look_up(image: Tensor, points: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
    """Values [C, T, A] of a map at grid points [3, T, A], and their height along the direction."""
    local = (frame @ points.reshape(3, -1)).reshape(points.shape)
    grid = torch.stack([local[0], local[1]], dim=-1)[None] / EXTENT
    return F.grid_sample(image[None], grid, align_corners=False, padding_mode="border")[0], local[2]


def _moments(height: Tensor, sigma: float) -> Tensor:
    return _blur(torch.stack([height, height * height]), sigma)


def _unblocked(moments: Tensor, height: Tensor, bias: float) -> Tensor:
    """Share of light that passes: Chebyshev's bound on what lies nearer (variance shadow maps)."""
    mean, square = moments
    variance = (square - mean * mean).clamp_min(4e-5)
    gap = (mean - height - bias).clamp_min(0)
    passed = variance / (variance + gap * gap)
    share: Tensor = ((passed - 0.25) / 0.75).clamp(0, 1)
    return share


def shade(subject: Subject, patches: list[Patch]) -> list[Tensor]:
    """Light arriving at every grid point.

    Returns:
        Per patch [4, T, A]: linear red, green and blue irradiance, and the strength of the highlight.
    """
    light = subject.light
    device = patches[0].position.device
    direction = key_direction(light, device)
    front = torch.tensor([0.0, 0.0, 1.0], device=device)
    occluders = torch.cat([_solid(patch) for patch in patches], dim=1)
    key_frame, front_frame = _frame(direction), _frame(front)
    key_map = depth_map(occluders, key_frame, 224)
    key_moments = _moments(key_map, 0.9 + 2.2 * light.softness)
    front_map = depth_map(occluders, front_frame, 160).clamp_min(-0.45)
    hollow_map = torch.cat([_blur(front_map[None], 2.5), _blur(front_map[None], 7.0)])
    return [
        _shade_patch(light, patch, direction, key_moments, key_frame, hollow_map, front_frame)
        for patch in patches
    ]


def _solid(patch: Patch) -> Tensor:
    points = patch.position.reshape(3, -1)
    return points if patch.keep is None else points[:, (patch.keep >= 0).flatten()]


def _shade_patch(
    light: Light,
    patch: Patch,
    direction: Tensor,
    key_moments: Tensor,
    key_frame: Tensor,
    hollow_map: Tensor,
    front_frame: Tensor,
) -> Tensor:
    device = patch.position.device
    normal = normals(patch.position, patch.material in CLOSED)
    facing = (normal * direction[:, None, None]).sum(0)
    if patch.material in ("frame", "lens"):
        return _shade_thin(light, normal, facing, direction)
    moments, height = _look_up(key_moments, patch.position, key_frame)
    passed = _unblocked(moments, height, 0.012)
    hollow, depth = _look_up(hollow_map, patch.position, front_frame)
    cavity = (hollow - depth).clamp(0, 0.06)
    open_sky = 1 - (5.5 * cavity[0] + 3.5 * cavity[1]).clamp(0, 0.72)
    key = torch.tensor(light.key, device=device)[:, None, None]
    sky = torch.tensor(light.sky, device=device)[:, None, None]
    ground = torch.tensor(light.ground, device=device)[:, None, None]
    around = torch.lerp(ground, sky, 0.5 + 0.5 * normal[1]) * open_sky
    around = around * (0.72 + 0.28 * normal[2])
    if patch.material == "hair":
        tangent = F.pad(patch.position[:, 1:] - patch.position[:, :-1], (0, 0, 0, 1), mode="replicate")
        tangent = unit(tangent)
        half = direction + torch.tensor([0.0, 0.15, 1.0], device=device)
        half = half / half.norm()
        cosine = (tangent * half[:, None, None]).sum(0)
        diffuse = ((facing + 0.25) / 1.25).clamp_min(0)
        highlight = (1 - cosine * cosine).clamp_min(0).sqrt() ** 26 * (0.2 + 0.8 * facing.clamp_min(0))
        return torch.cat([around + key * diffuse * passed, (highlight * (0.35 + 0.65 * passed))[None]])
    wrap = torch.tensor(SKIN_WRAP if patch.material in ("skin", "ear") else (0.12,) * 3, device=device)[
        :, None, None
    ]
    diffuse = ((facing[None] + wrap) / (1 + wrap)).clamp_min(0) * (passed + 0.12 * wrap * (1 - passed))
    half = direction + torch.tensor([0.0, 0.0, 1.0], device=device)
    half = half / half.norm()
    gleam = (normal * half[:, None, None]).sum(0).clamp_min(0)
    highlight = (0.35 * gleam**14 + 0.65 * gleam**48) * passed
    return torch.cat([around + key * diffuse, highlight[None]])


def _shade_thin(light: Light, normal: Tensor, facing: Tensor, direction: Tensor) -> Tensor:
    """Light on parts too thin for the depth maps: nothing shades them."""
    key = torch.tensor(light.key, device=normal.device)[:, None, None]
    sky = torch.tensor(light.sky, device=normal.device)[:, None, None]
    half = direction + torch.tensor([0.0, 0.0, 1.0], device=normal.device)
    gleam = (normal * (half / half.norm())[:, None, None]).sum(0).clamp_min(0)
    return torch.cat([sky * (0.6 + 0.3 * normal[1]) + key * facing.clamp_min(0), (gleam**40)[None]])
