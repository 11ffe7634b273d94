"""Head pose of a portrait, as the camera label that EG3D's world gives it.

EG3D's own labels come from a 3D face reconstruction network. These estimates need none. Ours, not official.

`camera_from_fit` reads the rotation off the scaled-orthographic fit that places the crop, for detectors that
give five landmarks. It is 1.3 to 2.7 degrees off on synthetic faces that are the standard face itself with
noise; real faces do worse.

`portrait_camera` asks the embedded landmark network, which is right about heads like those it was trained on
(1.4 degrees off on held-out ones) and less so about others: the further the points are from any pose of the
mean head, the more the estimate gives way to the camera that portraits have on average.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dp3d_cli.core.cameras.camera import RADIUS, Camera, normalised_intrinsics
from dp3d_cli.core.faces.alignment import LandmarkFit
from dp3d_cli.core.faces.face import FaceBox
from dp3d_cli.core.weights.manifest import sha256

if TYPE_CHECKING:
    from dp3d_cli.core.faces.landmarks import LandmarkNet

MAX_ANISOTROPY = 1.15
"""Beyond this ratio of the fit's two scales the landmarks are not those of a face seen by a camera."""
MAX_RESIDUAL = 0.12
"""Largest root mean square miss of the fit, in units of the standard face (eye distance 0.62)."""
# EG3D moves its reconstructed cameras by this before it puts them on the sphere [world units].
_CENTRE_OFFSET = np.array([0.0, 0.006, 0.161])

PORTRAIT_YAW, PORTRAIT_PITCH = 0.0, -0.08
"""Angles at which a portrait is taken to be seen when nothing more is known [rad, EG3D's signs]."""
_PRIOR = np.radians([12.0, 8.0])  # how far portraits are from these: yaw, pitch (in EG3D's measure)
_USUAL_MISS = 0.0065  # of the points from the posed mean head, on procedural heads [sides]
_ERROR = np.radians([0.8, 1.7])  # of the estimate, at that miss: yaw, pitch
_ERROR_PER_MISS = np.radians([300.0, 1800.0])  # and for each side by which the miss is larger


def camera_from_fit(fit: LandmarkFit) -> Camera | None:
    """The camera that sees the aligned crop, roll included, or None if the landmarks do not fit a face.

    With r1, r2 the normalised rows of the fit and r3 = r1 x r2, the nearest rotation A (rows; world to
    camera in OpenGL axes) gives cam2world = A^T diag(1, -1, -1) and the centre 2.7 r3, shifted as EG3D does
    and put back on the sphere of radius 2.7.
    """
    if fit.anisotropy > MAX_ANISOTROPY or fit.residual > MAX_RESIDUAL:
        return None
    first, second = fit.rows / np.linalg.norm(fit.rows, axis=1, keepdims=True)
    u, _, vt = np.linalg.svd(np.stack([first, second, np.cross(first, second)]))
    rotation = u @ vt
    centre = RADIUS * rotation[2] + _CENTRE_OFFSET
    cam2world = np.eye(4)
    cam2world[:3, :3] = rotation.T @ np.diag([1.0, -1.0, -1.0])
    cam2world[:3, 3] = RADIUS * centre / np.linalg.norm(centre)
    return Camera(cam2world, normalised_intrinsics())


def portrait_camera(image: NDArray[np.uint8], box: FaceBox) -> Camera | None:
    """The camera that sees an aligned portrait, by the embedded landmark network; None if it sees no face.

    Yaw and pitch are the mean of two normal distributions, weighted by their precision: what the points say,
    and what portraits are like. Roll is what the points say.

    Args:
        image: [S, S, 3] uint8 RGB.
        box: of the face [px].

    Raises:
        WeightsError: the installation is damaged.
    """
    from dp3d_cli.core.faces.landmarks import MIN_CONFIDENCE, head_pose

    side = len(image)
    points, confidence = _landmarks().points(image, box)
    if confidence.mean() < MIN_CONFIDENCE:
        return None
    pose = head_pose(points, confidence, side, side)
    error = _ERROR + _ERROR_PER_MISS * max(pose.reprojection_px / side - _USUAL_MISS, 0.0)
    usual, seen = np.array([PORTRAIT_YAW, PORTRAIT_PITCH]), np.array([pose.yaw, pose.pitch])
    yaw, pitch = usual + (seen - usual) * _PRIOR**2 / (_PRIOR**2 + error**2)
    level = Camera.look_at(float(yaw), float(pitch))
    cos, sin = math.cos(pose.roll), math.sin(pose.roll)
    about_sight = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    cam2world = level.cam2world.copy()
    cam2world[:3, :3] = level.cam2world[:3, :3] @ about_sight.T
    return Camera(cam2world, level.intrinsics)


def portrait_camera_weights() -> dict[str, str]:
    """Digest of what `portrait_camera` depends on, for records."""
    from dp3d_cli.core.faces.landmarks import WEIGHTS

    return {"landmarks": sha256(WEIGHTS)}


@cache
def _landmarks() -> LandmarkNet:
    from dp3d_cli.core.faces.landmarks import LandmarkNet

    return LandmarkNet.load()
