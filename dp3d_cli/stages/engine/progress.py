"""How the engine tells the outside what happens. The screen lives in `dp3d_cli.commands`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from dp3d_cli.stages.engine.stage import Json

Status = Literal["done", "skipped", "failed", "would-run"]


@dataclass(frozen=True)
class Outcome:
    """What became of one item in this run.

    Attributes:
        id: the item's identity.
        status: done now, skipped because an earlier run finished it, failed, or (dry run) would run.
        outputs: final paths, the primary one first; empty unless done or skipped.
        reason: kebab-case cause when failed.
        message: the sentence for the user when failed.
        info: the product's deterministic facts.
        warnings: sentences about this item.
        elapsed_s: wall time spent on it in this run [s].
    """

    id: str
    status: Status
    outputs: tuple[Path, ...] = ()
    reason: str = ""
    message: str = ""
    info: Mapping[str, Json] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    elapsed_s: float = 0.0


class Progress(Protocol):
    """Receives the events of one stage run."""

    def stage_started(self, stage: str, total: int, note: str = "") -> None:
        """`total` items will be looked at; `note` says shard, resume state, weights."""

    def item_started(self, item_id: str) -> None:
        """Work on an item begins."""

    def item_step(self, item_id: str, done: int, total: int, label: str) -> None:
        """An item reports steps of its own."""

    def item_finished(self, outcome: Outcome) -> None:
        """An item is done, skipped or failed."""

    def stage_finished(self, summary: Summary) -> None:
        """The stage is over, completely or by interrupt."""


@dataclass(frozen=True)
class Summary:
    """Totals of one stage run.

    Attributes:
        stage: command name.
        outcomes: one per item looked at, in order.
        interrupted_by: signal number if a signal ended the run early, else None.
        elapsed_s: wall time [s].
        total: items that this run was to look at; more than the outcomes if it ended early.
    """

    stage: str
    outcomes: tuple[Outcome, ...]
    interrupted_by: int | None = None
    elapsed_s: float = 0.0
    total: int = 0

    def count(self, status: Status) -> int:
        """Number of items with this status."""
        return sum(outcome.status == status for outcome in self.outcomes)

    @property
    def exit_status(self) -> int:
        """0 all done, 1 some failed, 128 + signal when interrupted."""
        if self.interrupted_by is not None:
            return 128 + self.interrupted_by
        return 1 if self.count("failed") else 0
