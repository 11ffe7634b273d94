"""The detector against a real SCRFD-shaped ONNX model whose nine outputs are constants."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.faces.detect import load_detector
from dp3d_cli.core.faces.insightface import InsightFaceDetector
from dp3d_cli.core.faces.opencv import OpenCVDetector

STRIDES = (8, 16, 32)
SIDE = 640
# (stride, row, column, score): faces of the fake network, centred on these cells.
FACES = ((32, 5, 10, 0.9), (16, 20, 8, 0.8))
POINTS = np.array([[-1.0, -1], [1, -1], [0, 0], [-0.8, 1], [0.8, 1]])  # in strides, about the cell


def fake_scrfd(folder: Path) -> Path:
    """A model [1, 3, 640, 640] -> scores, boxes, landmarks for three strides with two anchors a cell."""
    nodes, outputs = [], []
    groups: dict[str, list[np.ndarray]] = {"score": [], "box": [], "points": []}
    for stride in STRIDES:
        cells = SIDE // stride
        score = np.zeros((cells, cells, 2, 1), np.float32)
        box = np.full((cells, cells, 2, 4), 2.0, np.float32)  # 2 strides to each side
        points = np.broadcast_to(POINTS.astype(np.float32).ravel(), (cells, cells, 2, 10))
        for face_stride, row, column, value in FACES:
            if face_stride == stride:
                score[row, column, 0] = value
        for kind, array, width in (("score", score, 1), ("box", box, 4), ("points", points, 10)):
            groups[kind].append(np.ascontiguousarray(array.reshape(-1, width)))
    for kind, arrays in groups.items():
        for stride, array in zip(STRIDES, arrays, strict=True):
            name = f"{kind}_{stride}"
            nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(array.shape)))
    picture = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
    graph = helper.make_graph(nodes, "fake", [picture], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    folder.mkdir()
    onnx.save(model, folder / "det_fake.onnx")
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
