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
from dp3d_cli.core.faces.pose import PORTRAIT_PITCH, PORTRAIT_YAW
from dp3d_cli.core.proxies.background import blur, fill_smoothly
from dp3d_cli.core.proxies.canvas import continue_colours, continue_mask, fill_or_mean, lay_out, ramp
from dp3d_cli.core.proxies.geometry import MARGIN, pivot_depth, surfaces
from dp3d_cli.core.proxies.marching import Scene, first_hits, sample
from dp3d_cli.core.proxies.placement import Box, Placement, check_box, place_portrait
from dp3d_cli.core.proxies.segmentation import Image, Mask, segment_head

_TEXTURE_SCALE = 1.25  # texture pixels per canvas pixel: sampling between pixels costs sharpness
_SOFT_SIGMA = 0.03  # blur of the colours on stretched parts [frames]
_STRETCH = (2.0, 3.5)  # target pixels per reference pixel: begin and end of the fade
_TRUST_STRETCH = (1.3, 2.8)  # the same for the confidence
_BACKGROUND_GAP = 0.025  # ring around the foreground whose colours are mixed with it [frames]
_SOURCE_GAP = 0.06  # the same for the colours that fill the rest [frames]


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
    return torch.from_numpy(np.array(Camera.look_at(PORTRAIT_YAW, PORTRAIT_PITCH).label, np.float32))


def prepare(
    reference: Image,
    box: Box,
    *,
    size: int = 256,
    mask: Mask | None = None,
    placement: Placement | None = None,
    label: Tensor | None = None,
) -> PreparedPortrait:
    """Make an aligned portrait ready: segment it, fill the background behind it, give it a shape.

    Args:
        reference: [H, W, 3] uint8 RGB, an aligned portrait.
        box: face box (x, y, width, height) in its pixels.
        size: side of the frame that the result is made for, in pixels; even, at least 32.
        mask: [H, W] in [0, 1], the foreground; by default found by `segment_head`.
        placement: where the portrait lies in the frame; by default from the box.
        label: [25] reference camera; by default frontal, slightly from above.

    Returns:
        The prepared portrait (B = 1, on the CPU).

    Raises:
        ValueError: image, box or size do not fit.
    """
    if mask is None:
        mask = segment_head(reference, box).mask
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
    canvas, valid = lay_out(layers, places, side)
    colours = canvas[:, :3].clamp(0, 1)
    seen_mask = canvas[:, 3:4].clamp(0, 1)
    full_mask = continue_mask(seen_mask, valid, frame_boxes)

    # Foreground colours: only from what is surely foreground, so that no rim of background travels
    # along.
    sure = valid * ((-functional.max_pool2d(-seen_mask, 3, 1, 1)) - 0.6).clamp(0, 0.4) / 0.4
    fine_side = 2 * round(_TEXTURE_SCALE * side / 2)
    fine_colours, fine_valid = lay_out(image.float(), places, fine_side)
    fine_sure = _resized(sure, fine_side) * fine_valid
    texture = fill_smoothly(fine_colours.clamp(0, 1), fine_sure)
    texture = continue_colours(texture, fine_sure, fine_valid, frame_boxes)
    clear = valid * _far_from(full_mask, _BACKGROUND_GAP * size)
    # Fill from farther out than is shown: strands of hair that the mask missed would smear.
    source = valid * _far_from(full_mask, _SOURCE_GAP * size)
    behind = torch.lerp(fill_or_mean(colours, _enough(source, clear), valid), colours, clear)
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


def _render_one(prepared: PreparedPortrait, index: int, cameras: Tensor, size: int) -> ProxyViews:
    """All views [V, 25] of one of the portraits."""
    solid = prepared.surfaces[index : index + 1]
    scene = Scene(solid[:, :2], prepared.camera[index])
    rays = scene.rays(cameras, size)
    hit, distance = first_hits(scene, cameras, rays, size)

    grid, height = scene.project(rays, distance)
    found = sample(solid, grid)
    front, slope_u, slope_v = found[:, 0:1], found[:, 2:3], found[:, 3:4]
    towards = scene.towards(rays)
    # A front surface of slope (a, b) has the normal (-a, -b, 1); the ratio of the areas under which target
    # and reference see it is therefore linear in the direction to the target's camera.
    stretch = towards[:, 2:3] - slope_u * towards[:, 0:1] - slope_v * towards[:, 1:2]
    behind = ((front - height) / 0.03).clamp(0, 1)
    fade = torch.maximum(ramp(stretch, *_STRETCH), behind)
    shown = torch.lerp(
        sample(prepared.texture[index : index + 1], grid),
        sample(prepared.soft_texture[index : index + 1], grid),
        fade,
    )
    trust = sample(prepared.trust[index : index + 1], grid)
    trust = trust * (1 - torch.maximum(ramp(stretch, *_TRUST_STRETCH), behind))

    # Where one part hides another there is an edge inside the silhouette, which one sample per pixel leaves
    # jagged.
    jump = functional.max_pool2d(height, 3, 1, 1) + functional.max_pool2d(-height, 3, 1, 1)
    shown = torch.lerp(shown, _binomial(shown), ramp(jump, 0.03, 0.06))

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


def _far_from(mask: Tensor, radius: float) -> Tensor:
    """1 where no foreground is within `radius` pixels, 0 where there is."""
    reach = round(radius)
    rows = functional.max_pool2d(mask, (2 * reach + 1, 1), 1, (reach, 0))
    return (1 - functional.max_pool2d(rows, (1, 2 * reach + 1), 1, (0, reach))).clamp(0, 1)


def _enough(few: Tensor, many: Tensor) -> Tensor:
    """`few` where it still has a third of `many`, else fade to `many`."""
    share = few.mean((1, 2, 3), keepdim=True) / many.mean((1, 2, 3), keepdim=True).clamp_min(1e-6)
    return torch.lerp(many, few, ramp(share, 0.15, 0.35))


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
