"""Real pictures for face tests: those that scikit-image carries, and shared portraits if they are at hand."""

from pathlib import Path

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray

from dp3d_cli.core.faces.face import FaceBox
from dp3d_cli.core.images import read_image

SHARED_PORTRAITS = Path(__file__).resolve().parents[3] / "../shared/portraits"

# By eye, in the convention of OpenCV's frontal cascade.
ASTRONAUT_BOX = FaceBox(175, 65, 98, 98)
PORTRAIT_BOXES = {
    "0000028": FaceBox(70, 66, 355, 355),
    "0000167": FaceBox(85, 64, 320, 320),
    "0000270": FaceBox(68, 54, 377, 377),
    "0000380": FaceBox(96, 65, 328, 328),
}


def astronaut() -> NDArray[np.uint8]:
    picture: NDArray[np.uint8] = skimage.data.astronaut()
    return picture


def portrait_path(name: str) -> Path:
    path = SHARED_PORTRAITS / name / "reference.png"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


def portrait(name: str) -> NDArray[np.uint8]:
    return read_image(portrait_path(name))
