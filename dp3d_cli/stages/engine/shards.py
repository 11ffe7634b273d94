"""Which part of a batch this process does.

An item belongs to shard sha256(id) mod n. Compared with cutting the sorted list into pieces, this depends on
the item alone: shards that look at a growing folder at different moments still leave no item out and do none
twice. The price is a spread of about the square root of the items per shard.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from dp3d_cli.core.errors import UsageError


@dataclass(frozen=True)
class Shard:
    """One of `count` disjoint parts of a batch.

    Attributes:
        index: 0-based.
        count: number of parts, >= 1.
        source: where the two numbers come from, for the log.
    """

    index: int = 0
    count: int = 1
    source: str = ""

    @classmethod
    def parse(cls, text: str | None, environ: Mapping[str, str]) -> Shard:
        """Read "i/n" (i counts from 0), "auto" (from SLURM's variables) or None (the whole batch).

        Without a request the environment never decides: a shell may carry the variables of another job.

        Raises:
            UsageError: not of this form, out of range, or SLURM's variables do not give a sound partition.
        """
        if text is None:
            return cls()
        if text == "auto":
            return _from_slurm(environ)
        found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
        if not found:
            raise UsageError(
                f"--shard {text!r} is not understood. Write --shard i/n with i counted from 0, as in 0/4, "
                "or --shard auto."
            )
        index, count = int(found[1]), int(found[2])
        if not 0 <= index < count:
            raise UsageError(
                f"--shard {text}: expected i/n with n >= 1 and i from 0 to n-1, as in 0/4, 1/4, 2/4, 3/4."
            )
        return cls(index, count, "--shard")

    def holds(self, item_id: str) -> bool:
        """Whether this shard does the item."""
        return shard_of(item_id, self.count) == self.index

    @property
    def note(self) -> tuple[str, ...]:
        """What the log says of it: which shard and who chose it; nothing if nobody asked for shards."""
        if self.count == 1 and not self.source:
            return ()
        return (f"shard {self} ({self.source})" if self.source else f"shard {self}",)

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def shard_of(item_id: str, count: int) -> int:
    """Index of the one shard in [0, count) that does the item."""
    digest = hashlib.sha256(item_id.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest, "big") % count


def _from_slurm(environ: Mapping[str, str]) -> Shard:
    array = _array(environ)
    step = _step(environ)
    if array and step:
        return Shard(
            array.index * step.count + step.index, array.count * step.count, f"{array.source}, {step.source}"
        )
    return array or step or Shard(source="auto: no SLURM array and no srun step, so everything")


def _array(environ: Mapping[str, str]) -> Shard | None:
    """Place in a job array. SLURM gives bounds, not members: only an evenly spaced array can be numbered."""
    if "SLURM_ARRAY_TASK_ID" not in environ:
        return None
    task = _number(environ, "SLURM_ARRAY_TASK_ID")
    count = _number(environ, "SLURM_ARRAY_TASK_COUNT")
    first = _number(environ, "SLURM_ARRAY_TASK_MIN")
    last = _number(environ, "SLURM_ARRAY_TASK_MAX")
    step = _number(environ, "SLURM_ARRAY_TASK_STEP", "1")
    index, remainder = divmod(task - first, max(step, 1))
    if step < 1 or remainder or not 0 <= index < count or last != first + (count - 1) * step:
        raise UsageError(
            f"--shard auto: element {task} of a SLURM array of {count} from {first} to {last} cannot be "
            f"numbered, because the array is not evenly spaced. Submit --array=0-{max(count - 1, 0)}, or say "
            "which shard this is: --shard $SLURM_ARRAY_TASK_ID/N."
        )
    return Shard(index, count, f"auto: SLURM array element {task}")


def _step(environ: Mapping[str, str]) -> Shard | None:
    """Rank within an srun step.

    The batch script itself also sees rank 0, and NTASKS even though it runs once; only a step has an id.
    """
    if "SLURM_STEP_ID" not in environ or "SLURM_PROCID" not in environ:
        return None
    rank = _number(environ, "SLURM_PROCID")
    tasks = _number(environ, "SLURM_STEP_NUM_TASKS", environ.get("SLURM_NTASKS", "1"))
    if not 0 <= rank < tasks:
        raise UsageError(
            f"--shard auto: SLURM_PROCID={rank} does not fit a step of {tasks} tasks. Give --shard i/n."
        )
    if tasks == 1:
        return None
    return Shard(rank, tasks, f"auto: srun rank {rank} of {tasks}")


def _number(environ: Mapping[str, str], name: str, default: str | None = None) -> int:
    text = environ.get(name, default)
    try:
        return int(text or "")
    except ValueError:
        raise UsageError(
            f"--shard auto: {name} is {text!r}, expected a number. Give --shard i/n instead."
        ) from None
