"""Cameras against numbers of the official EG3D sampler, and their own laws."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp3d_cli.core.cameras.camera import (
    FOCAL,
    PIVOT,
    RADIUS,
    Camera,
    Trajectory,
    look_at_cam2world,
    normalised_intrinsics,
    view_names,
)

HERE = Path(__file__).parent
# Made by the official code: LookAtPoseSampler with both standard deviations 0, float32, torch 2.15.
OFFICIAL = json.loads((HERE / "eg3d_cameras.json").read_text())["cases"]

yaws = st.floats(-math.pi + 1e-3, math.pi - 1e-3)
pitches = st.floats(-1.4, 1.4)
radii = st.floats(0.5, 10.0)


@pytest.mark.parametrize("case", OFFICIAL, ids=[case["name"] for case in OFFICIAL])
def test_look_at_cameras_equal_the_official_sampler(case: dict) -> None:
    yaw, pitch = case["horizontal_mean"] - math.pi / 2, case["vertical_mean"] - math.pi / 2
    camera = Camera.look_at(yaw, pitch, case["radius"], tuple(case["pivot"]), case["c"][16])
    np.testing.assert_allclose(camera.label, case["c"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(camera.cam2world_opengl, case["opengl_transform_matrix"], rtol=0, atol=1e-6)
    assert np.linalg.norm(camera.centre - case["pivot"]) == pytest.approx(case["distance_to_pivot"], abs=1e-6)
    assert math.sin(camera.yaw - yaw) == pytest.approx(0, abs=1e-6)
    assert camera.pitch == pytest.approx(pitch, abs=1e-6)


@given(yaws, pitches, radii)
def test_angles_survive_the_way_through_a_camera_and_its_label(
    yaw: float, pitch: float, radius: float
) -> None:
    camera = Camera.look_at(yaw, pitch, radius, (0.0, 0.0, 0.1))
    assert (camera.yaw, camera.pitch) == pytest.approx((yaw, pitch), abs=1e-9)
    again = Camera.from_label(camera.label)
    assert (again.yaw, again.pitch) == pytest.approx((yaw, pitch), abs=1e-5)
    np.testing.assert_array_equal(again.label, camera.label)


@given(yaws, pitches)
def test_the_pivot_is_seen_in_the_middle_without_roll(yaw: float, pitch: float) -> None:
    camera = Camera.look_at(yaw, pitch)
    pixel = camera.pixel_intrinsics(512) @ (camera.world2cam @ [*PIVOT, 1])[:3]
    np.testing.assert_allclose(pixel[:2] / pixel[2], [256, 256], atol=1e-6)
    assert camera.cam2world[1, 0] == pytest.approx(0, abs=1e-12)  # the right axis stays level
    assert camera.cam2world[1, 1] < 0  # down points down
    assert np.linalg.norm(camera.centre) == pytest.approx(RADIUS)


@given(yaws, pitches)
def test_world2cam_undoes_cam2world(yaw: float, pitch: float) -> None:
    camera = Camera.look_at(yaw, pitch)
    np.testing.assert_allclose(camera.world2cam @ camera.cam2world, np.eye(4), atol=1e-12)


@given(yaws, pitches)
def test_opengl_axes_there_and_back_are_the_same_camera(yaw: float, pitch: float) -> None:
    camera = Camera.look_at(yaw, pitch)
    assert Camera.from_opengl(camera.cam2world_opengl, camera.intrinsics) == camera
    np.testing.assert_array_equal(camera.cam2world_opengl[:3, 3], camera.centre)
    np.testing.assert_array_equal(camera.cam2world_opengl[:3, 1], -camera.cam2world[:3, 1])


@given(yaws, pitches)
def test_a_mirrored_camera_sees_mirrored_points_at_mirrored_pixels(yaw: float, pitch: float) -> None:
    camera = Camera.look_at(yaw, pitch)
    mirrored = camera.mirrored()
    point = np.array([0.11, -0.07, 0.19, 1.0])

    def pixel(camera: Camera, point: np.ndarray) -> np.ndarray:
        seen = camera.pixel_intrinsics(100) @ (camera.world2cam @ point)[:3]
        return seen[:2] / seen[2]

    x, y = pixel(camera, point)
    np.testing.assert_allclose(pixel(mirrored, point * [-1, 1, 1, 1]), [100 - x, y], atol=1e-6)
    assert (mirrored.yaw, mirrored.pitch) == pytest.approx((-yaw, pitch), abs=1e-9)
    assert mirrored.mirrored() == camera


def test_mirroring_negates_the_five_entries_that_eg3d_negates() -> None:
    label = Camera.look_at(0.3, -0.2).label.astype(float)
    expected = label.copy()
    for row, column in [(0, 1), (0, 2), (1, 0), (2, 0), (0, 3)]:
        expected[4 * row + column] *= -1
    np.testing.assert_allclose(Camera.from_label(label).mirrored().label, expected, atol=1e-7)


def test_signs_positive_yaw_is_to_the_viewers_right_and_negative_pitch_is_above() -> None:
    assert Camera.look_at(0.3, 0).centre[0] > 0
    assert Camera.look_at(0, -0.3).centre[1] > 0
    # EG3D's pitch is linear in height, not an elevation: -0.1 stands 3.65 degrees above.
    centre = Camera.look_at(0, -0.1).centre
    assert math.degrees(math.asin(centre[1] / RADIUS)) == pytest.approx(3.65, abs=0.005)


def test_a_point_on_the_viewers_right_and_above_lands_right_and_up_in_the_image() -> None:
    camera = Camera.look_at(0, 0)
    x, y, depth = camera.pixel_intrinsics(512) @ (camera.world2cam @ [0.1, 0.1, 0.2, 1])[:3]
    assert depth == pytest.approx(2.5)
    assert x / depth == pytest.approx(256 + FOCAL * 512 * 0.1 / 2.5)
    assert y / depth == pytest.approx(256 - FOCAL * 512 * 0.1 / 2.5)


@given(st.floats(0, math.pi - 1e-6), yaws, pitches)
def test_angle_between_cameras_is_the_angle_of_the_turn(turn: float, yaw: float, pitch: float) -> None:
    camera = Camera.look_at(yaw, pitch)
    axis = np.array([0.6, 0, 0.8])
    cross = np.cross(np.eye(3), axis)
    rotation = np.eye(3) + math.sin(turn) * cross + (1 - math.cos(turn)) * cross @ cross
    cam2world = camera.cam2world.copy()
    cam2world[:3, :3] = rotation @ cam2world[:3, :3]
    turned = Camera(cam2world, camera.intrinsics)
    assert camera.angle_to(turned) == pytest.approx(turn, abs=1e-7)
    assert turned.angle_to(camera) == pytest.approx(turn, abs=1e-7)


def test_angle_between_look_at_cameras_around_the_origin_is_their_yaw_difference() -> None:
    first, second = (Camera.look_at(yaw, 0, pivot=(0.0, 0.0, 0.0)) for yaw in (-0.2, 0.5))
    assert first.angle_to(second) == pytest.approx(0.7, abs=1e-12)


def test_look_at_is_the_same_one_by_one_and_in_a_batch() -> None:
    yaw, pitch = np.array([-0.4, 0.0, 1.2]), np.array([0.2, -0.1, 0.5])
    batch = look_at_cam2world(yaw, pitch)
    assert batch.shape == (3, 4, 4)
    for index in range(3):
        np.testing.assert_array_equal(batch[index], look_at_cam2world(yaw[index], pitch[index])[0])


def test_the_poles_are_clamped_as_in_the_original() -> None:
    at_the_margin = look_at_cam2world(0.1, -math.pi / 2 + 1e-5)
    np.testing.assert_allclose(look_at_cam2world(0.1, -9.0), at_the_margin, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"yaw": 0, "pitch": 0, "radius": 0}, "radius must be positive"),
        ({"yaw": math.nan, "pitch": 0}, "finite"),
        ({"yaw": 0, "pitch": 0, "pivot": (0, 0, 2.7)}, "stands on the point"),
    ],
)
def test_cameras_that_cannot_be_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        look_at_cam2world(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m * 2, "scales, shears or mirrors"),
        (lambda m: m @ np.diag([-1, 1, 1, 1]), "scales, shears or mirrors"),
        (lambda m: m + np.nan, "finite"),
        (lambda m: m[:3], "4x4"),
        (lambda m: m + np.outer([0, 0, 0, 1], [0, 0, 0.1, 0]), "last row"),
    ],
)
def test_a_matrix_that_is_no_camera_is_refused(change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Camera(change(look_at_cam2world(0.1, 0.1)[0]), normalised_intrinsics())


def test_a_label_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="25 numbers, got shape"):
        Camera.from_label(np.zeros(16))


def test_cameras_are_immutable_and_hashable_values() -> None:
    matrix = look_at_cam2world(0, 0)[0]
    camera = Camera(matrix, normalised_intrinsics())
    matrix[0, 3] = 99
    assert camera.centre[0] != 99
    with pytest.raises(ValueError, match="read-only"):
        camera.cam2world[0, 0] = 2
    assert len({camera, Camera.look_at(0, 0), Camera.look_at(0.1, 0)}) == 2


def test_view_names_sort_in_view_order() -> None:
    assert view_names(2) == ("000", "001")
    assert view_names(1000)[-1] == "999"
    names = view_names(1001)
    assert (names[0], names[-1]) == ("0000", "1000")
    assert sorted(names) == list(names)


@pytest.mark.parametrize("name", ["", ".hidden", "-flag", "a/b", "a\nb", "x" * 101])
def test_a_trajectory_needs_a_name_that_can_be_a_folder(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a"):
        Trajectory(name, (Camera.look_at(0, 0),))


def test_a_trajectory_needs_cameras() -> None:
    with pytest.raises(ValueError, match="no cameras"):
        Trajectory("empty", ())
    with pytest.raises(ValueError, match="3 yaws cannot be paired with 2 pitches"):
        Trajectory.from_angles("odd", [1, 2, 3], [0, 0])
