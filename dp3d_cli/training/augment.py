"""Domain randomisation: one subject's pictures varied, so that real photographs lie inside the range.

`randomise` is the whole of it for the training stages. What a person looks like (skin, hair, clothes,
glasses, light, background) is drawn with every procedural head; here is what a camera and a painter can do:

    all views of a subject alike, so that they stay views of one thing
        mirror      left to right, cameras and points too
        recolour    channels permuted, perhaps inverted; gain and offset (`Recolouring`)
        tone        hue and saturation of everything, and a gamma: lighter and darker skin, hair and light
        palette     a drawing's few colours instead of a photograph's
        soften      a little blur, as of enlarged pictures (`degrade`)
    the reference alone, as it would come from a stranger's camera
        noise, JPEG (`degrade`)
        crop        a misplaced, mis-scaled and turned crop, as far as face detectors are off
        occlude     something in front
        mask        a wrong outline, or as the tool finds it (`dented`, `segmented`), for stages that read one
        camera      as the tool estimates it (`estimated_camera`)

Every colour change is a function of a pixel's colour alone: whatever depends on the place in the picture, as
shadows do, would have to follow the head.

`bent` makes other faces of finished pictures (`training.fusion`): they need not stay views of one thing.

`landmarks._photograph` and `textures.recolour` stay where they are: the one is for grey
crops whose points are known, the other for single pictures of no subject.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dp3d_cli.core.faces.landmarks import portrait_box
from dp3d_cli.core.faces.opencv import OpenCVDetector
from dp3d_cli.core.faces.pose import portrait_camera
from dp3d_cli.core.proxies.segmentation import segment_head
from dp3d_cli.core.proxies.template import default_reference_label, to_uint8
from dp3d_cli.training.data import SubjectViews, mirror_labels
from dp3d_cli.training.textures import dead_leaves

_LUMA = (0.299, 0.587, 0.114)
_SWAPPED_POINTS = [1, 0, 2, 4, 3]  # eyes and mouth corners of a mirrored head


@dataclass(frozen=True)
class AugmentSettings:
    """Shares of subjects, in [0, 1]; 0 switches a change off.

    Attributes:
        mirror: flipped.
        recolour: with other colours altogether (two thirds of these; the rest get a little gain).
        tone: with other hue, saturation and gamma.
        palette: painted with few colours.
        degrade: through `degrade`.
        crop: whose reference is cropped a little wrong.
        occlude: with something in front of the reference.
    """

    mirror: float = 0.5
    recolour: float = 0.5
    tone: float = 0.5
    palette: float = 0.08
    degrade: float = 1.0
    crop: float = 0.3
    occlude: float = 0.08


def randomise(
    shown: SubjectViews, rng: np.random.Generator, settings: AugmentSettings | None = None
) -> SubjectViews:
    """Vary the views of one subject; see the module.

    Every step draws whether it happens before it draws how, in the order of `AugmentSettings`.

    Args:
        shown: the first view is the reference, as `Subjects.sample` gives it.
        rng: decides.
        settings: how often; the defaults if None.

    Returns:
        new views on the CPU; `shown` stays as it is.
    """
    settings = settings or AugmentSettings()
    shown = replace(shown, images=shown.images.detach().cpu().float())
    if rng.random() < settings.mirror:
        shown = mirrored(shown)
    images = shown.images
    if rng.random() < settings.recolour:
        images = Recolouring.draw(rng)(images)
    if rng.random() < settings.tone:
        images = tone(images, rng)
    if rng.random() < settings.palette:
        images = paint(images, rng)
    reference, others = images[:1], images[1:]
    if rng.random() < settings.degrade:
        if len(others):
            reference, others = degrade(reference, others, rng)
        else:
            reference, _ = degrade(reference, reference, rng)
    mask = shown.mask
    if rng.random() < settings.crop:
        affine = misplaced_crop(reference.shape[-1], rng)
        reference = _warp(reference, affine)
        if mask is not None:
            mask = torch.cat([_warp(mask[:1].cpu().float(), affine), mask[1:].cpu()])
    if rng.random() < settings.occlude:
        picture = reference[0].permute(1, 2, 0).numpy()
        covered = occlude(picture, [dead_leaves(len(picture), rng)], rng)
        reference = torch.from_numpy(covered).permute(2, 0, 1)[None].contiguous()
    return replace(shown, images=torch.cat([reference, others]), mask=mask)


def mirrored(shown: SubjectViews) -> SubjectViews:
    """The mirrored subject: pictures, maps, cameras and points."""
    points = None
    if shown.face_points is not None:
        points = shown.face_points[_SWAPPED_POINTS] * torch.tensor(
            [-1.0, 1.0, 1.0], device=shown.face_points.device
        )
    return SubjectViews(
        shown.images.flip(-1),
        mirror_labels(shown.labels),
        None if shown.mask is None else shown.mask.flip(-1),
        None if shown.depth is None else shown.depth.flip(-1),
        points,
    )


def tone(images: Tensor, rng: np.random.Generator) -> Tensor:
    """[V, 3, S, S] in [0, 1] with hue turned by up to 25 degrees, saturation times 0.5 to 1.4, and a gamma.

    The gamma (0.6 to 1.6) makes skin, hair and light brighter or darker; luma keeps its order.
    """
    angle, saturation = rng.uniform(-1, 1) * math.radians(25), rng.uniform(0.5, 1.4)
    gamma = math.exp(rng.uniform(math.log(0.6), math.log(1.6)))
    luma = torch.tensor(_LUMA).view(1, 3, 1, 1)
    grey = (images * luma).sum(1, keepdim=True)
    first, second = images[:, :1] - grey, images[:, 2:] - grey  # red and blue differences span all colour
    cos, sin = math.cos(angle) * saturation, math.sin(angle) * saturation
    red, blue = cos * first - sin * second, sin * first + cos * second
    green = -(_LUMA[0] * red + _LUMA[2] * blue) / _LUMA[1]  # luma stays
    turned = (grey + torch.cat([red, green, blue], 1)).clamp(0, 1)
    return turned**gamma


def paint(images: Tensor, rng: np.random.Generator) -> Tensor:
    """[V, 3, S, S] in [0, 1] with luma mapped to a few random colours, mixed with the original.

    The colours are in order of brightness, with soft steps between them.
    """
    count = int(rng.integers(3, 7))
    palette = torch.from_numpy(np.sort(rng.random((count, 3)), axis=0).astype(np.float32))
    strength, hardness = rng.uniform(0.3, 0.85), rng.uniform(1, 6)
    luma = (images * torch.tensor(_LUMA).view(1, 3, 1, 1)).sum(1)  # [V, S, S]
    place = luma.clamp(0, 1) * (count - 1)
    step = place.floor().clamp(max=count - 2)
    along = (((place - step) - 0.5) * hardness).clamp(-0.5, 0.5) + 0.5
    low = step.long()
    painted = torch.lerp(palette[low], palette[low + 1], along[..., None]).permute(0, 3, 1, 2)
    return torch.lerp(images, painted, strength).clamp(0, 1)


def misplaced_crop(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """[2, 3] from a crop's pixel indices to the picture's, as alignments are off.

    Scale by 3 %, shift by 1.2 % of the side each way, turn by 2 degrees (standard deviations).
    """
    scale, turn = math.exp(rng.normal(0, 0.03)), rng.normal(0, math.radians(2))
    shift = rng.normal(0, 0.012 * size, 2)
    matrix = scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    centre = np.full(2, (size - 1) / 2)
    return np.concatenate([matrix, (centre + shift - matrix @ centre)[:, None]], axis=1)


def _warp(images: Tensor, affine: NDArray[np.float64]) -> Tensor:
    """[V, C, S, S] sampled at `affine` of each pixel; the edge is mirrored."""
    size, flags = images.shape[-1], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = [
        cv2.warpAffine(channel, affine, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
        for channel in images.flatten(0, 1).contiguous().numpy()
    ]
    return torch.from_numpy(np.stack(warped)).view(images.shape)


@dataclass(frozen=True)
class Recolouring:
    """A colour change that all images of one subject share: channels permuted, perhaps inverted, then scaled.

    Attributes:
        order: which channel goes where.
        is_negative: 1 - colour.
        gain: [3].
        offset: [3].
    """

    order: tuple[int, int, int]
    is_negative: bool
    gain: tuple[float, float, float]
    offset: tuple[float, float, float]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Recolouring:
        """At random; one in three leaves the colours as they are, apart from a little gain."""
        gain = rng.normal(1, 0.05, 3)
        if rng.random() < 0.33:
            return cls((0, 1, 2), False, _three(gain), (0.0, 0.0, 0.0))
        order = rng.permutation(3) if rng.random() < 0.5 else np.arange(3)
        first, second, third = (int(channel) for channel in order)
        gain = gain * rng.uniform(0.65, 1.2)
        return cls((first, second, third), rng.random() < 0.07, _three(gain), _three(rng.normal(0, 0.05, 3)))

    def __call__(self, images: Tensor) -> Tensor:
        """Apply to [..., 3, H, W] in [0, 1]."""
        colours = images[..., list(self.order), :, :]
        if self.is_negative:
            colours = 1 - colours
        gain, offset = torch.tensor(self.gain), torch.tensor(self.offset)
        return (colours * gain[:, None, None] + offset[:, None, None]).clamp(0, 1)


def degrade(reference: Tensor, truth: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Sometimes soften reference and truth alike; sometimes add noise or JPEG blocks to the reference.

    Args:
        reference: [1, 3, S, S] in [0, 1].
        truth: [V, 3, S, S] in [0, 1].
        rng: decides.
    """
    if rng.random() < 0.3:
        sigma = float(rng.uniform(0.4, 1.2))
        reference, truth = soften(reference, sigma), soften(truth, sigma)
    kind = rng.random()
    if kind < 0.2:
        noise = torch.from_numpy(rng.normal(0, rng.uniform(0.005, 0.03), reference.shape).astype(np.float32))
        reference = (reference + noise).clamp(0, 1)
    elif kind < 0.4:
        quality = int(rng.integers(40, 90))
        _, data = cv2.imencode(".jpg", to_uint8(reference)[0][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.float32)[..., ::-1] / 255
        reference = torch.from_numpy(decoded.copy()).permute(2, 0, 1)[None].contiguous()
    return reference, truth


def dented(mask: Tensor, rng: np.random.Generator) -> Tensor:
    """A reference's mask as segmentation gives it: grown, shrunk and dented; sometimes as it is.

    The outline moves by a smooth random field of about 2 % of the side.

    Args:
        mask: [1, 1, S, S] in [0, 1].
        rng: decides.
    """
    if rng.random() < 0.25:
        return mask
    size = mask.shape[-1]
    binary = (mask[0, 0].numpy() > 0.5).astype(np.uint8)
    inside, outside = (cv2.distanceTransform(part, cv2.DIST_L2, 3) for part in (binary, 1 - binary))
    field = cv2.resize(
        rng.normal(0, 0.02 * size, (6, 6)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC
    )
    moved = (inside - outside + field + rng.normal(0, 0.008 * size)) / 2 + 0.5
    return torch.from_numpy(np.clip(moved, 0, 1).astype(np.float32))[None, None]


def segmented(image: Tensor, otherwise: Tensor | None) -> Tensor:
    """The mask of a portrait [1, 3, S, S] as the proxy stage finds it: [1, 1, S, S].

    Where no face is found it is `otherwise`, or all 1.
    """
    picture = to_uint8(image)[0]
    faces = OpenCVDetector().detect(picture)
    if not faces:
        return torch.ones_like(image[:, :1]) if otherwise is None else otherwise
    box = faces[0].box
    found = segment_head(picture, (box.x, box.y, box.width, box.height))
    return torch.from_numpy(found.mask)[None, None]


def estimated_camera(image: Tensor) -> Tensor:
    """[25]: the camera of a portrait [1, 3, S, S] as the tool estimates it, or the usual one."""
    picture = to_uint8(image)[0]
    camera = portrait_camera(picture, portrait_box(*picture.shape[:2]))
    if camera is None:
        return default_reference_label()
    return torch.from_numpy(np.array(camera.label, np.float32))


def bent(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """[S, S, C] mirrored or not, turned, scaled, and bent as in a caricature: large eyes, long chins.

    For pictures that lie on top of each other already, as channels: what they tell about each other stays.
    Turned by 8 degrees, scaled by 0.85 to 1.5, bent by a smooth field of 2 % of the side (standard
    deviations); the edge is mirrored.
    """
    size = len(picture)
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
    turn, scale = rng.normal(0, math.radians(8)), math.exp(rng.uniform(math.log(0.85), math.log(1.5)))
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) / scale
    centre = rng.uniform(0.35, 0.65, 2) * size
    coarse = rng.normal(0, 0.02 * size, (6, 6, 2)).astype(np.float32)
    field = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    pixels = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1)
    places = ((pixels - centre) @ matrix.T + centre + field).astype(np.float32)
    fours = range(4, picture.shape[-1], 4)  # OpenCV bends no more channels at once
    parts = np.split(np.ascontiguousarray(picture), fours, -1)
    layers = [
        cv2.remap(part, places, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101) for part in parts
    ]
    return np.concatenate([np.atleast_3d(layer) for layer in layers], -1)


def soften(images: Tensor, sigma: float) -> Tensor:
    """[V, C, S, S] under a Gaussian of `sigma` pixels."""
    array = images.permute(0, 2, 3, 1).numpy()
    blurred = np.stack([cv2.GaussianBlur(image, (0, 0), sigma) for image in array])
    return torch.from_numpy(blurred).permute(0, 3, 1, 2).contiguous()


def occlude(
    picture: NDArray[np.float32], pictures: Sequence[NDArray[np.uint8]], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Something in front: a disc, bar or box with a texture of its own.

    Args:
        picture: [S, S] grey or [S, S, 3], in [0, 1].
        pictures: [H, W, 3] uint8, what the texture is taken from.
        rng: decides.
    """
    size = len(picture)
    shape = np.zeros((size, size), np.float32)
    centre = rng.uniform(0.1, 0.9, 2) * size
    axes = rng.uniform(0.05, 0.2, 2) * size
    if rng.random() < 0.3:
        axes[0] = rng.uniform(0.4, 0.9) * size
        axes[1] = rng.uniform(0.015, 0.05) * size
    angle = float(rng.uniform(0, 180))
    if rng.random() < 0.5:
        corners = cv2.boxPoints(((float(centre[0]), float(centre[1])), (2 * axes[0], 2 * axes[1]), angle))
        cv2.fillPoly(shape, [corners.astype(np.int32)], 1.0)
    else:
        place = (int(centre[0]), int(centre[1]))
        cv2.ellipse(shape, place, (max(int(axes[0]), 1), max(int(axes[1]), 1)), angle, 0, 360, 1.0, -1)
    shape = cv2.GaussianBlur(shape, (0, 0), float(rng.uniform(0.3, 1.2)))
    cover = cv2.resize(pictures[int(rng.integers(len(pictures)))], (size, size)) / 255
    if picture.ndim == 2:
        cover = cover.mean(-1)
    else:
        shape = shape[..., None]
    return np.asarray(picture * (1 - shape) + cover * shape, np.float32)


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third
