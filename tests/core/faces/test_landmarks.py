import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.faces.face import FaceBox
from dp3d_cli.core.faces.landmarks import (
    CROP_PX,
    FEATURE_NAMES,
    FEATURE_POINTS,
    FEATURE_SPREAD,
    MIRRORED,
    WEIGHTS,
    HeadPose,
    LandmarkNet,
    LandmarkNetwork,
    apply_affine,
    camera_angles,
    crop_affine,
    head_pose,
    network_input,
    portrait_box,
    sample_crop,
    upright_crop,
)
from dp3d_cli.core.faces.opencv import OpenCVDetector
from dp3d_cli.core.renderers.procedural import ProceduralHead
from tests.core.faces.pictures import ASTRONAUT_BOX, astronaut

SHAPE = np.array(list(FEATURE_POINTS.values()))
SURE = np.ones(len(SHAPE))


def seen(camera: Camera, size: int = 512) -> NDArray[np.float64]:
    """Pixel indices of the mean head's points."""
    points = SHAPE @ camera.world2cam[:3, :3].T + camera.world2cam[:3, 3]
    pixels = points @ camera.pixel_intrinsics(size).T
    return pixels[:, :2] / pixels[:, 2:] - 0.5


@pytest.fixture(scope="module")
def net() -> LandmarkNet:
    return LandmarkNet.load()


def test_mean_head_is_mirror_symmetric() -> None:
    np.testing.assert_allclose(SHAPE[list(MIRRORED)] * [-1, 1, 1], SHAPE, atol=1e-12)
    np.testing.assert_array_equal(FEATURE_SPREAD[list(MIRRORED)], FEATURE_SPREAD)
    assert (SHAPE[["left" in name for name in FEATURE_NAMES], 0] < 0).all()


@pytest.mark.parametrize(
    ("yaw", "pitch"), [(0.0, 0.0), (0.35, -0.3), (-0.6, 0.2), (0.87, 0.5), (-0.87, -0.7)]
)
def test_pose_of_a_look_at_camera_is_its_angles(yaw: float, pitch: float) -> None:
    camera = Camera.look_at(yaw, pitch)
    pose = head_pose(seen(camera), SURE, 512, 512)
    assert (pose.yaw, pose.pitch, pose.roll) == pytest.approx((yaw, pitch, 0), abs=1e-6)
    np.testing.assert_allclose(pose.rotation, camera.world2cam[:3, :3], atol=1e-6)
    np.testing.assert_allclose(pose.translation, camera.world2cam[:3, 3], atol=1e-5)
    assert pose.camera.angle_to(camera) < 1e-6
    assert pose.reprojection_px < 1e-4


@pytest.mark.parametrize("roll_deg", [-40, 15, 90])
def test_roll_is_clockwise_in_the_image(roll_deg: float) -> None:
    roll = math.radians(roll_deg)
    turn = np.array([[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]])
    points = (seen(Camera.look_at(0.3, -0.2)) - 255.5) @ turn.T + 255.5
    pose = head_pose(points, SURE, 512, 512)
    assert (pose.yaw, pose.pitch, pose.roll) == pytest.approx((0.3, -0.2, roll), abs=1e-6)


def test_angles_do_not_depend_on_the_place_in_the_picture_with_a_known_lens() -> None:
    camera = Camera.look_at(0.4, 0.1)
    lens = camera.pixel_intrinsics(512)
    moved = lens.copy()
    moved[:2, 2] += 100, -40
    pose = head_pose(seen(camera) + np.array([100, -40]), SURE, 512, 512, moved)
    assert (pose.yaw, pose.pitch) == pytest.approx((0.4, 0.1), abs=1e-6)


def test_one_wild_point_moves_the_pose_little() -> None:
    points = seen(Camera.look_at(0.35, -0.1))
    points[FEATURE_NAMES.index("left_mouth_corner")] += [60, -35]
    pose = head_pose(points, SURE, 512, 512)
    assert math.degrees(abs(pose.yaw - 0.35)) < 2
    assert math.degrees(abs(pose.pitch + 0.1)) < 3
    doubted = SURE.copy()
    doubted[FEATURE_NAMES.index("left_mouth_corner")] = 0
    assert head_pose(points, doubted, 512, 512).yaw == pytest.approx(0.35, abs=1e-6)


def test_pose_refuses_what_it_cannot_use() -> None:
    with pytest.raises(ValueError, match="expected 20 points"):
        head_pose(np.zeros((5, 2)), np.ones(5), 64, 64)
    with pytest.raises(ValueError, match="got 3"):
        head_pose(seen(Camera.look_at(0, 0)), np.arange(20) < 3, 512, 512)


@pytest.mark.parametrize(("yaw", "pitch", "roll"), [(0.0, 0.0, 0.0), (0.8, -0.4, 0.7), (-0.5, 0.6, -2.0)])
def test_camera_angles_invert_look_at(yaw: float, pitch: float, roll: float) -> None:
    cos, sin = math.cos(roll), math.sin(roll)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    rotation = turn @ Camera.look_at(yaw, pitch).world2cam[:3, :3]
    assert camera_angles(rotation) == pytest.approx((yaw, pitch, roll), abs=1e-12)


def test_crop_is_a_plain_copy_at_equal_size() -> None:
    image = np.random.default_rng(0).integers(0, 255, (120, 130), np.uint8)
    affine = crop_affine((20 + 47.5, 10 + 47.5), CROP_PX)  # the centre of pixels 20..115, 10..105
    np.testing.assert_array_equal(sample_crop(image, affine), image[10:106, 20:116])


def test_shrunk_crop_averages() -> None:
    image = np.random.default_rng(0).integers(0, 255, (288, 288), np.uint8)
    mean = image.reshape(96, 3, 96, 3).mean((1, 3))
    crop = sample_crop(image, crop_affine((143.5, 143.5), 288)).astype(float)
    assert np.abs(crop - mean).max() <= 1


def test_upright_crop_undoes_roll_and_size() -> None:
    points = seen(Camera.look_at(0.2, -0.1))
    roll, zoom = 0.4, 0.3
    turn = zoom * np.array([[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]])
    moved = points @ turn.T + [40, 300]
    straight = apply_affine(upright_crop(points), points)
    np.testing.assert_allclose(apply_affine(upright_crop(moved), moved), straight, atol=1e-3)
    assert straight.min() > 0.1
    assert straight.max() < 0.95


def test_input_ignores_brightness_and_contrast() -> None:
    grey = np.random.default_rng(1).random((CROP_PX, CROP_PX)).astype(np.float32)
    np.testing.assert_allclose(network_input(0.5 * grey + 0.2), network_input(grey), atol=0.02)


def test_network_finds_the_peaks_of_its_heat_maps() -> None:
    network = LandmarkNetwork().eval()
    points, log_miss = network(torch.zeros(2, 2, CROP_PX, CROP_PX))
    assert points.shape == (2, len(FEATURE_NAMES), 2)
    assert log_miss.shape == (2, len(FEATURE_NAMES))
    assert ((points > 0) & (points < 1)).all()


def test_weights_are_small_and_half_precision() -> None:
    from safetensors.torch import load_file

    assert WEIGHTS.stat().st_size <= 1_500_000
    assert {value.dtype for value in load_file(WEIGHTS).values()} == {torch.float16}
    assert WEIGHTS.with_name("MODEL_CARD.md").is_file()


def test_missing_and_foreign_weights(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(WeightsError, match="no such file") as missing:
        LandmarkNet.load(tmp_path / "none.safetensors")
    assert missing.value.reason == "weights-missing"
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign)
    with pytest.raises(WeightsError, match="not the landmark network") as damaged:
        LandmarkNet.load(foreign)
    assert damaged.value.reason == "weights-damaged"
    foreign.write_bytes(b"not safetensors")
    with pytest.raises(WeightsError, match="Reinstall"):
        LandmarkNet.load(foreign)


def test_points_refuse_other_pictures(net: LandmarkNet) -> None:
    with pytest.raises(ValueError, match="uint8"):
        net.points(np.zeros((64, 64, 3), np.float32), FaceBox(0, 0, 64, 64))  # type: ignore[arg-type]


def held_out_view(yaw: float, pitch: float) -> tuple[NDArray[np.uint8], Camera]:
    camera = Camera.look_at(yaw, pitch)
    view = ProceduralHead(1_100_003).render(torch.from_numpy(camera.label)[None], 256).image[0]
    return (view.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy(), camera


def difference_deg(pose: HeadPose, camera: Camera) -> float:
    return math.degrees(math.acos(min((np.trace(pose.rotation @ camera.cam2world[:3, :3]) - 1) / 2, 1)))


@pytest.mark.parametrize(("yaw", "pitch"), [(0.0, 0.0), (0.45, -0.25), (-0.7, 0.2)])
def test_pose_of_a_held_out_head(net: LandmarkNet, yaw: float, pitch: float) -> None:
    picture, camera = held_out_view(yaw, pitch)
    points, confidence = net.points(picture, portrait_box(256, 256))
    assert ((confidence > 0) & (confidence < 1)).all()
    assert difference_deg(head_pose(points, confidence, 256, 256), camera) < 8


def test_a_box_may_be_a_little_off(net: LandmarkNet) -> None:
    picture, _ = held_out_view(0.3, -0.1)
    box = portrait_box(256, 256)
    there, _ = net.points(picture, box)
    shifted = FaceBox(box.x + 0.08 * box.width, box.y - 0.08 * box.width, 1.1 * box.width, 1.1 * box.width)
    again, _ = net.points(picture, shifted)
    assert np.abs(again - there).mean() < 0.01 * box.width


def test_mirrored_picture_gives_mirrored_points(net: LandmarkNet) -> None:
    picture, _ = held_out_view(0.3, 0.1)
    box = portrait_box(256, 256)
    points, _ = net.points(picture, box)
    mirrored, _ = net.points(np.ascontiguousarray(picture[:, ::-1]), box)
    expected = points[list(MIRRORED)] * [-1, 1] + [255, 0]
    assert np.abs(mirrored - expected).mean() < 1.0


def test_astronaut(net: LandmarkNet) -> None:
    """A real photograph: eyes, nose and mouth as read off by hand, [px]."""
    points, confidence = net.points(astronaut(), OpenCVDetector().detect(astronaut())[0].box)
    at = dict(zip(FEATURE_NAMES, points, strict=True))
    left_eye = (at["left_eye_outer"] + at["left_eye_inner"]) / 2
    right_eye = (at["right_eye_outer"] + at["right_eye_inner"]) / 2
    mouth = (at["left_mouth_corner"] + at["right_mouth_corner"]) / 2
    for found, truth in ((left_eye, ASTRO_EYES[0]), (right_eye, ASTRO_EYES[1]), (mouth, ASTRO_MOUTH)):
        assert math.dist(found, truth) < 0.08 * ASTRONAUT_BOX.width
    assert confidence.mean() > 0.3


ASTRO_EYES = ((202.5, 101.0), (246.0, 103.0))
ASTRO_MOUTH = (224.0, 141.0)


def test_turned_astronaut_turns_the_roll(net: LandmarkNet) -> None:
    picture = astronaut()
    turn = cv2.getRotationMatrix2D((224, 130), -20, 1.0)  # clockwise
    turned = cv2.warpAffine(picture, turn, (512, 512), borderMode=cv2.BORDER_REPLICATE)
    rolls = []
    for image in (picture, turned):
        points, confidence = net.points(image, ASTRONAUT_BOX)
        rolls.append(head_pose(points, confidence, 512, 512).roll)
    assert math.degrees(rolls[1] - rolls[0]) == pytest.approx(20, abs=6)
