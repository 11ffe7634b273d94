from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from dp3d_cli.core.errors import InputError, UsageError
from dp3d_cli.core.images import write_png
from dp3d_cli.core.videos import write_video
from dp3d_cli.stages.view_folders import find_reference, find_view_folders, read_view_folder, view_index
from tests.stages.view_pictures import picture, write_views


@pytest.mark.parametrize(
    ("name", "index"),
    [("000", 0), ("12", 12), ("0000007", 7), ("frame_0003", 3), ("view-4", 4), ("img5", 5)],
)
def test_numbers_are_read_from_file_names(name: str, index: int) -> None:
    assert view_index(Path(f"{name}.png")) == index


@pytest.mark.parametrize("name", ["anna", "contact_sheet", "0000167_final", "3d view", "-1", ""])
def test_other_names_are_no_views(name: str) -> None:
    assert view_index(Path(f"{name}.png")) is None


def test_subjects_are_found_by_relative_path_in_order(tmp_path: Path) -> None:
    write_views(tmp_path / "team" / "änna o'b", 3)
    write_views(tmp_path / "bob", 2)
    write_views(tmp_path / ".dp3d" / "hidden", 2)
    write_png(tmp_path / "bob" / "contact_sheet.png", picture(1))
    (tmp_path / "bob" / "000.txt").write_text("no picture")
    found = find_view_folders(tmp_path)
    assert [folder.id for folder in found.folders] == ["bob", "team/änna o'b"]
    assert [view.path.name for view in found.folders[0].views] == ["000.png", "001.png"]
    assert found.unusable == ()


def test_views_are_sorted_by_number_not_by_name(tmp_path: Path) -> None:
    for number in (10, 9, 100):
        write_png(tmp_path / f"{number}.png", picture(number))
    folder = read_view_folder(tmp_path, "a")
    assert folder is not None
    assert [view.index for view in folder.views] == [9, 10, 100]


def test_searched_folder_may_be_a_subject_itself(tmp_path: Path) -> None:
    write_views(tmp_path, 2)
    assert [folder.id for folder in find_view_folders(tmp_path).folders] == ["."]


def test_inner_name_chooses_what_counts_and_leaves_the_id(tmp_path: Path) -> None:
    write_views(tmp_path / "anna" / "proxy", 2)
    write_views(tmp_path / "cameras", 2)
    write_video(tmp_path / "anna" / "views.mp4", np.stack([picture(n) for n in range(4)]), fps=10)
    assert [folder.id for folder in find_view_folders(tmp_path, "proxy").folders] == ["anna"]
    (film,) = find_view_folders(tmp_path, "views.mp4", videos=True).folders
    assert film.id == "anna"
    assert [(view.index, view.frame) for view in film.views] == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_pictures_come_before_a_video_of_the_same_id(tmp_path: Path) -> None:
    write_video(tmp_path / "anna.mp4", np.stack([picture(n) for n in range(4)]), fps=10)
    assert [len(folder.views) for folder in find_view_folders(tmp_path, videos=True).folders] == [4]
    (tmp_path / "anna").mkdir()
    assert [len(folder.views) for folder in find_view_folders(tmp_path, videos=True).folders] == [4]
    write_views(tmp_path / "anna", 2)
    assert [len(folder.views) for folder in find_view_folders(tmp_path, videos=True).folders] == [2]
    assert find_view_folders(tmp_path).folders[0].id == "anna"


def test_broken_subjects_are_listed_with_their_reason(tmp_path: Path) -> None:
    write_views(tmp_path / "good", 1)
    write_views(tmp_path / "twice", 1)
    write_png(tmp_path / "twice" / "0.png", picture(0))
    write_views(tmp_path / "damaged", 1)
    (tmp_path / "damaged" / "views.json").write_text('{"views": [')
    (tmp_path / "film.mp4").write_bytes(b"no film")
    found = find_view_folders(tmp_path, videos=True)
    assert [folder.id for folder in found.folders] == ["good"]
    assert [(bad.id, bad.reason) for bad in found.unusable] == [
        ("damaged", "damaged-description"),
        ("film", "unreadable-video"),
        ("twice", "duplicate-view"),
    ]
    assert "0.png and 000.png are both view 0" in found.unusable[2].message


def test_maps_of_a_proxy_are_no_subjects(tmp_path: Path) -> None:
    for name in ("anna", "anna/confidence", "anna/coverage", "bob/confidence"):
        write_views(tmp_path / name, 1)
    (tmp_path / "anna" / "proxy.json").write_text("{}")
    assert [folder.id for folder in find_view_folders(tmp_path).folders] == ["anna", "bob/confidence"]


def test_links_that_lead_back_end_the_search(tmp_path: Path) -> None:
    write_views(tmp_path / "anna", 1)
    (tmp_path / "anna" / "again").symlink_to(tmp_path)
    assert [folder.id for folder in find_view_folders(tmp_path).folders] == ["anna"]


def test_description_gives_order_angles_closure_and_references(tmp_path: Path) -> None:
    write_views(tmp_path, 3)
    views = [
        {"view": "002", "file": "002.png", "yaw_deg": 90, "pitch_deg": 0},
        {"view": "000", "file": "000.png"},
    ]
    content = {"format": "dp3d-views", "views": views, "closed": False, "reference": ["../a.png"]}
    (tmp_path / "views.json").write_text(json.dumps(content))
    folder = read_view_folder(tmp_path, "a")
    assert folder is not None
    assert [(view.index, view.path.name, view.yaw) for view in folder.views] == [
        (2, "002.png", math.pi / 2),
        (0, "000.png", None),
    ]
    assert folder.closed is False
    assert folder.references == ("../a.png",)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"views": []}', '{"views": [{"view": "000"}, {"view": "000"}]}', '{"views": [1]}'],
)
def test_damaged_description_is_an_input_error(tmp_path: Path, text: str) -> None:
    write_views(tmp_path, 1)
    (tmp_path / "views.json").write_text(text)
    with pytest.raises(InputError, match="not a description of views") as caught:
        read_view_folder(tmp_path, "a")
    assert caught.value.reason == "damaged-description"


def test_missing_folder_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such folder"):
        find_view_folders(tmp_path / "none")


def test_reference_is_found_by_id_then_by_name_then_first_picture(tmp_path: Path) -> None:
    write_png(tmp_path / "team" / "anna.png", picture(1))
    write_png(tmp_path / "bob" / "a.png", picture(2))
    write_png(tmp_path / "bob" / "reference.png", picture(3))
    write_png(tmp_path / "carl" / "b.png", picture(4))
    (tmp_path / "team" / "anna.json").write_text("{}")
    assert find_reference(tmp_path, "team/anna") == tmp_path / "team" / "anna.png"
    assert find_reference(tmp_path, "bob") == tmp_path / "bob" / "reference.png"
    assert find_reference(tmp_path, "carl") == tmp_path / "carl" / "b.png"
    assert find_reference(tmp_path, "dora") is None
    assert find_reference(tmp_path / "carl" / "b.png", "dora") == tmp_path / "carl" / "b.png"
