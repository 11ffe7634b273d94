"""Facial landmarks by a small embedded network, and the head's pose from them.

The network saw procedural heads only, whose points are known exactly; MODEL_CARD.md beside the weights says
how it was trained and how far it is off. It needs a face box, not exact: the first look at the box finds the
points coarsely, the second one looks at an upright crop placed by them, and at its mirror image.

Crops are square; crop coordinates run from 0 to 1 over them. Points in pictures are pixel indices (the centre
of pixel i is i), as `Face.landmarks` are. "left" is left in the image of a frontal face. World: EG3D's, see
`core.cameras.camera`. Ours, not official.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares
from torch import Tensor, nn

from dp3d_cli.core.cameras.camera import FOCAL, PIVOT, RADIUS, Camera, normalised_intrinsics
from dp3d_cli.core.faces.face import FaceBox
from dp3d_cli.core.weights.embedded import load_embedded

Array = NDArray[np.float64]

FEATURE_POINTS: dict[str, tuple[float, float, float]] = {
    "left_brow_outer": (-0.1292, 0.1215, 0.1579),
    "left_brow_inner": (-0.0383, 0.1214, 0.2070),
    "right_brow_inner": (0.0383, 0.1214, 0.2070),
    "right_brow_outer": (0.1292, 0.1215, 0.1579),
    "left_eye_outer": (-0.1175, 0.0754, 0.1597),
    "left_eye_inner": (-0.0386, 0.0706, 0.1865),
    "right_eye_inner": (0.0386, 0.0706, 0.1865),
    "right_eye_outer": (0.1175, 0.0754, 0.1597),
    "nasion": (0.0000, 0.0850, 0.2104),
    "nose_tip": (0.0000, -0.0139, 0.2736),
    "left_ala": (-0.0418, -0.0301, 0.2220),
    "right_ala": (0.0418, -0.0301, 0.2220),
    "subnasale": (0.0000, -0.0520, 0.2135),
    "left_mouth_corner": (-0.0625, -0.0946, 0.1889),
    "right_mouth_corner": (0.0625, -0.0946, 0.1889),
    "upper_lip": (0.0000, -0.0823, 0.2245),
    "lower_lip": (0.0000, -0.1219, 0.2221),
    "chin": (0.0000, -0.2002, 0.2108),
    "left_ear": (-0.1810, 0.0433, -0.0347),
    "right_ear": (0.1810, 0.0433, -0.0347),
}
"""Mean positions [world units] over procedural heads and their expressions, made mirror-symmetric."""
FEATURE_NAMES = tuple(FEATURE_POINTS)
FEATURE_SPREAD: Array = np.array(
    [0.0050, 0.0037, 0.0037, 0.0050, 0.0034, 0.0021, 0.0021, 0.0034, 0.0015, 0.0042,
     0.0033, 0.0033, 0.0014, 0.0052, 0.0052, 0.0039, 0.0060, 0.0081, 0.0047, 0.0047]
)  # fmt: skip
"""[K] root mean square deviation per axis of single heads from these means [world units]."""
MIRRORED: tuple[int, ...] = tuple(
    FEATURE_NAMES.index(name.replace("left", "right") if "left" in name else name.replace("right", "left"))
    for name in FEATURE_NAMES
)
"""[K] the point that each becomes when the picture is flipped left to right."""

CROP_PX = 96
CROP_CENTRE = (0.0, 0.0, 0.12)
"""The point of the head that the crop is centred on [world units]."""
CROP_SIDE = 0.57
"""Side of the crop at the depth of `CROP_CENTRE` [world units]."""
_CROP_PER_BOX = 1.45  # crop side over the side of a detector's box (brows to chin)
_CROP_DROP = 0.06  # how far the crop's centre lies below the box's [box sides]
_CONFIDENT = 0.02  # expected miss [crop sides] at which the confidence is one half

MIN_CONFIDENCE = 0.45
"""Of a face's points on average, in (0, 1): with less there is no face."""
WEIGHTS = Path(__file__).resolve().parent / "landmark_weights" / "landmarks.safetensors"


@dataclass(frozen=True)
class NetworkSizes:
    """Channels at 1/2, 1/4, 1/8 and 1/16 of the crop; multiples of 8."""

    half: int = 16
    quarter: int = 32
    eighth: int = 64
    sixteenth: int = 96


class _Block(nn.Module):
    """Convolution, group norm, SiLU; with a skip where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.GroupNorm(8, outputs)
        self.has_skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.norm(self.conv(x)))
        return x + y if self.has_skip else y


class LandmarkNetwork(nn.Module):
    """Heat maps of K points and, under each, how far off the point may be.

    A point is the mean of its heat map (integral regression, Sun et al. 2018, arXiv 1711.08229), so points
    that are hidden, or lie between two pixels, have a place too.
    """

    def __init__(self, sizes: NetworkSizes | None = None, points: int = len(FEATURE_NAMES)) -> None:
        super().__init__()
        sizes = sizes or NetworkSizes()
        a, b, c, d = sizes.half, sizes.quarter, sizes.eighth, sizes.sixteenth
        self.quarter = nn.Sequential(_Block(2, a, 2, 5), _Block(a, b, 2), _Block(b, b))
        self.eighth = nn.Sequential(_Block(b, c, 2), _Block(c, c), _Block(c, c))
        self.sixteenth = nn.Sequential(_Block(c, d, 2), _Block(d, d), _Block(d, d))
        self.up_eighth = nn.Conv2d(d, c, 1)
        self.fuse_eighth = _Block(c, c)
        self.up_quarter = nn.Conv2d(c, b, 1)
        self.fuse_quarter = _Block(b, b)
        self.heat = nn.Conv2d(b, points, 1)
        self.log_miss = nn.Conv2d(b, points, 1)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Points and their expected misses.

        Args:
            crops: [B, 2, S, S] from `network_input`, S a multiple of 16.

        Returns:
            points [B, K, 2] (x, y) and the logarithm of the expected absolute miss per axis [B, K], both in
            crop sides.
        """
        quarter = self.quarter(crops)
        eighth = self.eighth(quarter)
        sixteenth = self.sixteenth(eighth)
        eighth = self.fuse_eighth(eighth + F.interpolate(self.up_eighth(sixteenth), scale_factor=2.0))
        quarter = self.fuse_quarter(quarter + F.interpolate(self.up_quarter(eighth), scale_factor=2.0))
        heat = self.heat(quarter).flatten(2).softmax(-1)  # [B, K, h*h]
        side = quarter.shape[-1]
        centres = (torch.arange(side, dtype=heat.dtype, device=heat.device) + 0.5) / side
        grid = torch.stack([centres.repeat(side), centres.repeat_interleave(side)], dim=-1)  # [h*h, 2]
        log_miss = (heat * self.log_miss(quarter).flatten(2)).sum(-1) - 4.0  # e^-4 is a first guess
        return heat @ grid, log_miss.clamp(-7, 0)


def network_input(grey: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """What the network sees: the grey crop at mean 0 and s.d. 1, and the same with local contrast made even.

    Args:
        grey: [S, S] luma of any range, float32 for speed.

    Returns:
        [2, S, S] float32.
    """
    whole = (grey - grey.mean()) / (grey.std() + 1e-3)
    blur = partial(cv2.GaussianBlur, ksize=(0, 0), sigmaX=len(grey) / 14, borderType=cv2.BORDER_REFLECT_101)
    local = whole - blur(whole)
    local = local / (np.sqrt(blur(local * local)) + 0.1)
    return np.stack([whole, local]).astype(np.float32)


def crop_affine(centre: ArrayLike, side: float, roll: float = 0.0) -> Array:
    """[2, 3] from pixel indices to crop coordinates.

    Args:
        centre: (x, y) of the crop's centre, pixel indices.
        side: of the crop [px], > 0.
        roll: how far the crop is turned clockwise in the image [rad].
    """
    cos, sin = math.cos(roll) / side, math.sin(roll) / side
    turn = np.array([[cos, sin], [-sin, cos]])
    return np.concatenate([turn, (0.5 - turn @ np.asarray(centre, float))[:, None]], axis=1)


def apply_affine(affine: Array, points: Array) -> Array:
    """Points [..., 2] under an affine map [2, 3]."""
    return np.asarray(points @ affine[:, :2].T + affine[:, 2])


def sample_crop(image: NDArray[np.uint8], affine: Array, size: int = CROP_PX) -> NDArray[np.uint8]:
    """The crop [size, size] that `affine` cuts out; averaged where it shrinks, mirrored past the edges."""
    side = 1 / math.sqrt(abs(np.linalg.det(affine[:, :2])))
    finer = min(max(math.ceil(side / size - 0.01), 1), 16)
    pixels = size * finer
    to_pixels = affine * pixels
    to_pixels[:, 2] -= 0.5
    crop = cv2.warpAffine(
        image, to_pixels, (pixels, pixels), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    if finer > 1:
        crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(crop, np.uint8)


class LandmarkNet:
    """The trained network; one instance may be used for any number of pictures.

    Args:
        network: with its weights, in any mode.
        device: where it runs.
    """

    def __init__(self, network: LandmarkNetwork, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.network = network.to(self.device, torch.float32).eval()

    @classmethod
    def load(cls, path: Path | None = None, device: str | torch.device = "cpu") -> LandmarkNet:
        """The embedded network, or that of a safetensors file.

        Raises:
            WeightsError: the file is missing, cannot be read or does not fit the network.
        """
        network = LandmarkNetwork()
        load_embedded(network, WEIGHTS if path is None else path, "landmark")
        return cls(network, device)

    def points(self, image: NDArray[np.uint8], box: FaceBox) -> tuple[Array, Array]:
        """Where the features of the face in `box` are, hidden ones included.

        Args:
            image: uint8 [H, W, 3] RGB.
            box: from above the brows to the chin, as detectors give it; 10 % off does no harm.

        Returns:
            points [K, 2] (x, y), pixel indices in the order of `FEATURE_NAMES`, and confidence [K] in (0, 1):
            one half where a miss of 2 % of the crop (3 % of the box) is expected, more where less is.

        Raises:
            ValueError: `image` is not uint8 [H, W, 3].
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
        grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
        side = max(box.width, box.height)
        x, y = box.centre
        first = crop_affine((x - 0.5, y - 0.5 + _CROP_DROP * side), _CROP_PER_BOX * side)
        coarse, _ = self._look(grey, [first])
        second = upright_crop(coarse[0])
        mirror = second * [[-1], [1]] + [[0, 0, 1], [0, 0, 0]]
        found, miss = self._look(grey, [second, mirror])
        order = list(MIRRORED)
        points, misses = (found[0] + found[1][order]) / 2, (miss[0] + miss[1][order]) / 2
        return points, _CONFIDENT / (_CONFIDENT + misses)

    def _look(self, grey: NDArray[np.uint8], affines: list[Array]) -> tuple[Array, Array]:
        """Points [N, K, 2] in pixel indices and expected misses [N, K] in crop sides."""
        crops = [network_input(sample_crop(grey, affine).astype(np.float32) / 255) for affine in affines]
        with torch.inference_mode():
            points, log_miss = self.network(torch.from_numpy(np.stack(crops)).to(self.device))
        inverse = [cv2.invertAffineTransform(affine) for affine in affines]
        found = points.cpu().double().numpy()
        places = [apply_affine(back, crop) for back, crop in zip(inverse, found, strict=True)]
        return np.stack(places), log_miss.cpu().double().exp().numpy()


def upright_crop(points: Array) -> Array:
    """The crop [2, 3] in which a head with these points [K, 2] is upright, centred and of standard size.

    By the affine (weak perspective) camera that maps the mean positions to the points with least squares.
    """
    shape = _mean_shape()
    weights = 1 / (FEATURE_SPREAD + 0.004)
    design = np.concatenate([shape, np.ones((len(shape), 1))], axis=1)
    rows = np.linalg.lstsq(design * weights[:, None], points * weights[:, None], rcond=None)[0].T  # [2, 4]
    scale = float(np.linalg.svd(rows[:, :3], compute_uv=False).mean())
    down = -rows[:, 1]
    roll = math.atan2(-down[0], down[1])
    centre = rows @ np.array([*CROP_CENTRE, 1.0])
    return crop_affine(centre, max(CROP_SIDE * scale, 4.0), roll)


def portrait_box(width: int, height: int) -> FaceBox:
    """Where the face is in a portrait aligned as EG3D does, for views in which no detector finds it."""
    side = 0.67 * min(width, height)
    return FaceBox(0.50 * width - side / 2, 0.46 * height - side / 2, side, side)


@dataclass(frozen=True, eq=False)
class HeadPose:
    """How a head is turned, said as the camera that sees it (see `core.cameras.camera`).

    Attributes:
        yaw: of the look-at camera with the same line of sight [rad]; positive: the camera stands at +x.
        pitch: in EG3D's measure [rad], **negative above** the face.
        roll: turn of the head in the image about the line of sight [rad], positive clockwise.
        rotation: [3, 3] from the world to OpenCV camera axes.
        translation: [3] of the world's origin in camera axes [world units].
        reprojection_px: weighted root mean square distance of the points from the posed mean head [px].
    """

    yaw: float
    pitch: float
    roll: float
    rotation: Array
    translation: Array
    reprojection_px: float

    @property
    def camera(self) -> Camera:
        """The look-at camera on EG3D's sphere with this yaw and pitch; it has no roll."""
        return Camera.look_at(self.yaw, self.pitch)


def head_pose(
    points: ArrayLike,
    confidence: ArrayLike,
    width: int,
    height: int,
    intrinsics: ArrayLike | None = None,
) -> HeadPose:
    """The pose that brings the mean head's points to these.

    SQPNP (Terzakis and Lourakis 2020, as in OpenCV), then a robust fit in which a point counts by its
    confidence and by how constant its place is among heads. Faces differ from the mean head, so a person's
    poses share an offset of a few degrees; differences between poses of one person do not have it.

    Args:
        points: [K, 2] pixel indices in the order of `FEATURE_NAMES`.
        confidence: [K] in [0, 1].
        width: of the picture [px].
        height: of the picture [px].
        intrinsics: [3, 3] in pixels, pixel centres at i + 1/2; None is EG3D's lens over the longer side.

    Raises:
        ValueError: wrong shapes, or fewer than six points of positive confidence.
    """
    seen, trust = np.asarray(points, float), np.asarray(confidence, float)
    shape = _mean_shape()
    if seen.shape != (len(shape), 2) or trust.shape != (len(shape),):
        raise ValueError(f"expected {len(shape)} points (x, y), got {list(seen.shape)}, {list(trust.shape)}")
    usable = np.isfinite(seen).all(1) & (trust > 0)
    if usable.sum() < 6:
        raise ValueError(f"a pose needs 6 points of positive confidence, got {int(usable.sum())}")
    lens = _portrait_lens(width, height) if intrinsics is None else np.asarray(intrinsics, float)
    shape, seen = shape[usable], seen[usable] + 0.5
    weights = np.sqrt(trust[usable]) / (FEATURE_SPREAD[usable] + 0.004)
    weights = weights / np.sqrt((weights**2).mean())
    _, turn, shift = cv2.solvePnP(shape, seen, lens, None, flags=cv2.SOLVEPNP_SQPNP)
    starts = [np.concatenate([turn.ravel(), shift.ravel()])]
    depth = max(float(shift.ravel()[2]), 1.0)
    starts.append(np.array([math.pi, 0, 0, 0, 0, depth]))  # frontal: the mirrored solution is a trap nearby

    def misses(pose: Array) -> Array:
        projected, _ = cv2.projectPoints(shape, pose[:3], pose[3:], lens, None)
        return np.asarray(((projected[:, 0] - seen) * weights[:, None]).ravel())

    scale = max(float(lens[0, 0]) / depth * 0.008, 1e-3)  # a usual miss [px]
    fits = [least_squares(misses, start, loss="soft_l1", f_scale=scale) for start in starts]
    best = min((fit for fit in fits if fit.x[5] > 0), key=lambda fit: fit.cost, default=fits[0])
    rotation = np.asarray(cv2.Rodrigues(best.x[:3])[0], np.float64)
    yaw, pitch, roll = camera_angles(rotation)
    rms = float(np.sqrt((misses(best.x) ** 2).sum() / len(shape)))
    return HeadPose(yaw, pitch, roll, rotation, np.asarray(best.x[3:], np.float64), rms)


def camera_angles(rotation: Array) -> tuple[float, float, float]:
    """Yaw, pitch (EG3D's measure) and roll [rad] of a world-to-camera rotation [3, 3] in OpenCV axes.

    The camera is put where EG3D's would stand: on the sphere of radius 2.7 about the origin, its line of
    sight through the pivot, i.e. at o = pivot - t d with |o| = 2.7 and t > 0. The roll is what is left.
    """
    forward, pivot = rotation[2], np.array(PIVOT)
    along = float(pivot @ forward)
    distance = along + math.sqrt(along**2 + RADIUS**2 - float(pivot @ pivot))
    centre = pivot - distance * forward
    yaw, pitch = math.atan2(centre[0], centre[2]), -math.pi / 2 * float(centre[1]) / RADIUS
    level = Camera.look_at(yaw, pitch).cam2world[:3, :3]
    left_over = rotation @ level
    return yaw, pitch, math.atan2(left_over[1, 0], left_over[0, 0])


def _portrait_lens(width: int, height: int) -> Array:
    side = max(width, height)
    lens: Array = normalised_intrinsics(FOCAL) * np.array([[side], [side], [1.0]])
    lens[:2, 2] = width / 2, height / 2
    return lens


def _mean_shape() -> Array:
    return np.array(list(FEATURE_POINTS.values()), np.float64)
