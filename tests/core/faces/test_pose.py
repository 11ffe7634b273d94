import math

import numpy as np
import pytest
from numpy.typing import NDArray

from dp3d_cli.core.cameras.camera import Camera, look_at_cam2world, normalised_intrinsics
from dp3d_cli.core.faces.alignment import STANDARD_FACE, fit_landmarks
from dp3d_cli.core.faces.pose import camera_from_fit


def seen_from(rotation: NDArray[np.float64], unit: float = 120.0) -> NDArray[np.float64]:
    """Pixel indices of the standard face under a rotation to OpenGL axes, scaled orthographic, 512 x 512."""
    return (STANDARD_FACE @ rotation.T)[:, :2] * (unit, -unit) + 255.5


def turned(yaw_deg: float, pitch_deg: float, roll_deg: float) -> NDArray[np.float64]:
    """World to camera rotation, OpenGL axes, of a camera that sits at +x for positive yaw."""
    yaw, pitch, roll = (math.radians(angle) for angle in (yaw_deg, pitch_deg, roll_deg))
    about_y = np.array([[math.cos(yaw), 0, -math.sin(yaw)], [0, 1, 0], [math.sin(yaw), 0, math.cos(yaw)]])
    about_x = np.array(
        [[1, 0, 0], [0, math.cos(pitch), -math.sin(pitch)], [0, math.sin(pitch), math.cos(pitch)]]
    )
    about_z = np.array([[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


@pytest.mark.parametrize("angles", [(0, 0, 0), (25, 0, 0), (-30, 10, 0), (10, -15, 12), (0, 20, -25)])
def test_rotation_of_a_clean_projection_is_recovered(angles: tuple[float, float, float]) -> None:
    rotation = turned(*angles)
    camera = camera_from_fit(fit_landmarks(seen_from(rotation), 512, 512))
    assert camera is not None
    expected = rotation.T @ np.diag([1.0, -1.0, -1.0])
    np.testing.assert_allclose(camera.cam2world[:3, :3], expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(camera.cam2world[:3, 3]), 2.7)


def test_yaw_of_a_perspective_view_has_the_right_sign_and_size() -> None:
    for yaw in (-0.4, -0.15, 0.0, 0.15, 0.4):
        truth = Camera(look_at_cam2world(yaw, -0.05, pivot=(0.0, 0.0, 0.0))[0], normalised_intrinsics())
        world2cam = np.linalg.inv(truth.cam2world)
        # One unit of the standard face is 0.27 of EG3D's world units.
        points = (STANDARD_FACE * 0.27) @ world2cam[:3, :3].T + world2cam[:3, 3]
        pixels = (points[:, :2] / points[:, 2:] * 4.2647 + 0.5) * 512 - 0.5
        camera = camera_from_fit(fit_landmarks(pixels, 512, 512))
        assert camera is not None
        # EG3D's shift of the camera centre draws yaw towards 0 by 0.161 / 2.86, on top of the rotation.
        assert math.degrees(abs(camera.yaw - yaw / (1 + 0.161 / 2.7))) < 2


def test_landmarks_that_no_camera_could_see_give_no_label() -> None:
    points = seen_from(np.eye(3))
    squeezed = points * (0.7, 1.0)
    assert camera_from_fit(fit_landmarks(squeezed, 512, 512)) is None
    scrambled = points[[4, 1, 2, 3, 0]]
    assert camera_from_fit(fit_landmarks(scrambled, 512, 512)) is None
