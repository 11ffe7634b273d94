from __future__ import annotations

import numpy as np
import pytest
import torch

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.faces.landmarks import portrait_box
from dp3d_cli.core.proxies.segmentation import segment_head
from dp3d_cli.core.proxies.template import to_uint8
from dp3d_cli.core.renderers.procedural import ProceduralHead
from dp3d_cli.training.data import SPLITS
from tests.core.proxies.portraits import BOX, HAIR, SIDE, drawn_portrait, head_mask

BESIDE = [0, 1, -2, -1]


def overlap(mask: np.ndarray, truth: np.ndarray) -> float:
    found = mask > 0.5
    return float((found & truth).sum() / (found | truth).sum())


def test_heads_that_it_was_not_trained_on_are_found_to_the_outline() -> None:
    label = torch.from_numpy(Camera.look_at(0.1, -0.1).label)[None]
    box = portrait_box(SIDE, SIDE)
    for seed in SPLITS["test"][:3]:
        seen = ProceduralHead(seed).render(label, SIDE)
        result = segment_head(to_uint8(seen.image)[0], (box.x, box.y, box.width, box.height))
        assert overlap(result.mask, seen.mask[0, 0].numpy() > 0.5) > 0.95
        assert result.doubt < 0.1


def test_a_drawing_is_found_roughly_and_with_doubt() -> None:
    result = segment_head(drawn_portrait(), BOX)
    assert result.mask.shape == (SIDE, SIDE)
    assert result.mask.dtype == np.float32
    assert result.mask.min() >= 0
    assert result.mask.max() <= 1
    assert overlap(result.mask, head_mask()) > 0.8
    assert result.doubt > 0.15


def test_hair_in_the_colour_of_the_wall_leaves_the_face() -> None:
    result = segment_head(drawn_portrait(wall=HAIR), BOX)
    assert overlap(result.mask, head_mask()) > 0.45
    assert result.mask[SIDE // 2, SIDE // 2] > 0.9
    assert result.mask[: SIDE // 12, BESIDE].max() < 0.5


def test_a_picture_of_one_colour_gives_a_head_and_not_everything() -> None:
    result = segment_head(np.full((SIDE, SIDE, 3), 90, np.uint8), BOX)
    assert 0.3 < result.mask.mean() < 0.9
    assert result.mask[SIDE // 2, SIDE // 2] > 0.9
    assert result.mask[2, 2] < 0.5
    assert result.doubt > 0.15


def test_the_mirrored_portrait_has_the_mirrored_mask() -> None:
    image, box = drawn_portrait(), (BOX[0] + 9, *BOX[1:])
    other = (SIDE - box[0] - box[2], *box[1:])
    mask = segment_head(image, box).mask
    mirrored = segment_head(np.ascontiguousarray(image[:, ::-1]), other).mask
    assert np.abs(mirrored[:, ::-1] - mask).max() < 0.02
    assert np.array_equal(mask, segment_head(image, box).mask)


def test_a_face_that_fills_the_picture_is_all_foreground() -> None:
    face = drawn_portrait()[90:150, 90:160]
    result = segment_head(face, (-20, -20, 110, 100))
    assert result.mask.mean() > 0.9


def test_grey_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        segment_head(np.zeros((64, 64), np.uint8), (10, 10, 40, 40))
