"""What a run leaves behind, in a form that two runs can be compared by."""

from __future__ import annotations

import json
from pathlib import Path


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Relative path → content (None for a folder) of everything below; records without their timings."""
    found: dict[str, bytes | None] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            found[name] = None
        elif ".dp3d" in path.parts and path.suffix == ".json":
            record = json.loads(path.read_bytes())
            del record["timings"]
            found[name] = json.dumps(record).encode()
        else:
            found[name] = path.read_bytes()
    return found


def results(folder: Path) -> dict[str, str]:
    """Relative path → text of the results alone."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".dp3d" not in path.parts
    }


def write_texts(folder: Path, texts: dict[str, str]) -> Path:
    """Make text files below a folder."""
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
