"""The contract between the engine and a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias, Union

Json: TypeAlias = Union[bool, int, float, str, Sequence["Json"], Mapping[str, "Json"], None]  # noqa: UP007 - 3.10 cannot


@dataclass(frozen=True)
class Item:
    """One unit of work: a portrait, a trajectory, a subject.

    Attributes:
        id: path-like identity below the output folder, without suffix ("team/anna").
        inputs: the files whose content decides the result, in a meaningful order. The first is the one
            that messages name. May be empty where the settings alone decide; a file that is not there fails
            its item only.
    """

    id: str
    inputs: tuple[Path, ...]


@dataclass(frozen=True)
class Product:
    """What a stage made of one item.

    Attributes:
        outputs: files written, relative to the draft folder. The first is the primary one, whose final
            path is printed as the result.
        info: facts about the result that are the same on every run (goes to the record and to `--json`).
        timings: seconds and bytes, which differ from run to run (goes to the record only).
        warnings: sentences for the user about this item.
    """

    outputs: tuple[str, ...]
    info: Mapping[str, Json] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class StepProgress(Protocol):
    """Progress inside one item."""

    def step(self, done: int, total: int, label: str = "") -> None:
        """`done` of `total` steps are finished. Also the point where an interrupt may end the item."""


class Stage(Protocol):
    """One kind of work. Results depend on the item, the settings and the weights, and on nothing else."""

    @property
    def name(self) -> str:
        """Command name, as in "align"."""

    @property
    def settings(self) -> Mapping[str, Json]:
        """Everything besides inputs and weights that decides a result. Stored, compared, shown."""

    @property
    def weights(self) -> Mapping[str, str]:
        """Name of each weights file used → sha256."""

    def process(self, item: Item, draft: Path, progress: StepProgress) -> Product:
        """Make the item's files below `draft`, under the relative paths they shall have in the output folder.

        Raises:
            Dp3dError: the item cannot be done; the engine records reason and message and goes on.
                UsageError and WeightsError concern every item and end the run instead.
        """
