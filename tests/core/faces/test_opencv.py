import math
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray

from dp3d_cli.core.faces.face import FaceBox
from dp3d_cli.core.faces.opencv import OpenCVDetector
from tests.core.faces.pictures import ASTRONAUT_BOX, PORTRAIT_BOXES, astronaut, portrait


@pytest.fixture(scope="module")
def detector() -> OpenCVDetector:
    return OpenCVDetector()


def turned(picture: NDArray[np.uint8], angle_deg: float) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The picture turned counterclockwise about its centre, and the 2 x 3 map that did it."""
    height, width = picture.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle_deg, 1.0)
    return cv2.warpAffine(picture, turn, (width, height), borderMode=cv2.BORDER_REPLICATE), turn


def test_astronaut(detector: OpenCVDetector) -> None:
    faces = detector.detect(astronaut())
    assert len(faces) == 1
    assert faces[0].box.overlap(ASTRONAUT_BOX) >= 0.7
    assert faces[0].is_certain
    assert faces[0].landmarks_kind == "box-prior"
    assert not faces[0].has_real_landmarks


@pytest.mark.parametrize("name", PORTRAIT_BOXES)
def test_shared_portraits(detector: OpenCVDetector, name: str) -> None:
    faces = detector.detect(portrait(name))
    assert len(faces) == 1
    assert faces[0].box.overlap(PORTRAIT_BOXES[name]) >= 0.7


def noise() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)


def flat_grey() -> NDArray[np.uint8]:
    return np.full((512, 512, 3), 128, np.uint8)


@pytest.mark.parametrize(
    "picture",
    [skimage.data.coffee, skimage.data.rocket, skimage.data.cat, skimage.data.logo, noise, flat_grey],
    ids=lambda make: make.__name__,
)
def test_no_face_where_there_is_none(
    detector: OpenCVDetector, picture: Callable[[], NDArray[np.uint8]]
) -> None:
    assert detector.detect(np.ascontiguousarray(picture()[..., :3])) == []


@pytest.mark.parametrize("angle_deg", [-40, -20, 20, 40])
def test_leaning_face(detector: OpenCVDetector, angle_deg: int) -> None:
    picture, turn = turned(astronaut(), angle_deg)
    faces = detector.detect(picture)
    x, y = turn @ (*ASTRONAUT_BOX.centre, 1)
    expected = FaceBox(x - 49, y - 49, 98, 98)
    assert faces[0].box.overlap(expected) >= 0.6
    if faces[0].roll is not None:  # counterclockwise on screen: the image-right eye goes up
        assert abs(math.degrees(faces[0].roll) + angle_deg) < 30
        assert faces[0].roll * angle_deg < 0


def test_prior_landmarks_are_near_the_real_ones(detector: OpenCVDetector) -> None:
    landmarks = detector.detect(astronaut())[0].landmarks
    by_eye = np.array([[204, 101], [243, 101], [226, 122], [210, 140], [243, 141]])
    assert landmarks is not None
    np.testing.assert_allclose(landmarks, by_eye, atol=9)


def test_box_follows_a_shift_and_a_change_of_size(detector: OpenCVDetector) -> None:
    picture = astronaut()
    boxes = []
    for scale, shift in ((0.9, 0), (1.0, 20), (1.1, -15)):
        moved = cv2.warpAffine(
            picture,
            np.array([[scale, 0, shift], [0, scale, shift]], float),
            (512, 512),
            borderValue=(90, 90, 90),
        )
        box = detector.detect(moved)[0].box
        boxes.append(
            [((box.centre[0] - shift) / scale), ((box.centre[1] - shift) / scale), box.width / scale]
        )
    spread = np.ptp(np.array(boxes), axis=0) / 98
    assert spread[:2].max() < 0.06
    assert spread[2] < 0.16


def test_several_faces_come_largest_first(detector: OpenCVDetector) -> None:
    picture = np.full((512, 1024, 3), 160, np.uint8)
    picture[:, 512:] = astronaut()
    small = cv2.resize(astronaut(), (384, 384), interpolation=cv2.INTER_AREA)
    picture[64:448, 64:448] = small
    faces = detector.detect(picture)
    assert len(faces) == 2
    assert faces[0].box.width > faces[1].box.width
    assert faces[0].box.centre[0] > 512 > faces[1].box.centre[0]


def test_small_face_in_a_large_picture(detector: OpenCVDetector) -> None:
    picture = np.full((1600, 2400, 3), 160, np.uint8)
    picture[700:1212, 1500:2012] = astronaut()
    faces = detector.detect(picture)
    assert len(faces) == 1
    expected = FaceBox(1500 + ASTRONAUT_BOX.x, 700 + ASTRONAUT_BOX.y, 98, 98)
    assert faces[0].box.overlap(expected) >= 0.6


@pytest.mark.parametrize("shape", [(32, 32, 3), (32, 2000, 3), (1, 1, 3)])
def test_odd_sizes_are_searched_without_fault(detector: OpenCVDetector, shape: tuple[int, int, int]) -> None:
    assert detector.detect(np.zeros(shape, np.uint8)) == []
