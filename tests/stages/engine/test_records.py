from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp3d_cli.core.errors import UsageError
from dp3d_cli.stages.engine.records import (
    DamagedRecord,
    InputDigests,
    InputFile,
    OutputFile,
    Record,
    as_json,
    differences,
    load_record,
    outputs_are_there,
    record_path,
)

RECORD = Record(
    id="team/anna",
    stage="align",
    status="done",
    version="0.1.0",
    inputs=(InputFile("anna \udcff.jpg", "ab" * 32, 12), InputFile("gone.json", None, None)),
    settings={"seed": 1, "crop": {"size": [512, 512], "scale": 0.5}},
    weights={"unet": "cd" * 32},
    outputs=(OutputFile("team/anna.png", "ef" * 32, 5),),
    info={"detector": "opencv"},
    warnings=("small",),
    timings={"elapsed_s": 0.5},
)


def test_a_record_reads_back() -> None:
    assert Record.from_bytes(RECORD.to_bytes()) == RECORD


@pytest.mark.parametrize(
    "content",
    [
        b"",
        RECORD.to_bytes()[:200],
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"format": 1}',
        RECORD.to_bytes().replace(b'"done"', b'"perhaps"'),
        RECORD.to_bytes().replace(b'"stage"', b'"stages"'),
        RECORD.to_bytes().replace(b'"sha256"', b'"md5"'),
    ],
)
def test_what_is_no_record_is_damaged(content: bytes) -> None:
    with pytest.raises(DamagedRecord):
        Record.from_bytes(content)


def test_a_record_of_another_item_is_damaged(tmp_path: Path) -> None:
    path = record_path(tmp_path, "align", "bob")
    path.parent.mkdir(parents=True)
    path.write_bytes(RECORD.to_bytes())
    with pytest.raises(DamagedRecord, match=r"is the record of align 'team/anna'"):
        load_record(tmp_path, "align", "bob")
    assert load_record(tmp_path, "align", "carl") is None


def test_a_record_of_a_newer_dp3d_is_refused(tmp_path: Path) -> None:
    path = record_path(tmp_path, "align", "team/anna")
    path.parent.mkdir(parents=True)
    path.write_bytes(RECORD.to_bytes().replace(b'"format": 1', b'"format": 2'))
    with pytest.raises(UsageError, match=r"newer dp3d"):
        load_record(tmp_path, "align", "team/anna")


@given(st.sets(st.text(min_size=1), max_size=10))
def test_every_id_has_a_file_name_of_its_own(ids: set[str]) -> None:
    paths = {record_path(Path("out"), "align", item_id) for item_id in ids if _is_a_name(item_id)}
    assert len(paths) == sum(map(_is_a_name, ids))
    assert all(path.parent == Path("out/.dp3d/align") for path in paths)


def _is_a_name(item_id: str) -> bool:
    try:
        os.fsencode(item_id)
    except UnicodeEncodeError:
        return False
    return True


def test_long_ids_fit_a_file_name() -> None:
    first, second = (record_path(Path("out"), "align", "ж" * 200 + end) for end in "ab")
    assert first != second
    assert len(first.name) < 255


def test_outputs_must_be_there_with_their_size(tmp_path: Path) -> None:
    assert not outputs_are_there(RECORD, tmp_path)
    (tmp_path / "team").mkdir()
    (tmp_path / "team/anna.png").write_bytes(b"1234")
    assert not outputs_are_there(RECORD, tmp_path)
    (tmp_path / "team/anna.png").write_bytes(b"12345")
    assert outputs_are_there(RECORD, tmp_path)


def test_differences_are_dotted_and_sorted() -> None:
    old = {"seed": 1, "crop": {"size": [1, 2], "flip": True}, "gone": "x", "digest": "a" * 64}
    new = {"seed": 2, "crop": {"size": [1, 3], "flip": 1}, "added": None, "more": 0.5, "digest": "b" * 64}
    assert [str(difference) for difference in differences(old, new)] == [
        "crop.flip: true -> 1",
        "crop.size: [1, 2] -> [1, 3]",
        "digest: aaaaaaaaaaaa… -> bbbbbbbbbbbb…",
        'gone: "x" -> not set',
        "more: not set -> 0.5",
        "seed: 1 -> 2",
    ]


def test_settings_compare_as_json_gives_them_back() -> None:
    settings = as_json({"b": (1, 2), "a": {"y": 1.0, "x": None}})
    assert settings == json.loads(json.dumps(settings))
    assert not list(differences(settings, {"a": {"x": None, "y": 1}, "b": [1, 2]}))
    with pytest.raises(ValueError, match=r"JSON compliant"):
        as_json({"nan": float("nan")})


def test_a_shared_input_is_read_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    digests = InputDigests()
    first = digests.read(path)
    monkeypatch.setattr("dp3d_cli.stages.engine.records.sha256_of", lambda _: "new")
    assert digests.read(path) == first
    path.write_text("three")
    assert digests.read(path) == replace(first, sha256="new", size=5)
