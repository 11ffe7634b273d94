"""The better face detector: SCRFD of the insightface package, with real landmarks.

Its models are not ours to ship (research use only). They are read from where `dp3d weights fetch buffalo_l`
or the package itself put them, or from a folder that the user names; nothing is downloaded from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.faces.face import Face, FaceBox, eye_roll
from dp3d_cli.core.weights.manifest import sha256

DEFAULT_MODELS = Path("~/.insightface/models/buffalo_l")
_DETECTOR_FILES = "det_*.onnx"
_SEARCH_PX = ((128, 128), (640, 640))  # the small one for faces that fill the picture, as the package has it
_LONGEST_PX = 1280
_MIN_SCORE = 0.5


class _Model(Protocol):
    """What is used of `insightface.model_zoo.SCRFD`."""

    def detect(self, img: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """[N, 5] corners and score, and [N, 5, 2] landmarks, of a BGR picture."""


def detector_file(models: Path) -> Path | None:
    """The detection model in a folder of insightface models, None if there is none."""
    files = sorted(models.expanduser().glob(_DETECTOR_FILES))
    return files[-1] if files else None


class InsightFaceDetector:
    """SCRFD on the CPU: boxes and five landmarks, also for faces that are turned far.

    Attributes:
        name: "insightface".
        weights: file name → sha256.
    """

    def __init__(self, models: Path = DEFAULT_MODELS) -> None:
        """Load the detection model found in the folder `models`.

        Raises:
            WeightsError: there is none, or it cannot be used.
        """
        file = detector_file(models)
        if file is None:
            raise WeightsError(
                f"{models}: no insightface detection model ({_DETECTOR_FILES}) in this folder. "
                "Get the model pack buffalo_l with `dp3d weights fetch buffalo_l` (for research use only), "
                "name another folder with --models, or take --backend opencv, which needs none.",
                reason="missing-weights",
            )
        self.name = "insightface"
        self.weights: Mapping[str, str] = {file.name: sha256(file)}
        self._model: _Model = _load_detector(file)

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """Faces in a picture, the largest (width + height) first.

        Args:
            image: uint8 [H, W, 3] RGB.

        Returns:
            Faces with detected landmarks; scores in [0, 1]. Empty if there is none.
        """
        height, width = image.shape[:2]
        # The package shrinks to 640 px without antialiasing; large pictures are brought near that size first.
        scale = min(1.0, _LONGEST_PX / max(height, width))
        if scale < 1:
            size = (max(round(width * scale), 1), max(round(height * scale), 1))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        boxes, points = self._model.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        unit = np.array([image.shape[1] / width, image.shape[0] / height])
        faces = []
        for row, five in zip(boxes, points, strict=True):
            x0, y0, x1, y1 = (float(value) for value in (row[:4].reshape(2, 2) / unit).ravel())
            if x1 > x0 and y1 > y0:
                landmarks = np.asarray(five, np.float64) / unit
                box = FaceBox(x0, y0, x1 - x0, y1 - y0)
                faces.append(Face(box, self.name, float(row[4]), landmarks, "detected", eye_roll(landmarks)))
        return sorted(faces, key=lambda face: (-(face.box.width + face.box.height), face.box.x, face.box.y))


def load_onnx(file: Path) -> Any:
    """A model of the insightface package on the CPU; the package tells from its shape what it is.

    Raises:
        WeightsError: the package is missing ("missing-package"), or the file is broken or of no kind that the
            package knows ("bad-weights").
    """
    try:
        from insightface.model_zoo import get_model
        from onnxruntime.capi.onnxruntime_pybind11_state import (
            Fail,
            InvalidGraph,
            InvalidProtobuf,
            NoSuchFile,
        )
    except ImportError as error:
        raise WeightsError(
            f"the insightface package cannot be used ({error}). Install it with `pip install insightface`, "
            "or take what does without (align: --backend opencv).",
            reason="missing-package",
        ) from error
    try:
        model = get_model(str(file), providers=["CPUExecutionProvider"], download=False)
    except (Fail, InvalidGraph, InvalidProtobuf, NoSuchFile) as error:
        raise WeightsError(
            f"{file}: this is not a usable ONNX model ({error}). Copy it again.", reason="bad-weights"
        ) from error
    if model is None:
        raise WeightsError(
            f"{file}: insightface does not know what this model is. Copy it again.", reason="bad-weights"
        )
    return model


def _load_detector(file: Path) -> Any:
    model = load_onnx(file)
    if getattr(model, "taskname", None) != "detection" or not getattr(model, "use_kps", False):
        raise WeightsError(
            f"{file}: not a face detector with landmarks. Give a folder with a det_*.onnx of insightface.",
            reason="bad-weights",
        )
    model.prepare(ctx_id=-1, input_size=list(_SEARCH_PX), det_thresh=_MIN_SCORE)
    return model
