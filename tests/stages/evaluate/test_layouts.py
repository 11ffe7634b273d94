"""Layouts of other people: multi-view folders with cameras, references alone, reconstructions, names."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from dp3d_cli.core.cameras.camera import Camera, Trajectory
from dp3d_cli.core.cameras.files import write_cameras, write_transforms
from dp3d_cli.core.errors import InputError, UsageError
from dp3d_cli.core.images import write_png
from dp3d_cli.core.metrics.psnr import psnr
from dp3d_cli.core.videos import write_video
from dp3d_cli.stages.evaluate.pairing import Pairing, join
from dp3d_cli.stages.evaluate.plan import Request, plan
from dp3d_cli.stages.view_folders import find_view_folders, read_view_folder
from tests.stages.evaluate.runs import score
from tests.stages.view_pictures import picture, write_views

SERIALS = ("cam_222200049", "cam_222200037", "cam_220700191")


def trajectory(count: int, step: float = 0.2) -> Trajectory:
    return Trajectory("arc", tuple(Camera.look_at(step * n, 0.1) for n in range(count)))


def write_multi_view(folder: Path, names: tuple[str, ...] = SERIALS, suffix: str = ".png") -> None:
    """As NeRSemble: pictures below images/, cameras in transforms.json, in an order of its own."""
    for number, name in enumerate(names):
        write_png(folder / "images" / f"{name}{suffix}", picture(number))
    write_transforms(
        folder / "transforms.json", trajectory(len(names)), 32, [f"images/{name}{suffix}" for name in names]
    )


def pairs(pairing: Pairing) -> list[tuple[str, int, str, str | None]]:
    return [
        (match.subject, pair.index, pair.prediction.path.name, pair.truth.path.name if pair.truth else None)
        for match in pairing.matches
        for pair in match.pairs
    ]


def test_camera_file_decides_the_views_and_their_cameras(tmp_path: Path) -> None:
    write_multi_view(tmp_path / "anna")
    (folder,) = find_view_folders(tmp_path).folders
    assert folder.id == "anna"
    assert [(view.index, view.path.stem) for view in folder.views] == list(enumerate(SERIALS))
    assert [view.yaw for view in folder.views] == pytest.approx([0, 0.2, 0.4], abs=1e-6)
    assert [view.pitch for view in folder.views] == pytest.approx([0.1] * 3, abs=1e-6)
    assert all(view.camera is not None for view in folder.views)
    assert folder.description == folder.camera_file == tmp_path / "anna" / "transforms.json"


def test_our_predictions_pair_with_a_multi_view_folder_in_the_order_of_its_cameras(tmp_path: Path) -> None:
    write_multi_view(tmp_path / "gt" / "anna")
    write_views(tmp_path / "views" / "anna", 3)
    _, pairing = plan(Request((tmp_path / "views",), tmp_path / "gt"))
    assert pairs(pairing) == [("anna", n, f"{n:03d}.png", f"{name}.png") for n, name in enumerate(SERIALS)]
    assert pairing.matches[0].pairs[1].yaw == pytest.approx(0.2, abs=1e-6)
    assert tmp_path / "gt" / "anna" / "transforms.json" in pairing.matches[0].descriptions


def test_namesakes_pair_by_name_whatever_the_order(tmp_path: Path) -> None:
    write_multi_view(tmp_path / "gt" / "anna")
    for name in sorted(SERIALS)[:2]:
        write_png(tmp_path / "other" / "anna" / f"{name}.png", picture(5))
    _, pairing = plan(Request((tmp_path / "other",), tmp_path / "gt"))
    assert pairs(pairing) == [
        ("anna", 1, "cam_222200037.png", "cam_222200037.png"),
        ("anna", 2, "cam_220700191.png", "cam_220700191.png"),
    ]
    assert [(o.view, o.reason) for o in pairing.omissions] == [(0, "no-prediction")]


def test_a_picture_that_the_truth_does_not_name_is_listed(tmp_path: Path) -> None:
    write_multi_view(tmp_path / "gt" / "anna")
    for name in (*SERIALS, "cam_7"):
        write_png(tmp_path / "other" / "anna" / f"{name}.png", picture(5))
    _, pairing = plan(Request((tmp_path / "other",), tmp_path / "gt"))
    assert len(pairs(pairing)) == 3
    assert [o.message for o in pairing.omissions] == ["anna: there is no ground truth for view cam_7.png."]


def test_names_without_suffix_are_found_and_missing_frames_are_an_error(tmp_path: Path) -> None:
    write_multi_view(tmp_path / "anna")
    file = tmp_path / "anna" / "transforms.json"
    file.write_text(file.read_text().replace(".png", ""))
    folder = read_view_folder(tmp_path / "anna", "anna")
    assert folder is not None
    assert folder.views[0].path.name == "cam_222200049.png"
    for path in (tmp_path / "anna" / "images").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="none of the 3 pictures") as caught:
        read_view_folder(tmp_path / "anna", "anna")
    assert caught.value.reason == "no-frames"


def test_a_damaged_camera_file_makes_its_subject_unusable_only(tmp_path: Path) -> None:
    write_multi_view(tmp_path / "anna")
    write_multi_view(tmp_path / "bob")
    (tmp_path / "bob" / "transforms.json").write_text('{"frames": []}')
    found = find_view_folders(tmp_path)
    assert [folder.id for folder in found.folders] == ["anna", "bob/images"]
    assert [(bad.id, bad.reason) for bad in found.unusable] == [("bob", "bad-cameras")]


def test_our_views_take_their_cameras_from_the_file_beside(tmp_path: Path) -> None:
    write_views(tmp_path, 2)
    entries = [{"view": f"00{n}", "file": f"00{n}.png", "yaw_deg": 0.0, "pitch_deg": 3.0} for n in range(2)]
    (tmp_path / "views.json").write_text(json.dumps({"views": entries, "closed": True}))
    write_cameras(tmp_path / "cameras.json", trajectory(2))
    folder = read_view_folder(tmp_path, "a")
    assert folder is not None
    assert folder.closed is True
    assert folder.views[1].camera is not None
    assert folder.views[1].camera.yaw == pytest.approx(0.2, abs=1e-6)
    assert folder.views[1].pitch == pytest.approx(math.radians(3))


def test_cameras_that_differ_within_a_pair_are_warned_of(tmp_path: Path) -> None:
    write_multi_view(tmp_path / "gt" / "anna", ("000", "001"))
    write_views(tmp_path / "views" / "anna", 2)
    write_cameras(tmp_path / "views" / "anna" / "cameras.json", trajectory(2, 0.4))
    results = score(Request((tmp_path / "views",), tmp_path / "gt", size=32), tmp_path / "report")
    angle = math.degrees(trajectory(2, 0.4).cameras[1].angle_to(trajectory(2).cameras[1]))
    expected = f"cameras of 1 of 2 pairs differ (view 1 by {angle:.0f} degrees)"
    assert any(expected in text for text in results.warnings)
    write_cameras(tmp_path / "views" / "anna" / "cameras.json", trajectory(2))
    _, pairing = plan(Request((tmp_path / "views",), tmp_path / "gt"))
    assert pairing.warnings == ()


def test_references_alone_are_compared_with_every_view(tmp_path: Path) -> None:
    write_views(tmp_path / "views" / "anna", 2)
    write_views(tmp_path / "views" / "bob", 2)
    write_png(tmp_path / "aligned" / "anna.png", picture(9))
    protocol, pairing = plan(Request((tmp_path / "views",), None, tmp_path / "aligned"))
    assert protocol.against == "references"
    assert pairs(pairing) == [("anna", 0, "000.png", None), ("anna", 1, "001.png", None)]
    assert {pair.reference.path.name for pair in pairing.matches[0].pairs if pair.reference} == {"anna.png"}
    assert [(o.subject, o.reason) for o in pairing.omissions] == [("bob", "no-reference")]
    results = score(
        Request((tmp_path / "views",), None, tmp_path / "aligned", metrics="psnr,grain,consistency", size=32),
        tmp_path / "report",
    )
    assert [(entry.metric, entry.reason) for entry in results.unavailable] == [("psnr", "no-ground-truth")]
    assert set(results.methods[0].statistics) == {"grain", "consistency"}
    assert results.methods[0].subjects[0].rows[0].truth is None


def test_references_that_fit_no_subject_are_a_usage_error(tmp_path: Path) -> None:
    write_views(tmp_path / "views" / "anna", 2)
    write_png(tmp_path / "aligned" / "bob.png", picture(9))
    with pytest.raises(UsageError, match=r"no reference portrait .* 'anna'"):
        plan(Request((tmp_path / "views",), None, tmp_path / "aligned"))


def test_reconstructions_are_compared_with_the_portrait_of_their_name(tmp_path: Path) -> None:
    for number, name in enumerate(("0000167", "team/anna")):
        write_png(tmp_path / "aligned" / f"{name}.png", picture(number))
        write_png(tmp_path / "made" / f"{name}.png", picture(number + 5))
    write_views(tmp_path / "made" / "bob", 1, seed=40)
    write_png(tmp_path / "aligned" / "bob.png", picture(7))
    request = Request((tmp_path / "made",), None, tmp_path / "aligned", reconstruction=True, size=32)
    protocol, pairing = plan(request)
    assert protocol.against == "references, as reconstructions"
    assert pairs(pairing) == [
        ("0000167", 0, "0000167.png", "0000167.png"),
        ("bob", 0, "000.png", "bob.png"),
        ("team/anna", 0, "anna.png", "anna.png"),
    ]
    results = score(request, tmp_path / "report")
    values = {subject.subject: row.values["psnr"] for subject, row in results.methods[0].rows}
    assert values["team/anna"] == psnr(picture(6), picture(1))


def test_frames_of_a_video_pair_with_views_by_number(tmp_path: Path) -> None:
    frames = [picture(n) for n in range(3)]
    (tmp_path / "video").mkdir()
    write_video(tmp_path / "video" / "anna.mp4", np.stack(frames), fps=10)
    write_multi_view(tmp_path / "gt" / "anna")
    _, pairing = plan(Request((tmp_path / "video",), tmp_path / "gt"))
    assert [(pair.index, pair.prediction.frame) for pair in pairing.matches[0].pairs] == [
        (0, 0),
        (1, 1),
        (2, 2),
    ]


def test_joining_adds_everything_up() -> None:
    one = Pairing((), (), 2, ("a",), 1)
    assert join([one, one]) == Pairing((), (), 4, ("a", "a"), 2)
