"""All weights that dp3d knows by name, its own and other people's, described alike; no socket is opened."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dp3d_cli.core.errors import UsageError, WeightsError
from dp3d_cli.core.presets import load_preset, preset_names
from dp3d_cli.core.weights.backbones import (
    BACKBONES,
    Backbone,
    backbone_folders,
    find_backbone,
    how_to_get,
    require_backbone,
)
from dp3d_cli.core.weights.check import check_backbone, partial_place
from dp3d_cli.core.weights.manifest import digest, problems, total_size
from dp3d_cli.core.weights.registry import REGISTRY, WeightsEntry, find, resolve, user_folder

State = Literal["present", "missing", "incomplete", "damaged"]


@dataclass(frozen=True)
class Described:
    """Weights as `dp3d weights list` and `info` show them.

    Attributes:
        name: as it is given to `dp3d weights`.
        title: what it is.
        state: on this machine, as far as the sizes of files tell; `problems_of` reads every byte.
        path: file or folder; None when missing.
        problem: what is wrong with it, in a few words; empty if nothing is.
        looked_in: folders in which it would be found.
        needed_by: presets, metrics and options that use it.
        size: bytes; published ones when missing, 0 when unknown.
        sha256: of the single file, of the manifest of dp3d's own folders; None when unknown.
        files: (name, bytes, sha256) of each published file of a backbone.
        licence: under which it may be used.
        source: who made it, and where.
        get: what brings it here; empty when it ships with dp3d.
    """

    name: str
    title: str
    state: State
    path: Path | None
    problem: str
    looked_in: tuple[Path, ...]
    needed_by: tuple[str, ...]
    size: int
    sha256: str | None
    files: tuple[tuple[str, int, str | None], ...]
    licence: str
    source: str
    get: str


def known_names() -> list[str]:
    """Every name, dp3d's own weights first."""
    return [*REGISTRY, *BACKBONES]


def names_for(command: str) -> list[str]:
    """What a command can use: `evaluate`, `align` or `synthesize`."""
    if command == "synthesize":
        return list(REGISTRY)
    return [backbone.name for backbone in BACKBONES.values() if command in backbone.commands]


def require_known(names: Iterable[str]) -> None:
    """Check names that must not be folders.

    Raises:
        UsageError: a name that dp3d does not know.
    """
    for name in names:
        if name not in REGISTRY and name not in BACKBONES:
            near = difflib.get_close_matches(name, known_names(), n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(known_names())}."
            raise UsageError(f"No weights '{name}'. {hint}")


def describe(name: str) -> Described:
    """Weights by name, or a folder of dp3d weights by its path.

    Raises:
        WeightsError: neither a known name nor such a folder.
    """
    if name in BACKBONES:
        return _describe_backbone(BACKBONES[name])
    if name in REGISTRY:
        return _describe_diffusion(REGISTRY[name], find(name))
    folder = resolve(name)
    nameless = WeightsEntry(name, "a folder of dp3d weights", "not known to dp3d", "not known to dp3d")
    return _describe_diffusion(nameless, folder)


def place_of(name: str) -> Path:
    """The file or folder of weights by name or path.

    Raises:
        WeightsError: not on this machine; the message says what gets them.
    """
    return require_backbone(name) if name in BACKBONES else resolve(name)


def problems_of(name: str) -> tuple[list[str], list[str]]:
    """Read every byte of weights that are present.

    Returns:
        What is wrong, one clause per file, and what could not be compared for want of a published digest.

    Raises:
        WeightsError: missing, or a folder without a manifest.
    """
    if name not in BACKBONES:
        return problems(resolve(name)), []
    place = partial_place(BACKBONES[name]) or require_backbone(name)
    checked = check_backbone(BACKBONES[name], place)
    wrong = [f"{file.file.name}: {file.problem}" for file in checked if file.problem]
    unknown = [
        f"{file.file.name}: no published digest to compare with; sha256 {file.sha256}"
        for file in checked
        if file.sha256 is not None and file.file.sha256 is None
    ]
    return wrong, unknown


def _describe_backbone(backbone: Backbone) -> Described:
    found = find_backbone(backbone.name)
    place = found or partial_place(backbone)
    wrong = [file for file in check_backbone(backbone, place, read=False) if file.problem] if place else []
    state: State = "damaged" if wrong else "present"
    if found is None:
        state = "incomplete" if place else "missing"
    page = "https://huggingface.co/" if backbone.library == "hugging-face" else ""
    return Described(
        name=backbone.name,
        title=backbone.title,
        state=state,
        path=place,
        problem="; ".join(f"{file.file.name}: {file.problem}" for file in wrong),
        looked_in=tuple(backbone_folders(backbone)),
        needed_by=backbone.needed_by,
        size=backbone.size,
        sha256=backbone.files[0].sha256 if len(backbone.files) == 1 else None,
        files=tuple((file.name, file.size, file.sha256) for file in backbone.files),
        licence=backbone.licence,
        source=f"{backbone.source}, {page}{backbone.url}",
        get=how_to_get(backbone),
    )


def _describe_diffusion(entry: WeightsEntry, folder: Path | None) -> Described:
    state: State = "missing"
    size, sha256, problem = entry.about_bytes, None, ""
    if folder is not None:
        try:
            size, sha256, state = total_size(folder), digest(folder), "present"
        except WeightsError as error:
            state, problem = "damaged", str(error)
    presets = (load_preset(preset) for preset in preset_names())
    return Described(
        name=entry.name,
        title=entry.title,
        state=state,
        path=folder,
        problem=problem,
        looked_in=() if entry.is_embedded else (user_folder() / entry.name,),
        needed_by=tuple(f"preset {preset.name}" for preset in presets if preset.weights == entry.name),
        size=size,
        sha256=sha256,
        files=(),
        licence=entry.licence,
        source=entry.source,
        get=entry.how_to_get,
    )
