import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp3d_cli.core.diffusion.grouping import ViewGroup, view_groups

KINDS = ("contiguous", "strided", "overlap")


@given(
    views=st.integers(1, 70),
    size=st.integers(1, 32),
    kind=st.sampled_from(KINDS),
    overlap=st.integers(0, 31),
    closed=st.booleans(),
)
def test_no_view_is_dropped_and_no_group_repeats_one(
    views: int, size: int, kind: str, overlap: int, closed: bool
) -> None:
    groups = view_groups(views, ViewGroup(size, kind, min(overlap, size - 1)), closed=closed)
    assert {view for group in groups for view in group} == set(range(views))
    assert all(len(set(group)) == len(group) <= size for group in groups)


def test_sixteen_views_are_two_groups_of_neighbours() -> None:
    assert view_groups(16, ViewGroup(8)) == [tuple(range(8)), tuple(range(8, 16))]


def test_the_ninth_view_is_a_group_of_its_own() -> None:
    assert view_groups(9, ViewGroup(8)) == [tuple(range(8)), (8,)]


def test_strided_groups_span_the_trajectory() -> None:
    assert view_groups(9, ViewGroup(8, "strided")) == [(0, 2, 4, 6, 8), (1, 3, 5, 7)]


def test_open_overlap_ends_with_a_full_window_at_the_last_view() -> None:
    assert view_groups(9, ViewGroup(4, "overlap", 1)) == [(0, 1, 2, 3), (3, 4, 5, 6), (5, 6, 7, 8)]


def test_closed_overlap_runs_across_the_seam() -> None:
    assert view_groups(6, ViewGroup(4, "overlap", 2), closed=True) == [
        (0, 1, 2, 3),
        (2, 3, 4, 5),
        (4, 5, 0, 1),
    ]


@pytest.mark.parametrize(
    "bad", [{"size": 0}, {"size": 33}, {"kind": "random"}, {"kind": "overlap", "overlap": 8}]
)
def test_impossible_groups_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="group"):
        ViewGroup(**bad)
