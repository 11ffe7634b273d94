"""Head angles against rotations composed from known cameras, and both estimators on known heads."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dp3d_cli.core.cameras.camera import Camera, normalised_intrinsics
from dp3d_cli.core.cameras.paths import gen_videos
from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.faces.face import Face, FaceBox
from dp3d_cli.core.faces.landmarks import (
    FEATURE_NAMES,
    FEATURE_POINTS,
    LandmarkNet,
    LandmarkNetwork,
)
from dp3d_cli.core.metrics.pose import (
    HeadAngles,
    InsightFacePose,
    LandmarkPose,
    geodesic_deg,
    load_pose,
    pose_mae_deg,
    pose_mse,
    shared_offset,
)
from dp3d_cli.core.renderers.procedural import ProceduralHead
from dp3d_cli.core.weights.backbones import BACKBONES
from dp3d_cli.core.weights.manifest import sha256
from tests.core.metrics.conftest import smooth_noise
from tests.fakes.insightface_models import (
    REACH,
    as_published,
    write_detector,
    write_landmarks,
    write_recogniser,
)

ANGLES = [(0, 0, 0), (20, 0, 0), (0, 35, 0), (0, 0, -15), (-12, 40, 8), (25, -60, -30), (-40, 85, 100)]


def about(axis: str, angle_deg: float) -> np.ndarray:
    """Right-handed rotation about one axis."""
    c, s = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    return {
        "x": np.array([[1, 0, 0], [0, c, -s], [0, s, c]]),
        "y": np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]),
        "z": np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]),
    }[axis]


def degrees(pitch: float, yaw: float, roll: float) -> HeadAngles:
    return HeadAngles(math.radians(pitch), math.radians(yaw), math.radians(roll))


def turned(camera: Camera, rotation: np.ndarray) -> Camera:
    """The camera with its axes turned in its own frame."""
    cam2world = camera.cam2world.copy()
    cam2world[:3, :3] = cam2world[:3, :3] @ rotation
    return Camera(cam2world, camera.intrinsics)


def close(a: HeadAngles, b: HeadAngles, tolerance_deg: float = 1e-9) -> bool:
    pairs = ((a.pitch, b.pitch), (a.yaw, b.yaw), (a.roll, b.roll))
    return all(abs(math.remainder(x - y, 2 * math.pi)) < math.radians(tolerance_deg) for x, y in pairs)


# Angles.


def test_camera_at_the_viewers_right_has_positive_yaw() -> None:
    camera = Camera.look_at(math.radians(30), 0, pivot=(0.0, 0.0, 0.0))
    assert close(HeadAngles.of_camera(camera), degrees(0, 30, 0))


def test_camera_above_has_negative_pitch() -> None:
    camera = Camera.look_at(0, -math.pi / 2 * math.sin(math.radians(20)), pivot=(0.0, 0.0, 0.0))
    assert camera.centre[1] > 0
    assert close(HeadAngles.of_camera(camera), degrees(-20, 0, 0))


def test_head_turned_clockwise_in_the_picture_has_positive_roll() -> None:
    camera = turned(Camera.look_at(0, 0), about("z", -10))
    # The image-right eye is lower, as `Face.roll` counts.
    left_eye, right_eye = (camera.world2cam[:3, :3] @ (x, 0, 0) for x in (-0.1, 0.1))
    assert right_eye[0] > left_eye[0]
    assert right_eye[1] > left_eye[1]  # y down
    assert close(HeadAngles.of_camera(camera), degrees(0, 0, 10))


def test_definition_of_the_module() -> None:
    for pitch, yaw, roll in ANGLES:
        expected = np.diag([1, -1, -1]) @ about("z", -roll) @ about("y", -yaw) @ about("x", -pitch)
        np.testing.assert_allclose(degrees(pitch, yaw, roll).world2cam, expected, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.floats(-3.1, 3.1), st.floats(-1.5, 1.5), st.floats(-3.1, 3.1))
def test_angles_survive_the_way_through_a_rotation(pitch: float, yaw: float, roll: float) -> None:
    angles = HeadAngles(pitch, yaw, roll)
    assert close(HeadAngles.from_world2cam(angles.world2cam), angles, 1e-6)


@pytest.mark.parametrize("yaw", [90, -90])
def test_profile_keeps_its_rotation_though_two_angles_merge(yaw: float) -> None:
    rotation = degrees(20, yaw, 5).world2cam
    angles = HeadAngles.from_world2cam(rotation)
    assert angles.roll == 0
    np.testing.assert_allclose(angles.world2cam, rotation, atol=1e-9)


def test_mirrored_camera_negates_yaw_and_roll() -> None:
    camera = turned(Camera.look_at(0.3, -0.2), about("z", 7))
    angles, mirrored = HeadAngles.of_camera(camera), HeadAngles.of_camera(camera.mirrored())
    assert close(mirrored, HeadAngles(angles.pitch, -angles.yaw, -angles.roll))


def test_angles_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        HeadAngles(0.0, math.nan, 0.0)


# Numbers.


def test_identical_poses_score_0() -> None:
    for triple in ANGLES:
        angles = degrees(*triple)
        assert pose_mse(angles, angles) == 0
        assert pose_mae_deg(angles, angles) == 0
        assert geodesic_deg(angles, angles.camera) == pytest.approx(0, abs=1e-6)


def test_pose_of_known_differences() -> None:
    a, b = degrees(10, 20, 30), degrees(13, 16, 30)
    assert pose_mse(a, b) == pytest.approx((9 + 16) / 3 * (math.pi / 180) ** 2, rel=1e-12)
    assert pose_mae_deg(a, b) == pytest.approx(7 / 3, rel=1e-12)
    assert pose_mse(b, a) == pose_mse(a, b)
    assert pose_mae_deg(b, a) == pose_mae_deg(a, b)


def test_differences_go_the_short_way_round() -> None:
    assert pose_mae_deg(degrees(0, 0, 179), degrees(0, 0, -178)) == pytest.approx(1, rel=1e-9)
    assert pose_mse(degrees(-179, 0, 0), degrees(179, 0, 0)) == pytest.approx(math.radians(2) ** 2 / 3)


@pytest.mark.parametrize("axis", ["x", "y", "z"])
@pytest.mark.parametrize("angle_deg", [0.001, 3, 90, 180])
def test_geodesic_is_the_angle_that_a_camera_was_turned_by(axis: str, angle_deg: float) -> None:
    camera = Camera.look_at(0.35, -0.2)
    estimated = HeadAngles.of_camera(turned(camera, about(axis, angle_deg)))
    assert geodesic_deg(estimated, camera) == pytest.approx(angle_deg, rel=1e-6)


def test_geodesic_looks_at_the_rotation_only() -> None:
    camera = Camera.look_at(0.2, 0.1)
    moved = camera.cam2world.copy()
    moved[:3, 3] += (0.5, -1, 2)
    other = Camera(moved, normalised_intrinsics(1.0))
    assert geodesic_deg(HeadAngles.of_camera(camera), other) == pytest.approx(0, abs=1e-6)


def test_shared_offset_is_recovered_and_taken_out() -> None:
    cameras = gen_videos(16).cameras
    offset = about("x", 4) @ about("y", -6) @ about("z", 2)
    estimates = [HeadAngles.from_world2cam(camera.world2cam[:3, :3] @ offset) for camera in cameras]
    found = shared_offset(estimates, cameras)
    np.testing.assert_allclose(found, offset, atol=1e-9)
    raw = [geodesic_deg(estimate, camera) for estimate, camera in zip(estimates, cameras, strict=True)]
    assert raw == pytest.approx([7.5] * 16, abs=0.3)
    rest = [geodesic_deg(e, camera, found) for e, camera in zip(estimates, cameras, strict=True)]
    assert max(rest) < 1e-6


def test_shared_offset_leaves_an_error_of_single_views() -> None:
    cameras = gen_videos(16).cameras
    estimates = [HeadAngles.of_camera(camera) for camera in cameras]
    estimates[3] = HeadAngles.of_camera(turned(cameras[3], about("y", 8)))
    found = shared_offset(estimates, cameras)
    assert geodesic_deg(estimates[3], cameras[3], found) == pytest.approx(7.5, abs=0.1)
    assert geodesic_deg(estimates[4], cameras[4], found) == pytest.approx(0.5, abs=0.1)
    assert np.linalg.det(found) == pytest.approx(1)


@pytest.mark.parametrize("count", [0, 2])
def test_shared_offset_needs_three_views(count: int) -> None:
    camera = Camera.look_at(0, 0)
    with pytest.raises(ValueError, match="3 views"):
        shared_offset([HeadAngles.of_camera(camera)] * count, [camera] * count)
    with pytest.raises(ValueError, match="3 views"):
        shared_offset([HeadAngles.of_camera(camera)] * 4, [camera] * 3)


# insightface, with made-up models in the ordinary folder.


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, so that ~/.insightface is ours; the folder of buffalo_l in it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DP3D_WEIGHTS", raising=False)
    return tmp_path / ".insightface" / "models" / "buffalo_l"


def write_models(
    monkeypatch: pytest.MonkeyPatch, folder: Path, world2cam: np.ndarray, *, has_face: bool = True
) -> None:
    """A buffalo_l that counts as published; its 68 points are the mean head under a rotation."""
    from insightface.data import get_object

    # The mean head has x to the right, y down and z to the viewer: EG3D's axes but for y.
    world = get_object("meanshape_68.pkl") * (1, -1, 1)
    seen = world @ world2cam.T  # OpenCV axes: x right, y down, z away
    write_landmarks(folder / "1k3d68.onnx", 0.5 * seen * (1, 1, -1))
    if has_face:
        write_detector(folder / "det_10g.onnx")
    else:
        write_detector(folder / "det_10g.onnx", faces=())
    write_recogniser(folder / "w600k_r50.onnx")
    monkeypatch.setitem(BACKBONES, "buffalo_l", as_published(folder))


@pytest.mark.parametrize("triple", ANGLES[:-1])
def test_insightface_angles_come_in_our_axes(
    home: Path, monkeypatch: pytest.MonkeyPatch, triple: tuple[float, float, float]
) -> None:
    write_models(monkeypatch, home, degrees(*triple).world2cam)
    estimate = InsightFacePose.load().estimate(np.zeros((320, 320, 3), np.uint8))
    assert estimate is not None
    assert close(estimate, degrees(*triple), 1e-3)  # the package works in float32


def test_insightface_angles_are_the_packages_degrees(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from insightface.app.common import Face as PackageFace
    from insightface.model_zoo import get_model

    write_models(monkeypatch, home, degrees(-12, 40, 8).world2cam)
    package = get_model(str(home / "1k3d68.onnx"), providers=["CPUExecutionProvider"], download=False)
    middle, reach = np.array([160.0, 80.0]), REACH * 16  # the fake detector's largest face
    face = PackageFace(bbox=np.concatenate([middle - reach, middle + reach]))
    package.get(np.zeros((320, 320, 3), np.uint8), face)
    estimate = load_pose("insightface").estimate(np.zeros((320, 320, 3), np.uint8))
    assert estimate is not None
    assert np.degrees([estimate.pitch, -estimate.yaw, estimate.roll]) == pytest.approx(
        face["pose"].astype(float), abs=1e-5
    )


def test_insightface_without_a_face_gives_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_models(monkeypatch, home, np.diag([1.0, -1, -1]), has_face=False)
    assert InsightFacePose.load().estimate(np.zeros((320, 320, 3), np.uint8)) is None


def test_missing_models_name_the_command(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match="dp3d weights fetch buffalo_l") as caught:
        load_pose("insightface")
    assert caught.value.reason == "weights-missing"
    write_models(monkeypatch, home, np.diag([1.0, -1, -1]))
    (home / "1k3d68.onnx").unlink()
    with pytest.raises(WeightsError, match=r"1k3d68.onnx.*dp3d weights fetch buffalo_l") as caught:
        load_pose("insightface")
    assert caught.value.reason == "weights-missing"


def test_another_model_under_that_name_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_models(monkeypatch, home, np.diag([1.0, -1, -1]))
    write_recogniser(home / "1k3d68.onnx")
    with pytest.raises(WeightsError, match=r"1k3d68\.onnx: sha256") as caught:
        load_pose("insightface")
    assert caught.value.reason == "weights-damaged"
    monkeypatch.setitem(BACKBONES, "buffalo_l", as_published(home))
    with pytest.raises(WeightsError, match="landmark_3d_68 of 192 x 192"):
        load_pose("insightface")


def test_auto_takes_insightface_only_if_its_models_are_there(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    untrained = LandmarkNet(LandmarkNetwork())
    monkeypatch.setattr("dp3d_cli.core.metrics.pose.LandmarkNet.load", lambda **_: untrained)
    assert load_pose().backend == "landmarks"
    write_models(monkeypatch, home, np.diag([1.0, -1, -1]))
    estimator = load_pose()
    assert estimator.backend == "insightface"
    description = estimator.describe()
    assert description["backend"] == "insightface"
    assert description["weights"] == "1k3d68.onnx"
    assert description["weights_sha256"] == sha256(home / "1k3d68.onnx")
    (home / "1k3d68.onnx").unlink()
    assert load_pose().backend == "landmarks"


# The embedded estimator, with exact points in place of its network.


class ExactPoints:
    """In place of the network: where this camera sees the mean head, if the box is about the right place."""

    def __init__(self, camera: Camera, place: FaceBox | None = None) -> None:
        self.camera, self.place = camera, place
        self.boxes: list[FaceBox] = []

    def points(self, image: np.ndarray, box: FaceBox) -> tuple[np.ndarray, np.ndarray]:
        self.boxes.append(box)
        height, width = image.shape[:2]
        world = np.array(list(FEATURE_POINTS.values()))
        seen = world @ self.camera.world2cam[:3, :3].T + self.camera.world2cam[:3, 3]
        lens = normalised_intrinsics() * np.array([[max(width, height)], [max(width, height)], [1]])
        lens[:2, 2] = width / 2, height / 2
        pixels = seen @ lens.T
        sure = self.place is None or box.overlap(self.place) > 0.5
        return pixels[:, :2] / pixels[:, 2:] - 0.5, np.full(len(FEATURE_NAMES), 0.8 if sure else 0.3)


class GivenFaces:
    """A detector that says what it was told."""

    def __init__(self, *faces: Face) -> None:
        self.name, self.weights, self.faces = "given", {}, list(faces)

    def detect(self, image: np.ndarray) -> list[Face]:
        return self.faces


FACE = Face(FaceBox(80, 70, 340, 340), "given")


@pytest.mark.parametrize("roll_deg", [0, 20, -35])
@pytest.mark.parametrize(("yaw", "pitch"), [(0, 0), (0.35, -0.05), (-0.3, 0.2), (0.9, -0.3), (-1.3, 0)])
def test_exact_points_give_the_exact_camera(yaw: float, pitch: float, roll_deg: float) -> None:
    camera = turned(Camera.look_at(yaw, pitch), about("z", roll_deg))
    estimator = LandmarkPose(ExactPoints(camera), GivenFaces(FACE))  # type: ignore[arg-type]
    estimate = estimator.estimate(np.zeros((512, 512, 3), np.uint8))
    assert estimate is not None
    assert geodesic_deg(estimate, camera) < 1e-3
    assert pose_mae_deg(estimate, HeadAngles.of_camera(camera)) < 2e-3


def test_aligned_picture_needs_no_detector() -> None:
    network = ExactPoints(Camera.look_at(0.2, 0))
    estimator = LandmarkPose(network, GivenFaces())  # type: ignore[arg-type]
    assert estimator.estimate(np.zeros((512, 512, 3), np.uint8)) is not None
    assert len(network.boxes) == 1


@pytest.mark.parametrize("size", [(512, 512), (300, 512)])
def test_face_elsewhere_is_where_the_detector_says(size: tuple[int, int]) -> None:
    camera, corner = Camera.look_at(0.2, 0), Face(FaceBox(10, 20, 90, 90), "given")
    estimator = LandmarkPose(ExactPoints(camera, corner.box), GivenFaces(corner))  # type: ignore[arg-type]
    estimate = estimator.estimate(np.zeros((*size, 3), np.uint8))
    assert estimate is not None
    assert geodesic_deg(estimate, camera) < 1e-3


@pytest.mark.parametrize("faces", [[], [FACE]])
def test_picture_without_a_face_gives_none(faces: list[Face]) -> None:
    nowhere = ExactPoints(Camera.look_at(0, 0), FaceBox(0, 0, 2, 2))
    estimator = LandmarkPose(nowhere, GivenFaces(*faces))  # type: ignore[arg-type]
    assert estimator.estimate(np.zeros((512, 512, 3), np.uint8)) is None
    assert estimator.estimate(np.zeros((512, 300, 3), np.uint8)) is None


def test_only_uint8_rgb_pictures_are_taken() -> None:
    estimator = LandmarkPose(ExactPoints(Camera.look_at(0, 0)), GivenFaces(FACE))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="uint8"):
        estimator.estimate(np.zeros((64, 64, 3), np.float32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="RGB"):
        estimator.estimate(np.zeros((64, 64), np.uint8))


# The embedded estimator with its network, on procedural heads that it was not trained on.


@pytest.fixture(scope="module")
def embedded() -> LandmarkPose:
    """The embedded network, for aligned pictures; the face detector is slow where there is no face."""
    return LandmarkPose(LandmarkNet.load(), GivenFaces())  # type: ignore[arg-type]


def test_loaded_estimator_asks_the_embedded_detector(heads: list[list[np.ndarray]]) -> None:
    estimator = load_pose("landmarks")
    assert estimator.estimate(np.zeros((160, 160, 3), np.uint8)) is None
    canvas = np.zeros((240, 400, 3), np.uint8)
    canvas[60:220, 200:360] = heads[0][3]  # not square, the face far from the middle
    estimate = estimator.estimate(canvas)
    assert estimate is not None
    assert estimate.yaw > math.radians(10)
    assert str(estimator.describe()["detector"]).endswith("opencv")


SEEDS = (2**40 + 1, 2**40 + 2)
CAMERAS = tuple(
    Camera.look_at(yaw, pitch) for yaw, pitch in ((-0.4, 0.1), (0, -0.2), (0, 0.2), (0.4, -0.1), (math.pi, 0))
)
"""To the left and below, above, below, to the right and above; behind."""


@pytest.fixture(scope="module")
def heads() -> list[list[np.ndarray]]:
    """Views of heads by `CAMERAS`."""
    labels, size = torch.tensor(np.stack([camera.label for camera in CAMERAS])), 160
    renderings = [ProceduralHead(seed, detail=size / 256).render(labels, size) for seed in SEEDS]
    return [list((r.image.permute(0, 2, 3, 1).numpy() * 255 + 0.5).astype(np.uint8)) for r in renderings]


def test_embedded_estimator_sees_how_known_heads_are_turned(
    embedded: LandmarkPose, heads: list[list[np.ndarray]]
) -> None:
    errors = []
    for views in heads:
        estimates = [embedded.estimate(view) for view in views[:4]]
        found = [estimate for estimate in estimates if estimate is not None]
        assert len(found) == 4
        assert found[0].yaw < found[1].yaw < found[3].yaw
        assert found[1].pitch < found[2].pitch
        errors += [geodesic_deg(angles, camera) for angles, camera in zip(found, CAMERAS, strict=False)]
    assert np.mean(errors) < 8


def test_embedded_estimator_finds_no_face_where_there_is_none(
    embedded: LandmarkPose, heads: list[list[np.ndarray]]
) -> None:
    rng = np.random.default_rng(0)
    assert embedded.estimate(rng.integers(0, 256, (160, 160, 3), dtype=np.uint8)) is None
    assert embedded.estimate(smooth_noise(rng, 160, 160)) is None
    assert embedded.estimate(np.full((160, 160, 3), 128, np.uint8)) is None
    for views in heads:
        assert embedded.estimate(views[4]) is None


def test_embedded_estimator_repeats_itself_on_any_number_of_threads(
    embedded: LandmarkPose, heads: list[list[np.ndarray]]
) -> None:
    before = torch.get_num_threads(), cv2.getNumThreads()
    try:
        estimates = []
        for threads in (1, 3, 3):
            torch.set_num_threads(threads)
            cv2.setNumThreads(threads)
            estimates.append(embedded.estimate(heads[0][3]))
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
    first, second, third = estimates
    assert first is not None
    assert second is not None
    assert close(first, second, 1e-3)
    assert second == third
