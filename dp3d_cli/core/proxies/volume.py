"""Proxies by a learned 3D appearance volume: the network S that DiffPortrait3D describes and did not release.

A 2D network reads the aligned portrait and its foreground mask, 3D convolutions turn what it read into a
volume of features in a cube around the head, volume rendering sees the volume from a target camera as a 2D
feature map, and a 2D network decodes that to colours (DiffPortrait3D, arXiv 2312.13016, supplement A.1).
Sizes, the mask, what lies outside the cube and the borrowed pixels (see `VolumeProxy`) are ours: the paper
says nothing about them.

The mask decides what turns with the head and what stands still behind it (`layers`).

The volume stands in the EG3D world of `core.cameras`; its axes are z, y, x as tensor axes 2, 3, 4.

Axes: B portraits, V views, C channels, R voxels along the cube, S image side, h = S / 4 side of the rendered
    feature map, e side of the encoder's, N samples along a ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from dp3d_cli.core.proxies.blocks import PATCH, Encoder, Residual2d, groups_of
from dp3d_cli.core.proxies.canvas import ramp
from dp3d_cli.core.proxies.geometry import camera_rays
from dp3d_cli.core.proxies.layers import Layers, separate
from dp3d_cli.core.proxies.template import ProxyViews, default_reference_label

FOLDER = "proxy"
"""Where the network lies within a folder of weights."""

_DENSITY = 60.0  # density of a voxel whose raw value is 1 above the threshold [1 / world unit]
_THRESHOLD = 3.0  # raw values start around 0, so that an untrained volume is thin mist
_HIDDEN = (
    0.012,
    0.02,
)  # a point this far behind the first surface begins to be hidden; scale of the fall [world]
_TRUST_STRETCH = (1.3, 2.8)  # target pixels per portrait pixel: confidence fades between, as the template's

NANO: dict[str, Any] = {}
"""Sizes of the embedded network: the defaults, 256 px."""
FULL: dict[str, Any] = {
    "size": 512,
    "encoder_side": 256,
    "encoder_channels": (96, 192, 320, 512),
    "depth_bins": 32,
    "volume_channels": (32, 64, 128),
    "volume_side": 64,
    "feature_channels": 48,
    "samples": 64,
    "decoder_channels": (128, 64),
}
"""Sizes for those with a GPU, 512 px (ours)."""


@dataclass(frozen=True)
class AppearanceVolume:
    """What the network knows of B portraits, ready to be seen from any camera.

    Attributes:
        density: [B, 1, R, R, R] raw density (before the threshold).
        features: [B, C, R, R, R].
        background: [B, C, e, e] features of what lies outside the cube, the same behind every view.
        appearance: [B, A, e, e] features of the portrait, in its own frame.
        still: [B, A, e, e] features of the background.
        layers: the portraits, taken apart.
        labels: [B, 25] the cameras that saw the portraits.
    """

    density: Tensor
    features: Tensor
    background: Tensor
    appearance: Tensor
    still: Tensor
    layers: Layers
    labels: Tensor


@dataclass(frozen=True)
class Marched:
    """Volume rendering at the resolution of the feature map.

    Attributes:
        features: [B, V, C, h, h] composited, without background.
        opacity: [B, V, 1, h, h] in [0, 1].
        points: [B, V, 3, h, h] world positions of what the rays see, on average.
    """

    features: Tensor
    opacity: Tensor
    points: Tensor


@dataclass(frozen=True)
class VolumeViews:
    """What the target cameras see.

    Attributes:
        images: [B, V, 3, S, S] RGB, in [0, 1] but for rounding and what training has not reached.
        coverage: [B, V, 1, S, S] opacity of the volume, in [0, 1].
        confidence: [B, V, 1, S, S] in [0, 1]: 1 shown well by the portrait, 0 stretched, hidden or invented.
        warped: [B, V, 3, S, S] the head's pixels at the places that the rays see.
        visible: [B, V, 1, S, S] in [0, 1]: whether the portrait's camera sees those places.
    """

    images: Tensor
    coverage: Tensor
    confidence: Tensor
    warped: Tensor
    visible: Tensor


class VolumeProxy(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers carries no types
    """Portrait → appearance volume → views.

    The volume is as blurred as its voxels are large. With `borrows`, the decoder also gets the portrait's
    pixels, the head's moved to where the rendered volume says that they are and the background's as they are,
    and mixes them with its own colours by weights that it learns; the paper has no such path.

    Args:
        size: image side S [px], a multiple of 8. Only the decoder depends on it: training may begin with
            smaller pictures.
        encoder_side: side to which the encoder resizes the portrait [px], a multiple of 32.
        encoder_channels: channels of the 2D encoder at 1/4, 1/8, 1/16 and 1/32 of that.
        depth_bins: slices of the reference camera's frustum that the encoder fills.
        volume_channels: channels of the 3D convolutions at R, R/2, R/4.
        volume_side: R, a multiple of 4.
        feature_channels: C, of the volume and of the rendered feature map.
        samples: N per ray.
        decoder_channels: channels of the decoder at S/4 and S/2.
        cube_centre: world position of the cube's centre.
        cube_half: half of the cube's side [world units].
        borrows: whether the decoder may use the portrait's pixels.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        size: int = 256,
        encoder_side: int = 128,
        encoder_channels: tuple[int, ...] = (32, 64, 96, 128),
        depth_bins: int = 16,
        volume_channels: tuple[int, ...] = (8, 24, 48),
        volume_side: int = 32,
        feature_channels: int = 16,
        samples: int = 32,
        decoder_channels: tuple[int, ...] = (32, 16),
        cube_centre: tuple[float, ...] = (0.0, 0.0, -0.02),
        cube_half: float = 0.42,
        borrows: bool = True,
    ) -> None:
        super().__init__()
        if size % 8 or encoder_side % 32 or volume_side % 4:
            raise ValueError(
                f"size {size} must be a multiple of 8, encoder_side {encoder_side} of 32, "
                f"volume_side {volume_side} of 4."
            )
        lift = volume_channels[0]
        self.depth_bins = depth_bins
        self.encoder = Encoder(4, encoder_channels, lift * depth_bins)
        self.position = nn.Parameter(0.1 * torch.randn(1, lift, *[volume_side // 2] * 3))
        self.volume = VolumeNetwork(volume_channels, 1 + feature_channels)
        self.background = nn.Conv2d(encoder_channels[0], feature_channels, 3, padding=1)
        self.decoder = Decoder(
            feature_channels + 2 + 2 * encoder_channels[0] * borrows, decoder_channels, borrows
        )
        self.register_buffer("centre", torch.tensor(cube_centre, dtype=torch.float32), persistent=False)

    def encode(self, reference: Tensor, mask: Tensor, labels: Tensor) -> AppearanceVolume:
        """Read portraits.

        Args:
            reference: [B, 3, S, S] in [0, 1], RGB; any S, which becomes that of the views.
            mask: [B, 1, S, S] in [0, 1], 1 on head, hair and shoulders.
            labels: [B, 25] the cameras that saw them.

        Raises:
            ValueError: the shapes do not fit.
        """
        batch, channels, height, width = reference.shape
        fits = mask.shape == (batch, 1, height, width) and labels.shape == (batch, 25)
        if channels != 3 or height != width or height % 8 or not fits:
            raise ValueError(
                "Portraits must be [B, 3, S, S], S a multiple of 8, masks [B, 1, S, S] and labels [B, 25]; "
                f"got {list(reference.shape)}, {list(mask.shape)} and {list(labels.shape)}."
            )
        layers = separate(reference, mask)
        nobody = torch.zeros_like(mask)
        pictures = torch.cat([torch.cat([reference, mask], 1), torch.cat([layers.behind, nobody], 1)])
        read, slices = self.encoder(_resized(pictures.unsqueeze(1), self.config.encoder_side)[:, 0])
        (appearance, still), slices = read.chunk(2), slices[:batch]
        frustum = slices.unflatten(1, (-1, self.depth_bins))  # [B, lift, D, e, e]
        grid, _ = self._in_reference(self._voxels(), labels)
        lifted = functional.grid_sample(frustum, grid, align_corners=False)
        position = functional.interpolate(
            self.position, size=lifted.shape[2:], mode="trilinear", align_corners=False
        )
        density, features = self.volume(lifted + position).split([1, self.config.feature_channels], 1)
        return AppearanceVolume(
            density, features, self.background(still), appearance, still, layers, labels.float()
        )

    def march(self, density: Tensor, features: Tensor, labels: Tensor, side: int) -> Marched:
        """Volume rendering (NeRF's quadrature) through the cube.

        Args:
            density: [B, 1, R, R, R] raw.
            features: [B, C, R, R, R].
            labels: [B, V, 25] target cameras.
            side: h, rays along each side; they pass through the centres of h x h equal parts of the frame.
        """
        batch, views = labels.shape[:2]
        positions = (torch.arange(side, device=labels.device, dtype=torch.float32) + 0.5) / side
        origin, direction = camera_rays(
            labels.reshape(-1, 25).float(), positions
        )  # [BV, 3, 1, 1], [BV, 3, h, h]
        # Where a ray enters and leaves the cube: the last entry and the first exit of three pairs of planes.
        safe = torch.where(direction.abs() < 1e-6, 1e-6, direction)
        centre, half = self.centre.view(1, 3, 1, 1), self.config.cube_half
        one, other = (centre - half - origin) / safe, (centre + half - origin) / safe
        near = torch.minimum(one, other).amax(1, keepdim=True)
        far = torch.maximum(torch.maximum(one, other).amin(1, keepdim=True), near)
        count = self.config.samples
        along = ((torch.arange(count, device=labels.device) + 0.5) / count).view(1, count, 1, 1)
        depths = near + (far - near) * along  # [BV, N, h, h]
        points = origin.unsqueeze(2) + direction.unsqueeze(2) * depths.unsqueeze(1)  # [BV, 3, N, h, h]
        grid = ((points - centre.unsqueeze(2)) / half).movedim(1, -1)
        grid = grid.reshape(batch, views * count, side, side, 3)
        found = functional.grid_sample(
            torch.cat([density, features], 1), grid, padding_mode="border", align_corners=False
        )
        found = found.view(batch, -1, views, count, side, side)  # [B, 1 + C, V, N, h, h]
        sigma = _DENSITY * functional.softplus(found[:, 0] - _THRESHOLD)  # [B, V, N, h, h]
        length = (far - near) / count * direction.norm(dim=1, keepdim=True)
        optical = sigma * length.view(batch, views, 1, side, side)
        before = torch.cumsum(optical, 2) - optical
        weights = torch.exp(-before) * (1 - torch.exp(-optical))  # [B, V, N, h, h]
        opacity = weights.sum(2, keepdim=True)
        depth = (weights * depths.view(batch, views, count, side, side)).sum(2, keepdim=True)
        middle = depths.view(batch, views, count, side, side).mean(2, keepdim=True)
        depth = (depth + 1e-3 * middle) / (opacity + 1e-3)  # in empty space the middle of the cube
        rays = direction.view(batch, views, 3, side, side)
        return Marched(
            features=torch.einsum("bvnhw,bcvnhw->bvchw", weights, found[:, 1:]),
            opacity=opacity,
            points=origin.view(batch, views, 3, 1, 1) + rays * depth,
        )

    def render(self, known: AppearanceVolume, labels: Tensor) -> VolumeViews:
        """See portraits from target cameras [B, V, 25]."""
        batch, views = labels.shape[:2]
        layers = known.layers
        size = layers.head.shape[-1]
        side = size // PATCH
        seen = self.march(known.density, known.features, labels, side)
        background = _resized(known.background.unsqueeze(1), side)
        inputs = [seen.features + (1 - seen.opacity) * background, seen.opacity]

        grid, depth = self._in_reference(seen.points.movedim(2, -1), known.labels)  # [B, V, h, h, 3]
        own = self.march(known.density, known.density, known.labels.unsqueeze(1), side)
        first = _look_up(self._reference_depth(known, own), grid)  # [B, V, 1, h, h]
        start, fall = _HIDDEN
        visible = torch.exp(-functional.relu(depth.unsqueeze(2) - first - start) / fall)
        visible = visible * (grid[..., :2].abs().amax(-1).unsqueeze(2) < 1)
        inputs.append(visible)
        if self.config.borrows:
            still = _resized(known.still.unsqueeze(1), side).expand(-1, views, -1, -1, -1)
            inputs += [_look_up(known.appearance, grid), still]

        flow = _resized(grid[..., :2].movedim(-1, 2), size).movedim(2, -1)
        warped = _look_up(layers.head, flow)
        still = layers.behind.unsqueeze(1).expand(-1, views, -1, -1, -1)
        flat = torch.cat(inputs, 2).flatten(0, 1)
        colours, shares = self.decoder(flat, torch.cat([warped, still], 2).flatten(0, 1))
        colours, shares = (part.reshape(batch, views, 3, size, size) for part in (colours, shares))
        coverage, visible = _resized(seen.opacity, size).clamp(0, 1), _resized(visible, size)
        # How much of a picture is what the portrait shows: of the head, places that its camera sees about as
        # squarely; of the background, what the head does not hide there.
        squarely = _resized(1 - ramp(_stretch(grid[..., :2]), *_TRUST_STRETCH), size)
        confidence = coverage * visible * squarely + (1 - coverage) * layers.clear.unsqueeze(1)
        images = colours
        if self.config.borrows:
            images = shares[:, :, :1] * colours + shares[:, :, 1:2] * warped + shares[:, :, 2:] * still
            confidence = confidence * (1 - shares[:, :, :1])
        return VolumeViews(images, coverage, confidence.clamp(0, 1), warped, visible)

    def forward(
        self, reference: Tensor, mask: Tensor, labels: Tensor, reference_labels: Tensor | None = None
    ) -> VolumeViews:
        """Views of portraits from target cameras.

        Args:
            reference: [B, 3, S, S] in [0, 1], RGB, aligned.
            mask: [B, 1, S, S] in [0, 1], 1 on head, hair and shoulders.
            labels: [B, V, 25] target cameras.
            reference_labels: [B, 25]; by default frontal, slightly from above.

        Raises:
            ValueError: the shapes do not fit.
        """
        if labels.dim() != 3 or labels.shape[0] != len(reference) or labels.shape[2] != 25:
            raise ValueError(f"{len(reference)} portraits need labels [B, V, 25], got {list(labels.shape)}.")
        if reference_labels is None:
            reference_labels = default_reference_label().to(reference.device).expand(len(reference), 25)
        return self.render(self.encode(reference, mask, reference_labels), labels)

    def _voxels(self) -> Tensor:
        """[1, R, R, R, 3] world positions of the voxels' centres, last axis x, y, z."""
        side = self.config.volume_side
        steps = (2 * torch.arange(side, device=self.centre.device, dtype=torch.float32) + 1) / side - 1
        z, y, x = torch.meshgrid(steps, steps, steps, indexing="ij")
        voxels: Tensor = torch.stack([x, y, z], -1) * self.config.cube_half + self.centre
        return voxels.unsqueeze(0)

    def _in_reference(self, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Where the cameras [B, 25] see world points [B or 1, ..., 3].

        Returns:
            [B, ..., 3] sampling grid of the frame and, as third number, of the slices; [B, ...] depth.
        """
        batch = len(labels)
        shape = (batch, *[1] * (points.dim() - 2), 3)
        cam2world = labels[:, :16].view(batch, 4, 4).float()
        intrinsics = labels[:, 16:].view(batch, 3, 3).float()
        offset = points - cam2world[:, :3, 3].view(shape)
        seen = torch.einsum("bji,b...j->b...i", cam2world[:, :3, :3], offset.expand(batch, *points.shape[1:]))
        depth = seen[..., 2]
        projected = torch.einsum("bij,b...j->b...i", intrinsics, seen)
        frame = projected[..., :2] / depth.clamp_min(0.1).unsqueeze(-1) * 2 - 1
        middle = ((self.centre - cam2world[:, :3, 3]) * cam2world[:, :3, 2]).sum(-1)
        slices = (depth - middle.view(shape[:-1])) / (1.2 * self.config.cube_half)
        return torch.cat([frame, slices.unsqueeze(-1)], -1), depth

    def _reference_depth(self, known: AppearanceVolume, marched: Marched) -> Tensor:
        """[B, 1, h, h] depth of what the portraits' cameras see first; far where there is nothing."""
        _, depth = self._in_reference(marched.points[:, 0].movedim(1, -1), known.labels)
        empty: Tensor = 2 * (1 - marched.opacity[:, 0]) * self.config.cube_half
        return depth.unsqueeze(1) + empty


class VolumeNetwork(nn.Module):
    """3D convolutions on the lifted features: down twice, up twice, with skips."""

    def __init__(self, channels: tuple[int, ...], out: int) -> None:
        super().__init__()
        fine, middle, coarse = channels
        self.first = nn.Conv3d(fine, fine, 3, padding=1)
        self.down = nn.Conv3d(fine, middle, 2, stride=2)
        self.middle = Residual3d(middle)
        self.lower = nn.Conv3d(middle, coarse, 2, stride=2)
        self.coarse = Residual3d(coarse)
        self.raise_coarse = nn.Conv3d(coarse, middle, 1)
        self.merge = Residual3d(middle)
        self.raise_middle = nn.Conv3d(middle, fine, 1)
        self.norm = nn.GroupNorm(groups_of(fine), fine)
        self.last = nn.Conv3d(fine, out, 3, padding=1)

    def forward(self, volume: Tensor) -> Tensor:
        """[B, C0, R, R, R] → [B, out, R, R, R]."""
        fine = volume + self.first(functional.silu(volume))
        middle = self.middle(self.down(fine))
        coarse = self.coarse(self.lower(middle))
        middle = self.merge(middle + _doubled(self.raise_coarse(coarse)))
        fine = fine + _doubled(self.raise_middle(middle))
        last: Tensor = self.last(functional.silu(self.norm(fine)))
        return last


class Decoder(nn.Module):
    """Rendered features → colours at four times the side, and shares of own and borrowed colours."""

    def __init__(self, inputs: int, channels: tuple[int, ...], borrows: bool) -> None:
        super().__init__()
        coarse, fine = channels
        self.borrows = borrows
        self.first = nn.Conv2d(inputs, coarse, 3, padding=1)
        self.coarse = nn.Sequential(Residual2d(coarse), Residual2d(coarse))
        self.enlarge = nn.Conv2d(coarse, 4 * fine, 1)
        self.sources = (
            nn.Conv2d(24, fine, 3, padding=1) if borrows else None
        )  # two pictures, 2 x 2 unshuffled
        self.fine = Residual2d(fine)
        self.last = nn.Conv2d(fine, 4 * (6 if borrows else 3), 3, padding=1)

    def forward(self, features: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
        """Features [M, inputs, h, h] and borrowable pictures [M, 6, S, S].

        Returns:
            Colours [M, 3, S, S], around [0, 1], and shares [M, 3, S, S] that sum to 1 (or all own).
        """
        coarse = self.coarse(self.first(features))
        fine = functional.pixel_shuffle(self.enlarge(coarse), 2)
        if self.sources is not None:
            fine = fine + self.sources(functional.pixel_unshuffle(sources, 2))
        out = functional.pixel_shuffle(self.last(functional.silu(self.fine(fine))), 2)
        colours = out[:, :3] + 0.5
        if self.borrows:
            return colours, out[:, 3:].softmax(1)
        return colours, torch.ones_like(colours)


class Residual3d(nn.Module):
    """The same in three dimensions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups_of(channels), channels)
        self.one = nn.Conv3d(channels, channels, 3, padding=1)
        self.two = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, value: Tensor) -> Tensor:
        """[B, C, Z, Y, X] → the same."""
        out: Tensor = value + self.two(functional.silu(self.one(functional.silu(self.norm(value)))))
        return out


@torch.inference_mode()
def see(
    network: VolumeProxy,
    reference: Tensor,
    mask: Tensor,
    labels: Tensor,
    reference_label: Tensor | None = None,
) -> ProxyViews:
    """One portrait from target cameras, one view at a time, so that no view depends on the others.

    Args:
        network: in evaluation mode.
        reference: [3, S, S] in [0, 1].
        mask: [1, S, S] in [0, 1], 1 on head, hair and shoulders.
        labels: [V, 25] target cameras.
        reference_label: [25]; by default frontal, slightly from above.
    """
    own = default_reference_label() if reference_label is None else reference_label
    device = network.device
    known = network.encode(*(part.unsqueeze(0).to(device) for part in (reference, mask, own)))
    views = [network.render(known, label.view(1, 1, 25).to(device)) for label in labels]
    return ProxyViews(
        images=torch.cat([view.images[0] for view in views]).clamp(0, 1),
        confidence=torch.cat([view.confidence[0] for view in views]),
        coverage=torch.cat([view.coverage[0] for view in views]),
    )


def _stretch(grid: Tensor) -> Tensor:
    """[B, V, 1, h, h] target pixels per portrait pixel, by area, of a sampling grid [B, V, h, w, 2]."""
    step = 2 / grid.shape[2]  # of a grid that changes nothing
    down, across = torch.gradient(grid, spacing=step, dim=(2, 3))
    area = (across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]).abs()
    smooth = functional.avg_pool2d(area.clamp_max(2), 3, 1, 1, count_include_pad=False)
    return (1 / smooth.clamp_min(1e-3)).unsqueeze(2)


def _look_up(maps: Tensor, grid: Tensor) -> Tensor:
    """Bilinear samples of maps [B, C, H, W] at grids [B, V, h, w, 2 or more] → [B, V, C, h, w]."""
    views, height = grid.shape[1:3]
    flat = functional.grid_sample(
        maps, grid[..., :2].flatten(1, 2), padding_mode="border", align_corners=False
    )
    return flat.reshape(len(maps), maps.shape[1], views, height, -1).movedim(2, 1)


def _resized(maps: Tensor, size: int) -> Tensor:
    """[B, V, C, h, h] → [B, V, C, size, size]."""
    if maps.shape[-1] == size:
        return maps
    flat = functional.interpolate(
        maps.flatten(0, 1), size=(size, size), mode="bilinear", align_corners=False,
        antialias=maps.shape[-1] > size,
    )  # fmt: skip
    return flat.reshape(*maps.shape[:3], size, size)


def _doubled(volume: Tensor) -> Tensor:
    return functional.interpolate(volume, scale_factor=2.0, mode="trilinear", align_corners=False)
