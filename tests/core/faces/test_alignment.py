import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from dp3d_cli.core.faces.alignment import (
    BOX_CENTRE,
    BOX_WIDTH,
    STANDARD_FACE,
    CropWindow,
    box_window,
    centre_square,
    cut,
    fit_landmarks,
    is_aligned,
)
from dp3d_cli.core.faces.face import Face, FaceBox, five_landmarks

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data/eg3d_alignment.json").read_text(encoding="utf-8")
)["cases"]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])


def fixture_picture(width: int, height: int) -> NDArray[np.uint8]:
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    red, green = np.floor(x * 255 / (width - 1)), np.floor(y * 255 / (height - 1))
    return np.stack([red, green, ((x // 16 + y // 16) % 2) * 200 + 20], axis=-1).astype(np.uint8)


def points_of(case: dict[str, Any]) -> NDArray[np.float64]:
    return five_landmarks(np.array(case["landmarks"], np.float32))  # as the official script reads them


@each_case
def test_crop_boxes_are_exactly_the_official_ones(case: dict[str, Any]) -> None:
    fit = fit_landmarks(points_of(case), case["width"], case["height"])
    left, top = fit.corner
    assert fit.resized == tuple(case["resized_size"])
    assert [left, top, left + 1024, top + 1024] == case["crop1024_box_in_resized"]
    np.testing.assert_allclose(fit.scale, case["s"], rtol=1e-6)
    np.testing.assert_allclose(fit.shift, case["t"], rtol=1e-6)


@each_case
def test_crop_pixels_are_the_official_ones(case: dict[str, Any]) -> None:
    width, height = case["width"], case["height"]
    window = fit_landmarks(points_of(case), width, height).window(width, height)
    crop = cut(fixture_picture(width, height), window, 512)
    blocks = crop.reshape(16, 32, 16, 32, 3).mean((1, 3))
    np.testing.assert_allclose(blocks, case["crop_16x16"], atol=0.1)
    black = (crop == 0).all(-1).mean()
    np.testing.assert_allclose(black, case["black_fraction"], atol=1e-4)


@each_case
def test_cropping_first_equals_resizing_the_whole_picture_first(case: dict[str, Any]) -> None:
    width, height = case["width"], case["height"]
    picture = fixture_picture(width, height)
    fit = fit_landmarks(points_of(case), width, height)
    left, top = fit.corner
    whole = Image.fromarray(picture).resize(fit.resized, Image.Resampling.BICUBIC)
    outer = whole.crop((left, top, left + 1024, top + 1024))
    official = np.asarray(outer.crop((162, 162, 862, 862)).resize((512, 512), Image.Resampling.LANCZOS))
    difference = np.abs(cut(picture, fit.window(width, height), 512).astype(int) - official)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-4


@each_case
def test_transform_between_crop_and_original(case: dict[str, Any]) -> None:
    width, height = case["width"], case["height"]
    window = fit_landmarks(points_of(case), width, height).window(width, height)
    original2crop = np.linalg.inv(window.crop2original(512))
    np.testing.assert_allclose(original2crop[:2], case["affine_original_to_512"], rtol=1e-9, atol=1e-9)
    moved = window.points_in_crop(np.array(case["landmarks"]), 512)
    np.testing.assert_allclose(moved, case["landmarks_in_512"], atol=1e-3)


def test_68_points_use_eye_corners_only() -> None:
    points = np.random.default_rng(0).normal(size=(68, 2))
    five = five_landmarks(points)
    np.testing.assert_allclose(five[0], (points[36] + points[39]) / 2)
    np.testing.assert_allclose(five[1], (points[42] + points[45]) / 2)
    np.testing.assert_array_equal(five[2:], points[[30, 48, 54]])


@pytest.mark.parametrize("shape", [(4, 2), (5, 3), (106, 2), (10,)])
def test_other_numbers_of_points_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="5 or 68"):
        five_landmarks(np.zeros(shape))


@pytest.mark.parametrize(
    "points", [np.full((5, 2), 3.0), np.array([[1.0, 1], [2, 1], [3, 1], [4, 1], [5, 1]])]
)
def test_points_that_are_no_face_are_refused(points: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="do not span a face"):
        fit_landmarks(points, 100, 100)


@given(
    x=st.floats(-50, 450),
    y=st.floats(-50, 350),
    unit=st.floats(8, 600),
    roll=st.floats(-0.6, 0.6),
)
@settings(max_examples=40, deadline=None)
def test_standard_face_lands_at_its_place_wherever_it_was(
    x: float, y: float, unit: float, roll: float
) -> None:
    turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    points = STANDARD_FACE[:, :2] * (1, -1) @ turn.T * unit + (x, y)
    window = fit_landmarks(points, 400, 300).window(400, 300)
    expected = STANDARD_FACE[:, :2] * (1, -1) @ turn.T * 300 * 512 / 700 + 256
    # Corner and sizes are rounded to pixels of the virtual picture; with its x = W s / 2 that adds up.
    scale = 300 / unit
    tolerance = (3 + abs(x / 400 - 0.5) + abs(y / 300 - 0.5)) * 512 / 700 * max(1, scale)
    np.testing.assert_allclose(window.points_in_crop(points, 512), expected, atol=tolerance)


def test_box_is_brought_to_its_usual_place() -> None:
    box = FaceBox(130, 70, 200, 200)
    placed = box_window(box).box_in_crop(box, 512)
    np.testing.assert_allclose(placed.width, BOX_WIDTH * 512)
    np.testing.assert_allclose(placed.centre, np.array(BOX_CENTRE) * 512)


def test_window_inside_the_picture_is_cut_to_the_pixel() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    crop = cut(picture, CropWindow(7, 5, 32, 32), 32)
    np.testing.assert_array_equal(crop, picture[5:37, 7:39])


@pytest.mark.parametrize("border", ["black", "blur"])
def test_beyond_the_picture_stands_the_border(border: str) -> None:
    picture = np.full((64, 64, 3), 90, np.uint8)
    crop = cut(picture, CropWindow(-32, 0, 64, 64), 64, border)  # type: ignore[arg-type]
    assert (crop[:, 32:] == 90).all()
    assert (crop[:, :32] == (0 if border == "black" else 90)).all()


def test_blurred_border_continues_the_picture_without_an_edge() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    crop = cut(picture, CropWindow(-20, -10, 64, 64), 64, "blur").astype(int)
    np.testing.assert_array_equal(crop[10:, 20:], picture[:54, :44])
    mirrored = crop[10:, 19] - picture[:54, 0]
    assert np.abs(mirrored).mean() < 30  # next to the edge it is nearly the mirror image
    assert crop[:4, :10].std() < 0.5 * picture.std()  # far away it is soft


def test_window_far_outside_is_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        cut(np.zeros((8, 8, 3), np.uint8), CropWindow(100, 0, 8, 8), 8)


def test_centre_square() -> None:
    assert centre_square(100, 60) == CropWindow(20, 0, 60, 60)
    assert centre_square(60, 101) == CropWindow(0, 20, 60, 60)


def face(x: float, y: float, width: float) -> Face:
    return Face(
        FaceBox(x * 512 - width * 256, y * 512 - width * 256, width * 512, width * 512), "opencv", 5.0
    )


def test_typical_crop_is_recognised_as_aligned() -> None:
    assert is_aligned(512, 512, [face(0.5, 0.46, 0.67)])
    assert is_aligned(512, 512, [face(0.45, 0.5, 0.74), face(0.1, 0.9, 0.2)])


@pytest.mark.parametrize(
    ("size", "faces"),
    [
        ((512, 512), []),
        ((512, 513), [face(0.5, 0.46, 0.67)]),
        ((255, 255), [face(0.5, 0.46, 0.67)]),
        ((512, 512), [face(0.5, 0.46, 0.58)]),
        ((512, 512), [face(0.5, 0.46, 0.79)]),
        ((512, 512), [face(0.57, 0.46, 0.67)]),
        ((512, 512), [face(0.5, 0.53, 0.67)]),
        ((512, 512), [face(0.5, 0.46, 0.67), face(0.2, 0.2, 0.4)]),
    ],
)
def test_what_is_not_aligned(size: tuple[int, int], faces: list[Face]) -> None:
    assert not is_aligned(*size, faces)


@pytest.mark.parametrize(("shift", "expected"), [(0.0, True), (6.0, True), (40.0, False)])
def test_real_landmarks_decide_whether_a_crop_is_aligned(shift: float, expected: bool) -> None:
    points = STANDARD_FACE[:, :2] * (1, -1) * 300 * 512 / 700 + 255.5 + shift
    found = Face(FaceBox(100, 100, 300, 300), "insightface", 0.9, points, "detected")
    assert is_aligned(512, 512, [found]) is expected
