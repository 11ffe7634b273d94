"""From a command to the engine and back: find items, run stages, print results, choose the exit status."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal, NoReturn

import typer

from dp3d_cli.commands.options import RunFlags
from dp3d_cli.commands.screen import RichScreen, make_screen, printable, printable_lines, say
from dp3d_cli.core.errors import Dp3dError
from dp3d_cli.stages.engine.discovery import discover
from dp3d_cli.stages.engine.progress import Outcome, Progress, Summary
from dp3d_cli.stages.engine.run import run_stage
from dp3d_cli.stages.engine.shards import Shard
from dp3d_cli.stages.engine.signals import catch_signals
from dp3d_cli.stages.engine.stage import Item, Stage

log = logging.getLogger(__name__)

# As a shell reports a process that a closed pipe ended (128 + SIGPIPE): `dp3d ... | head -1` stops quietly.
CLOSED_PIPE_STATUS = 141


def find_items(
    sources: Sequence[str],
    flags: RunFlags,
    *,
    suffixes: Collection[str] = (),
    names: Collection[str] = (),
    group: Literal["file", "folder"] = "file",
) -> tuple[Item, ...]:
    """The items that `sources` name, as `engine.discovery.discover` finds them. Says what was passed over."""
    found = discover(sources, suffixes=suffixes, names=names, group=group, root=flags.root, null=flags.null)
    for warning in found.warnings:
        log.warning("%s", printable(warning))
    # Beside our own portraits and views lie JSON files that describe them.
    foreign = [path for path in found.ignored if path.suffix.lower() != ".json"]
    if foreign and not flags.quiet:
        shown = ", ".join(printable(path.name) for path in foreign[:3])
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        say(f"Passed over as files of another kind: {shown}{more}")
    return found.items


def execute(stage: Stage, items: Sequence[Item], output: Path, flags: RunFlags) -> NoReturn:
    """Run one stage over the items and end the command with the run's status."""
    with session(flags) as run:
        summary = run.run(stage, items, output)
    raise typer.Exit(summary.exit_status)


@dataclass(frozen=True)
class Session:
    """Runs stages one after another with one screen and one way to be interrupted."""

    flags: RunFlags
    screen: Progress

    def run(
        self,
        stage: Stage,
        items: Sequence[Item],
        output: Path,
        *,
        title: str | None = None,
        print_results: bool = True,
        select: bool = True,
    ) -> Summary:
        """Run one stage over the items.

        Args:
            stage: what to do.
            items: what to do it to.
            output: folder of the results.
            title: shown instead of the stage's name ("2/5 proxy").
            print_results: whether its results are results of the command.
            select: whether --shard and --limit choose among the items; False for those that follow from items
                chosen in an earlier stage, whose ids need not fall into the same shard.
        """
        stdout = self.flags.stdout or sys.stdout.buffer
        results = _Results(stdout, self.flags, stage.name) if print_results else None
        if self.flags.options.dry_run and not self.flags.quiet:
            for name, digest in stage.weights.items():
                say(f"weights: {name} ({digest[:12]})")
        progress = _Reporting(self.screen, results, title)
        options = self.flags.options
        if not select:
            options = replace(options, shard=Shard(), limit=None)
        return run_stage(stage, items, output, options, progress)


@contextlib.contextmanager
def session(flags: RunFlags) -> Iterator[Session]:
    """A session; signals ask it to stop at the next safe point."""
    with catch_signals(_announce):
        yield Session(flags, make_screen(quiet=flags.quiet))


@contextlib.contextmanager
def reporting_errors() -> Iterator[None]:
    """Turn what ends a command into one message and an exit status."""
    try:
        yield
    except Dp3dError as error:
        log.debug("%s", error, exc_info=True)
        fail(str(error), error.exit_status)
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except BrokenPipeError:
        raise typer.Exit(CLOSED_PIPE_STATUS) from None


def fail(message: str, status: int) -> NoReturn:
    """End the command with a message."""
    with contextlib.suppress(BrokenPipeError):
        say(f"dp3d: {printable_lines(message)}")
    raise typer.Exit(status)


@dataclass(frozen=True)
class _Results:
    """Standard output of a stage: a path, or a JSON object, for each item."""

    stream: BinaryIO
    flags: RunFlags
    stage: str

    def write(self, outcome: Outcome) -> None:
        if self.flags.json:
            self._line(json.dumps(_as_json(self.stage, outcome)).encode("ascii"))
        elif self.flags.options.dry_run:
            self._line(os.fsencode(f"{outcome.status}\t{outcome.id}"))
        elif outcome.outputs:
            path = os.fsencode(outcome.outputs[0])
            if b"\n" in path and not self.flags.print0:
                name = printable(os.fsdecode(path))
                log.warning("%s has a newline in its name; use --print0 or --json", name)
            self._line(path)

    def _line(self, content: bytes) -> None:
        self.stream.write(content + (b"\0" if self.flags.print0 else b"\n"))
        self.stream.flush()  # a reader down the pipe works while we do


def _as_json(stage: str, outcome: Outcome) -> dict[str, object]:
    return {
        "stage": stage,
        "id": outcome.id,
        "status": outcome.status,
        "outputs": [str(path) for path in outcome.outputs],
        "reason": outcome.reason,
        "message": outcome.message,
        "info": outcome.info,
        "warnings": list(outcome.warnings),
        "elapsed_s": round(outcome.elapsed_s, 4),
    }


@dataclass(frozen=True)
class _Reporting:
    """Passes the events on to the screen and to standard output."""

    screen: Progress
    results: _Results | None
    title: str | None

    def stage_started(self, stage: str, total: int, note: str = "") -> None:
        self.screen.stage_started(self.title or stage, total, note)

    def item_started(self, item_id: str) -> None:
        self.screen.item_started(item_id)

    def item_step(self, item_id: str, done: int, total: int, label: str) -> None:
        self.screen.item_step(item_id, done, total, label)

    def item_finished(self, outcome: Outcome) -> None:
        for warning in outcome.warnings if outcome.status == "done" else ():
            log.warning("%s: %s", printable(outcome.id), printable(warning))
        self.screen.item_finished(outcome)
        if self.results is None:
            return
        if isinstance(self.screen, RichScreen) and self.results.stream.isatty():
            with self.screen.aside():
                self.results.write(outcome)
        else:
            self.results.write(outcome)

    def stage_finished(self, summary: Summary) -> None:
        self.screen.stage_finished(summary)


def _announce(number: int) -> None:
    """Answer a signal at once, from within its handler: a raw write, which nothing can hold up."""
    again = " Press Ctrl-C again to end at once." if number == signal.SIGINT else ""
    with contextlib.suppress(OSError):
        os.write(2, f"\nStopping at the next safe point.{again}\n".encode())
