import math

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dp3d_cli.core.cameras.camera import RADIUS, Camera, look_at_cam2world, normalised_intrinsics
from dp3d_cli.core.faces.alignment import STANDARD_FACE, fit_landmarks
from dp3d_cli.core.faces.landmarks import FEATURE_POINTS, LandmarkNet, portrait_box
from dp3d_cli.core.faces.pose import PORTRAIT_PITCH, PORTRAIT_YAW, camera_from_fit, portrait_camera
from dp3d_cli.core.proxies.template import to_uint8
from dp3d_cli.core.renderers.procedural import ProceduralHead
from dp3d_cli.training.data import SPLITS


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


def test_the_camera_of_heads_that_no_network_was_trained_on() -> None:
    cameras = [Camera.look_at(0.0, 0.0), Camera.look_at(0.25, -0.2), Camera.look_at(-0.2, 0.1)]
    labels = torch.from_numpy(np.stack([camera.label for camera in cameras]))
    usual, errors = Camera.look_at(PORTRAIT_YAW, PORTRAIT_PITCH), []
    for seed in SPLITS["test"][:3]:
        pictures = to_uint8(ProceduralHead(seed).render(labels, 256).image)
        for picture, camera in zip(pictures, cameras, strict=True):
            found = portrait_camera(picture, portrait_box(256, 256))
            assert found is not None
            assert np.linalg.norm(found.cam2world[:3, 3]) == pytest.approx(RADIUS)
            errors.append((found.angle_to(camera), usual.angle_to(camera)))
    estimated, assumed = np.degrees(errors).mean(0)
    assert estimated < 2
    assert estimated < 0.3 * assumed


def test_a_turned_picture_gives_a_camera_with_roll() -> None:
    camera = Camera.look_at(0.1, -0.1)
    rendered = ProceduralHead(SPLITS["test"][4]).render(torch.from_numpy(camera.label)[None], 256)
    turn = cv2.getRotationMatrix2D((127.5, 127.5), -10, 1.0)  # clockwise in the picture
    picture = cv2.warpAffine(to_uint8(rendered.image)[0], turn, (256, 256), borderMode=cv2.BORDER_REFLECT)
    level, rolled = (
        portrait_camera(image, portrait_box(256, 256)) for image in (to_uint8(rendered.image)[0], picture)
    )
    assert level is not None
    assert rolled is not None
    assert np.degrees(rolled.angle_to(level)) == pytest.approx(10, abs=2)
    # The world's up, seen by the camera (OpenCV axes, y down), leans to the right.
    up = rolled.world2cam[:3, :3] @ [0.0, 1.0, 0.0]
    assert np.degrees(np.arctan2(up[0], -up[1])) == pytest.approx(10, abs=2)


def test_points_that_fit_no_head_leave_the_usual_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = Camera.look_at(0.4, 0.5)
    shape = np.array(list(FEATURE_POINTS.values()))
    seen = shape @ camera.world2cam[:3, :3].T + camera.world2cam[:3, 3]
    pixels = seen @ camera.pixel_intrinsics(256).T
    points = pixels[:, :2] / pixels[:, 2:] - 0.5
    spread = np.random.default_rng(0).normal(0, 1, points.shape)

    def angles(miss_px: float) -> tuple[float, float]:
        answer = (points + miss_px * spread, np.full(len(points), 0.8))
        monkeypatch.setattr(LandmarkNet, "points", lambda self, image, box: answer)
        camera = portrait_camera(np.zeros((256, 256, 3), np.uint8), portrait_box(256, 256))
        assert camera is not None
        return camera.yaw, camera.pitch

    exact, off = angles(0.0), angles(8.0)
    assert exact == pytest.approx((0.4, 0.5), abs=0.03)
    assert PORTRAIT_PITCH - 0.05 < off[1] < 0.25  # pitch gives way first
    assert off[0] > 0.15

    no_face = (points, np.full(len(points), 0.2))
    monkeypatch.setattr(LandmarkNet, "points", lambda self, image, box: no_face)
    assert portrait_camera(np.zeros((256, 256, 3), np.uint8), portrait_box(256, 256)) is None
