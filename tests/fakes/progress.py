"""A progress that remembers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dp3d_cli.stages.engine.progress import Outcome, Summary


@dataclass
class Recorder:
    """Events as tuples; `on_step` may do something at each step of an item."""

    events: list[tuple[str, ...]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    note: str = ""
    on_step: Callable[[str, int], None] | None = None

    def stage_started(self, stage: str, total: int, note: str = "") -> None:
        self.note = note
        self.events.append(("started", stage, str(total)))

    def item_started(self, item_id: str) -> None:
        self.events.append(("item", item_id))

    def item_step(self, item_id: str, done: int, total: int, label: str) -> None:
        if self.on_step:
            self.on_step(item_id, done)

    def item_finished(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.events.append((outcome.status, outcome.id))

    def stage_finished(self, summary: Summary) -> None:
        self.events.append(("finished", summary.stage))
