"""Checksums of a weights folder: `manifest.json` beside the files says what each must be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from dp3d_cli.core.errors import WeightsError

MANIFEST_NAME = "manifest.json"
_FORMAT = "dp3d-weights"


def write_manifest(folder: Path) -> Path:
    """Record size and sha256 of every file below `folder` in its `manifest.json`, except for model cards."""
    files = {
        path.relative_to(folder).as_posix(): {"sha256": sha256(path), "size": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and _counts(path)
    }
    target = folder / MANIFEST_NAME
    content = {"format": _FORMAT, "version": 1, "files": files}
    target.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return target


def digest(folder: Path) -> str:
    """One sha256 that identifies the weights: that of their manifest, after a check of the sizes.

    The sizes catch a truncated copy at no cost; `problems` reads every byte.

    Raises:
        WeightsError: no manifest, or a file is missing or of another size.
    """
    for name, entry in _files(folder).items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != entry["size"]:
            found = "missing" if size is None else f"{size} bytes"
            raise WeightsError(
                f"{path}: {found}, expected {entry['size']} bytes. The weights are damaged; get them again "
                f"(`dp3d weights verify {folder}` checks all of them).",
                reason="weights-damaged",
            )
    return sha256(folder / MANIFEST_NAME)


def problems(folder: Path) -> list[str]:
    """What differs from the manifest, one sentence each; empty if every byte is as it should be."""
    found = []
    for name, entry in _files(folder).items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name}: missing")
        elif (actual := sha256(path)) != entry["sha256"]:
            found.append(f"{name}: sha256 {actual}, expected {entry['sha256']}")
    return found


def total_size(folder: Path) -> int:
    """Bytes of all files in the manifest."""
    return sum(int(entry["size"]) for entry in _files(folder).values())


def sha256(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with path.open("rb") as file:
        hasher = hashlib.sha256()
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()


def _counts(path: Path) -> bool:
    """A model card may be corrected without other weights coming of it."""
    return path.name != MANIFEST_NAME and path.suffix != ".md" and not path.name.startswith(".")


def _files(folder: Path) -> Mapping[str, Mapping[str, str | int]]:
    path = folder / MANIFEST_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise WeightsError(
            f"{path}: no readable manifest ({error}). A folder made by `dp3d weights convert` has one.",
            reason="weights-damaged",
        ) from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT or content.get("version") != 1:
        raise WeightsError(f"{path}: not a dp3d weights manifest of version 1.", reason="weights-damaged")
    files: Mapping[str, Mapping[str, str | int]] = content["files"]
    return files
