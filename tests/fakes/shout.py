"""A tiny stage: each item is a text file, the result is its text in capitals.

The first word of the input can ask for trouble: "fail" fails, "crash" raises what no stage should raise,
"full" pretends a full disk, "sleep S" takes S seconds in steps, "print" writes to standard output by hand and
by file descriptor, "slow" takes a little and writes several outputs, and so on; see `Shout.process`.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dp3d_cli.core.errors import InputError, UsageError, WeightsError
from dp3d_cli.stages.engine.stage import Item, Json, Product, StepProgress

SUFFIXES = (".txt", ".text")


@dataclass
class Shout:
    loud: int = 1
    weights: Mapping[str, str] = field(default_factory=dict)
    worked_on: list[str] = field(default_factory=list)
    parts: int = 1
    name: str = "shout"

    @property
    def settings(self) -> Mapping[str, Json]:
        return {"loud": self.loud, "layout": {"parts": self.parts}}

    def process(self, item: Item, draft: Path, progress: StepProgress) -> Product:
        self.worked_on.append(item.id)
        text = "".join(path.read_text() for path in item.inputs)
        word, _, rest = text.partition(" ")
        parts = self.parts
        if word == "fail":
            raise InputError(f"{item.inputs[0]}: it says fail. Say something else.", reason="says-fail")
        if word == "usage":
            raise UsageError("the request makes no sense")
        if word == "weights":
            raise WeightsError("weights are missing; dp3d weights fetch gets them")
        if word == "crash":
            raise ZeroDivisionError("one by\nzero")
        if word == "exit":
            raise SystemExit(7)
        if word == "memory":
            raise MemoryError
        if word == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if word == "print":
            print("garbage")  # noqa: T201 - what libraries do
            os.write(1, b"more garbage\n")
        if word == "sleep":
            (draft / "half.txt").write_text("half-written")
            for step in range(100):
                time.sleep(float(rest) / 100)
                progress.step(step + 1, 100, "asleep")
        if word == "stuck":
            time.sleep(float(rest))
        if word == "slow":
            parts = 5
        outputs = []
        for part in range(parts):
            target = f"{item.id}/{part:03d}.txt" if parts > 1 else f"{item.id}.txt"
            (draft / target).parent.mkdir(parents=True, exist_ok=True)
            (draft / target).write_text(text.upper() * self.loud + f"{part}")
            outputs.append(target)
            if word == "slow":
                time.sleep(0.01)
            progress.step(part + 1, parts)
        warnings = (f"{item.inputs[0]} is odd",) if word == "odd" else ()
        return Product(
            tuple(outputs), info={"letters": len(text)}, timings={"shout_s": 0.1}, warnings=warnings
        )
