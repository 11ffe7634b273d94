"""ArcFace identity, with a made-up network of the real one's inputs and outputs in the ordinary folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.faces.face import Face, FaceBox
from dp3d_cli.core.metrics.identity import FaceIdentity, cosine, crop_face
from dp3d_cli.core.weights.backbones import BACKBONES
from dp3d_cli.core.weights.manifest import sha256
from tests.core.metrics.conftest import smooth_noise
from tests.fakes.insightface_models import POINTS, as_published, write_detector, write_recogniser

# The points of the fake detector's largest face in a picture of 320 x 320, seen at twice its size.
FIVE = POINTS * 16 + np.array([160, 80])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, so that ~/.insightface is ours; the folder of buffalo_l in it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DP3D_WEIGHTS", raising=False)
    return tmp_path / ".insightface" / "models" / "buffalo_l"


Publish = Callable[[Path], None]


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Makes what lies in a folder count as published."""
    return lambda folder: monkeypatch.setitem(BACKBONES, "buffalo_l", as_published(folder))


@pytest.fixture
def models(home: Path, publish: Publish) -> Path:
    write_detector(home / "det_10g.onnx")
    write_recogniser(home / "w600k_r50.onnx")
    publish(home)
    return home


@pytest.fixture
def picture() -> np.ndarray:
    return smooth_noise(np.random.default_rng(3), 320, 320)


@pytest.mark.filterwarnings("ignore:`estimate` is deprecated:FutureWarning")  # inside insightface 2.1
def test_embedding_is_that_of_the_package(models: Path, picture: np.ndarray) -> None:
    from insightface.app.common import Face as PackageFace
    from insightface.model_zoo import get_model

    package = get_model(str(models / "w600k_r50.onnx"), providers=["CPUExecutionProvider"], download=False)
    bgr = np.ascontiguousarray(picture[..., ::-1])
    expected = package.get(bgr, PackageFace(kps=FIVE.astype(np.float32)))
    ours = FaceIdentity.load().features(picture)
    assert ours is not None
    assert ours.shape == (512,)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected / np.linalg.norm(expected), atol=1e-5)
    other = package.get(np.ascontiguousarray(bgr[:, ::-1]), PackageFace(kps=FIVE.astype(np.float32)))
    mirrored = FaceIdentity.load().features(np.ascontiguousarray(picture[:, ::-1]))
    assert mirrored is not None
    assert cosine(ours, mirrored) == pytest.approx(package.compute_sim(expected, other), abs=1e-5)


@pytest.mark.filterwarnings("ignore:`estimate` is deprecated:FutureWarning")
@pytest.mark.parametrize("turn_deg", [0, 25, -70])
def test_crop_is_that_of_the_package(picture: np.ndarray, turn_deg: float) -> None:
    from insightface.utils.face_align import norm_crop

    angle = np.radians(turn_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (POINTS * 30) @ turn.T + (150, 140)
    expected = norm_crop(picture, points)
    crop = crop_face(picture, points)
    assert crop is not None
    np.testing.assert_array_equal(crop, expected)


def test_crop_does_not_change_when_picture_and_points_move_together(picture: np.ndarray) -> None:
    shifted = cv2.copyMakeBorder(picture, 20, 0, 11, 0, cv2.BORDER_CONSTANT)
    first, second = crop_face(picture, FIVE), crop_face(shifted, FIVE + np.array([11, 20]))
    assert first is not None
    assert second is not None
    np.testing.assert_allclose(first.astype(int), second.astype(int), atol=1)


def test_same_face_is_1_and_noise_lowers_it_steadily(models: Path, picture: np.ndarray) -> None:
    identity = FaceIdentity.load()
    noise = np.random.default_rng(1).normal(size=picture.shape)
    values = []
    for strength in (0, 20, 80):
        features = identity.features((picture + strength * noise).clip(0, 255).astype(np.uint8))
        assert features is not None
        values.append(cosine(features, identity.features(picture)))  # type: ignore[arg-type]
    assert values[0] == pytest.approx(1, abs=1e-7)
    assert values[0] > values[1] > values[2]


def test_no_face_is_none(models: Path, picture: np.ndarray, publish: Publish) -> None:
    write_detector(models / "det_10g.onnx", faces=())
    publish(models)
    assert FaceIdentity.load().features(picture) is None


class PriorDetector:
    """Says where a face is, but only guesses its points, as the embedded detector does."""

    def __init__(self) -> None:
        self.name, self.weights = "fake", {}

    def detect(self, image: np.ndarray) -> list[Face]:
        return [Face(FaceBox(100, 30, 120, 120), "opencv", 1.0, FIVE, "box-prior")]


def test_assumed_landmarks_are_not_warped_by(models: Path, picture: np.ndarray) -> None:
    assert FaceIdentity.load(PriorDetector()).features(picture) is None


def test_points_that_coincide_give_no_crop(picture: np.ndarray) -> None:
    assert crop_face(picture, np.full((5, 2), 40.0)) is None
    assert crop_face(picture, np.full((5, 2), np.nan)) is None


def test_missing_models_name_the_command(home: Path) -> None:
    with pytest.raises(WeightsError, match="dp3d weights fetch buffalo_l") as caught:
        FaceIdentity.load()
    assert caught.value.reason == "weights-missing"


def test_models_of_the_stated_folder_win(
    models: Path, picture: np.ndarray, tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = tmp_path / "stated" / "models" / "buffalo_l"
    write_detector(stated / "det_10g.onnx", faces=())
    write_recogniser(stated / "w600k_r50.onnx")
    publish(stated)
    monkeypatch.setenv("DP3D_WEIGHTS", str(tmp_path / "stated"))
    assert FaceIdentity.load().features(picture) is None


def test_other_weights_than_the_published_are_refused(home: Path, publish: Publish) -> None:
    write_detector(home / "det_10g.onnx")
    write_recogniser(home / "w600k_r50.onnx")
    with pytest.raises(WeightsError, match=r"w600k_r50.*dp3d weights fetch buffalo_l") as caught:
        FaceIdentity.load()
    assert caught.value.reason == "weights-damaged"
    publish(home)
    FaceIdentity.load()
    write_detector(home / "det_10g.onnx", faces=())
    with pytest.raises(WeightsError, match="det_10g") as caught:
        FaceIdentity.load()
    assert caught.value.reason == "weights-damaged"


def test_another_model_under_that_name_is_refused(models: Path, publish: Publish) -> None:
    write_recogniser(models / "w600k_r50.onnx", side=128)
    publish(models)
    with pytest.raises(WeightsError, match="recognition of 112 x 112") as caught:
        FaceIdentity.load()
    assert caught.value.reason == "weights-damaged"
    (models / "w600k_r50.onnx").write_bytes(b"not a model")
    publish(models)
    with pytest.raises(WeightsError, match="w600k_r50"):
        FaceIdentity.load()


def test_description_has_the_checksums(models: Path) -> None:
    description = FaceIdentity.load().describe()
    assert description["weights"] == "w600k_r50.onnx"
    assert description["weights_sha256"] == sha256(models / "w600k_r50.onnx")
    assert description["detector"] == "insightface"
    assert description["detector_weights"] == {"det_10g.onnx": sha256(models / "det_10g.onnx")}


def test_only_uint8_rgb_pictures_are_taken(models: Path, picture: np.ndarray) -> None:
    identity = FaceIdentity.load()
    with pytest.raises(ValueError, match="uint8"):
        identity.features(picture.astype(np.float32) / 255)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="RGB"):
        identity.features(picture[..., 0])
    with pytest.raises(ValueError, match="112 x 112"):
        identity.features_of_crop(picture)


def test_cosine_of_known_vectors() -> None:
    a = np.array([3, 4], np.float32)
    assert cosine(a, a) == 1
    assert cosine(a, -2 * a) == -1
    assert cosine(a, np.array([4, -3], np.float32)) == 0
    assert cosine(a, np.array([1, 0], np.float32)) == pytest.approx(0.6)


@pytest.mark.parametrize("bad", [np.zeros(2), np.array([np.nan, 1]), np.ones(3), np.ones((1, 2))])
def test_cosine_refuses_what_has_no_direction(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="mbedding"):
        cosine(np.ones(2, np.float32), bad.astype(np.float32))
