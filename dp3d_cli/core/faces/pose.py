"""Head pose from five landmarks, as the camera label that EG3D's world gives it.

EG3D's own labels come from a 3D face reconstruction network. This estimate needs none: it reads the rotation
off the scaled-orthographic fit that places the crop. It is 1.3 to 2.7 degrees off on synthetic faces that
are the standard face itself with noise; real faces do worse. Ours, not official.
"""

from __future__ import annotations

import numpy as np

from dp3d_cli.core.cameras.camera import RADIUS, Camera, normalised_intrinsics
from dp3d_cli.core.faces.alignment import LandmarkFit

MAX_ANISOTROPY = 1.15
"""Beyond this ratio of the fit's two scales the landmarks are not those of a face seen by a camera."""
MAX_RESIDUAL = 0.12
"""Largest root mean square miss of the fit, in units of the standard face (eye distance 0.62)."""
# EG3D moves its reconstructed cameras by this before it puts them on the sphere [world units].
_CENTRE_OFFSET = np.array([0.0, 0.006, 0.161])


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
