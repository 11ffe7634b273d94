from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from dp3d_cli.core.errors import UsageError
from dp3d_cli.stages.engine.discovery import Discovery, discover
from tests.fakes.trees import write_texts


def find(*sources: str | Path, **options: object) -> Discovery:
    options.setdefault("suffixes", (".jpg", ".png"))
    return discover([str(source) for source in sources], **options)  # type: ignore[arg-type]


def ids(found: Discovery) -> list[str]:
    return [item.id for item in found.items]


@pytest.fixture
def portraits(tmp_path: Path) -> Path:
    names = [
        "b.jpg",
        "a.JPG",
        "team/anna.png",
        "team/notes.txt",
        ".hidden.jpg",
        ".git/x.jpg",
        "team/deep/z.jpg",
    ]
    return write_texts(tmp_path / "portraits", dict.fromkeys(names, "x"))


def test_a_folder_is_searched_in_order_without_hidden_and_other_files(portraits: Path) -> None:
    found = find(portraits)
    assert ids(found) == ["a", "b", "team/anna", "team/deep/z"]
    assert found.items[2].inputs == (portraits / "team/anna.png",)
    assert found.ignored == (portraits / "team/notes.txt",)
    assert found.warnings == ()


def test_the_order_of_sources_does_not_matter(portraits: Path) -> None:
    sources = [portraits / "team", portraits / "b.jpg", portraits]
    assert find(*sources) == find(*sources[::-1])


def test_a_file_named_twice_is_one_item(portraits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(portraits)
    assert ids(find("team/anna.png", "./team/anna.png", portraits / "team/../team/anna.png")) == ["anna"]
    assert ids(find("team/anna.png", ".")) == ["a", "b", "team/anna", "team/deep/z"]


def test_two_links_to_one_file_are_two_items(portraits: Path) -> None:
    (portraits / "link.jpg").symlink_to("b.jpg")
    assert ids(find(portraits / "b.jpg", portraits / "link.jpg")) == ["b", "link"]


def test_names_with_anything_in_them(tmp_path: Path) -> None:
    odd = ["it's.jpg", 'say "x".jpg', "two\nlines.jpg", "a=b c.jpg", "Ünï.jpg", "[1].jpg", "*.jpg", "-.jpg"]
    write_texts(tmp_path / "in", dict.fromkeys(odd, "x"))
    undecodable = os.fsdecode(b"\xff\xfe.jpg")
    (tmp_path / "in" / undecodable).write_text("x")
    expected = sorted((name[:-4] for name in [*odd, undecodable]), key=os.fsencode)
    assert ids(find(tmp_path / "in")) == expected
    assert ids(find(*(tmp_path / "in" / name for name in odd))) == sorted(name[:-4] for name in odd)
    listed = b"\0".join(os.fsencode(tmp_path / "in" / name) for name in [*odd, undecodable])
    assert ids(find("-", null=True, stdin=lambda: listed)) == expected


def test_paths_come_from_standard_input(portraits: Path) -> None:
    lines = b"%s/b.jpg\n\n%s/team\n" % (os.fsencode(portraits), os.fsencode(portraits))
    assert ids(find("-", stdin=lambda: lines)) == ["anna", "b", "deep/z"]


def test_a_quoted_glob_finds_what_the_shell_would(portraits: Path) -> None:
    assert ids(find(portraits / "*.jpg")) == ["b"]
    assert ids(find(portraits / "**/*.jpg")) == ["b", "z"]
    with pytest.raises(UsageError, match=r"no file matches"):
        find(portraits / "*.webp")


def test_a_wrong_path_is_named(portraits: Path) -> None:
    with pytest.raises(UsageError, match=r"carl\.jpg: no such file") as raised:
        find(portraits / "b.jpg", portraits / "carl.jpg")
    assert raised.value.exit_status == 2


@pytest.mark.parametrize("sources", [["-"], ["empty"], ["team/notes.txt"]])
def test_finding_nothing_says_what_was_looked_for(
    portraits: Path, sources: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(portraits)
    (portraits / "empty").mkdir()
    with pytest.raises(UsageError, match=r"nothing to do.*\.jpg, \.png"):
        find(*sources, stdin=lambda: b"")


def test_listed_files_are_called_by_their_path_below_root(portraits: Path) -> None:
    assert ids(find(portraits / "team/anna.png", root=portraits)) == ["team/anna"]
    with pytest.raises(UsageError, match=r"does not lie below --root"):
        find(portraits / "b.jpg", root=portraits / "team")


def test_listed_files_of_an_output_folder_keep_their_id(portraits: Path) -> None:
    (portraits / ".dp3d").mkdir()
    assert ids(find(portraits / "team/anna.png")) == ["team/anna"]


def test_output_folders_below_a_source_are_not_searched(portraits: Path) -> None:
    write_texts(portraits / "aligned", {"b.png": "x", ".dp3d/align/b.json": "{}"})
    assert ids(find(portraits)) == ["a", "b", "team/anna", "team/deep/z"]
    assert ids(find(portraits / "aligned")) == ["b"]


def test_same_names_from_two_folders_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_texts(tmp_path, {"one/anna.jpg": "x", "two/anna.jpg": "y", "two/bob.jpg": "z"})
    monkeypatch.chdir(tmp_path)
    assert ids(find("one", "two")) == ["anna~3fc4ccfe", "anna~7692c3ad", "bob"]
    assert ids(find("two/", "./one")) == ["anna~3fc4ccfe", "anna~7692c3ad", "bob"]


def test_names_make_an_item_of_their_folder(tmp_path: Path) -> None:
    write_texts(
        tmp_path / "views", {"team/anna/views.json": "x", "bob/views.json": "y", ".dp3d/x/y.json": ""}
    )
    options = {"suffixes": (), "names": ("views.json",)}
    assert ids(find(tmp_path / "views", **options)) == ["bob", "team/anna"]
    assert ids(find(tmp_path / "views/team/anna/views.json", **options)) == ["team/anna"]
    assert ids(find(tmp_path / "views/bob", **options)) == ["bob"]


def test_the_images_of_a_folder_can_be_one_subject(portraits: Path) -> None:
    (portraits / "team/b.jpg").write_text("x")
    found = find(portraits, group="folder")
    assert ids(found) == ["portraits", "team", "team/deep"]
    assert found.items[1].inputs == (portraits / "team/anna.png", portraits / "team/b.jpg")
    assert ids(find(portraits / "team/b.jpg", portraits / "team/anna.png", group="folder")) == ["team"]
    assert ids(find(portraits / "team/b.jpg", group="folder", root=portraits)) == ["team"]


def test_loops_of_links_end_and_broken_links_are_found(portraits: Path) -> None:
    (portraits / "team/up").symlink_to(portraits)
    (portraits / "gone.jpg").symlink_to("nowhere.jpg")
    assert ids(find(portraits)) == ["a", "b", "gone", "team/anna", "team/deep/z"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_searched_is_a_warning(portraits: Path) -> None:
    (portraits / "team").chmod(0)
    try:
        found = find(portraits)
    finally:
        (portraits / "team").chmod(0o755)
    assert ids(found) == ["a", "b"]
    assert "cannot be searched" in found.warnings[0]
