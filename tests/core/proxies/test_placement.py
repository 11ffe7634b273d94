from __future__ import annotations

import pytest

from dp3d_cli.core.proxies.placement import Placement, check_box, place_portrait


def test_a_canonical_box_hardly_moves_the_portrait() -> None:
    placed = place_portrait((512 * 0.1775, 512 * 0.1375, 512 * 0.645, 512 * 0.645), 512, 512)
    assert placed.scale == pytest.approx(0.985, abs=0.002)
    x, y, width, height = placed.apply((512 * 0.1775, 512 * 0.1375, 512 * 0.645, 512 * 0.645), 512, 512)
    assert (x + width / 2, y + height / 2) == pytest.approx((0.5, 0.46), abs=0.005)


def test_half_of_a_box_s_deviation_is_undone() -> None:
    big = (0.1 * 512, 0.05 * 512, 0.8 * 512, 0.8 * 512)
    placed = place_portrait(big, 512, 512)
    width = placed.apply(big, 512, 512)[2]
    assert 0.645 < width < 0.8
    assert width**2 == pytest.approx(0.645 * 0.8 * 0.97, rel=1e-6)


def test_placement_does_not_depend_on_the_resolution() -> None:
    small = place_portrait((40, 30, 170, 170), 256, 256)
    large = place_portrait((160, 120, 680, 680), 1024, 1024)
    assert (small.scale, small.shift_u, small.shift_v) == pytest.approx(
        (large.scale, large.shift_u, large.shift_v)
    )


def test_identity_placement_gives_fractions_of_the_portrait() -> None:
    assert Placement().apply((64, 128, 256, 256), 512, 512) == (0.125, 0.25, 0.5, 0.5)


@pytest.mark.parametrize("box", [(0, 0, 0, 10), (600, 0, 50, 50), (0, 0, float("nan"), 10), (0, 0, 10, -1)])
def test_boxes_outside_the_portrait_are_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="does not lie in"):
        check_box(box, 512, 512)
