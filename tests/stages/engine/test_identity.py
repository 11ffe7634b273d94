from __future__ import annotations

import os
from pathlib import Path, PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp3d_cli.stages.engine.identity import Candidate, collision_key, id_of, output_folder_of, told_apart

PARTS = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=8).filter(
    lambda part: part not in (".", "..")
)
FOLDERS = st.sampled_from(["x", "y", "x/y", "./x", "Ä"])


def candidate(name: str, folder: str = "in") -> Candidate:
    path = Path(folder, name)
    return Candidate(id_of(PurePath(name), path.suffix), path, path.suffix)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("anna.jpg", "anna"),
        ("team/anna.b.jpg", "team/anna.b"),
        ("anna", "anna"),
        ('o\'brien "x" = 1\n.jpg', 'o\'brien "x" = 1\n'),
        ("ж.png", "ж"),
        ("...jpg", "...jpg"),  # without the suffix this would be the folder above
        ("team/...jpg", "team/...jpg"),
        (".dp3d.jpg", ".dp3d.jpg"),  # the records' folder
    ],
)
def test_the_id_is_the_path_without_suffix(name: str, expected: str) -> None:
    assert id_of(PurePath(name), PurePath(name).suffix) == expected


def test_files_of_one_folder_keep_their_suffix() -> None:
    jpg, png, other = candidate("anna.jpg"), candidate("anna.png"), candidate("bob.jpg")
    assert told_apart([jpg, png, other]) == {jpg: "anna.jpg", png: "anna.png", other: "bob"}


def test_files_of_different_folders_get_the_mark_of_their_folder() -> None:
    first, second = candidate("anna.jpg", "one"), candidate("anna.jpg", "two")
    ids = told_apart([first, second])
    # printf one | sha256sum | cut -c1-8
    assert ids == {first: "anna~7692c3ad", second: "anna~3fc4ccfe"}


def test_case_and_unicode_form_collide() -> None:
    composed, decomposed = candidate("\u00e9.jpg", "one"), candidate("E\u0301.jpg", "two")
    assert len({collision_key(item_id) for item_id in told_apart([composed, decomposed]).values()}) == 2
    assert all("~" in item_id for item_id in told_apart([composed, decomposed]).values())


def test_a_suffix_kept_may_collide_in_its_turn() -> None:
    files = [candidate("anna.jpg"), candidate("anna.JPG"), candidate("anna.jpg.png"), candidate("anna.gif")]
    ids = told_apart(files)
    assert len({collision_key(item_id) for item_id in ids.values()}) == 4
    assert ids[files[3]] == "anna.gif"


@given(
    st.sets(st.tuples(PARTS, FOLDERS, st.sampled_from([".jpg", ".JPG", ".png"])), max_size=8), st.randoms()
)
def test_ids_are_distinct_and_do_not_depend_on_order(
    files: set[tuple[str, str, str]],
    random: object,
) -> None:
    # The same file is never given twice: that is for discovery.
    candidates = list(
        {
            os.path.normpath(f"{folder}/{name}{suffix}"): candidate(name + suffix, folder)
            for name, folder, suffix in sorted(files)
        }.values()
    )
    ids = told_apart(candidates)
    assert len({collision_key(item_id) for item_id in ids.values()}) == len(candidates)
    assert told_apart(candidates[::-1]) == ids
    for file, item_id in ids.items():
        assert item_id.startswith(file.id)
        assert not {".", "..", ""} & set(item_id.split("/"))


def test_the_output_folder_is_the_nearest_with_records(tmp_path: Path) -> None:
    (tmp_path / ".dp3d").mkdir()
    (tmp_path / "aligned/.dp3d").mkdir(parents=True)
    assert output_folder_of(tmp_path / "aligned/team/anna.png") == tmp_path / "aligned"
    assert output_folder_of(tmp_path / "other/anna.png") == tmp_path
