"""What a training run leaves to look at: a log of JSON lines, and curves for TensorBoard where installed."""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)

LOG = "log.jsonl"
BOARD = "tensorboard"


class Journal:
    """Lines of the log, each with the means since the last, and the same numbers for TensorBoard."""

    def __init__(self, folder: Path, start: int, *, active: bool) -> None:
        self.folder, self.active = folder, active
        self.latest: Mapping[str, float] = {}
        self._rows: list[Mapping[str, float]] = []
        self._line_start = start
        self._clock = time.perf_counter()
        self._board: SummaryWriter | None = None
        if active:
            _forget(folder / LOG, start)
        if active and find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / BOARD), purge_step=start + 1 if start else None)

    def add(self, numbers: Mapping[str, float]) -> None:
        """One step's numbers."""
        self.latest = numbers
        self._rows.append(numbers)

    def close_line(self, done: int, rate: float) -> None:
        """Write the means of all steps since the last line."""
        names = sorted({name for row in self._rows for name in row})
        columns = {name: [row[name] for row in self._rows if name in row] for name in names}
        means = {name: round(sum(column) / len(column), 6) for name, column in columns.items()}
        pace = (time.perf_counter() - self._clock) / (done - self._line_start)
        self.write(done, {**means, "lr": rate, "step_s": round(pace, 4)})
        self._rows, self._line_start = [], done
        self.restart_clock()

    def write(self, done: int, numbers: Mapping[str, float]) -> None:
        """One line, if there is anything to say."""
        if not self.active or not numbers:
            return
        line = {"step": done, **numbers}
        logger.info("%s", line)
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + os.linesep)
        if self._board is not None:
            for name, number in numbers.items():
                self._board.add_scalar(name, number, done)

    def restart_clock(self) -> None:
        """What was done meanwhile is no time of a step."""
        self._clock = time.perf_counter()

    def end(self) -> None:
        """Close the files."""
        if self._board is not None:
            self._board.close()


def _forget(log: Path, start: int) -> None:
    """Take lines off the log that a run wrote behind its last checkpoint: these steps are taken again."""
    if not log.is_file():
        return
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    kept = [line for line in lines if start and json.loads(line)["step"] <= start]
    if len(kept) < len(lines):
        draft = log.with_name(f".{log.name}.{secrets.token_hex(4)}")
        draft.write_text("".join(f"{line}{os.linesep}" for line in kept), encoding="utf-8")
        draft.replace(log)
