"""The NeRSemble converter on a made-up miniature in its layouts, against the cameras that made it."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dp3d_cli.core.cameras.camera import FOCAL, RADIUS
from dp3d_cli.core.cameras.files import read_cameras
from dp3d_cli.core.errors import InputError, UsageError
from dp3d_cli.core.faces.landmarks import FEATURE_NAMES, FEATURE_POINTS
from dp3d_cli.core.faces.opencv import OpenCVDetector
from dp3d_cli.core.videos import write_video
from dp3d_cli.training import nersemble
from dp3d_cli.training.colours import correct_colour
from dp3d_cli.training.data import SPLITS
from dp3d_cli.training.folders import FolderSubjects, split_of
from dp3d_cli.training.nersemble import find_takes, main
from dp3d_cli.training.rigs import (
    UNITS_PER_METRE,
    RigView,
    Similarity,
    fit_similarity,
    rectify,
    rig_placement,
    triangulate,
)
from tests.training.rig_pictures import (
    METRES_PER_UNIT,
    Miniature,
    camera_params,
    make_miniature,
    write_frames,
)

SEED = SPLITS["test"].start
SEQUENCE = "EMO-1-shout+laugh"


@pytest.fixture(scope="module")
def miniature() -> Miniature:
    return make_miniature(SEED)


@pytest.fixture(autouse=True)
def _embedded_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nersemble, "load_detector", OpenCVDetector)


def true_placement(miniature: Miniature) -> Similarity:
    """What a perfect alignment would find."""
    view, camera = miniature.views[0], miniature.cameras[0]
    rotation = camera.cam2world[:3, :3] @ view.rotation
    scale = 1 / METRES_PER_UNIT
    return Similarity(scale, rotation, camera.centre - scale * rotation @ view.centre)


def angle_deg(a: np.ndarray, b: np.ndarray) -> float:
    return math.degrees(math.acos(np.clip((np.trace(a @ b.T) - 1) / 2, -1, 1)))


@pytest.mark.slow
def test_recovered_cameras_are_those_that_took_the_pictures(tmp_path: Path, miniature: Miniature) -> None:
    write_frames(tmp_path / "in", "018", SEQUENCE, 7, miniature.views)
    assert main([str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--timesteps", "7", "--size", "256"]) == 0
    folder = tmp_path / "out" / "018" / f"{SEQUENCE}_00007"
    found = read_cameras(folder / "cameras.json").cameras
    assert len(found) == 16
    for view, camera, true in zip(miniature.views, found, miniature.cameras, strict=True):
        _, _, expected = rectify(view, true_placement(miniature), 8)
        assert math.degrees(camera.angle_to(expected)) < 1.5  # measured 0.1 to 1.2 on twelve heads
        np.testing.assert_allclose(expected.centre, true.centre, atol=1e-6)
        assert np.linalg.norm(camera.centre) / np.linalg.norm(true.centre) == pytest.approx(1, abs=0.03)
        lens = FOCAL * float(np.linalg.norm(camera.centre)) / RADIUS
        np.testing.assert_allclose(camera.intrinsics[[0, 0], [0, 2]], [lens, 0.5], atol=1e-5)
    subjects = FolderSubjects(tmp_path / "out", split_of("018"))
    views = subjects.views(0, subjects.labels_of(0)[[3]], 128)
    rendering = miniature.head.render(views.labels, 128)
    inside = (rendering.mask[0, 0] > 0.9).numpy()
    taken, rendered = (x[0].permute(1, 2, 0).numpy()[inside] for x in (views.images, rendering.image))
    assert np.corrcoef(taken.ravel(), rendered.ravel())[0, 1] > 0.95
    assert views.mask is not None
    assert float((views.mask - rendering.mask).abs().mean()) < 0.02
    assert views.face_points is not None
    np.testing.assert_allclose(views.face_points.numpy(), miniature.head.face_points.numpy(), atol=0.02)


@pytest.mark.slow
def test_videos_give_the_same_cameras_nearly(tmp_path: Path, miniature: Miniature) -> None:
    images = tmp_path / "in" / "030" / "sequences" / "EXP-2-eyes" / "images"
    images.mkdir(parents=True)
    for view in miniature.views:
        write_video(images / f"cam_{view.serial}.mp4", np.stack([view.picture[:, :-1]] * 2), 24)
    calibration = tmp_path / "in" / "030" / "calibration"
    calibration.mkdir()
    (calibration / "camera_params.json").write_text(camera_params(miniature.views))
    options = ["--subjects", "30", "--sequences", "EXP-2-eyes", "--timesteps", "1", "5", "--size", "64"]
    assert main([str(tmp_path / "in"), "-o", str(tmp_path / "out"), *options]) == 0
    assert [path.name for path in (tmp_path / "out" / "030").iterdir()] == ["EXP-2-eyes_00001"]
    found = read_cameras(tmp_path / "out" / "030" / "EXP-2-eyes_00001" / "cameras.json").cameras
    for view, camera in zip(miniature.views, found, strict=True):
        _, _, expected = rectify(view, true_placement(miniature), 8)
        assert math.degrees(camera.angle_to(expected)) < 2


def test_a_crop_is_what_its_camera_sees(miniature: Miniature) -> None:
    for view in miniature.views[2:5]:
        picture, alpha, camera = rectify(view, true_placement(miniature), 128)
        rendering = miniature.head.render(torch.from_numpy(camera.label)[None], 128)
        inside = rendering.mask[0, 0].numpy() > 0.99
        expected = rendering.image[0].permute(1, 2, 0).numpy() * 255
        assert np.abs(expected - picture)[inside].mean() < 6
        assert alpha is not None
        assert np.abs(alpha / 255 - rendering.mask[0, 0].numpy()).mean() < 0.012
        shifted = np.roll(picture, 2, axis=1)  # two pixels off would be seen
        assert np.abs(expected - shifted)[inside].mean() > np.abs(expected - picture)[inside].mean() * 1.5


def test_cameras_alone_give_the_front_and_the_place(miniature: Miniature) -> None:
    found, true = rig_placement(miniature.views), true_placement(miniature)
    assert angle_deg(found.rotation, true.rotation) < 8  # the miniature's cameras are a little above
    assert found.scale == UNITS_PER_METRE
    assert np.linalg.norm(found(true.inverse(np.array([0, 0.02, 0.1]))) - [0, 0, 0.2]) < 0.05


def test_exact_sight_lines_meet_in_their_points_and_one_wrong_view_does_no_harm(miniature: Miniature) -> None:
    true = true_placement(miniature)
    mean = np.array([FEATURE_POINTS[name] for name in FEATURE_NAMES])[:6]
    trust = np.full(6, 0.7)
    looks = [(view, view.project(true.inverse(mean)) - 0.5, trust) for view in miniature.views[:8]]
    points, misses = triangulate(looks)
    np.testing.assert_allclose(true(points), mean, atol=1e-6)
    assert misses.max() < 1e-6
    looks[3] = (looks[3][0], looks[3][1] + 9, trust)
    points, misses = triangulate(looks)
    assert np.linalg.norm(true(points) - mean, axis=1).max() < 0.003
    assert misses.min() > 1e-4


def test_a_similarity_is_found_again_without_mirroring() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(7, 3)) * [1, 1, 1e-3]  # nearly flat, where a mirrored fit would tempt
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    true = Similarity(2.5, rotation, np.array([1.0, -2, 3]))
    found = fit_similarity(points, true(points), rng.uniform(0.5, 2, 7))
    np.testing.assert_allclose(found.rotation, rotation, atol=1e-9)
    assert found.scale == pytest.approx(2.5)
    assert found.residual < 1e-9
    np.testing.assert_allclose(found.inverse(found(points)), points, atol=1e-9)


def test_colours_of_the_first_version_are_affine_in_srgb() -> None:
    matrix = np.eye(4)
    matrix[0, 1] = 0.5  # red is added to green: row vectors
    matrix[2, 3] = 0.1
    result = correct_colour(np.array([[[100, 50, 20]]], np.uint8), matrix)
    assert result.tolist() == [[[100, 100, 46]]]


@pytest.mark.parametrize("terms", [3, 4, 10, 11, 20])
def test_colours_of_the_second_version_are_polynomials_in_linear_light(terms: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    matrix = np.zeros((3, terms))
    matrix[:, :3] = np.eye(3)
    assert np.array_equal(correct_colour(picture, matrix), picture)
    matrix[:, :3] = np.eye(3)[[1, 2, 0]]
    assert np.array_equal(correct_colour(picture, matrix), picture[..., [1, 2, 0]])
    if terms in (10, 11, 20):  # red gets the square of green: 0.5 in sRGB is 0.214 in linear light
        matrix = np.zeros((3, terms))
        matrix[0, 7] = 1
        grey = np.full((1, 1, 3), 188, np.uint8)  # linear 0.5029
        assert int(correct_colour(grey, matrix)[0, 0, 0]) == pytest.approx(137, abs=1)  # of 0.2529


def test_a_colour_matrix_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="4x4 or 3 x"):
        correct_colour(np.zeros((1, 1, 3), np.uint8), np.zeros((3, 6)))


def write_plain(root: Path, participant: str, views: list[RigView], sequence: str = "EXP-1-head") -> None:
    """Grey pictures: there is no face to find."""
    blank = [
        RigView(v.serial, np.full_like(v.picture, 90), v.rotation, v.centre, v.lens, v.alpha) for v in views
    ]
    write_frames(root, participant, sequence, 0, blank)


def test_a_take_without_a_face_is_reported_and_others_go_on(
    tmp_path: Path, miniature: Miniature, caplog: pytest.LogCaptureFixture
) -> None:
    write_plain(tmp_path / "in", "018", miniature.views[:3])
    assert main([str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--size", "32"]) == 1
    assert "A face was found in 0 of the 3 most frontal pictures" in caplog.text
    assert not list((tmp_path / "out").rglob("*.png"))
    # By the cameras alone it can be converted, and a second run keeps what is there.
    options = [str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--size", "32", "--align", "cameras"]
    assert main(options) == 0
    cameras = tmp_path / "out" / "018" / "EXP-1-head_00000" / "cameras.json"
    before = cameras.stat().st_mtime_ns
    assert main(options) == 0
    assert cameras.stat().st_mtime_ns == before
    source = json.loads((cameras.parent / "source.json").read_text())
    assert (source["participant"], source["alignment"]) == ("018", "cameras")
    assert not (cameras.parent / "face_points.json").exists()


def test_all_three_layouts_are_found(tmp_path: Path, miniature: Miniature) -> None:
    views = miniature.views[:3]
    write_plain(tmp_path, "018", views)
    write_plain(tmp_path, "018", views, "BACKGROUND")
    v2 = tmp_path / "030" / "sequences" / "EXP-2-eyes" / "images"
    flat = tmp_path / "sequence_EXP-2-eyes_part-1" / "124" / "EXP-2-eyes"
    for folder in (v2, flat):
        folder.mkdir(parents=True)
        for view in views:
            write_video(folder / f"cam_{view.serial}.mp4", view.picture[None, :, :-1], 24)
    for path in (tmp_path / "030" / "calibration", tmp_path / "camera_params" / "124"):
        path.mkdir(parents=True)
        (path / "camera_params.json").write_text(camera_params(views))
    assert [take.name for take in find_takes(tmp_path)] == [
        "018/EXP-1-head_00000",
        "030/EXP-2-eyes_00000",
        "124/EXP-2-eyes_00000",
    ]
    matrices = {view.serial: (0.25 * np.eye(3)).tolist() for view in views}
    (tmp_path / "030" / "calibration" / "color_calibration.json").write_text(json.dumps(matrices))
    (plain,) = find_takes(tmp_path, ["124"])
    (coloured,) = find_takes(tmp_path, ["30"])
    assert coloured.read()[0].picture.mean() < 0.7 * plain.read()[0].picture.mean()
    assert plain.read()[0].lens[0, 0] == pytest.approx(views[0].lens[0, 0], rel=0.01)


def test_what_is_not_there_is_refused(tmp_path: Path, miniature: Miniature) -> None:
    with pytest.raises(UsageError, match=r"no camera_params\.json"):
        find_takes(tmp_path)
    write_plain(tmp_path, "018", miniature.views[:3])
    with pytest.raises(UsageError, match="no participant '019'"):
        find_takes(tmp_path, ["19"])
    with pytest.raises(UsageError, match="no sequence 'HAIR'"):
        find_takes(tmp_path, None, ["HAIR"])
    with pytest.raises(UsageError, match="no pictures"):
        find_takes(tmp_path, timesteps=[3])
    assert main([str(tmp_path), "-o", str(tmp_path / "out"), "--sequences", "HAIR"]) == 2


def _no_calibration_of_one(root: Path) -> None:
    params = json.loads((root / "018" / "camera_params.json").read_text())
    params["world_2_cam"].popitem()
    (root / "018" / "camera_params.json").write_text(json.dumps(params))


def _scaled(root: Path) -> None:
    params = json.loads((root / "018" / "camera_params.json").read_text())
    serial = next(iter(params["world_2_cam"]))
    params["world_2_cam"][serial] = (2 * np.eye(4)).tolist()
    (root / "018" / "camera_params.json").write_text(json.dumps(params))


def _cropped(root: Path) -> None:
    for path in root.rglob("images-2x*/*.png"):
        with Image.open(path) as image:
            image.crop((0, 0, 200, 200)).save(path)


def _one_left(root: Path) -> None:
    for path in sorted(root.rglob("images-2x*/*.png"))[1:]:
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_no_calibration_of_one, "is not in the calibration of 018"),
        (_scaled, "no rotation and translation"),
        (_cropped, "200x200 pixels, expected 2200x3208 or less"),
        (_one_left, "1 cameras at timestep 0"),
        (
            lambda root: (root / "018" / "camera_params.json").write_text("{}"),
            "'world_2_cam': field required",
        ),
    ],
)
def test_pictures_that_do_not_fit_their_calibration_are_refused(
    tmp_path: Path, miniature: Miniature, spoil, message: str
) -> None:
    write_plain(tmp_path, "018", miniature.views[:3])
    spoil(tmp_path)
    (take,) = find_takes(tmp_path)
    with pytest.raises(InputError, match=message):
        take.read()
