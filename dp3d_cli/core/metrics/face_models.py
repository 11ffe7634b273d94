"""What the face metrics share: insightface's models, checked before use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.faces.insightface import InsightFaceDetector, load_onnx
from dp3d_cli.core.weights.backbones import BACKBONES, how_to_get, require_backbone
from dp3d_cli.core.weights.manifest import sha256

_BACKBONE = "buffalo_l"


@dataclass(frozen=True, eq=False)
class FaceModel:
    """A model of the folder buffalo_l.

    Attributes:
        path: its file.
        sha256: of the file, computed from its bytes.
        model: the insightface package's object for it.
    """

    path: Path
    sha256: str
    model: Any

    def describe(self) -> dict[str, object]:
        """Packages, file and checksum, for a report's protocol."""
        import insightface
        import onnxruntime

        return {
            "implementation": f"insightface {insightface.__version__}",
            "runtime": f"onnxruntime {onnxruntime.__version__}",
            "weights": self.path.name,
            "weights_sha256": self.sha256,
            "device": "cpu",
            "dtype": "float32",
        }


def load_face_model(name: str, task: str, side: int) -> FaceModel:
    """Load a model from where buffalo_l lies on this machine; nothing is downloaded.

    Args:
        name: file name in the folder.
        task: what the package takes it for, its `taskname`.
        side: of its square input [px].

    Raises:
        WeightsError: the file is missing ("weights-missing"), not the published one or not such a model
            ("weights-damaged"), or the package is missing ("missing-package").
    """
    path = require_backbone(_BACKBONE) / name
    if not path.is_file():
        raise WeightsError(
            f"{path} is missing. Get it with `{how_to_get(BACKBONES[_BACKBONE])}`.", reason="weights-missing"
        )
    digest = sha256(path)
    _refuse_other({path.name: digest}, path.parent)
    model = load_onnx(path)
    if getattr(model, "taskname", None) != task or model.input_size != (side, side):
        raise _damaged(path, f"not a model for {task} of {side} x {side} px")
    return FaceModel(path, digest, model)


def load_face_detector() -> InsightFaceDetector:
    """The detector of the same folder.

    Raises:
        WeightsError: as `load_face_model`.
    """
    folder = require_backbone(_BACKBONE)
    detector = InsightFaceDetector(folder)
    _refuse_other(detector.weights, folder)
    return detector


def _refuse_other(digests: Mapping[str, str], folder: Path) -> None:
    published = {file.name: file.sha256 for file in BACKBONES[_BACKBONE].files}
    for name, digest in digests.items():
        if digest != published.get(name):
            raise _damaged(folder / name, f"sha256 {digest}, expected {published.get(name, 'no such file')}")


def _damaged(path: Path, problem: str) -> WeightsError:
    return WeightsError(
        f"{path}: {problem}. Get it again with `{how_to_get(BACKBONES[_BACKBONE])}`.",
        reason="weights-damaged",
    )
