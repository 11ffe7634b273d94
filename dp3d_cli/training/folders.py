"""Subjects from a folder: pictures of real or rendered heads, with the cameras that took them.

    FOLDER/<person>/cameras.json | transforms.json | dataset.json
                    images/…            pictures, as the camera file names them (here or beside it)
                    masks/<stem>.png    optional, grey, white on the person; else the pictures' alpha
                    depth/<stem>.npy    optional, [H, W] along the optical axis, in units of the camera file
                    face_points.json    optional, 5 x 3 world positions: eyes, nose tip, mouth corners
    FOLDER/splits.json                  optional, {"train": [<person>, …], "val": […], "test": […]}

The folder with the camera file may lie deeper (`<person>/<take>/…`), as `dp3d_cli.training.nersemble` writes
it. `cameras.json` is ours, `transforms.json` NeRF's (`dp3d render-cams` and `synthesize` write both), and
`dataset.json` that of EG3D and PanoHead: {"labels": [[file, 25 numbers], …]}.

**Splits.** Without `splits.json` a hash of the person's name decides: 90 % train, 5 % val, 5 % test. The
name is the first folder below FOLDER, so all takes of a person are in one split, and adding people moves
nobody. With `splits.json`, people that it does not name are left out.

**World.** The head is assumed to stand upright and to look along +z, y up: EG3D's world, as in renders of
EG3D and PanoHead and in converted data. No camera can tell where a face looks, so a world turned otherwise is
not noticed. Place and scale are: where the cameras neither look at about the origin nor show a head at about
EG3D's size, the point that their axes come nearest to becomes EG3D's pivot, and the world is scaled until the
median picture has EG3D's ratio of focal length to distance, as pictures that are framed alike have.

A subject that cannot be used is left out and listed in `skipped`; it is an error only if none is left.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.errors import InputError
from dp3d_cli.training.data import Split, SubjectViews
from dp3d_cli.training.subject_files import CAMERA_FILES, FolderSubject, read_subject, read_views

logger = logging.getLogger(__name__)

SPLIT_FILE = "splits.json"
SHARES: Mapping[Split, float] = {"train": 0.9, "val": 0.05, "test": 0.05}
FRONTAL = 0.35
"""Largest |yaw| and |pitch| of a view that may be the reference of a sample [rad]."""

_SAME_LABEL = 1e-4  # labels are float32; two cameras of one rig differ by far more


class FolderSubjects:
    """The subjects of one split below a folder; see the module for what it may hold.

    Args:
        folder: where to look.
        split: which people.

    Attributes:
        subjects: in the order of their names.
        skipped: name and reason of each subject that is left out, those found damaged later included.

    Raises:
        InputError: no camera file, none of the subjects is usable ("no-subjects"), or a wrong split file.
    """

    def __init__(self, folder: Path, split: Split) -> None:
        self.folder, self.split = folder, split
        self.skipped: dict[str, str] = {}
        self.subjects: list[FolderSubject] = []
        self._damaged: set[int] = set()
        found = _subject_folders(folder)
        if not found:
            raise InputError(
                f"{folder}: no {', '.join(CAMERA_FILES[:-1])} or {CAMERA_FILES[-1]} below this folder. "
                "Expected <person>/images/ and a camera file beside it.",
                reason="no-subjects",
            )
        if folder in found.values() and not any((folder / name).is_file() for name in CAMERA_FILES[:-1]):
            raise InputError(
                f"{folder}: dataset.json lies in this folder itself, as in EG3D's data sets, which hold one "
                "picture of each person. If these are views of one subject, name the folder above.",
                reason="no-subjects",
            )
        wanted = _wanted(folder, split, found)
        for name in wanted:
            try:
                self.subjects.append(read_subject(found[name], name))
            except InputError as error:
                self._leave_out(name, error)
        if not self.subjects:
            if wanted:
                first = next(iter(self.skipped.values()))
                why = f"none of {len(wanted)} subjects is usable; the first: {first}"
            else:
                why = (
                    f"none of {len(found)} subjects belongs to '{split}'. "
                    f"Add people, or say in {SPLIT_FILE} who belongs where."
                )
            raise InputError(f"{folder}: {why}", reason="no-subjects")

    def __len__(self) -> int:
        return len(self.subjects)

    def person(self, index: int) -> str:
        """Who subject `index` is; takes of one person share it."""
        return _person(self.subjects[index].name)

    def labels_of(self, index: int) -> Tensor:
        """[V, 25] the cameras that subject `index` was seen from."""
        return torch.from_numpy(np.stack([camera.label for camera in self.subjects[index].cameras]))

    def views(self, index: int, labels: Tensor, size: int) -> SubjectViews:
        """Subject `index` from some of its own cameras [V, 25], resized to `size` pixels.

        Raises:
            ValueError: a label that is none of `labels_of`.
            InputError: a file is damaged.
        """
        own = self.labels_of(index)
        distance = (labels.cpu().float()[:, None] - own).abs().amax(-1)
        nearest, which = distance.min(1)
        if float(nearest.max()) > _SAME_LABEL:
            name = self.subjects[index].name
            raise ValueError(f"Subject '{name}' was never seen from this camera; take one of `labels_of`.")
        return read_views(self.subjects[index], which.tolist(), size)

    def sample(self, index: int, views: int, rng: np.random.Generator, size: int) -> SubjectViews:
        """See `Subjects`: a near frontal view, then others at random; repeated if there are too few.

        A subject whose files turn out to be damaged is listed in `skipped`, and the next one takes its place.

        Raises:
            ValueError: fewer than one view.
            InputError: no subject is left.
        """
        if views < 1:
            raise ValueError(f"A sample has at least one view, {views} were asked for.")
        seed = int(rng.integers(2**63))
        for step in range(len(self)):
            place = (index + step) % len(self)
            if place in self._damaged:
                continue
            subject = self.subjects[place]
            chosen = choose_views(subject.cameras, views, np.random.default_rng((seed, place)))
            try:
                return read_views(subject, chosen, size)
            except InputError as error:
                self._damaged.add(place)
                self._leave_out(subject.name, error)
        raise InputError(f"{self.folder}: every subject turned out to be damaged.", reason="no-subjects")

    def _leave_out(self, name: str, error: InputError) -> None:
        self.skipped[name] = str(error)
        logger.warning("subject '%s' is left out: %s", name, error)


def choose_views(cameras: Sequence[Camera], count: int, rng: np.random.Generator) -> list[int]:
    """Indices of `count` views: a reference within `FRONTAL` (or the most frontal one), then targets."""
    angles = np.array([max(abs(camera.yaw), abs(camera.pitch)) for camera in cameras])
    frontal = np.flatnonzero(angles <= FRONTAL)
    reference = int(rng.choice(frontal)) if len(frontal) else int(angles.argmin())
    order = [reference]
    while len(order) < count:
        others = rng.permutation(len(cameras))
        order += [int(view) for view in others if len(order) >= len(cameras) or view != reference]
    return order[:count]


class _SplitFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    train: list[str] = []
    val: list[str] = []
    test: list[str] = []


def split_of(person: str) -> Split:
    """The split that a person's name puts them in, without a split file."""
    digest = hashlib.sha256(person.encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    for split, share in SHARES.items():
        if place < share:
            return split
        place -= share
    return "test"


def _person(name: str) -> str:
    return PurePosixPath(name).parts[0]


def _wanted(folder: Path, split: Split, names: Mapping[str, Path]) -> list[str]:
    """Names of the split's subjects, sorted."""
    path = folder / SPLIT_FILE
    if not path.is_file():
        return sorted(name for name in names if split_of(_person(name)) == split)
    try:
        content = _SplitFile.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(
            f"{path}: {error.errors()[0]['msg'].lower()}. "
            'Expected {"train": [names], "val": [names], "test": [names]}.',
            reason="bad-splits",
        ) from error
    lists: dict[Split, list[str]] = {"train": content.train, "val": content.val, "test": content.test}
    seen: dict[str, Split] = {}
    for part, people in lists.items():
        for person in people:
            if seen.setdefault(person, part) != part:
                raise InputError(
                    f"{path}: '{person}' is in '{seen[person]}' and in '{part}'. Keep one.",
                    reason="bad-splits",
                )
    return sorted(name for name in names if seen.get(_person(name)) == split)


def _subject_folders(folder: Path) -> dict[str, Path]:
    """Folders that hold a camera file, by their path below `folder`; nothing below a subject is searched."""
    found = {}
    for parent, children, files in os.walk(folder):
        children[:] = sorted(child for child in children if not child.startswith("."))
        if any(name in files for name in CAMERA_FILES):
            children.clear()
            path = Path(parent)
            name = path.relative_to(folder).as_posix()
            found[folder.resolve().name if name == "." else name] = path
    return found
