from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.errors import UsageError
from dp3d_cli.core.images import write_png
from dp3d_cli.core.videos import write_video
from dp3d_cli.stages.evaluate.pairing import BASELINE, Pairing, beyond_yaw, method_names, with_cameras
from dp3d_cli.stages.evaluate.plan import Request, plan
from tests.stages.view_pictures import picture, write_views


def pairs(pairing: Pairing) -> dict[str, list[int]]:
    return {match.id: [pair.index for pair in match.pairs] for match in pairing.matches}


def omissions(pairing: Pairing) -> list[tuple[str, str, int | None, str]]:
    return [(o.method, o.subject, o.view, o.reason) for o in pairing.omissions]


def test_pairs_by_subject_then_view_and_lists_the_rest(tmp_path: Path) -> None:
    write_views(tmp_path / "gt" / "team" / "anna", 4)
    write_views(tmp_path / "gt" / "bob", 2)
    write_views(tmp_path / "views" / "team" / "anna", 3)
    write_png(tmp_path / "views" / "team" / "anna" / "0007.png", picture(7))
    write_views(tmp_path / "views" / "carl", 2)
    _, pairing = plan(Request((tmp_path / "views",), tmp_path / "gt"))
    assert pairs(pairing) == {"views/team/anna": [0, 1, 2]}
    assert omissions(pairing) == [
        ("views", "bob", None, "no-prediction"),
        ("views", "carl", None, "no-ground-truth"),
        ("views", "team/anna", 3, "no-prediction"),
        ("views", "team/anna", 7, "no-ground-truth"),
    ]


def test_file_names_of_other_methods_pair_by_their_number(tmp_path: Path) -> None:
    write_views(tmp_path / "gt" / "anna", 2)
    for number in (0, 1):
        write_png(tmp_path / "other" / "anna" / f"frame_{number}.png", picture(number))
    _, pairing = plan(Request((tmp_path / "other",), tmp_path / "gt"))
    assert pairs(pairing) == {"other/anna": [0, 1]}


def test_published_frames_in_a_video_inside_each_subject(tmp_path: Path) -> None:
    write_views(tmp_path / "gt" / "anna" / "proxy", 3)
    write_video(tmp_path / "gt" / "anna" / "views.mp4", np.stack([picture(n) for n in range(3)]), fps=10)
    write_views(tmp_path / "views" / "anna", 3)
    _, pairing = plan(Request((tmp_path / "views",), tmp_path / "gt", truth_name="views.mp4"))
    (match,) = pairing.matches
    assert [(pair.index, pair.truth.frame) for pair in match.pairs] == [(0, 0), (1, 1), (2, 2)]
    _, pairing = plan(
        Request((tmp_path / "gt",), tmp_path / "gt", names=("other", "proxy"), truth_name="views.mp4")
    )
    assert pairs(pairing) == {"gt/anna": [0, 1, 2]}


def test_two_single_subjects_pair_whatever_their_names(tmp_path: Path) -> None:
    write_views(tmp_path / "mine", 2)
    write_views(tmp_path / "truth", 2)
    _, pairing = plan(Request((tmp_path / "mine",), tmp_path / "truth"))
    assert pairs(pairing) == {"mine": [0, 1]}


def test_baseline_copies_the_reference_to_every_view(tmp_path: Path) -> None:
    for name in ("anna", "bob"):
        write_views(tmp_path / "gt" / name, 2)
    write_views(tmp_path / "views" / "anna", 1)
    write_png(tmp_path / "aligned" / "anna.png", picture(9))
    _, pairing = plan(Request((tmp_path / "views",), tmp_path / "gt", tmp_path / "aligned"))
    assert pairs(pairing) == {f"{BASELINE}/anna": [0, 1], "views/anna": [0]}
    assert {pair.prediction.path.name for pair in pairing.matches[0].pairs} == {"anna.png"}
    assert (BASELINE, "bob", None, "no-reference") in omissions(pairing)


def test_damaged_subjects_are_listed_once_with_their_reason(tmp_path: Path) -> None:
    for root in ("gt", "views"):
        write_views(tmp_path / root / "anna", 1)
        write_views(tmp_path / root / "bob", 1)
    (tmp_path / "views" / "bob" / "views.json").write_text("{")
    _, pairing = plan(Request((tmp_path / "views",), tmp_path / "gt"))
    assert omissions(pairing) == [("views", "bob", None, "damaged-description")]


def test_no_pairs_is_a_usage_error_with_an_example(tmp_path: Path) -> None:
    write_views(tmp_path / "gt" / "anna", 1)
    write_views(tmp_path / "views" / "anna" / "deep", 1)
    with pytest.raises(UsageError, match="'anna/deep' against 'anna'") as caught:
        plan(Request((tmp_path / "views",), tmp_path / "gt"))
    assert caught.value.reason == "no-pairs"


def test_views_that_never_meet_are_no_pairs(tmp_path: Path) -> None:
    write_png(tmp_path / "gt" / "anna" / "0.png", picture(0))
    write_png(tmp_path / "views" / "anna" / "1.png", picture(1))
    with pytest.raises(UsageError) as caught:
        plan(Request((tmp_path / "views",), tmp_path / "gt"))
    assert caught.value.reason == "no-pairs"


def test_empty_and_missing_folders_are_usage_errors(tmp_path: Path) -> None:
    write_views(tmp_path / "gt" / "anna", 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty: no views found"):
        plan(Request((tmp_path / "empty",), tmp_path / "gt"))
    with pytest.raises(UsageError, match="empty: no views found"):
        plan(Request((tmp_path / "gt",), tmp_path / "empty"))
    with pytest.raises(UsageError, match="none: there is no such folder"):
        plan(Request((tmp_path / "none",), tmp_path / "gt"))
    with pytest.raises(UsageError, match="none: there is no such folder"):
        plan(Request((tmp_path / "gt",), tmp_path / "gt", tmp_path / "none"))


def test_min_yaw_keeps_the_turned_cameras_of_a_named_trajectory(tmp_path: Path) -> None:
    write_views(tmp_path / "gt" / "anna", 16)
    write_views(tmp_path / "views" / "anna", 16)
    request = Request((tmp_path / "views",), tmp_path / "gt", min_yaw=0.2, cameras="gen-videos")
    protocol, pairing = plan(request)
    assert pairs(pairing) == {"views/anna": [2, 3, 4, 5, 6, 10, 11, 12, 13, 14]}
    assert pairing.outside_yaw == 6
    assert protocol.cameras is not None
    assert protocol.cameras[4].yaw == pytest.approx(0.35, abs=0.001)
    assert all(abs(pair.yaw or 0) > 0.2 for pair in pairing.matches[0].pairs)


def test_min_yaw_takes_angles_from_views_json_for_all_methods(tmp_path: Path) -> None:
    for root in ("gt", "views", "other"):
        write_views(tmp_path / root / "anna", 2)
    text = '{"views": [{"view": "000", "yaw_deg": -20}, {"view": "001", "yaw_deg": 5}]}'
    (tmp_path / "views" / "anna" / "views.json").write_text(text)
    _, pairing = plan(Request((tmp_path / "other", tmp_path / "views"), tmp_path / "gt", min_yaw=0.2))
    assert pairs(pairing) == {"other/anna": [0], "views/anna": [0]}


def test_min_yaw_without_angles_is_a_usage_error(tmp_path: Path) -> None:
    write_views(tmp_path / "gt" / "anna", 2)
    write_views(tmp_path / "views" / "anna", 2)
    request = Request((tmp_path / "views",), tmp_path / "gt", min_yaw=0.2)
    with pytest.raises(UsageError, match="--cameras"):
        plan(request)
    _, pairing = plan(Request((tmp_path / "views",), tmp_path / "gt"))
    with pytest.raises(UsageError, match="view 1 is unknown"):
        beyond_yaw(with_cameras(pairing, [Camera.look_at(0.5, 0.0)]), 0.2)


def test_order_of_the_file_system_does_not_matter(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write_views(tmp_path / "gt" / name, 1)
        write_views(tmp_path / "views" / name, 1)
    _, pairing = plan(Request((tmp_path / "views",), tmp_path / "gt"))
    assert [match.subject for match in pairing.matches] == ["a", "b", "c"]


def test_method_names_are_as_short_as_distinctness_allows(tmp_path: Path) -> None:
    folders = [tmp_path / "one" / "views", tmp_path / "two" / "views"]
    assert list(method_names(folders)) == ["one-views", "two-views"]
    assert list(method_names(folders[:1])) == ["views"]
    assert list(method_names(folders[:1], taken=["views"])) == ["one-views"]
    with pytest.raises(UsageError, match="given twice"):
        method_names([folders[0], folders[0].parent / "." / "views"])


def test_methods_can_be_named_and_each_takes_the_inner_name_that_fits(tmp_path: Path) -> None:
    write_views(tmp_path / "gt" / "anna", 2)
    write_views(tmp_path / "mine" / "anna" / "proxy", 2)
    write_views(tmp_path / "other=1" / "anna", 2)
    methods = (f"published={tmp_path / 'mine'}", str(tmp_path / "other=1"))
    _, pairing = plan(Request(methods, tmp_path / "gt", names=("proxy",)))
    assert pairs(pairing) == {"published/anna": [0, 1], "other=1/anna": [0, 1]}
    with pytest.raises(UsageError, match="a name of its own"):
        plan(Request((methods[0], methods[0]), tmp_path / "gt"))


def test_a_star_chooses_the_inner_name_for_one_method(tmp_path: Path) -> None:
    write_views(tmp_path / "gt" / "anna", 2)
    write_views(tmp_path / "all" / "anna" / "proxy", 2)
    write_views(tmp_path / "all" / "anna" / "views", 1)
    methods = (f"{tmp_path}/all/*/proxy", f"{tmp_path}/all/*/views", f"mine={tmp_path}/all/*/views")
    _, pairing = plan(Request(methods, tmp_path / "gt"))
    assert pairs(pairing) == {"mine/anna": [0], "proxy/anna": [0, 1], "views/anna": [0]}
