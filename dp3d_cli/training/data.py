"""Subjects to train on: images of one head from several cameras, behind one small interface.

Procedural heads are made on the fly; a subject is a seed. The splits are disjoint ranges of seeds, so that
no subject of the test set can be seen in training. Seeds below the training range are left to
demonstrations and to the head in the camera conditions.

Photographed or rendered heads come from a folder (`dp3d_cli.training.folders`), with the cameras they were
taken from. There the person's name decides the split. `open_subjects` opens either kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.errors import UsageError

Split = Literal["train", "val", "test"]
SPLITS: dict[Split, range] = {
    "train": range(10_000, 1_000_000),
    "val": range(1_000_000, 1_100_000),
    "test": range(1_100_000, 1_200_000),
}


@dataclass(frozen=True)
class SubjectViews:
    """One subject seen from several cameras.

    Attributes:
        images: [V, 3, S, S] in [0, 1], RGB.
        labels: [V, 25] float32 camera labels.
        mask: [V, 1, S, S] in [0, 1], 1 on the subject; None if not known.
        depth: [V, 1, S, S] along the optical axis [world units]; None if not known.
        face_points: [5, 3] world positions of eyes, nose and mouth corners; None if not known.
    """

    images: Tensor
    labels: Tensor
    mask: Tensor | None = None
    depth: Tensor | None = None
    face_points: Tensor | None = None


class Subjects(Protocol):
    """A split of subjects, some of which can be seen from any camera and some only from their own."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def views(self, index: int, labels: Tensor, size: int) -> SubjectViews:
        """Subject `index` from cameras [V, 25] at `size` pixels.

        Raises:
            ValueError: a camera from which this subject was never seen.
        """
        ...

    def sample(self, index: int, views: int, rng: np.random.Generator, size: int) -> SubjectViews:
        """Subject `index` from `views` cameras at random; the same for equal states of `rng`.

        The first view is fit to be a reference: near frontal, as portraits are. The others are a group of
        targets in no particular order.
        """
        ...


class ProceduralSubjects:
    """Procedural heads of one split.

    Args:
        split: which range of seeds.
        count: how many subjects; None takes the whole range.
        device: where they are made and rendered.

    Raises:
        ValueError: more subjects than the split has seeds.
    """

    def __init__(self, split: Split, count: int | None = None, device: str = "cpu") -> None:
        seeds = SPLITS[split]
        if count is not None and not 0 < count <= len(seeds):
            raise ValueError(f"The split '{split}' has 1 to {len(seeds)} subjects, {count} were asked for.")
        self.seeds = seeds if count is None else seeds[:count]
        self.device = device

    def __len__(self) -> int:
        return len(self.seeds)

    def views(self, index: int, labels: Tensor, size: int) -> SubjectViews:
        """See `Subjects`; the seed is the split's first plus `index`."""
        from dp3d_cli.core.renderers.procedural import ProceduralHead

        head = ProceduralHead(self.seeds[index], device=self.device)
        with torch.inference_mode():
            rendering = head.render(labels, size)
        return SubjectViews(rendering.image, labels, rendering.mask, rendering.depth, head.face_points)

    def sample(self, index: int, views: int, rng: np.random.Generator, size: int) -> SubjectViews:
        """See `Subjects`: a `reference_label` and a group of `target_labels`.

        Raises:
            ValueError: fewer than one view.
        """
        if views < 1:
            raise ValueError(f"A sample has at least one view, {views} were asked for.")
        labels = reference_label(rng)
        if views > 1:
            labels = torch.cat([labels, target_labels(views - 1, rng)])
        return self.views(index, labels, size)


def open_subjects(text: str, split: Split, *, device: str = "cpu") -> Subjects:
    """The subjects that a preset or an option names.

    Args:
        text: "procedural" (all seeds of the split), "procedural:200" (the first 200), or a folder.
        split: which part of them.
        device: where procedural heads are made.

    Raises:
        UsageError: neither, or a number of subjects that the split does not have.
        InputError: see `dp3d_cli.training.folders.FolderSubjects`.
    """
    if split not in get_args(Split):
        raise UsageError(f"Split '{split}'; expected one of {', '.join(get_args(Split))}.")
    kind, colon, number = text.partition(":")
    if kind == "procedural":
        if colon and not number.isdecimal():
            raise UsageError(
                f"Subjects '{text}'; after the colon a number is expected, as in procedural:200."
            )
        try:
            return ProceduralSubjects(split, int(number) if colon else None, device)
        except ValueError as error:
            raise UsageError(str(error)) from error
    if not Path(text).is_dir():
        raise UsageError(
            f"Subjects '{text}': no such folder. Give one, or procedural, or a number of them as in "
            "procedural:200."
        )
    from dp3d_cli.training.folders import FolderSubjects

    return FolderSubjects(Path(text), split)


def target_labels(count: int, rng: np.random.Generator) -> Tensor:
    """[V, 25] cameras of one group of views.

    Half of the groups lie on a ring like EG3D's gen-videos trajectory with a random phase and random
    amplitudes, the others are uniform in yaw +-0.6 and pitch -0.35..0.3 rad.
    """
    if rng.random() < 0.5:
        phase = rng.uniform(0, 2 * np.pi) + 2 * np.pi * rng.permutation(count) / count
        yaws = rng.uniform(0.25, 0.55) * np.sin(phase)
        pitches = rng.uniform(-0.12, 0.05) + rng.uniform(0.1, 0.3) * np.cos(phase)
    else:
        yaws, pitches = rng.uniform(-0.6, 0.6, count), rng.uniform(-0.35, 0.3, count)
    return _labels(yaws, pitches)


def reference_label(rng: np.random.Generator) -> Tensor:
    """[1, 25]: near frontal and slightly from above as portraits are, in one of eight clearly turned."""
    spread = 0.25 if rng.random() < 0.125 else 0.07
    return _labels(rng.normal(0, spread, 1), rng.normal(-0.1, 0.07, 1))


def _labels(yaws: NDArray[np.float64], pitches: NDArray[np.float64]) -> Tensor:
    labels = [
        Camera.look_at(float(yaw), float(pitch)).label for yaw, pitch in zip(yaws, pitches, strict=True)
    ]
    return torch.from_numpy(np.stack(labels))


def mirror_labels(labels: Tensor) -> Tensor:
    """[V, 25] labels of the mirrored cameras: those that belong to images flipped left to right."""
    mirrored = [Camera.from_label(label).mirrored().label for label in labels.cpu().numpy()]
    return torch.from_numpy(np.stack(mirrored))
