from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.proxies.placement import Placement
from dp3d_cli.core.proxies.portrait import portrait_proxies
from dp3d_cli.core.proxies.template import (
    PreparedPortrait,
    default_reference_label,
    prepare,
    prepare_known,
    render,
    stack,
    to_uint8,
)
from tests.core.proxies.portraits import BOX, WALL, drawn_portrait, head_mask, red_centre

SIZE = 128


def labels(*angles: tuple[float, float]) -> torch.Tensor:
    return torch.from_numpy(np.stack([Camera.look_at(*pair).label for pair in angles]).astype(np.float32))


@pytest.fixture(scope="module")
def portrait() -> PreparedPortrait:
    """The drawn portrait with its true mask, exactly on the frame."""
    mask = head_mask().astype(np.float32)
    return prepare(drawn_portrait(), BOX, size=SIZE, mask=mask, placement=Placement())


def picture() -> torch.Tensor:
    image = torch.from_numpy(drawn_portrait().transpose(2, 0, 1)).float().div(255).unsqueeze(0)
    return torch.nn.functional.interpolate(image, size=(SIZE, SIZE), mode="area")


def test_the_reference_camera_sees_the_portrait(portrait: PreparedPortrait) -> None:
    seen = render(portrait, default_reference_label().unsqueeze(0))
    inside = torch.from_numpy(head_mask()).float()[None, None]
    inside = -torch.nn.functional.max_pool2d(-torch.nn.functional.avg_pool2d(inside, 2), 5, 1, 2) > 0.99
    error = ((seen.images - picture()) ** 2).mean(1, keepdim=True)[inside].mean()
    assert -10 * torch.log10(error) > 29
    assert seen.confidence[inside].mean() > 0.95
    outside = (seen.coverage == 0) & (seen.confidence > 0.9)
    error = ((seen.images - picture()) ** 2).mean(1, keepdim=True)[outside].mean()
    assert -10 * torch.log10(error) > 29


def test_the_nose_moves_against_the_camera(portrait: PreparedPortrait) -> None:
    views = to_uint8(
        render(portrait, labels((0.35, -0.08), (0, -0.08), (-0.35, -0.08), (0, 0.2), (0, -0.3))).images
    )
    left, middle, right, below, above = (red_centre(view) for view in views)
    # The nose stands in front of the pivot: a camera further to the right sees it further to the left.
    assert left[0] < middle[0] - 2
    assert right[0] > middle[0] + 2
    assert below[1] < middle[1] - 1
    assert above[1] > middle[1] + 1


def test_views_show_one_solid(portrait: PreparedPortrait) -> None:
    """The nose's place in two views, intersected, is in front of the face where a third view sees it."""
    angles = ((0.3, -0.05), (-0.3, -0.05), (0.1, 0.15))
    views = to_uint8(render(portrait, labels(*angles)).images)
    cameras = [Camera.look_at(*pair) for pair in angles]
    rows, offsets = [], []
    for camera, view in zip(cameras[:2], views[:2], strict=True):
        u, v = ((value + 0.5) / SIZE for value in red_centre(view))
        direction = camera.cam2world[:3, :3] @ np.linalg.inv(camera.intrinsics) @ [u, v, 1]
        direction /= np.linalg.norm(direction)
        rows.append(np.eye(3) - np.outer(direction, direction))
        offsets.append(rows[-1] @ camera.cam2world[:3, 3])
    point = np.linalg.lstsq(np.concatenate(rows), np.concatenate(offsets), rcond=None)[0]
    assert 0.2 < point[2] < 0.35
    local = np.linalg.inv(cameras[2].cam2world) @ [*point, 1]
    seen = (cameras[2].intrinsics @ (local[:3] / local[2]))[:2] * SIZE - 0.5
    assert np.linalg.norm(seen - red_centre(views[2])) < 2.5


def test_any_camera_gives_finite_pictures_in_range(portrait: PreparedPortrait) -> None:
    angles = [(yaw, pitch) for yaw in (-1.2, -0.6, 0.0, 1.2) for pitch in (-0.6, 0.0, 0.5)]
    seen = render(portrait, labels(*angles, (3.0, 0.0), (1.57, 0.0)))
    for values in (seen.images, seen.confidence, seen.coverage):
        assert torch.isfinite(values).all()
        assert values.min() >= 0
        assert values.max() <= 1
    assert seen.images.shape == (14, 3, SIZE, SIZE)
    assert seen.confidence.shape == seen.coverage.shape == (14, 1, SIZE, SIZE)
    assert (seen.coverage.mean((1, 2, 3)) > 0.15).all()


def test_turned_views_are_less_certain(portrait: PreparedPortrait) -> None:
    seen = render(portrait, labels((0, -0.08), (0.4, -0.08), (0.9, -0.08)))
    certain = [
        float((view * cover).sum() / cover.sum())
        for view, cover in zip(seen.confidence, seen.coverage, strict=True)
    ]
    assert certain[0] > certain[1] > certain[2]


def test_the_head_has_no_holes(portrait: PreparedPortrait) -> None:
    for cover in render(portrait, labels((0.35, -0.05), (-0.5, 0.2), (0, -0.3))).coverage:
        middle = cover[0, SIZE // 3 : SIZE // 2, 2 * SIZE // 5 : 3 * SIZE // 5]
        assert middle.min() == 1


def test_nothing_floats_beside_the_head(portrait: PreparedPortrait) -> None:
    for cover in render(portrait, labels((-0.5, 0.2), (0.5, 0.2), (0.35, -0.3), (0.9, 0))).coverage:
        count, _ = cv2.connectedComponents((cover[0] > 0.5).numpy().astype(np.uint8))
        assert count == 2


def test_the_background_stands_still_and_shows_no_head(portrait: PreparedPortrait) -> None:
    views = render(portrait, labels((0.35, -0.05), (-0.35, -0.05)))
    both = (views.coverage == 0).all(0)[0]
    assert torch.equal(views.images[0][:, both], views.images[1][:, both])
    wall = torch.tensor(WALL).view(3, 1) / 255
    assert (views.images[0][:, both] - wall).abs().mean() < 0.03
    assert (views.images[0][:, both] - wall).abs().max() < 0.15


def test_views_do_not_depend_on_their_neighbours(portrait: PreparedPortrait) -> None:
    targets = labels((0.3, 0.1), (-0.2, -0.2), (0.7, 0.0))
    together = render(portrait, targets)
    for index in range(3):
        alone = render(portrait, targets[index : index + 1])
        assert np.array_equal(to_uint8(together.images)[index], to_uint8(alone.images)[0])
        assert np.array_equal(to_uint8(together.confidence)[index], to_uint8(alone.confidence)[0])


def test_portraits_in_a_batch_do_not_depend_on_their_neighbours(portrait: PreparedPortrait) -> None:
    image, mask = picture(), torch.from_numpy(head_mask()).float()[None, None]
    mask = torch.nn.functional.avg_pool2d(mask, 2)
    boxes = [tuple(value / 2 for value in BOX), (30.0, 20.0, 70.0, 70.0)]
    both = prepare_known(torch.cat([image, 1 - image]), torch.cat([mask, mask]), boxes, size=SIZE)
    alone = prepare_known(1 - image, mask, boxes[1:], size=SIZE)
    targets = labels((0.3, 0.1), (-0.2, -0.2))
    seen = render(both, targets.expand(2, -1, -1))
    assert seen.images.shape == (2, 2, 3, SIZE, SIZE)
    assert torch.allclose(seen.images[1], render(alone, targets).images, atol=2e-3)
    stacked = render(stack([alone, alone]), targets.expand(2, -1, -1))
    assert torch.allclose(stacked.images[0], stacked.images[1])


def test_given_backgrounds_are_shown_as_they_are() -> None:
    image, mask = (
        picture(),
        torch.nn.functional.avg_pool2d(torch.from_numpy(head_mask()).float()[None, None], 2),
    )
    green = torch.zeros_like(image)
    green[:, 1] = 1
    box = tuple(value / 2 for value in BOX)
    seen = render(prepare_known(image, mask, [box], background=green, size=SIZE), labels((0.3, 0)))
    behind = seen.coverage[0, 0] == 0
    assert torch.allclose(seen.images[0][:, behind], green[0][:, behind], atol=1e-3)


def test_another_output_size_shows_the_same(portrait: PreparedPortrait) -> None:
    target = labels((0.25, -0.05))
    small, large = render(portrait, target, 64).images, render(portrait, target, 256).images
    assert (torch.nn.functional.avg_pool2d(large, 4) - small).abs().mean() < 0.02


def test_same_portrait_same_proxies() -> None:
    image, target = drawn_portrait(), labels((0.3, 0.0)).numpy()
    first, second = (portrait_proxies(image, BOX, target, size=64) for _ in range(2))
    assert np.array_equal(first.images, second.images)
    assert np.array_equal(first.confidences, second.confidences)
    assert first.images.dtype == np.uint8
    assert first.images.shape == (1, 64, 64, 3)
    assert first.coverages.shape == first.confidences.shape == (1, 64, 64)
    assert 0 < first.doubt < 1


def test_a_known_camera_is_where_the_portrait_is_seen_unchanged() -> None:
    camera = Camera.look_at(0.3, 0.1)
    label = camera.label[None]
    seen = portrait_proxies(drawn_portrait(), BOX, label, size=SIZE, camera=camera, is_exact=True)
    assert seen.placement == Placement()
    want = (picture()[0].permute(1, 2, 0) * 255).numpy()
    inside = seen.confidences[0] > 250
    assert inside.mean() > 0.5
    assert np.abs(seen.images[0][inside] - want[inside]).mean() < 4


def test_a_mask_without_foreground_gives_the_background() -> None:
    image = picture()
    box = tuple(value / 2 for value in BOX)
    seen = render(prepare_known(image, torch.zeros_like(image[:, :1]), [box], size=SIZE), labels((0.2, 0)))
    assert seen.coverage.max() == 0
    assert torch.isfinite(seen.images).all()


def test_misuse_is_refused(portrait: PreparedPortrait) -> None:
    with pytest.raises(ValueError, match="even"):
        render(portrait, labels((0, 0)), 63)
    with pytest.raises(ValueError, match="need labels"):
        render(portrait, labels((0, 0)).expand(2, 1, 25))
    with pytest.raises(ValueError, match="even"):
        prepare(drawn_portrait(), BOX, size=31)
    with pytest.raises(ValueError, match="as many masks"):
        prepare_known(torch.zeros(2, 3, 64, 64), torch.zeros(1, 1, 64, 64), [(16, 16, 30, 30)])
