"""Identities of items: stable, path-like, distinct, and safe as file names of an output folder.

Two ids collide if they differ only in case or Unicode form, since some file systems take them for one name.
Colliding ids are told apart by the files alone, never by the order in which they were given:

- files of one folder keep their suffix: `anna.jpg`, `anna.png`;
- files of different folders get the folder's mark: `anna~3f2a91c0`, `anna~77b1d6e4`;
- what still collides gets the mark of its whole path.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from dp3d_cli.stages.engine.atomic import HIDDEN


@dataclass(frozen=True)
class Candidate:
    """A found item whose id may still collide.

    Attributes:
        id: the id it has if nobody else wants it.
        source: the file or folder that it is, as given.
        suffix: what the id lacks of the file's name (".jpg"); empty for folders.
    """

    id: str
    source: Path
    suffix: str = ""


def collision_key(item_id: str) -> str:
    """Equal for ids that a file system may take for the same name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", item_id).casefold())


def id_of(relative: PurePath, suffix: str) -> str:
    """The path with "/" between its parts and without `suffix`, unless nothing usable would be left."""
    full = "/".join(relative.parts)
    short = full[: len(full) - len(suffix)]
    return full if short.rpartition("/")[2] in ("", ".", "..", HIDDEN) else short


def absolute(path: Path) -> Path:
    """The path from the root, without "..", links not followed: names stay as the user knows them."""
    return Path(os.path.normpath(path.absolute()))


def output_folder_of(path: Path) -> Path | None:
    """The dp3d output folder that a file lies in: its nearest parent with records."""
    for folder in absolute(path).parents:
        if (folder / HIDDEN).is_dir():
            return folder
    return None


def told_apart(candidates: Iterable[Candidate]) -> dict[Candidate, str]:
    """A distinct id for each candidate; see the module's description for the rules."""
    chosen = {candidate: candidate for candidate in candidates}
    for members in _collisions(chosen):
        parents: defaultdict[str, int] = defaultdict(int)
        for member in members:
            parents[_parent(member)] += 1
        for member in members:
            item_id = member.id + (member.suffix if parents[_parent(member)] > 1 else "")
            if len(parents) > 1:
                item_id += f"~{_mark(_parent(member), 8)}"
            chosen[member] = replace(member, id=item_id)
    length = 8
    while collisions := _collisions(chosen):
        for members in collisions:
            for member in members:
                mark = _mark(os.path.normpath(member.source), length)
                chosen[member] = replace(member, id=f"{chosen[member].id}~{mark}")
        length *= 2
    return {candidate: choice.id for candidate, choice in chosen.items()}


def _collisions(chosen: dict[Candidate, Candidate]) -> list[list[Candidate]]:
    groups: defaultdict[str, list[Candidate]] = defaultdict(list)
    for candidate, choice in chosen.items():
        groups[collision_key(choice.id)].append(candidate)
    return [members for members in groups.values() if len(members) > 1]


def _parent(candidate: Candidate) -> str:
    return os.path.normpath(candidate.source.parent)


def _mark(text: str, length: int) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:length]
