"""Choosing a face detector."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from dp3d_cli.core.faces.face import Face
from dp3d_cli.core.weights.backbones import find_backbone

Backend = Literal["auto", "opencv", "insightface"]


class Detector(Protocol):
    """Finds faces.

    Attributes:
        name: "opencv" or "insightface".
        weights: file name → sha256 of model files that are not part of an installed package.
    """

    name: str
    weights: Mapping[str, str]

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """Faces in a picture uint8 [H, W, 3] RGB, the most prominent first; empty if there is none."""


def load_detector(backend: Backend = "auto", models: Path | None = None) -> Detector:
    """The detector asked for; "auto" takes insightface if its models are there, else opencv.

    Args:
        backend: which one.
        models: folder of the insightface models; None: where `dp3d weights fetch buffalo_l` or the package
            put them. Naming a folder without models is an error even with "auto".

    Raises:
        WeightsError: insightface is asked for and its models or the package are missing.
    """
    from dp3d_cli.core.faces import insightface

    folder = models or find_backbone("buffalo_l") or insightface.DEFAULT_MODELS
    if backend == "auto":
        is_there = insightface.detector_file(folder) is not None and find_spec("insightface") is not None
        backend = "insightface" if models is not None or is_there else "opencv"
    if backend == "insightface":
        return insightface.InsightFaceDetector(folder)
    from dp3d_cli.core.faces.opencv import OpenCVDetector

    return OpenCVDetector()
