"""Tiny made-up ONNX models with the inputs and outputs of insightface's buffalo_l."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dp3d_cli.core.weights.backbones import BACKBONES, Backbone
from dp3d_cli.core.weights.manifest import sha256

STRIDES = (8, 16, 32)
SIDE = 640
# (stride, row, column, score): faces of the fake detector, centred on these cells of 640 x 640.
FACES = ((32, 5, 10, 0.9), (16, 20, 8, 0.8))
POINTS = np.array([[-1.0, -1], [1, -1], [0, 0], [-0.8, 1], [0.8, 1]])  # in strides, about the cell
REACH = 2.0  # of the box to each side, in strides

Detection = tuple[int, int, int, float]


def write_detector(file: Path, faces: Sequence[Detection] = FACES) -> None:
    """SCRFD: [1, 3, 640, 640] -> constant scores, boxes, landmarks of 3 strides with 2 anchors a cell."""
    nodes, outputs = [], []
    groups: dict[str, list[np.ndarray]] = {"score": [], "box": [], "points": []}
    for stride in STRIDES:
        cells = SIDE // stride
        score = np.zeros((cells, cells, 2, 1), np.float32)
        box = np.full((cells, cells, 2, 4), REACH, np.float32)
        points = np.broadcast_to(POINTS.astype(np.float32).ravel(), (cells, cells, 2, 10))
        for face_stride, row, column, value in faces:
            if face_stride == stride:
                score[row, column, 0] = value
        for kind, array, width in (("score", score, 1), ("box", box, 4), ("points", points, 10)):
            groups[kind].append(np.ascontiguousarray(array.reshape(-1, width)))
    for kind, arrays in groups.items():
        for stride, array in zip(STRIDES, arrays, strict=True):
            name = f"{kind}_{stride}"
            nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(array.shape)))
    _save(file, [1, 3, SIDE, SIDE], nodes, outputs)


def write_recogniser(file: Path, side: int = 112) -> None:
    """ArcFace: [N, 3, 112, 112] -> [N, 512], random projections of 8 x 8 means."""
    cells = 3 * (side // 8) ** 2
    weight = np.random.default_rng(5).normal(size=(cells, 512)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["input.1"], ["small"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["small"], ["flat"]),
        helper.make_node("Constant", [], ["weight"], value=numpy_helper.from_array(weight)),
        helper.make_node("MatMul", ["flat", "weight"], ["683"]),
    ]
    outputs = [helper.make_tensor_value_info("683", TensorProto.FLOAT, [1, 512])]
    _save(file, ["None", 3, side, side], nodes, outputs)


def write_landmarks(file: Path, points: np.ndarray) -> None:
    """1k3d68: [N, 3, 192, 192] -> [1, 3309], the last 68 rows `points` [68, 3], in [-1, 1] of the crop."""
    rows = np.zeros((1103, 3), np.float32)
    rows[-68:] = points
    value = numpy_helper.from_array(rows.reshape(1, 3309))
    outputs = [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, [1, 3309])]
    _save(file, ["None", 3, 192, 192], [helper.make_node("Constant", [], ["fc1"], value=value)], outputs)


def as_published(folder: Path) -> Backbone:
    """The entry of buffalo_l in which the files in `folder` are the published ones."""
    backbone = BACKBONES["buffalo_l"]
    files = tuple(
        replace(file, size=(folder / file.name).stat().st_size, sha256=sha256(folder / file.name))
        if (folder / file.name).is_file()
        else file
        for file in backbone.files
    )
    return replace(backbone, files=files)


def _save(file: Path, shape: list[int | str], nodes: list[object], outputs: list[object]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "fake", [picture], outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), file)
