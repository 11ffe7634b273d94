from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from dp3d_cli.core.errors import InputError
from dp3d_cli.core.faces.alignment import STANDARD_FACE
from dp3d_cli.core.faces.face import Face, FaceBox
from dp3d_cli.core.faces.opencv import OpenCVDetector
from dp3d_cli.core.faces.portrait import AlignOptions, align_portrait
from tests.core.faces.pictures import ASTRONAUT_BOX, PORTRAIT_BOXES, astronaut, portrait


class Fake:
    """A detector that knows the answer."""

    name = "fake"
    weights: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, *faces: Face) -> None:
        self.faces = list(faces)

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        return self.faces


def boxed(x: float, y: float, side: float) -> Face:
    return Face(FaceBox(x, y, side, side), "fake", 5.0)


def points_at(x: float, y: float, unit: float) -> NDArray[np.float64]:
    return STANDARD_FACE[:, :2] * (unit, -unit) + (x, y)


PICTURE = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)


def reason(*faces: Face, options: AlignOptions | None = None, **given: object) -> str:
    with pytest.raises(InputError) as caught:
        align_portrait(PICTURE, "anna.jpg", Fake(*faces), options or AlignOptions(), **given)  # type: ignore[arg-type]
    assert str(caught.value).startswith("anna.jpg: ")
    return caught.value.reason


def test_box_crop_records_all_it_knows() -> None:
    aligned = align_portrait(PICTURE, "a", Fake(boxed(150, 90, 100)), AlignOptions(size=128))
    assert aligned.image.shape == (128, 128, 3)
    assert (aligned.method, aligned.border, aligned.faces_found) == ("box", "blur", 1)
    assert aligned.camera is None
    assert aligned.face_box == FaceBox(150, 90, 100, 100)


def test_landmark_crop_has_a_camera_and_a_canonical_box() -> None:
    points = points_at(200, 150, 60)
    aligned = align_portrait(PICTURE, "a", Fake(), AlignOptions(), landmarks=points)
    assert (aligned.method, aligned.border, aligned.faces_found) == ("landmarks", "black", None)
    assert aligned.camera is not None
    assert abs(aligned.camera.yaw) < 0.05
    assert aligned.face_box is not None
    box = aligned.window.box_in_crop(aligned.face_box, 512)
    np.testing.assert_allclose(box.width, 0.67 * 512)
    np.testing.assert_allclose(box.centre, (256, 0.46 * 512))


def test_bad_landmarks_get_no_camera_but_a_warning() -> None:
    points = points_at(200, 150, 60) * (0.7, 1)
    aligned = align_portrait(PICTURE, "a", Fake(), AlignOptions(), landmarks=points)
    assert aligned.camera is None
    assert any("no camera label" in warning for warning in aligned.warnings)


def test_no_face_is_an_error_with_advice() -> None:
    assert reason() == "no-face"


def test_no_align_takes_the_centre_square_with_or_without_a_face() -> None:
    options = AlignOptions(size=300, align=False)
    for detector in (Fake(), Fake(boxed(100, 100, 80))):
        aligned = align_portrait(PICTURE, "a", detector, options)
        np.testing.assert_array_equal(aligned.image, PICTURE[:, 50:350])
        assert aligned.method == "centre-square"
        assert (aligned.face is None) == (not detector.faces)


def test_three_faces_take_the_largest_and_say_so() -> None:
    faces = [boxed(200, 100, 90), boxed(20, 20, 60), boxed(320, 200, 40)]
    aligned = align_portrait(PICTURE, "a", Fake(*faces), AlignOptions())
    assert aligned.face is faces[0]
    assert any("3 faces found" in warning for warning in aligned.warnings)
    second = align_portrait(PICTURE, "a", Fake(*faces), AlignOptions(face=1))
    assert second.face is faces[1]
    assert not any("faces found" in warning for warning in second.warnings)


def test_a_face_that_is_not_there_cannot_be_chosen() -> None:
    assert reason(boxed(100, 100, 80), options=AlignOptions(face=1)) == "no-such-face"


def test_given_box_outside_the_picture() -> None:
    assert reason(box=FaceBox(5000, 100, 50, 50)) == "face-outside"


@pytest.mark.parametrize("points", [np.full((5, 2), 7.0), np.array([[10.0 * i, 20.0] for i in range(5)])])
def test_unusable_landmarks(points: NDArray[np.float64]) -> None:
    assert reason(landmarks=points) == "bad-landmarks"


def test_tiny_crop_is_warned_about() -> None:
    aligned = align_portrait(PICTURE, "a", Fake(boxed(150, 90, 40)), AlignOptions())
    assert any("look soft" in warning for warning in aligned.warnings)


def aligned_picture(size: int = 512) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (size, size, 3), np.uint8)


def test_aligned_picture_stays_as_it_is_unless_forced() -> None:
    detector = Fake(boxed(96, 70, 330))
    aligned = align_portrait(aligned_picture(), "a", detector, AlignOptions())
    assert aligned.method == "already-aligned"
    np.testing.assert_array_equal(aligned.image, aligned_picture())
    forced = align_portrait(aligned_picture(), "a", detector, AlignOptions(realign=True))
    assert forced.method == "box"


def test_aligned_picture_of_another_size_is_only_resized() -> None:
    aligned = align_portrait(aligned_picture(300), "a", Fake(boxed(50, 38, 200)), AlignOptions())
    assert aligned.method == "already-aligned"
    assert aligned.image.shape == (512, 512, 3)


def test_aligning_twice_equals_aligning_once() -> None:
    detector = OpenCVDetector()
    first = align_portrait(astronaut(), "a", detector, AlignOptions())
    second = align_portrait(first.image, "a", detector, AlignOptions())
    assert first.method == "box"
    assert second.method == "already-aligned"
    np.testing.assert_array_equal(second.image, first.image)
    assert first.face_box is not None
    assert first.face_box.overlap(ASTRONAUT_BOX) > 0.7


@pytest.mark.parametrize("name", PORTRAIT_BOXES)
def test_portraits_that_are_aligned_come_out_unchanged(name: str) -> None:
    picture = portrait(name)
    aligned = align_portrait(picture, name, OpenCVDetector(), AlignOptions())
    assert aligned.method == "already-aligned"
    np.testing.assert_array_equal(aligned.image, picture)


def test_uncertain_face_is_warned_about() -> None:
    doubtful = replace(boxed(150, 90, 100), is_certain=False)
    aligned = align_portrait(PICTURE, "a", Fake(doubtful), AlignOptions())
    assert any("uncertain" in warning for warning in aligned.warnings)
