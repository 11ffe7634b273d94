from __future__ import annotations

import numpy as np
import pytest

from dp3d_cli.core.proxies.segmentation import segment_head
from tests.core.proxies.portraits import BOX, HAIR, SIDE, drawn_portrait, head_mask


def overlap(mask: np.ndarray, truth: np.ndarray) -> float:
    found = mask > 0.5
    return float((found & truth).sum() / (found | truth).sum())


def test_head_is_found_in_front_of_a_plain_wall() -> None:
    result = segment_head(drawn_portrait(), BOX)
    assert result.method == "grabcut"
    assert result.mask.shape == (SIDE, SIDE)
    assert result.mask.dtype == np.float32
    assert result.mask.min() >= 0
    assert result.mask.max() <= 1
    assert overlap(result.mask, head_mask()) > 0.93


def test_hair_in_the_colour_of_the_wall_falls_back_to_a_head_shape() -> None:
    result = segment_head(drawn_portrait(wall=HAIR), BOX)
    assert result.method == "grabcut-limited"
    assert overlap(result.mask, head_mask()) > 0.5
    corners = result.mask[: SIDE // 12, [0, 1, -2, -1]]
    assert corners.max() < 0.5


def test_a_picture_of_one_colour_gives_a_head_and_not_everything() -> None:
    result = segment_head(np.full((SIDE, SIDE, 3), 90, np.uint8), BOX)
    assert result.method != "grabcut"
    assert 0.3 < result.mask.mean() < 0.9
    assert result.mask[SIDE // 2, SIDE // 2] > 0.9
    assert result.mask[2, 2] < 0.5


def test_same_seed_same_mask_and_nothing_drawn_from_outside() -> None:
    image = drawn_portrait()
    first = segment_head(image, BOX, seed=3).mask
    np.random.default_rng().random()
    assert np.array_equal(first, segment_head(image, BOX, seed=3).mask)


def test_a_face_that_fills_the_picture_is_all_foreground() -> None:
    face = drawn_portrait()[90:150, 90:160]
    result = segment_head(face, (-20, -20, 110, 100))
    assert result.mask.mean() > 0.9


def test_grey_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        segment_head(np.zeros((64, 64), np.uint8), (10, 10, 40, 40))
