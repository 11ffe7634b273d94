"""Cross-view consistency on scenes whose motion is known, and on procedural heads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch

from dp3d_cli.core.cameras.camera import Camera, Trajectory, normalised_intrinsics
from dp3d_cli.core.errors import InputError
from dp3d_cli.core.metrics.consistency import (
    Consistency,
    WarpedError,
    depth_consistency,
    flow_consistency,
)
from dp3d_cli.core.renderers.procedural import ProceduralHead
from tests.core.metrics.conftest import smooth_noise

SIZE = 96


@dataclass(frozen=True)
class Scene:
    """Views that are consistent by construction, with their geometry."""

    views: list[np.ndarray]
    depths: list[np.ndarray]
    cameras: tuple[Camera, ...]

    def depth_error(self, views: list[np.ndarray]) -> Consistency:
        return depth_consistency(views, self.depths, self.cameras, closed=True)


@pytest.fixture(scope="module")
def head() -> Scene:
    """A procedural head seen from a closed loop of eight cameras."""
    phase = 2 * np.pi * np.arange(8) / 8
    loop = Trajectory.from_angles("loop", 0.15 * np.sin(phase), -0.05 + 0.1 * np.cos(phase), closed=True)
    rendering = ProceduralHead(7, detail=SIZE / 256).render(torch.tensor(loop.labels), SIZE)
    views = (rendering.image.permute(0, 2, 3, 1).numpy() * 255 + 0.5).astype(np.uint8)
    return Scene(list(views), list(rendering.depth[:, 0].numpy()), loop.cameras)


def noisy(views: list[np.ndarray], strength: float) -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [(view + strength * rng.normal(size=view.shape)).clip(0, 255).astype(np.uint8) for view in views]


def wobbling(views: list[np.ndarray], reach_px: float) -> list[np.ndarray]:
    """Each view moved by its own vector of this length."""
    angles = np.random.default_rng(4).uniform(0, 2 * np.pi, len(views))
    moved = []
    for view, angle in zip(views, angles, strict=True):
        move = np.array([[1, 0, reach_px * np.cos(angle)], [0, 1, reach_px * np.sin(angle)]])
        moved.append(cv2.warpAffine(view, move, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE))
    return moved


def blurred(views: list[np.ndarray]) -> list[np.ndarray]:
    return [cv2.GaussianBlur(view, (0, 0), 2.0) for view in views]


def rises(values: list[float]) -> bool:
    return all(a < b for a, b in pairwise(values))


# Flow.


def test_still_picture_has_no_error() -> None:
    view = smooth_noise(np.random.default_rng(0), 64, 80)
    result = flow_consistency([view] * 3)
    assert result.error == 0
    assert result.share == 1
    assert len(result.pairs) == 2


def test_shift_is_taken_out() -> None:
    wide = cv2.GaussianBlur(smooth_noise(np.random.default_rng(0), 130, 130), (0, 0), 1.5)
    views = [wide[10 + 2 * i : 106 + 2 * i, 3 * i : 96 + 3 * i] for i in range(3)]
    plain = np.abs(views[0].astype(int) - views[1]).mean()
    result = flow_consistency(views)
    assert plain > 10
    assert result.error < 1
    assert 0.75 < result.share < 1  # what leaves the picture is not used


def test_change_of_brightness_is_the_error() -> None:
    view = smooth_noise(np.random.default_rng(0), 64, 64).clip(20, 200)
    assert flow_consistency([view, view + np.uint8(10)]).error == pytest.approx(10, abs=0.2)


def test_pictures_of_nothing_in_common_leave_hardly_a_pixel() -> None:
    views = [smooth_noise(np.random.default_rng(seed), 96, 96) for seed in (0, 1)]
    result = flow_consistency(views)
    assert result.share < 0.1  # 0.84 without the way back
    assert result.error > 40


def test_reversed_sequence_scores_the_same(head: Scene) -> None:
    there, back = (flow_consistency(views, closed=False) for views in (head.views, head.views[::-1]))
    assert there.error == pytest.approx(back.error, rel=1e-12)
    assert there.share == pytest.approx(back.share, rel=1e-12)
    assert [pair.error for pair in there.pairs] == pytest.approx([pair.error for pair in back.pairs][::-1])


def test_ring_ends_with_the_first_view(head: Scene) -> None:
    chain, ring = flow_consistency(head.views), flow_consistency(head.views, closed=True)
    assert ring.pairs[:-1] == chain.pairs
    assert ring.pairs[-1] == flow_consistency([head.views[-1], head.views[0]]).pairs[0]
    assert ring.error == pytest.approx(np.mean([pair.error for pair in ring.pairs]), rel=1e-12)


def test_ring_of_two_views_is_one_pair(head: Scene) -> None:
    assert len(flow_consistency(head.views[:2], closed=True).pairs) == 1


def test_closing_frame_that_jumps_counts_only_in_a_ring(head: Scene) -> None:
    views = [*head.views[:4], np.ascontiguousarray(255 - head.views[4])]
    assert flow_consistency(views, closed=True).error > 1.2 * flow_consistency(views[:4], closed=True).error


def test_guide_decides_flow_and_mask(head: Scene) -> None:
    own, guided = flow_consistency(head.views), flow_consistency(head.views, guide=head.views)
    assert own == guided
    flat = [np.full_like(view, 10 * index) for index, view in enumerate(head.views)]
    result = flow_consistency(flat, guide=head.views)
    assert result.share == own.share
    assert result.error == pytest.approx(10)


# Depth.


def plane_scene(shift: int, near: int | None = None) -> Scene:
    """A textured wall, and perhaps a square before it, as two cameras side by side see them.

    The wall moves by `shift` pixels from view to view, the square by twice as much, since it is half as far.
    """
    rng = np.random.default_rng(1)
    wall = smooth_noise(rng, SIZE, SIZE + shift)
    depth, focal = 3.0, 2.0
    views, depths, cameras = [], [], []
    for index in range(2):
        view = wall[:, index * shift : index * shift + SIZE].copy()
        distance = np.full((SIZE, SIZE), depth)
        if near is not None:
            left = near - 2 * shift * index
            view[20:60, left : left + 30] = smooth_noise(np.random.default_rng(9), 40, 30)
            distance[20:60, left : left + 30] = depth / 2
        cam2world = np.diag([1.0, -1, -1, 1])
        cam2world[0, 3] = index * shift * depth / (focal * SIZE)
        views.append(view)
        depths.append(distance)
        cameras.append(Camera(cam2world, normalised_intrinsics(focal)))
    return Scene(views, depths, tuple(cameras))


def test_wall_moves_by_whole_pixels_without_error() -> None:
    scene = plane_scene(6)
    result = depth_consistency(scene.views, scene.depths, scene.cameras)
    assert result.error == pytest.approx(0, abs=1e-3)
    assert result.share == pytest.approx((SIZE - 6) / SIZE, abs=0.02)
    wrong = depth_consistency(scene.views, scene.depths, scene.cameras[::-1])
    assert wrong.error > 10


def test_what_is_hidden_in_the_other_view_is_not_compared() -> None:
    scene = plane_scene(6, near=40)
    result = depth_consistency(scene.views, scene.depths, scene.cameras)
    assert result.error == pytest.approx(0, abs=1e-3)
    assert 0.7 < result.share < 0.9


def test_turned_camera_follows_the_pinhole_formula() -> None:
    """One pixel by hand: all is dark but one point of a surface, under a turned camera."""
    height, width = 64, 80
    here, there = Camera.look_at(0.0, 0.0), Camera.look_at(0.03, -0.02)
    row, column, depth = 30, 45, 2.6
    ray = np.linalg.inv(here.pixel_intrinsics(width, height)) @ (column + 0.5, row + 0.5, 1)
    world = here.cam2world @ np.append(depth * ray, 1)
    x, y, z = there.pixel_intrinsics(width, height) @ (there.world2cam @ world)[:3]
    left, top = math.floor(x / z - 0.5), math.floor(y / z - 0.5)
    first, second = np.zeros((2, height, width, 3), np.uint8)
    first[row, column] = 200
    second[top : top + 2, left : left + 2] = 200  # so that sampling between them gives 200
    depths = [np.zeros((height, width)), np.zeros((height, width))]
    depths[0][row - 1 : row + 2, column - 1 : column + 2] = depth  # its middle has whole neighbours
    depths[1][top - 1 : top + 3, left - 1 : left + 3] = z
    result = depth_consistency([first, second], depths, [here, there])
    # The way back lands between pixels that are not all whole, so that one pixel is compared.
    assert result.share == pytest.approx(1 / (2 * height * width))
    assert result.error == pytest.approx(0, abs=1e-3)
    dark = depth_consistency([first, np.zeros_like(second)], depths, [here, there])
    assert dark.error == pytest.approx(200)


def test_no_depth_gives_no_number() -> None:
    scene = plane_scene(2)
    result = depth_consistency(scene.views, [np.zeros((SIZE, SIZE))] * 2, scene.cameras)
    assert math.isnan(result.error)
    assert result.share == 0


# What the numbers say of heads.


def test_consistent_head_scores_better_than_its_spoilt_versions(head: Scene) -> None:
    truth = flow_consistency(head.views, closed=True)
    assert truth.error < 6
    assert truth.share > 0.7
    assert head.depth_error(head.views).error < 4
    for spoilt in (noisy(head.views, 8), wobbling(head.views, 2)):
        guided = flow_consistency(spoilt, closed=True, guide=head.views)
        assert guided.relative_to(truth) > 1.3
        assert head.depth_error(spoilt).relative_to(head.depth_error(head.views)) > 1.3


def test_error_grows_with_noise(head: Scene) -> None:
    spoilt = [noisy(head.views, strength) for strength in (0, 4, 12, 30)]
    assert rises([flow_consistency(views, closed=True).error for views in spoilt])
    assert rises([flow_consistency(views, closed=True, guide=head.views).error for views in spoilt])
    assert rises([head.depth_error(views).error for views in spoilt])


def test_error_grows_with_wobble_if_the_true_motion_is_known(head: Scene) -> None:
    spoilt = [wobbling(head.views, reach) for reach in (0, 1, 2, 4)]
    assert rises([flow_consistency(views, closed=True, guide=head.views).error for views in spoilt])
    assert rises([head.depth_error(views).error for views in spoilt])


def test_flow_of_the_views_themselves_forgives_wobble_as_documented(head: Scene) -> None:
    still, spoilt = (flow_consistency(views) for views in (head.views, wobbling(head.views, 2)))
    assert spoilt.error < 1.3 * still.error


def test_blur_scores_below_the_truth_as_documented(head: Scene) -> None:
    truth = flow_consistency(head.views, closed=True)
    guided = flow_consistency(blurred(head.views), closed=True, guide=head.views)
    assert guided.relative_to(truth) < 0.8


# Ratios.


def test_truth_is_once_as_consistent_as_itself(head: Scene) -> None:
    truth = flow_consistency(head.views)
    assert truth.relative_to(truth) == 1


def test_ratio_and_means_take_the_pairs_that_have_an_error() -> None:
    mine = Consistency((WarpedError(6.0, 0.5), WarpedError(math.nan, 0.0), WarpedError(10.0, 0.7)))
    theirs = Consistency((WarpedError(2.0, 0.5), WarpedError(1.0, 0.5), WarpedError(2.0, 0.5)))
    assert mine.error == 8
    assert mine.share == pytest.approx(0.4)
    assert mine.relative_to(theirs) == 4
    nothing = Consistency((WarpedError(math.nan, 0.0),) * 3)
    perfect = Consistency((WarpedError(0.0, 1.0),) * 3)
    assert math.isnan(mine.relative_to(nothing))
    assert math.isnan(mine.relative_to(perfect))
    with pytest.raises(ValueError, match="3 pairs cannot be compared with 1"):
        mine.relative_to(Consistency(theirs.pairs[:1]))


# Threads and bad input.


def test_threads_do_not_matter_and_are_left_as_they_were(head: Scene) -> None:
    before = cv2.getNumThreads()
    try:
        results = []
        for threads in (1, 2, 4):
            cv2.setNumThreads(threads)
            results.append((flow_consistency(head.views[:3]), head.depth_error(head.views)))
            assert cv2.getNumThreads() == threads
        assert results[0] == results[1] == results[2]
        with pytest.raises(ValueError, match="one size"):
            flow_consistency([head.views[0], head.views[0][:50]])
        assert cv2.getNumThreads() == 4
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize("count", [0, 1])
def test_one_view_has_no_neighbour(head: Scene, count: int) -> None:
    with pytest.raises(InputError, match="at least two") as caught:
        flow_consistency(head.views[:count])
    assert caught.value.reason == "too-few-views"
    with pytest.raises(InputError, match="at least two"):
        depth_consistency(head.views[:count], head.depths[:count], head.cameras[:count])


def test_tiny_pictures_are_refused_before_opencv_crashes() -> None:
    view = np.zeros((12, 64, 3), np.uint8)
    with pytest.raises(InputError, match="64 x 12 px") as caught:
        flow_consistency([view, view])
    assert caught.value.reason == "small-image"


def test_pictures_must_be_uint8_rgb_of_one_size(head: Scene) -> None:
    view = head.views[0]
    for other in (view.astype(np.float32) / 255, view[..., 0], view[:-1]):
        with pytest.raises(ValueError, match="uint8|RGB|one size"):  # noqa: RUF043
            flow_consistency([view, other])
        with pytest.raises(ValueError, match="uint8|RGB|one size"):  # noqa: RUF043
            flow_consistency([view, view], guide=[view, other])


def test_guides_depths_and_cameras_must_match_the_views(head: Scene) -> None:
    views, depths, cameras = head.views[:3], head.depths[:3], head.cameras[:3]
    with pytest.raises(ValueError, match="3 views need as many guides, got 2"):
        flow_consistency(views, guide=views[:2])
    with pytest.raises(ValueError, match="got 2 and 3"):
        depth_consistency(views, depths[:2], cameras)
    with pytest.raises(ValueError, match="got 3 and 2"):
        depth_consistency(views, depths, cameras[:2])
    with pytest.raises(ValueError, match="depth map must be"):
        depth_consistency(views, [depths[0][:-1], *depths[1:]], cameras)
    for wrong in (np.nan, -1.0, np.inf):
        with pytest.raises(ValueError, match="finite and not negative"):
            depth_consistency(views, [np.full_like(depths[0], wrong), *depths[1:]], cameras)
