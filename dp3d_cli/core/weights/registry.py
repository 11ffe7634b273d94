"""The weights dp3d knows by name, and the places where it looks for them.

Order: a path given by the user; the package itself; `$DP3D_WEIGHTS/<name>`; the user's data folder. Nothing
is downloaded here and no socket is opened.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from dp3d_cli.core.errors import WeightsError

_EMBEDDED = Path(__file__).resolve().parent


@dataclass(frozen=True)
class WeightsEntry:
    """A set of weights known by name.

    Attributes:
        name: as in a preset's `weights`.
        title: what it is, in one line.
        licence: under which it may be used.
        source: who made it and where it comes from.
        how_to_get: what a user runs or does to have it here; empty when it ships with dp3d.
        about_bytes: rough size of the folder, for those who plan to get it; 0 when it ships with dp3d.
    """

    name: str
    title: str
    licence: str
    source: str
    how_to_get: str = ""
    about_bytes: int = 0

    @property
    def is_embedded(self) -> bool:
        """Whether it ships inside the package."""
        return not self.how_to_get


CHECKPOINT_NAME = "model_state-540000-001.th"
CHECKPOINT_PAGE = "https://drive.google.com/file/d/14qzipHghFrs4CFpVo1xW9CZt8OGLJf9t/view"
"""Where the authors publish it: a page for people, whose download needs a browser."""

REGISTRY = {
    entry.name: entry
    for entry in (
        WeightsEntry(
            name="nano",
            title="DiffPortrait3D networks at nano size, 256x256, trained on procedural heads",
            licence="MIT",
            source="trained by dp3d; see MODEL_CARD.md beside the files",
        ),
        WeightsEntry(
            name="diffportrait3d",
            title="The published DiffPortrait3D networks at Stable Diffusion 1.5 size, 512x512",
            licence="MIT (DiffPortrait3D); CreativeML Open RAIL-M (Stable Diffusion 1.5 inside it)",
            source=f"the authors' checkpoint {CHECKPOINT_NAME}, {CHECKPOINT_PAGE}",
            how_to_get=(
                f"download {CHECKPOINT_NAME} in a browser from {CHECKPOINT_PAGE} (the link of "
                "https://github.com/FreedomGu/DiffPortrait3D), then run "
                f"`dp3d weights fetch diffportrait3d --from {CHECKPOINT_NAME}`"
            ),
            about_bytes=10_980_000_000,  # 2 745 695 867 parameters in float32
        ),
    )
}


def user_folder() -> Path:
    """Where converted and fetched weights are kept: `$DP3D_WEIGHTS`, else the user's data folder."""
    if override := os.environ.get("DP3D_WEIGHTS"):
        return Path(override).expanduser()
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "dp3d" / "weights"


def find(name_or_path: str) -> Path | None:
    """The folder of these weights, or None if they are not on this machine."""
    embedded = _EMBEDDED / name_or_path
    candidates = [user_folder() / name_or_path]
    if name_or_path in REGISTRY and REGISTRY[name_or_path].is_embedded:
        candidates.insert(0, embedded)
    if name_or_path not in REGISTRY:
        candidates = [Path(name_or_path)]
    return next((path for path in candidates if (path / "model_index.json").is_file()), None)


def resolve(name_or_path: str) -> Path:
    """The folder of these weights.

    Raises:
        WeightsError: not on this machine; the message names what gets them.
    """
    found = find(name_or_path)
    if found is not None:
        return found
    entry = REGISTRY.get(name_or_path)
    if entry is None:
        raise WeightsError(
            f"No weights '{name_or_path}': neither a known name ({', '.join(REGISTRY)}) nor a folder with a "
            "model_index.json. `dp3d weights list` shows what is present.",
            reason="weights-missing",
        )
    if entry.is_embedded:
        raise WeightsError(
            f"The embedded weights '{name_or_path}' are not in {_EMBEDDED}: the installation is incomplete. "
            "Install dp3d again.",
            reason="weights-missing",
        )
    target = user_folder() / entry.name
    raise WeightsError(
        f"The weights '{entry.name}' are not on this machine (looked in {target}). "
        f"To get them: {entry.how_to_get}.",
        reason="weights-missing",
    )
