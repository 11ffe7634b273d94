"""Trajectories: the official ones by their numbers, ours by their laws, YAML and flags by their errors."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp3d_cli.core.cameras.camera import Rig
from dp3d_cli.core.cameras.files import write_cameras
from dp3d_cli.core.cameras.trajectories import (
    Trajectory,
    gen_videos,
    grid,
    load_trajectory,
    panohead,
    parse_angles,
    ring,
    sweep,
    trajectory_from_flags,
    trajectory_names,
)
from dp3d_cli.core.errors import UsageError

# Made by the official code: the angles that the released scripts give the sampler, for 8 frames in all.
OFFICIAL = json.loads((Path(__file__).parent / "eg3d_trajectories.json").read_text())


def angles_deg(trajectory: Trajectory) -> list[tuple[float, float]]:
    return [
        (round(math.degrees(camera.yaw), 6) + 0.0, round(math.degrees(camera.pitch), 6) + 0.0)
        for camera in trajectory.cameras
    ]


@pytest.mark.parametrize(
    ("key", "trajectory"),
    [
        ("eg3d_gen_videos", gen_videos(8)),
        ("panohead_head", panohead(8)),
        ("panohead_ffhq", panohead(8, "ffhq")),
    ],
)
def test_official_trajectories_equal_the_released_scripts(key: str, trajectory: Trajectory) -> None:
    official = OFFICIAL[key]
    assert len(trajectory) == official["n"]
    for camera, (horizontal, vertical) in zip(trajectory.cameras, official["angles"], strict=True):
        yaw = horizontal - math.pi / 2
        assert math.sin(camera.yaw - yaw) == pytest.approx(0, abs=1e-6)
        assert math.cos(camera.yaw - yaw) == pytest.approx(1, abs=1e-6)
        assert camera.pitch == pytest.approx(vertical - math.pi / 2, abs=1e-6)
        forward = camera.cam2world[:3, 2]
        to_pivot = np.array(official["pivot"]) - camera.centre
        np.testing.assert_allclose(forward, to_pivot / np.linalg.norm(to_pivot), atol=1e-9)
        assert np.linalg.norm(camera.centre) == pytest.approx(official["radius"])


@pytest.mark.parametrize("trajectory", [gen_videos(12), panohead(12), ring(12)], ids=lambda t: t.name)
def test_closed_trajectories_step_over_the_seam_without_repeating_the_first_view(
    trajectory: Trajectory,
) -> None:
    assert trajectory.closed
    steps = [
        np.linalg.norm(trajectory.cameras[index].centre - trajectory.cameras[index - 1].centre)
        for index in range(len(trajectory))
    ]
    assert steps[0] > 0.5 * min(steps[1:])  # steps[0] is the one over the seam
    assert steps[0] < 1.5 * max(steps[1:])


def test_a_sweep_has_both_ends_and_equal_steps() -> None:
    trajectory = sweep(5, (-0.4, 0.4), -0.1)
    assert [camera.yaw for camera in trajectory.cameras] == pytest.approx([-0.4, -0.2, 0, 0.2, 0.4])
    assert {round(camera.pitch, 9) for camera in trajectory.cameras} == {-0.1}
    assert not trajectory.closed
    assert sweep(1, (-0.4, 0.4)).cameras[0].yaw == pytest.approx(0)


def test_a_ring_starts_above_and_goes_to_the_viewers_right() -> None:
    first, second, third, fourth = angles_deg(
        ring(4, math.radians(20), math.radians(10), centre=(math.radians(5), 0))
    )
    assert first == (5, -10)
    assert second == (25, 0)
    assert third == (5, 10)
    assert fourth == (-15, 0)


def test_a_grid_goes_row_by_row() -> None:
    trajectory = grid([-0.1, 0.1], [-0.2, 0.2])
    assert [(camera.yaw, camera.pitch) for camera in trajectory.cameras] == [
        pytest.approx(pair) for pair in [(-0.1, -0.2), (0.1, -0.2), (-0.1, 0.2), (0.1, 0.2)]
    ]


def test_the_rig_moves_the_cameras() -> None:
    rig = Rig(radius=4.0, pivot=(0.0, 0.1, 0.0), focal=2.0)
    camera = sweep(1, rig=rig).cameras[0]
    assert np.linalg.norm(camera.centre) == pytest.approx(4)
    assert camera.intrinsics[0, 0] == 2


@pytest.mark.parametrize("make", [gen_videos, panohead, sweep, ring])
def test_no_views_are_refused(make) -> None:
    with pytest.raises(ValueError, match="at least one view, got 0"):
        make(0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-30:30:3", (-30, 0, 30)),
        ("30:-30:3", (30, 0, -30)),
        ("5", (5,)),
        ("-1.5,0, 2e1", (-1.5, 0, 20)),
        ("-10:10:3,45", (-10, 0, 10, 45)),
        ("7:7:1", (7,)),
    ],
)
def test_angles_are_ranges_and_lists(text: str, expected: tuple[float, ...]) -> None:
    assert parse_angles(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "neither an angle nor"),
        ("abc", "'abc' is neither an angle nor"),
        ("1:2", "'1:2' is neither an angle nor start:stop:count"),
        ("1:2:3:4", "neither an angle nor"),
        ("1:2:2.5", "neither an angle nor"),
        ("1,,2", "'' is neither"),
        ("1:2:0", "asks for 0 angles"),
        ("1:2:-3", "asks for -3 angles"),
        ("0:1:99999999999", "1 to 10000 in all"),
        ("1:2:1", "one angle with two values"),
    ],
)
def test_what_is_no_angle_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_angles(text)


@given(
    st.lists(st.floats(-89, 89), min_size=1, max_size=5), st.lists(st.floats(-89, 89), min_size=1, max_size=4)
)
def test_flags_make_every_yaw_at_every_pitch(yaws: list[float], pitches: list[float]) -> None:
    text_yaw, text_pitch = (",".join(map(repr, values)) for values in (yaws, pitches))
    trajectory = trajectory_from_flags(text_yaw, text_pitch)
    assert len(trajectory) == len(yaws) * len(pitches)
    expected = [(yaw, pitch) for pitch in pitches for yaw in yaws]
    for camera, (yaw, pitch) in zip(trajectory.cameras, expected, strict=True):
        assert math.degrees(camera.yaw) == pytest.approx(yaw, abs=1e-6)
        assert math.degrees(camera.pitch) == pytest.approx(pitch, abs=1e-6)


def test_equal_lengths_are_still_a_grid_unless_pairs_are_asked_for() -> None:
    assert len(trajectory_from_flags("-10,0,10", "-5,0,5")) == 9
    paired = trajectory_from_flags("-10,0,10", "-5,0,5", paired=True)
    assert angles_deg(paired) == [(-10, -5), (0, 0), (10, 5)]
    assert angles_deg(trajectory_from_flags("-10,10", "3", paired=True)) == [(-10, 3), (10, 3)]


@pytest.mark.parametrize(
    ("yaw", "pitch", "paired", "message"),
    [
        ("1:2", "0", False, "setting 'yaw_deg' is '1:2'"),
        ("0", "-30:30", False, "setting 'pitch_deg' is '-30:30'"),
        ("0", "-90", False, "setting 'pitch_deg.0' is -90.0: input should be greater than -90"),
        ("0,400", "0", False, "setting 'yaw_deg.1' is 400.0"),
        ("nan", "0", False, "setting 'yaw_deg.0' is nan"),
        ("1,2,3", "1,2", True, "3 yaws cannot be paired with 2 pitches"),
    ],
)
def test_wrong_flags_are_usage_errors(yaw: str, pitch: str, paired: bool, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        trajectory_from_flags(yaw, pitch, paired=paired)
    assert caught.value.exit_status == 2


def test_shipped_trajectories_load_under_their_names() -> None:
    names = trajectory_names()
    assert {"gen-videos", "panohead", "sweep", "ring", "grid"} <= set(names)
    for name in names:
        trajectory = load_trajectory(name)
        assert trajectory.name == name
        assert len(trajectory) == len(set(trajectory.cameras))


def test_the_shipped_gen_videos_is_the_official_one() -> None:
    np.testing.assert_array_equal(load_trajectory("gen-videos", 8).labels, gen_videos(8).labels)
    assert load_trajectory("gen-videos", 8) == gen_videos(8)


def test_a_users_yaml_works_as_a_shipped_one(tmp_path: Path) -> None:
    path = tmp_path / "my cameras.yaml"
    path.write_text("kind: grid\nyaw_deg: '-20:20:3'\npitch_deg: -5\nradius: 3\n")
    trajectory = load_trajectory(path)
    assert trajectory.name == "my cameras"
    assert angles_deg(trajectory) == [(-20, -5), (0, -5), (20, -5)]
    assert np.linalg.norm(trajectory.cameras[0].centre) == pytest.approx(3)


def test_a_yaml_can_pair_angles_and_close_the_path() -> None:
    trajectory = load_trajectory(
        {"kind": "angles", "yaw_deg": [0, 10, 0], "pitch_deg": [-5, 0, 5], "closed": True}
    )
    assert angles_deg(trajectory) == [(0, -5), (10, 0), (0, 5)]
    assert trajectory.closed


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "setting 'kind' is missing; expected one of gen-videos"),
        ({"kind": "spiral"}, "setting 'kind' is 'spiral'; expected one of"),
        ({"kind": ["ring"]}, "setting 'kind' is"),
        ({"kind": "ring", "yaw_dg": 3}, "unknown setting 'yaw_dg' \\(did you mean 'yaw_deg'\\?\\)"),
        ({"kind": "gen-videos", "radius": 3}, "unknown setting 'radius'"),
        ({"kind": "grid"}, "setting 'yaw_deg' is missing"),
        ({"kind": "grid", "yaw_deg": "1:2"}, "setting 'yaw_deg' is '1:2'"),
        ({"kind": "grid", "yaw_deg": []}, "setting 'yaw_deg' is"),
        ({"kind": "sweep", "yaw_deg": [1]}, "setting 'yaw_deg.1' is missing"),
        ({"kind": "sweep", "num_views": 0}, "setting 'num_views' is 0"),
        ({"kind": "ring", "name": "a/b"}, "setting 'name' is 'a/b'.*name a folder"),
        ({"kind": "ring", "focal": -1}, "setting 'focal' is -1"),
        ({"kind": "ring", "radius": float("nan")}, "setting 'radius' is nan"),
        ({"kind": "ring", "pitch_deg": 60, "centre_pitch_deg": -40}, "together reach the pole"),
        ({"kind": "sweep", "radius": 0.2, "num_views": 1}, "stands on the point"),
    ],
)
def test_a_wrong_yaml_names_the_key(data: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        load_trajectory(data)
    path = tmp_path / "wrong.yaml"
    path.write_text(json.dumps(data).replace("NaN", ".nan"))
    with pytest.raises(UsageError, match=message) as caught:
        load_trajectory(path)
    assert str(path) in str(caught.value)


def test_an_unknown_name_suggests_a_known_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"No trajectory 'gen-video'.*Did you mean 'gen-videos'"):
        load_trajectory("gen-video")
    with pytest.raises(UsageError, match="Shipped trajectories: gen-videos, grid, "):
        load_trajectory(tmp_path / "zzz.yaml")
    (tmp_path / "cameras.txt").write_text("")
    with pytest.raises(UsageError, match=r"ends in \.yaml, \.yml or \.json"):
        load_trajectory(tmp_path / "cameras.txt")


def test_the_number_of_views_changes_only_what_has_one(tmp_path: Path) -> None:
    assert len(load_trajectory("ring", 5)) == 5
    with pytest.raises(UsageError, match="the trajectory has 15 views, 16 were asked for"):
        load_trajectory("grid", 16)
    write_cameras(tmp_path / "cameras.json", gen_videos(4))
    assert len(load_trajectory(tmp_path / "cameras.json", 4)) == 4
    with pytest.raises(UsageError, match="the trajectory has 4 views, 8 were asked for"):
        load_trajectory(tmp_path / "cameras.json", 8)
    with pytest.raises(UsageError, match="setting 'num_views' is 0"):
        load_trajectory("ring", 0)


def test_a_folder_with_cameras_is_a_trajectory(tmp_path: Path) -> None:
    write_cameras(tmp_path / "cameras.json", gen_videos(4))
    assert load_trajectory(tmp_path) == load_trajectory(tmp_path / "cameras.json")
