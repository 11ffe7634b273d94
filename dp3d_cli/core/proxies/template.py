"""Proxies from one portrait with a head-shaped template: no weights, no training, any camera.

The portrait is separated into foreground and background, given a front and a back surface (`geometry`), and
both are seen from the target camera by marching each target ray through the closed volume between the
surfaces. Backward rendering leaves no holes and keeps occlusion right; all views show one solid, so they
agree by construction.

Colours come from the portrait by projection into the reference camera. Where the target looks at a surface
much more squarely than the reference did, the projection would be stretched into streaks; there it fades into
blurred colours.

Axes: B portraits, V views, S output side, T canvas side (the canvas is wider than the frame, see
    `geometry.MARGIN`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.proxies.background import blur, fill_smoothly
from dp3d_cli.core.proxies.geometry import MARGIN, camera_rays, pivot_depth, surfaces
from dp3d_cli.core.proxies.placement import Box, Placement, check_box, place_portrait
from dp3d_cli.core.proxies.segmentation import Image, Mask, segment_head

REFERENCE_YAW, REFERENCE_PITCH = 0.0, -0.08
"""Angles at which a portrait of unknown camera is taken to be seen [radians, EG3D's signs] (ours)."""

_TEXTURE_SCALE = 1.25  # texture pixels per canvas pixel: sampling between pixels costs sharpness
_STEPS = 44  # marching steps per ray
_BISECTIONS = 5
_NARROW = 2  # steps; neighbours whose hits differ by no more are one surface
_SOFT_SIGMA = 0.03  # blur of the colours on stretched parts [frames]
_STRETCH = (2.0, 3.5)  # target pixels per reference pixel: begin and end of the fade
_TRUST_STRETCH = (1.3, 2.8)  # the same for the confidence
_BACKGROUND_GAP = 0.025  # ring around the foreground whose colours are mixed with it [frames]
_SOURCE_GAP = 0.06  # the same for the colours that fill the rest [frames]
_SIDE_REACH = 0.06  # how far hair that the portrait's side cuts goes on [frames]
_SHOULDER_FALL = 1.0  # how much farther shoulders go on per box width below the chin [frames]
_HEAD_ABOVE = 0.84  # from the face box's centre to the top of the hair [box widths]
_DETAIL_SIGMA = 0.012  # coarser structure than this is not mirrored beyond the border [canvas sides]


@dataclass(frozen=True)
class PreparedPortrait:
    """One or more portraits, ready to be seen from anywhere. All tensors are float32 on one device.

    Attributes:
        texture: [B, 3, 1.25 T, 1.25 T] foreground colours in [0, 1] on the canvas, continued smoothly beyond
            the foreground.
        soft_texture: [B, 3, T/2, T/2] the same, blurred.
        mask: [B, 1, T, T] foreground in [0, 1] on the canvas, continued beyond the portrait's borders.
        surfaces: [B, 4, T/2, T/2] height of the front and of the back surface, and the front's slope along u
            and v.
        trust: [B, 1, T/2, T/2] in [0, 1]: 1 where the portrait shows the foreground.
        background: [B, 3, size, size] in [0, 1], over the frame; the same behind every view.
        background_trust: [B, 1, size, size] in [0, 1]: 1 where the portrait shows the background.
        camera: [B, 25] labels of the reference cameras.
    """

    texture: Tensor
    soft_texture: Tensor
    mask: Tensor
    surfaces: Tensor
    trust: Tensor
    background: Tensor
    background_trust: Tensor
    camera: Tensor

    @property
    def count(self) -> int:
        """B, the number of portraits."""
        return self.texture.shape[0]

    def to(self, device: torch.device | str) -> PreparedPortrait:
        """The same on another device."""
        return PreparedPortrait(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True)
class ProxyViews:
    """What the target cameras see; with several portraits every tensor has a leading axis B.

    Attributes:
        images: [V, 3, S, S] RGB in [0, 1].
        confidence: [V, 1, S, S] in [0, 1]: 1 seen well in the portrait, 0 stretched, hidden or invented.
        coverage: [V, 1, S, S] in [0, 1]: head, hair and torso against background.
    """

    images: Tensor
    confidence: Tensor
    coverage: Tensor


def default_reference_label() -> Tensor:
    """[25] label of the camera that is taken for a portrait whose own is unknown."""
    return torch.from_numpy(np.array(Camera.look_at(REFERENCE_YAW, REFERENCE_PITCH).label, np.float32))


def prepare(
    reference: Image,
    box: Box,
    *,
    size: int = 256,
    seed: int = 0,
    mask: Mask | None = None,
    placement: Placement | None = None,
    label: Tensor | None = None,
) -> PreparedPortrait:
    """Make an aligned portrait ready: segment it, fill the background behind it, give it a shape.

    Args:
        reference: [H, W, 3] uint8 RGB, an aligned portrait.
        box: face box (x, y, width, height) in its pixels.
        size: side of the frame that the result is made for, in pixels; even, at least 32.
        seed: seed of the segmentation.
        mask: [H, W] in [0, 1], the foreground; by default found by `segment_head`.
        placement: where the portrait lies in the frame; by default from the box.
        label: [25] reference camera; by default frontal, slightly from above.

    Returns:
        The prepared portrait (B = 1, on the CPU).

    Raises:
        ValueError: image, box or size do not fit.
    """
    if mask is None:
        mask = segment_head(reference, box, seed=seed).mask
    image = torch.from_numpy(np.ascontiguousarray(reference.transpose(2, 0, 1))).float().div_(255)
    height, width = reference.shape[:2]
    return prepare_known(
        image.unsqueeze(0),
        torch.from_numpy(mask).view(1, 1, height, width),
        [box],
        size=size,
        placements=[placement or place_portrait(box, width, height)],
        labels=None if label is None else label.view(1, 25),
    )


def prepare_known(
    image: Tensor,
    mask: Tensor,
    boxes: Sequence[Box],
    *,
    background: Tensor | None = None,
    size: int = 256,
    placements: Sequence[Placement] | None = None,
    labels: Tensor | None = None,
) -> PreparedPortrait:
    """Make portraits with known masks ready, on the device of `image`; nothing leaves it.

    Args:
        image: [B, 3, H, W] in [0, 1].
        mask: [B, 1, H, W] in [0, 1], foreground.
        boxes: B face boxes in pixels.
        background: [B, 3, H, W] in [0, 1], what is behind the foreground; by default filled in smoothly.
        size: side of the frame that the result is made for, in pixels; even, at least 32.
        placements: where each portrait lies in the frame; by default exactly on it.
        labels: [B, 25] reference cameras; by default frontal, slightly from above.

    Raises:
        ValueError: shapes, boxes or size do not fit.
    """
    batch, _, height, width = image.shape
    if size < 32 or size % 2:
        raise ValueError(f"The size must be even and at least 32, got {size}.")
    if mask.shape != (batch, 1, height, width) or len(boxes) != batch:
        raise ValueError(
            f"{batch} images of {height} x {width} need as many masks {list(mask.shape)} and boxes."
        )
    for box in boxes:
        check_box(box, width, height)
    places = list(placements) if placements is not None else [Placement()] * batch
    device = image.device
    camera = (default_reference_label().expand(batch, 25) if labels is None else labels).float().to(device)
    frame_boxes = torch.tensor(
        [place.apply(box, width, height) for place, box in zip(places, boxes, strict=True)],
        dtype=torch.float32, device=device,
    )  # fmt: skip

    side = 2 * round(size * (1 + 2 * MARGIN) / 2)
    layers = torch.cat([image, mask] if background is None else [image, mask, background], 1).float()
    canvas, valid = _lay_out(layers, places, side)
    colours = canvas[:, :3].clamp(0, 1)
    seen_mask = canvas[:, 3:4].clamp(0, 1)
    full_mask = _continue_mask(seen_mask, valid, frame_boxes)

    # Foreground colours: only from what is surely foreground, so that no rim of background travels
    # along.
    sure = valid * ((-functional.max_pool2d(-seen_mask, 3, 1, 1)) - 0.6).clamp(0, 0.4) / 0.4
    fine_side = 2 * round(_TEXTURE_SCALE * side / 2)
    fine_colours, fine_valid = _lay_out(image.float(), places, fine_side)
    fine_sure = _resized(sure, fine_side) * fine_valid
    texture = fill_smoothly(fine_colours.clamp(0, 1), fine_sure)
    texture = _continue_colours(texture, fine_sure, fine_valid, frame_boxes)
    clear = valid * _far_from(full_mask, _BACKGROUND_GAP * size)
    # Fill from farther out than is shown: strands of hair that the mask missed would smear.
    source = valid * _far_from(full_mask, _SOURCE_GAP * size)
    behind = torch.lerp(_fill_or_mean(colours, _enough(source, clear), valid), colours, clear)
    if background is not None:
        clear = valid
        behind = fill_smoothly(canvas[:, 4:], valid)
    start = (side - size) // 2
    crop = (slice(None), slice(None), slice(start, start + size), slice(start, start + size))

    small_mask = functional.interpolate(full_mask, scale_factor=0.5, mode="area")
    solid = surfaces(small_mask, camera, frame_boxes)
    pixel = (2 * (1 + 2 * MARGIN) / side / camera[:, 16] * pivot_depth(camera)).view(-1, 1, 1, 1)
    slope_v, slope_u = torch.gradient(blur(solid[:, :1], 0.7), dim=(2, 3))
    return PreparedPortrait(
        texture=texture,
        soft_texture=blur(_resized(texture, side // 2), _SOFT_SIGMA * size / 2),
        mask=full_mask,
        surfaces=torch.cat([solid, slope_u / pixel, slope_v / pixel], 1),
        trust=functional.interpolate(sure, scale_factor=0.5, mode="area"),
        background=behind[crop].contiguous(),
        background_trust=blur(clear[crop], 1.0),
        camera=camera,
    )  # fmt: skip


def stack(portraits: Sequence[PreparedPortrait]) -> PreparedPortrait:
    """Several prepared portraits of one size as one batch."""
    return PreparedPortrait(
        *(
            torch.cat([getattr(portrait, field.name) for portrait in portraits])
            for field in fields(PreparedPortrait)
        )
    )


@torch.no_grad()
def render(prepared: PreparedPortrait, labels: Tensor, size: int | None = None) -> ProxyViews:
    """See prepared portraits from target cameras.

    Args:
        prepared: B portraits.
        labels: [V, 25] for one portrait, or [B, V, 25].
        size: output side S in pixels, even; by default the size that the portraits were prepared for.

    Returns:
        Views as [V, ...] for labels [V, 25], as [B, V, ...] for labels [B, V, 25].

    Raises:
        ValueError: labels or size do not fit.
    """
    size = size or prepared.background.shape[-1]
    if size < 32 or size % 2:
        raise ValueError(f"The size must be even and at least 32, got {size}.")
    single = labels.dim() == 2
    cameras = (labels.unsqueeze(0) if single else labels).float().to(prepared.texture.device)
    if cameras.dim() != 3 or cameras.shape[0] != prepared.count or cameras.shape[2] != 25:
        raise ValueError(f"{prepared.count} portraits need labels [B, V, 25], got {list(labels.shape)}.")
    views = [_render_one(prepared, index, cameras[index], size) for index in range(prepared.count)]
    if single:
        return views[0]
    return ProxyViews(
        *(torch.stack([getattr(view, field.name) for view in views]) for field in fields(ProxyViews))
    )


def _lay_out(layers: Tensor, places: Sequence[Placement], side: int) -> tuple[Tensor, Tensor]:
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


def _continue_mask(mask: Tensor, valid: Tensor, box: Tensor) -> Tensor:
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


def _continue_colours(texture: Tensor, sure: Tensor, valid: Tensor, box: Tensor) -> Tensor:
    """Give what lies beyond the portrait's border the colours of hair and clothes.

    The portrait's own detail is mirrored outward, so that hair goes on as hair and not as a smear.
    """
    side = texture.shape[-1]
    x, y = _box_units(side, box)
    beside_face = _ramp((x / 0.50) ** 2 + ((y + 0.05) / 0.64) ** 2, 1.0, 1.15)
    smooth = _fill_or_mean(texture, sure * beside_face, sure)
    pixel = (1 + 2 * MARGIN) / side
    beyond_u, _ = _distance_beyond(valid.amax(2, keepdim=True), 3, pixel)
    beyond_v, _ = _distance_beyond(valid.amax(3, keepdim=True), 2, pixel)
    beyond = (beyond_u**2 + beyond_v**2).sqrt()
    detail = texture - blur(texture, _DETAIL_SIGMA * side)
    mirrored = _mirror_outward(
        _mirror_outward(detail, valid.amax(2, keepdim=True), 3), valid.amax(3, keepdim=True), 2
    )
    continued = torch.lerp(texture, smooth, _ramp(beyond, 0.0, 0.04)) + mirrored * (
        1 - _ramp(beyond, 0.05, 0.15)
    )
    return torch.where(valid > 0, texture, continued).clamp(0, 1)


def _mirror_outward(image: Tensor, valid: Tensor, dim: int) -> Tensor:
    """Replace what lies outside the run of ones of `valid` along `dim` by the mirror image of the inside."""
    index, first, last = _run(valid, dim)
    source = torch.where(index < first, 2 * first - index, torch.where(index > last, 2 * last - index, index))
    source = torch.minimum(torch.maximum(source, first), last).long()
    return torch.gather(image, dim, source.expand_as(image))


def _far_from(mask: Tensor, radius: float) -> Tensor:
    """1 where no foreground is within `radius` pixels, 0 where there is."""
    reach = round(radius)
    rows = functional.max_pool2d(mask, (2 * reach + 1, 1), 1, (reach, 0))
    return (1 - functional.max_pool2d(rows, (1, 2 * reach + 1), 1, (0, reach))).clamp(0, 1)


def _enough(few: Tensor, many: Tensor) -> Tensor:
    """`few` where it still has a third of `many`, else fade to `many`."""
    share = few.mean((1, 2, 3), keepdim=True) / many.mean((1, 2, 3), keepdim=True).clamp_min(1e-6)
    return torch.lerp(many, few, _ramp(share, 0.15, 0.35))


def _nearest_inside(image: Tensor, valid: Tensor, dim: int) -> Tensor:
    """Replace what lies outside the run of ones of `valid` along `dim` by the nearest value inside."""
    index, first, last = _run(valid, dim)
    source = torch.minimum(torch.maximum(index, first), last).long()
    return torch.gather(image, dim, source.expand_as(image))


def _fill_or_mean(colours: Tensor, known: Tensor, anything: Tensor) -> Tensor:
    """`fill_smoothly`, or the colours of `anything` where hardly anything is known."""
    trust = (known.mean((1, 2, 3), keepdim=True) / 0.005).clamp(0, 1)
    return torch.lerp(fill_smoothly(colours, anything), fill_smoothly(colours, known), trust)


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


def _render_one(prepared: PreparedPortrait, index: int, cameras: Tensor, size: int) -> ProxyViews:
    """All views [V, 25] of one of the portraits."""
    solid = prepared.surfaces[index : index + 1]
    scene = _Scene(solid[:, :2], prepared.camera[index])
    rays = scene.rays(cameras, size)
    hit, distance = _first_hits(scene, cameras, rays, size)

    grid, height = scene.project(rays, distance)
    found = _sample(solid, grid)
    front, slope_u, slope_v = found[:, 0:1], found[:, 2:3], found[:, 3:4]
    towards = scene.towards(rays)
    # A front surface of slope (a, b) has the normal (-a, -b, 1); the ratio of the areas under which target
    # and reference see it is therefore linear in the direction to the target's camera.
    stretch = towards[:, 2:3] - slope_u * towards[:, 0:1] - slope_v * towards[:, 1:2]
    behind = ((front - height) / 0.03).clamp(0, 1)
    fade = torch.maximum(_ramp(stretch, *_STRETCH), behind)
    shown = torch.lerp(
        _sample(prepared.texture[index : index + 1], grid),
        _sample(prepared.soft_texture[index : index + 1], grid),
        fade,
    )
    trust = _sample(prepared.trust[index : index + 1], grid)
    trust = trust * (1 - torch.maximum(_ramp(stretch, *_TRUST_STRETCH), behind))

    # Where one part hides another there is an edge inside the silhouette, which one sample per pixel leaves
    # jagged.
    jump = functional.max_pool2d(height, 3, 1, 1) + functional.max_pool2d(-height, 3, 1, 1)
    shown = torch.lerp(shown, _binomial(shown), _ramp(jump, 0.03, 0.06))

    covered = hit.float()
    coverage = _binomial(covered)
    # Outside the solid a rim pixel takes the colour of its covered neighbours.
    rim = _binomial(shown * covered) / coverage.clamp_min(1e-4)
    shown = torch.where(hit, shown, rim)
    rim_trust = _binomial(trust * covered) / coverage.clamp_min(1e-4)
    trust = torch.where(hit, trust, rim_trust)
    background = _resized(prepared.background[index : index + 1], size)
    background_trust = _resized(prepared.background_trust[index : index + 1], size)
    return ProxyViews(
        images=torch.lerp(background.expand_as(shown), shown, coverage).clamp(0, 1),
        confidence=torch.lerp(background_trust.expand_as(trust), trust, coverage).clamp(0, 1),
        coverage=coverage,
    )


@dataclass(frozen=True)
class _Rays:
    """Target rays in the reference camera's axes: start + t * step, with t the depth for the target.

    Attributes:
        start: [V, 3, 1, 1].
        step: [V, 3, S, S].
    """

    start: Tensor
    step: Tensor


class _Scene:
    """The solid between two surfaces over the reference camera's canvas."""

    def __init__(self, surfaces: Tensor, camera: Tensor) -> None:
        self.surfaces = surfaces  # [1, 2, h, w]
        self.camera = camera  # [25]
        self.depth = float(pivot_depth(camera.view(1, 25)))
        solid = surfaces[:, :1] > surfaces[:, 1:]
        self.near = float(torch.where(solid, surfaces[:, :1], -1.0).max()) + 0.01
        self.far = float(torch.where(solid, surfaces[:, 1:], 1.0).min()) - 0.01
        self.is_empty = not bool(solid.any())

    def rays(self, cameras: Tensor, size: int) -> _Rays:
        """Rays through the pixel centres of the target cameras [V, 25]."""
        positions = (torch.arange(size, device=cameras.device, dtype=torch.float32) + 0.5) / size
        origin, direction = camera_rays(cameras, positions)
        cam2world = self.camera[:16].view(4, 4)
        start = torch.einsum("ji,vjhw->vihw", cam2world[:3, :3], origin - cam2world[:3, 3].view(1, 3, 1, 1))
        return _Rays(start, torch.einsum("ji,vjhw->vihw", cam2world[:3, :3], direction))

    def project(self, rays: _Rays, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Points on the rays → sampling grid on the canvas [V, S, S, 2] and height [V, 1, S, S]."""
        x, y, z = (rays.start + rays.step * distance).unbind(1)
        z_safe = z.clamp_min(0.1)
        intrinsics = self.camera[16:]
        u = (intrinsics[0] * x + intrinsics[1] * y) / z_safe + intrinsics[2]
        v = intrinsics[4] * y / z_safe + intrinsics[5]
        grid = torch.stack([u, v], -1).add_(MARGIN).mul_(2 / (1 + 2 * MARGIN)).sub_(1)
        return grid, (self.depth - z).unsqueeze(1)

    def thickness(self, rays: _Rays, distance: Tensor) -> Tensor:
        """[V, 1, S, S], positive inside the solid."""
        grid, height = self.project(rays, distance)
        # Beyond the canvas both surfaces are 0, and nothing is inside of that.
        found = _sample(self.surfaces, grid, padding="zeros")
        return torch.minimum(found[:, :1] - height, height - found[:, 1:])

    def towards(self, rays: _Rays) -> Tensor:
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


def _first_hits(scene: _Scene, cameras: Tensor, rays: _Rays, size: int) -> tuple[Tensor, Tensor]:
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
        one = _Rays(
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


def _sample(maps: Tensor, grid: Tensor, padding: str = "border") -> Tensor:
    """Bilinear samples of maps [1, C, h, w] at grids [V, S, S, 2] → [V, C, S, S]."""
    views, height, width, _ = grid.shape
    flat = functional.grid_sample(
        maps,
        grid.reshape(1, views * height, width, 2),
        mode="bilinear",
        padding_mode=padding,
        align_corners=False,
    )
    return flat.view(maps.shape[1], views, height, width).transpose(0, 1)


def _ramp(values: Tensor, low: float, high: float) -> Tensor:
    """0 up to `low`, 1 from `high`, linear between."""
    return ((values - low) / (high - low)).clamp(0, 1)


def _binomial(values: Tensor) -> Tensor:
    """3 x 3 binomial smoothing."""
    padded = functional.pad(values, (1, 1, 1, 1), mode="replicate")
    rows = (padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]) / 4
    return (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 4


def _resized(image: Tensor, size: int) -> Tensor:
    if image.shape[-1] == size:
        return image
    return functional.interpolate(
        image, size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )


def to_uint8(values: Tensor) -> NDArray[np.uint8]:
    """[V, C, S, S] in [0, 1] → [V, S, S, C] uint8."""
    pixels: NDArray[np.uint8] = (
        (values * 255 + 0.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    )
    return pixels
