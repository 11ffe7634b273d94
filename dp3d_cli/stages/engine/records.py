"""What is known about an item's last run: one JSON file per item, written last.

    <output>/.dp3d/<stage>/<quoted id>.json

A record holds no absolute path and nothing that differs from run to run except under the one key `timings`,
so that two output folders can be compared byte for byte without it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, cast
from urllib.parse import quote

from dp3d_cli.core.errors import UsageError
from dp3d_cli.stages.engine.atomic import HIDDEN
from dp3d_cli.stages.engine.stage import Json

FORMAT = 1
_LONGEST_NAME = 200  # bytes; file systems allow 255


class DamagedRecord(Exception):
    """The file is no record: cut off, edited or of another kind."""


@dataclass(frozen=True)
class InputFile:
    """An input as it was read. `sha256` and `size` are None if it could not be."""

    name: str
    sha256: str | None
    size: int | None


@dataclass(frozen=True)
class OutputFile:
    """A file made, `path` relative to the output folder."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Record:
    """One item's state.

    Attributes:
        status: "moving" while outputs are being put in place (a run that ends there is redone), else final.
        outputs: files that belong to the item, the primary one first. While "moving": those before and after.
        timings: what differs from run to run: seconds, bytes of memory.
    """

    id: str
    stage: str
    status: Literal["moving", "done", "failed"]
    version: str
    inputs: tuple[InputFile, ...]
    settings: Mapping[str, Json]
    weights: Mapping[str, str]
    outputs: tuple[OutputFile, ...] = ()
    info: Mapping[str, Json] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    reason: str = ""
    message: str = ""
    timings: Mapping[str, float] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The file's content. ASCII, since names may hold bytes that are no text."""
        return (json.dumps({"format": FORMAT, **asdict(self)}, indent=2, allow_nan=False) + "\n").encode(
            "ascii"
        )

    @classmethod
    def from_bytes(cls, content: bytes) -> Record:
        """Read `to_bytes` back.

        Raises:
            DamagedRecord: not a record.
            UsageError: written by a newer dp3d.
        """
        try:
            values = json.loads(content)
            version = values.pop("format")
            if isinstance(version, int) and version > FORMAT:
                raise UsageError(
                    "its records were written by a newer dp3d; use that version or another --output"
                )
            values["inputs"] = tuple(InputFile(**entry) for entry in values["inputs"])
            values["outputs"] = tuple(OutputFile(**entry) for entry in values["outputs"])
            values["warnings"] = tuple(values["warnings"])
            record = cls(**values)
            if record.status not in ("moving", "done", "failed"):
                raise DamagedRecord(f"status {record.status!r}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedRecord(str(error)) from error
        return record


def record_path(output: Path, stage: str, item_id: str) -> Path:
    """Where an item's record lies. Every id, however long or odd, has a file name of its own."""
    name = quote(os.fsencode(item_id), safe=" ")
    if len(name) > _LONGEST_NAME:
        name = f"{name[:100]}~{hashlib.sha256(os.fsencode(item_id)).hexdigest()}"
    return output / HIDDEN / stage / f"{name}.json"


def load_record(output: Path, stage: str, item_id: str) -> Record | None:
    """The item's record, or None if there is none.

    Raises:
        DamagedRecord: there is a file, but not a record of this item.
        UsageError: written by a newer dp3d.
    """
    path = record_path(output, stage, item_id)
    try:
        record = Record.from_bytes(path.read_bytes())
    except FileNotFoundError:
        return None
    except UsageError as error:
        raise UsageError(f"{output}: {error}") from None
    if (record.id, record.stage) != (item_id, stage):
        raise DamagedRecord(f"{path} is the record of {record.stage} {record.id!r}")
    return record


def outputs_are_there(record: Record, output: Path) -> bool:
    """Whether every file the record lists is in place with its size."""
    try:
        return all((output / made.path).stat().st_size == made.size for made in record.outputs)
    except OSError:
        return False


class InputDigests:
    """sha256 of input files, each file read once per run however many items share it."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int, int], str] = {}

    def read(self, path: Path) -> InputFile:
        """Digest one input.

        Raises:
            OSError: it cannot be read.
        """
        state = path.stat()
        key = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
        if key not in self._known:
            self._known[key] = sha256_of(path)
        return InputFile(path.name, self._known[key], state.st_size)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def as_json(value: object) -> Json:
    """The value as JSON gives it back: tuples as lists, keys sorted.

    Raises:
        TypeError, ValueError: it has no JSON form.
    """
    return cast(Json, json.loads(json.dumps(value, sort_keys=True, allow_nan=False)))


@dataclass(frozen=True)
class Difference:
    """A setting that is not what it was. `key` is dotted; None stands for "not set"."""

    key: str
    old: Json
    new: Json

    def __str__(self) -> str:
        return f"{self.key}: {_short(self.old)} -> {_short(self.new)}"


def differences(old: Json, new: Json, key: str = "") -> Iterator[Difference]:
    """Leaves of two JSON values that differ, in order of their keys."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            yield from differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new or isinstance(old, bool) is not isinstance(new, bool):
        yield Difference(key, old, new)


def _short(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=False) if value is not None else "not set"
    if isinstance(value, str) and len(value) == 64:
        return f"{value[:12]}…"  # a digest
    return text if len(text) <= 80 else f"{text[:77]}…"
