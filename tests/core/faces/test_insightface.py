"""The detector against a real SCRFD-shaped ONNX model whose nine outputs are constants."""

from pathlib import Path

import numpy as np
import pytest

from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.faces.detect import load_detector
from dp3d_cli.core.faces.insightface import InsightFaceDetector
from dp3d_cli.core.faces.opencv import OpenCVDetector
from tests.fakes.insightface_models import POINTS, write_detector


def fake_scrfd(folder: Path) -> Path:
    write_detector(folder / "det_fake.onnx")
    return folder


def test_faces_come_back_in_the_original_pixels_largest_first(tmp_path: Path) -> None:
    detector = InsightFaceDetector(fake_scrfd(tmp_path / "models"))
    faces = detector.detect(np.zeros((320, 320, 3), np.uint8))  # seen at twice its size
    assert [round(face.score, 3) for face in faces] == [0.9, 0.8]
    np.testing.assert_allclose(faces[0].box.centre, (160, 80), atol=1e-3)
    np.testing.assert_allclose(faces[0].box.width, 4 * 32 / 2, atol=1e-3)
    assert faces[0].landmarks is not None
    np.testing.assert_allclose(faces[0].landmarks, POINTS * 16 + (160, 80), atol=1e-3)
    assert faces[0].has_real_landmarks
    assert faces[0].roll == pytest.approx(0)


def test_large_picture_is_reduced_and_mapped_back(tmp_path: Path) -> None:
    detector = InsightFaceDetector(fake_scrfd(tmp_path / "models"))
    faces = detector.detect(np.zeros((6400, 6400, 3), np.uint8))
    np.testing.assert_allclose(faces[0].box.centre, (3200, 1600), rtol=1e-4)


def test_missing_models_are_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="--backend opencv") as caught:
        InsightFaceDetector(tmp_path)
    assert caught.value.reason == "missing-weights"
    with pytest.raises(WeightsError):
        load_detector("auto", tmp_path)


def test_broken_model_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "det_10g.onnx").write_bytes(b"not a model")
    with pytest.raises(WeightsError, match="det_10g") as caught:
        InsightFaceDetector(tmp_path)
    assert caught.value.reason == "bad-weights"


def test_auto_takes_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dp3d_cli.core.faces.insightface.DEFAULT_MODELS", tmp_path / "models")
    monkeypatch.setattr("dp3d_cli.core.faces.detect.find_backbone", lambda _name: None)
    assert isinstance(load_detector("auto"), OpenCVDetector)
    fake_scrfd(tmp_path / "models")
    detector = load_detector("auto")
    assert detector.name == "insightface"
    assert list(detector.weights) == ["det_fake.onnx"]
    assert load_detector("opencv").name == "opencv"


def test_nothing_is_ever_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    with pytest.raises(WeightsError):
        load_detector("insightface", tmp_path)
    load_detector("insightface", fake_scrfd(tmp_path / "models"))
