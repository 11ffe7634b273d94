"""Calibrated pictures of one head, whatever their world: where the head is, and EG3D crops of it.

Two placements of the head are offered, `landmark_placement` and `rig_placement`; `rectify` cuts the crops.

A crop is what a camera at the same place would see that looks at EG3D's pivot without roll. So only the
direction of view is changed, exactly, by a homography; the focal length follows the distance, so that heads
have EG3D's size. Past the picture's edge its edge is repeated. Pictures must be free of distortion.

How far `landmark_placement` was off: on 12 held-out procedural heads seen by 16 cameras like NeRSemble's, 0.5
degrees (at most 1.2) and 0.8 % of scale (at most 2.2 %). On published frames of a child, a cartoon and a
woman with glasses, with cameras as their own features triangulate, the head came out within 2.8, 1.0 and 5.3
degrees and 3 % of the EG3D world that the frames were made in. `rig_placement`: 4 to 5 degrees on four of the
procedural heads, whose cameras stand a little above on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from dp3d_cli.core.cameras.camera import FOCAL, PIVOT, RADIUS, Camera, normalised_intrinsics
from dp3d_cli.core.errors import InputError
from dp3d_cli.core.faces.detect import Detector
from dp3d_cli.core.faces.face import FaceBox
from dp3d_cli.core.faces.landmarks import (
    CROP_CENTRE,
    CROP_SIDE,
    FEATURE_NAMES,
    FEATURE_POINTS,
    FEATURE_SPREAD,
    LandmarkNet,
)
from dp3d_cli.training.subject_files import axes_meet

Array = NDArray[np.float64]
Picture = NDArray[np.uint8]

UNITS_PER_METRE = 2.6
"""EG3D's world units in a metre: the mean head is 0.362 units wide at the ears, people are about 0.14 m."""
MOST_RESIDUAL = 0.035
"""Largest root mean square distance of triangulated features from the mean head [world units]."""

_DETECT_VIEWS = 6  # the most frontal ones, for the first look
_LOOK_ANGLE = np.radians(
    75
)  # the landmark network saw heads turned by at most 55 degrees and a camera's width
_ROUNDS = 3  # of looking where the last round says that the head is
_BOX_SIDE = CROP_SIDE / 1.45  # of the box that the network's crop is derived from [world units]
_BOX_RISE = 0.06  # how far the box's centre lies above the crop's [box sides]


@dataclass(frozen=True, eq=False)
class RigView:
    """One calibrated picture.

    Attributes:
        serial: the camera's.
        picture: uint8 [H, W, 3].
        rotation: [3, 3] from the world to OpenCV camera axes.
        centre: [3] of the camera in the world.
        lens: [3, 3] intrinsics of this picture [px], pixel centres at i + 1/2.
        alpha: uint8 [H, W], 255 on the person; None if not known.
    """

    serial: str
    picture: Picture
    rotation: Array
    centre: Array
    lens: Array
    alpha: NDArray[np.uint8] | None = None

    def project(self, points: Array) -> Array:
        """[N, 2] continuous pixels of world points [N, 3]."""
        seen = (points - self.centre) @ self.rotation.T @ self.lens.T
        return np.asarray(seen[:, :2] / seen[:, 2:])


@dataclass(frozen=True, eq=False)
class Similarity:
    """x -> scale rotation x + shift.

    Attributes:
        scale: > 0.
        rotation: [3, 3].
        shift: [3].
        residual: root mean square distance of what it was fitted to [units of the target]; 0 if of nothing.
    """

    scale: float
    rotation: Array
    shift: Array
    residual: float = 0.0

    def __call__(self, points: Array) -> Array:
        """Points [..., 3] mapped."""
        return np.asarray(self.scale * points @ self.rotation.T + self.shift)

    def inverse(self, points: Array) -> Array:
        """Points [..., 3] mapped back."""
        return np.asarray((points - self.shift) @ self.rotation / self.scale)


def rig_placement(views: Sequence[RigView]) -> Similarity:
    """From the calibration's world to EG3D's, by the cameras alone; see the module.

    Raises:
        InputError: the cameras all look the same way ("bad-cameras").
    """
    centres = np.stack([view.centre for view in views])
    cameras = [Camera(_cam2world(view.rotation, view.centre), np.eye(3)) for view in views]
    aim = axes_meet(cameras)
    if aim is None:
        raise InputError(
            "The cameras look in parallel; no head can lie where they meet.", reason="bad-cameras"
        )
    z = _unit(centres.mean(0) - aim)
    up = -np.mean([view.rotation[1] for view in views], axis=0)
    y = _unit(up - (up @ z) * z)
    rotation = np.stack([np.cross(y, z), y, z])
    return Similarity(UNITS_PER_METRE, rotation, np.array(PIVOT) - UNITS_PER_METRE * rotation @ aim)


def landmark_placement(
    views: Sequence[RigView], detector: Detector, network: LandmarkNet
) -> tuple[Similarity, Array]:
    """From the calibration's world to EG3D's, by facial features; see the module.

    A face detector finds the face in the most frontal pictures. Then the network looks in every picture where
    the features found so far say that the head is, and they are triangulated anew, three times.

    Args:
        views: at least three, two of them near frontal.
        detector: of faces.
        network: of features.

    Returns:
        the similarity, and the features [K, 3] in EG3D's world, in the order of `FEATURE_NAMES`.

    Raises:
        InputError: no face was found twice ("no-face"), or what was found is no head ("no-head").
    """
    front = rig_placement(views).rotation[2]
    order = np.argsort([front @ view.rotation[2] for view in views])  # opposite to the front first
    looks: list[tuple[RigView, Array, Array]] = []
    for view in (views[index] for index in order[:_DETECT_VIEWS]):
        faces = detector.detect(view.picture)
        if faces:
            looks.append((view, *network.points(view.picture, faces[0].box)))
    if len(looks) < 2:
        raise InputError(
            f"A face was found in {len(looks)} of the {min(len(views), _DETECT_VIEWS)} most frontal "
            "pictures, two are needed. Take another timestep, or `--align cameras`.",
            reason="no-face",
        )
    placement, features = _fit(looks)
    for _ in range(_ROUNDS):
        looks = []
        for view in views:
            box = _head_box(view, placement)
            if box is not None:
                looks.append((view, *network.points(view.picture, box)))
        if len(looks) < 2:
            raise _no_head("the head lies outside the pictures")
        placement, features = _fit(looks)
    if placement.residual > MOST_RESIDUAL:
        raise _no_head(
            f"the features lie {placement.residual:.3f} units off the mean head, {MOST_RESIDUAL} at most"
        )
    return placement, placement(features)


def triangulate(looks: Sequence[tuple[RigView, Array, Array]]) -> tuple[Array, Array]:
    """World positions of features that several cameras see.

    Linear first; then the robust distance in pixels is minimised, so that a feature that one camera only
    guesses (a hidden ear) does no harm.

    Args:
        looks: view, points [K, 2] as pixel indices, confidence [K].

    Returns:
        points [K, 3], and how far a weighted sight line misses them [K] (root mean square, world units).
    """
    count = len(looks[0][1])
    points, misses = np.empty((count, 3)), np.empty(count)
    for feature in range(count):
        rows, weights = [], np.array([np.sqrt(trust[feature]) for _, _, trust in looks])
        for (view, seen, _), weight in zip(looks, weights, strict=True):
            matrix = view.lens @ np.concatenate([view.rotation, -(view.rotation @ view.centre)[:, None]], 1)
            matrix /= np.linalg.norm(matrix[2, :3])
            pixel = seen[feature] + 0.5
            rows += [weight * (pixel[axis] * matrix[2] - matrix[axis]) for axis in range(2)]
        homogeneous = np.linalg.svd(np.stack(rows))[2][-1]
        start = homogeneous[:3] / homogeneous[3]

        def residuals(x: Array, feature: int = feature, weights: Array = weights) -> Array:
            parts = [
                weight * (view.project(x[None])[0] - seen[feature] - 0.5)
                for (view, seen, _), weight in zip(looks, weights, strict=True)
            ]
            return np.concatenate(parts)

        usual_miss = 0.004 * max(looks[0][0].picture.shape[:2])  # a percent of a crop that fills the width
        fit = least_squares(residuals, start, loss="soft_l1", f_scale=usual_miss)
        points[feature] = fit.x
        depths = np.array([np.linalg.norm(fit.x - view.centre) / view.lens[0, 0] for view, _, _ in looks])
        square = (residuals(fit.x).reshape(-1, 2) ** 2).sum(1) * depths**2
        misses[feature] = np.sqrt(square.sum() / (weights**2).sum())
    return points, misses


def fit_similarity(points: Array, targets: Array, weights: Array) -> Similarity:
    """The similarity of least weighted squares (Umeyama 1991) that brings points [K, 3] to targets [K, 3]."""
    share = weights / weights.sum()
    a, b = points - share @ points, targets - share @ targets
    u, values, vt = np.linalg.svd((share[:, None] * b).T @ a)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ np.diag(sign) @ vt
    scale = float((values * sign).sum() / (share * (a**2).sum(1)).sum())
    shift = share @ targets - scale * rotation @ (share @ points)
    off = scale * points @ rotation.T + shift - targets
    return Similarity(scale, rotation, shift, float(np.sqrt(share @ (off**2).sum(1))))


def _fit(looks: Sequence[tuple[RigView, Array, Array]]) -> tuple[Similarity, Array]:
    """Similarity to the mean head, and the features in the calibration's world."""
    features, misses = triangulate(looks)
    mean = np.array([FEATURE_POINTS[name] for name in FEATURE_NAMES])
    weights = 1 / (FEATURE_SPREAD + 0.004) ** 2
    fitted = fit_similarity(features, mean, weights)
    for _ in range(5):  # features that are off, or that no camera saw well, count less
        off = np.linalg.norm(fitted(features) - mean, axis=1) + fitted.scale * misses
        fitted = fit_similarity(features, mean, weights / (1 + (off / 0.012) ** 2))
    return fitted, features


def _head_box(view: RigView, placement: Similarity) -> FaceBox | None:
    """Where the network has to look for the face; None if the camera is too far to the side, or misses it."""
    centre = placement.inverse(np.array(CROP_CENTRE))
    front = placement.rotation[2]  # the face's direction in the calibration's world
    towards = view.centre - centre
    distance = float(np.linalg.norm(towards))
    if np.arccos(np.clip(front @ towards / distance, -1, 1)) > _LOOK_ANGLE:
        return None
    side = _BOX_SIDE / placement.scale * float(view.lens[0, 0]) / distance
    x, y = view.project(centre[None])[0]
    height, width = view.picture.shape[:2]
    if not (0 < x < width and 0 < y < height and side > 8):
        return None
    return FaceBox(x - side / 2, y - side * (0.5 + _BOX_RISE), side, side)


def rectify(
    view: RigView, placement: Similarity, size: int
) -> tuple[Picture, NDArray[np.uint8] | None, Camera]:
    """The EG3D crop of a picture and its camera; see the module.

    Args:
        view: the picture.
        placement: from its world to EG3D's.
        size: side of the crop [px].

    Returns:
        uint8 [size, size, 3], its alpha [size, size] if the view has one, and the camera.
    """
    centre = placement(view.centre)
    forward = _unit(np.array(PIVOT) - centre)
    right = _unit(np.cross(forward, [0.0, 1.0, 0.0]))
    rotation = np.stack([right, np.cross(forward, right), forward])  # world to camera
    distance = float(np.linalg.norm(centre))
    camera = Camera(_cam2world(rotation, centre), normalised_intrinsics(FOCAL * distance / RADIUS))
    finer = max(1, min(8, round(view.lens[0, 0] / camera.intrinsics[0, 0] / size)))
    pixels = size * finer
    # Rays of the crop, turned to the world and into the picture: K R (R' of the crop)^T K'^-1.
    turn = view.rotation @ placement.rotation.T @ rotation.T
    back = view.lens @ turn @ np.linalg.inv(camera.pixel_intrinsics(pixels))
    to_index, to_continuous = (np.array([[1, 0, d], [0, 1, d], [0, 0, 1.0]]) for d in (-0.5, 0.5))
    back = to_index @ back @ to_continuous

    def warp(image: NDArray[np.uint8], border: int) -> NDArray[np.uint8]:
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        warped = cv2.warpPerspective(image, back, (pixels, pixels), flags=flags, borderMode=border)
        if finer > 1:
            warped = cv2.resize(warped, (size, size), interpolation=cv2.INTER_AREA)
        return np.asarray(warped, np.uint8)

    alpha = None if view.alpha is None else warp(view.alpha, cv2.BORDER_CONSTANT)
    return warp(view.picture, cv2.BORDER_REPLICATE), alpha, camera


def _cam2world(rotation: Array, centre: Array) -> Array:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation.T, centre
    return matrix


def _unit(vector: Array) -> Array:
    return np.asarray(vector / np.linalg.norm(vector))


def _no_head(why: str) -> InputError:
    return InputError(
        f"No head was found: {why}. Take another timestep, or `--align cameras`.", reason="no-head"
    )
