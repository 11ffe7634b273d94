"""The shape of a head seen in one portrait: a front and a back surface over the reference camera's image.

World as everywhere: y up, face towards +z, units in which a canonical image is 0.586 wide at the pivot.
`height` of a point is its distance along the reference camera's axis from the plane through the pivot,
positive towards the camera; for a frontal reference it is z - 0.2. Maps lie on a canvas that is wider than
the frame (`MARGIN`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dp3d_cli.core.cameras.camera import PIVOT
from dp3d_cli.core.proxies.background import blur, distance_inside
from dp3d_cli.core.proxies.placement import CANONICAL_BOX_CENTRE, CANONICAL_BOX_WIDTH

MARGIN = 0.25
"""Canvas beyond the frame on every side [frames]."""

# A head of average proportions [world units; 0.156 between the eyes' centres is about 63 mm], cut across by
# ellipses. Landmark heights and depths follow the five standard points by which EG3D aligns portraits. Rows
# from vertex to throat: y, half width, z of the widest place, front z without the nose, back z.
_PROFILE = (
    (0.350, 0.019, -0.050, -0.010, -0.050),
    (0.330, 0.076, -0.050, 0.060, -0.120),
    (0.290, 0.123, -0.050, 0.125, -0.180),
    (0.220, 0.163, -0.045, 0.180, -0.235),
    (0.150, 0.180, -0.035, 0.206, -0.260),
    (0.095, 0.183, -0.030, 0.214, -0.262),
    (0.050, 0.180, -0.020, 0.208, -0.255),
    (-0.020, 0.173, -0.010, 0.210, -0.230),
    (-0.095, 0.155, 0.005, 0.214, -0.180),
    (-0.150, 0.126, 0.020, 0.204, -0.130),
    (-0.190, 0.090, 0.040, 0.180, -0.110),
    (-0.215, 0.048, 0.050, 0.123, -0.100),
)
_ROUNDNESS = 2.0  # exponent of the cross-sections: ellipses
_EYE = (0.078, 0.073)  # |x|, y
_SOCKET = (0.008, 0.034, 0.022)  # depth, width, height
_NOSE = (0.058, -0.012, -0.045)  # y of bridge, tip, base
_NOSE_LENGTH, _NOSE_WIDTH = 0.065, (0.016, 0.029)  # height of the tip; width at bridge and tip
_LIPS = (-0.095, 0.010, 0.045, 0.022)  # y, height, width, height of the bump

_HAIR_HEIGHT = (0.02, -0.20)  # z of hair beyond the skull: front, back
_HAIR_CENTRE, _HAIR_NEAR, _HAIR_SLOPE = 0.07, 0.16, 1.0  # y; distance from the axis; slope beyond it
_TORSO_HEIGHT = (0.06, -0.17)  # z of the neck and shoulders: front, back
_TORSO_TOP, _TORSO_FULL = -0.17, -0.27  # y where hair slab gives way to the torso slab
_RIM_SHARE = 0.45  # of the way from the slab's front to its back: where both meet at the silhouette
_RIM_RADIUS = 0.075  # width of the rounding at the silhouette
_STEPS = 36  # marching steps through the template
_NEAR, _FAR = 0.16, -0.50  # height range of anything


def surfaces(mask: Tensor, camera: Tensor, box: Tensor) -> Tensor:
    """Front and back surface of head, hair and torso over the reference canvas (ours).

    Inside the mask: the template head where the camera sees it, a slab for hair and another for the torso
    elsewhere, rounded towards the silhouette so that the sides are closed. Outside: front below back, by the
    distance to the mask, so that `min(front - height, height - back)` is negative everywhere there.

    Args:
        mask: [B, 1, h, w] in [0, 1] on the canvas.
        camera: [B, 25] labels of the reference cameras.
        box: [B, 4] face boxes (x, y, width, height) in frame coordinates.

    Returns:
        [B, 2, h, w]: heights of front and back in world units.
    """
    side = mask.shape[-1]
    origin, direction = canvas_rays(camera, side)
    scale = (box[:, 2] / CANONICAL_BOX_WIDTH).view(-1, 1, 1, 1)
    head_front, head_back, seen = _march_head(origin, direction, camera, box)
    points = origin + direction * (pivot_depth(camera).view(-1, 1, 1, 1) + 0.15)
    points = (points - _template_shift(camera, box).view(-1, 3, 1, 1)) / scale
    x, y = points[:, 0:1], points[:, 1:2]
    torso = ((_TORSO_TOP - y) / (_TORSO_TOP - _TORSO_FULL)).clamp(0, 1)
    # Hair lies around the skull: the farther from the head's axis, the farther back.
    aside = ((x**2 + (y - _HAIR_CENTRE).clamp_min(0) ** 2).sqrt() - _HAIR_NEAR).clamp_min(0)
    hair_front = (_HAIR_HEIGHT[0] - _HAIR_SLOPE * aside).clamp_min(_HAIR_HEIGHT[1] + 0.04)
    slab_front = scale * (torch.lerp(hair_front, _like(y, _TORSO_HEIGHT[0]), torso) - PIVOT[2])
    slab_back = scale * (torch.lerp(_like(y, _HAIR_HEIGHT[1]), _like(y, _TORSO_HEIGHT[1]), torso) - PIVOT[2])
    front = torch.where(seen, _smooth_max(head_front, slab_front, 0.03), slab_front)
    back = torch.where(seen, -_smooth_max(-head_back, -slab_back, 0.03), slab_back)

    # Pixels of the canvas are (1 + 2 MARGIN) / side frames, and a frame is 0.586 units wide at the pivot.
    pixel = (1 + 2 * MARGIN) / side * (2.5 / camera[:, 16]).view(-1, 1, 1, 1)
    inside = mask > 0.5
    depth_in = (distance_inside(inside) - 0.5).clamp_min(0) * pixel
    depth_out = (distance_inside(~inside) - 0.5).clamp_min(0) * pixel
    rim = torch.lerp(slab_front, slab_back, _RIM_SHARE)
    rounding = (1 - (1 - depth_in / (scale * _RIM_RADIUS)).clamp(0, 1) ** 2).sqrt()
    front, back = blur(front, 1.0), blur(back, 1.0)
    front = torch.where(inside, rim + (front - rim) * rounding, rim - depth_out)
    back = torch.where(inside, rim + (back - rim) * rounding, rim + depth_out)
    return torch.cat([front, back], 1)


def canvas_rays(camera: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """World rays through the canvas's pixels: origins [B, 3, 1, 1] and directions [B, 3, side, side].

    Directions have length 1 along the camera's axis.
    """
    centres = (torch.arange(side, device=camera.device, dtype=torch.float32) + 0.5) / side
    return camera_rays(camera, centres * (1 + 2 * MARGIN) - MARGIN)


def camera_rays(camera: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """World rays of cameras [B, 25] through all pairs of image positions [S] (u and v, in frames)."""
    cam2world = camera[:, :16].view(-1, 4, 4)
    intrinsics = camera[:, 16:].view(-1, 3, 3)
    u = positions.view(1, 1, -1).expand(len(camera), len(positions), -1)
    v = positions.view(1, -1, 1).expand_as(u)
    y = (v - intrinsics[:, 1, 2, None, None]) / intrinsics[:, 1, 1, None, None]
    skew = intrinsics[:, 0, 1, None, None] * y
    x = (u - intrinsics[:, 0, 2, None, None] - skew) / intrinsics[:, 0, 0, None, None]
    in_camera = torch.stack([x, y, torch.ones_like(x)], 1)
    direction = torch.einsum("bij,bjhw->bihw", cam2world[:, :3, :3], in_camera)
    return cam2world[:, :3, 3].view(-1, 3, 1, 1), direction


def pivot_depth(camera: Tensor) -> Tensor:
    """[B] depth of the pivot along the axes of cameras [B, 25]."""
    cam2world = camera[:, :16].view(-1, 4, 4)
    pivot = torch.tensor(PIVOT, device=camera.device, dtype=torch.float32)
    return ((pivot - cam2world[:, :3, 3]) * cam2world[:, :3, 2]).sum(-1)


def _template_shift(camera: Tensor, box: Tensor) -> Tensor:
    """[B, 3] world translation that puts the template's face under the face box.

    The canonical box centre and the box's are compared in the plane of the eyes, which is the pivot's.
    """
    cam2world = camera[:, :16].view(-1, 4, 4)
    depth = pivot_depth(camera)
    scale = box[:, 2] / CANONICAL_BOX_WIDTH
    right, down = cam2world[:, :3, 0], cam2world[:, :3, 1]
    # The canonical template's box centre lies 0.04 frames above the image's centre; a larger template moves
    # it outward.
    u = box[:, 0] + box[:, 2] / 2 - 0.5 - scale * (CANONICAL_BOX_CENTRE[0] - 0.5)
    v = box[:, 1] + box[:, 3] / 2 - 0.5 - scale * (CANONICAL_BOX_CENTRE[1] - 0.5)
    shift_u = (u / camera[:, 16] * depth).unsqueeze(-1)
    shift_v = (v / camera[:, 20] * depth).unsqueeze(-1)
    return right * shift_u + down * shift_v


def _march_head(
    origin: Tensor, direction: Tensor, camera: Tensor, box: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """First entry and last exit of the canvas rays through the template, as heights; where they hit."""
    depth = pivot_depth(camera).view(-1, 1, 1, 1)
    scale = (box[:, 2] / CANONICAL_BOX_WIDTH).view(-1, 1, 1, 1)
    shift = _template_shift(camera, box).view(-1, 3, 1, 1)
    pivot = torch.tensor(PIVOT, device=camera.device, dtype=torch.float32).view(1, 3, 1, 1)

    def is_inside(height: Tensor | float) -> Tensor:
        # `height` is in the template's units: times `scale` in the world.
        point = origin + direction * (depth - scale * height)
        return _head_thickness((point - shift - pivot) / scale + pivot) > 0

    heights = torch.linspace(_NEAR, _FAR, _STEPS).tolist()
    step = heights[0] - heights[1]
    shape = (direction.shape[0], 1, *direction.shape[2:])
    front = torch.full(shape, _FAR, device=direction.device)
    back = torch.full(shape, _NEAR, device=direction.device)
    for height in heights:
        hit = is_inside(height)
        front = torch.where(hit, front.clamp_min(height), front)
        back = torch.where(hit, back.clamp_max(height), back)
    seen = front >= back
    edges = []
    for edge, towards in ((front, step), (back, -step)):
        inner, outer = edge, edge + towards
        for _ in range(6):
            middle = (inner + outer) / 2
            hit = is_inside(middle)
            inner, outer = torch.where(hit, middle, inner), torch.where(hit, outer, middle)
        edges.append(scale * inner)
    return edges[0], edges[1], seen


def _head_thickness(point: Tensor) -> Tensor:
    """Positive inside the template head; `point` is [B, 3, h, w] in the template's own coordinates."""
    x, y, z = point[:, 0:1], point[:, 1:2], point[:, 2:3]
    width, middle, front, back = _profile(y)
    across = (1 - (x.abs() / width).clamp(0, 1) ** _ROUNDNESS) ** (1 / _ROUNDNESS)
    front_z = middle + (front - middle) * across + _features(x, y)
    back_z = middle + (back - middle) * across
    beside = (x.abs() < width) & (y < _PROFILE[0][0]) & (y > _PROFILE[-1][0])
    return torch.where(beside, torch.minimum(front_z - z, z - back_z), -1.0)


def _profile(y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Half width, z of the widest place, front z, back z at the heights y, by linear interpolation."""
    table = torch.tensor(_PROFILE, device=y.device, dtype=torch.float32).flip(0)
    heights = table[:, 0].contiguous()
    upper = torch.searchsorted(heights, y.contiguous()).clamp(1, len(heights) - 1)
    weight = ((y - heights[upper - 1]) / (heights[upper] - heights[upper - 1])).clamp(0, 1)
    columns = [torch.lerp(column[upper - 1], column[upper], weight) for column in table[:, 1:].unbind(1)]
    return columns[0], columns[1], columns[2], columns[3]


def _features(x: Tensor, y: Tensor) -> Tensor:
    """Nose, eye sockets and lips: what stands out from the cross-sections, along z."""
    bridge, tip, base = _NOSE
    rise = torch.minimum((bridge - y) / (bridge - tip), (y - base) / (tip - base)).clamp(0, 1)
    rise = rise * rise * (3 - 2 * rise)
    down = ((bridge - y) / (bridge - tip)).clamp(0, 1)
    width = _NOSE_WIDTH[0] + (_NOSE_WIDTH[1] - _NOSE_WIDTH[0]) * down
    nose = _NOSE_LENGTH * rise * torch.exp(-0.5 * (x / width) ** 2)
    socket = torch.exp(-0.5 * (((x.abs() - _EYE[0]) / _SOCKET[1]) ** 2 + ((y - _EYE[1]) / _SOCKET[2]) ** 2))
    lips = _LIPS[1] * torch.exp(-0.5 * ((x / _LIPS[2]) ** 2 + ((y - _LIPS[0]) / _LIPS[3]) ** 2))
    return nose + lips - _SOCKET[0] * socket


def _smooth_max(a: Tensor, b: Tensor, width: float) -> Tensor:
    """Maximum with a rounded corner of about this width."""
    return torch.maximum(a, b) + (width - (a - b).abs()).clamp_min(0) ** 2 / (4 * width)


def _like(values: Tensor, constant: float) -> Tensor:
    return torch.full_like(values, constant)
