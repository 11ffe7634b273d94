"""The one loop that every stage runs in."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal, cast

from dp3d_cli import __version__
from dp3d_cli.core.errors import InputError, UsageError
from dp3d_cli.stages.engine.atomic import HIDDEN, Drafts, move_into_place
from dp3d_cli.stages.engine.faults import OutputError, fault_of
from dp3d_cli.stages.engine.identity import absolute, collision_key
from dp3d_cli.stages.engine.progress import Outcome, Progress, Summary
from dp3d_cli.stages.engine.records import (
    DamagedRecord,
    InputDigests,
    InputFile,
    OutputFile,
    Record,
    as_json,
    differences,
    load_record,
    outputs_are_there,
    record_path,
    sha256_of,
)
from dp3d_cli.stages.engine.resources import limit_threads, peak_memory_bytes, where
from dp3d_cli.stages.engine.shards import Shard
from dp3d_cli.stages.engine.signals import Interrupted, Interruption, catch_signals
from dp3d_cli.stages.engine.stage import Item, Json, Product, Stage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunOptions:
    """What a run does with items that were seen before, and which items it looks at.

    Attributes:
        overwrite: redo everything, whatever the records say.
        retry_failed: try items again that failed with the same input and settings.
        dry_run: touch nothing, only say what would happen.
        limit: look at the first so many items only (before sharding).
        fail_fast: stop after the first item that is failed.
        shard: the part of the items that this process does.
    """

    overwrite: bool = False
    retry_failed: bool = False
    dry_run: bool = False
    limit: int | None = None
    fail_fast: bool = False
    shard: Shard = field(default_factory=Shard)


def run_stage(
    stage: Stage, items: Sequence[Item], output: Path, options: RunOptions, progress: Progress
) -> Summary:
    """Bring every selected item to the state "done", or record why it cannot be.

    Args:
        stage: what to do.
        items: with distinct ids; done in the order given.
        output: folder of the results, made if needed.
        options: resume, selection.
        progress: told what happens.

    Returns:
        One outcome per item looked at. Failed items are outcomes, not exceptions.

    Raises:
        UsageError: finished items were made with other settings, weights or version (nothing was touched).
        OutputError: the output folder takes no more files.
    """
    started = time.monotonic()
    _check_ids(items)
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output}: is a file, but --output must be a folder.")
    selected = [item for item in items[: options.limit] if options.shard.holds(item.id)]
    run = _Run.of(stage, output, options, progress)
    if not options.overwrite:
        run.refuse_other_settings(selected)
    if not options.dry_run:
        _make_folder(output)
        limit_threads()
    progress.stage_started(stage.name, len(selected), _note(options))
    outcomes: list[Outcome] = []
    with catch_signals() as interruption:
        try:
            with Drafts(output, stage.name, active=not options.dry_run) as drafts:
                for item in selected:
                    interruption.check()
                    outcome = run.bring(item, drafts, interruption)
                    outcomes.append(outcome)
                    progress.item_finished(outcome)
                    if options.fail_fast and outcome.status == "failed":
                        break
        except Interrupted:
            pass
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"{output}: {error.strerror or error}. What is done stays done.") from error
        finally:
            summary = Summary(
                stage.name,
                tuple(outcomes),
                interrupted_by=interruption.signal if len(outcomes) < len(selected) else None,
                elapsed_s=time.monotonic() - started,
                total=len(selected),
            )
            progress.stage_finished(summary)
    return summary


@dataclass(frozen=True)
class _Run:
    """What is the same for all items of one run."""

    stage: Stage
    output: Path
    options: RunOptions
    progress: Progress
    settings: Mapping[str, Json]
    weights: Mapping[str, str]
    digests: InputDigests

    @classmethod
    def of(cls, stage: Stage, output: Path, options: RunOptions, progress: Progress) -> _Run:
        settings = cast(Mapping[str, Json], as_json(dict(stage.settings)))
        weights = cast(Mapping[str, str], as_json(dict(stage.weights)))
        return cls(stage, output, options, progress, settings, weights, InputDigests())

    def refuse_other_settings(self, items: Sequence[Item]) -> None:
        """Raise UsageError if any item is done, but with other settings, weights or version."""
        changed: dict[str, int] = {}
        count = 0
        for item in items:
            previous = self._load(item)[0]
            if previous is None or previous.status != "done":
                continue
            lines = [str(line) for line in differences(_made_with(previous), self._making_with())]
            count += bool(lines)
            for line in lines:
                changed[line] = changed.get(line, 0) + 1
        if changed:
            shown = list(changed)[:20] + ([f"and {len(changed) - 20} more"] if len(changed) > 20 else [])
            raise UsageError(
                f"{self.output}: {count} of {len(items)} items are done with other settings:\n"
                + "\n".join(f"  {line}" for line in shown)
                + "\nUse --overwrite to make them again, or another --output to keep both.",
                reason="settings-changed",
            )

    def bring(self, item: Item, drafts: Drafts, interruption: Interruption) -> Outcome:
        """Do one item, or find that nothing is to be done."""
        started = time.monotonic()
        previous, is_damaged = self._load(item)
        if is_damaged:
            log.warning("%s: the record is damaged; the item is done again", item.id)
        inputs, unreadable = self._read_inputs(item)
        settled = self._settled(item, previous, inputs)
        if settled:
            return settled
        if self.options.dry_run:
            return Outcome(item.id, "would-run")
        self.progress.item_started(item.id)
        record = Record(item.id, self.stage.name, "failed", __version__, inputs, self.settings, self.weights)
        with drafts.fresh() as draft:
            try:
                if unreadable:
                    raise unreadable
                product = self.stage.process(item, draft, _Steps(item.id, self.progress, interruption))
                record = self._done(record, product, item, draft)
                elapsed_s = time.monotonic() - started
                record = replace(record, timings=_timings(elapsed_s, product.timings))
                self._publish(item, record, draft, drafts)
            except (Exception, SystemExit) as error:
                name = item.inputs[0].name if item.inputs else item.id
                fault = fault_of(error, name, self.output)
                elapsed_s = time.monotonic() - started
                record = replace(
                    record,
                    status="failed",
                    outputs=(),
                    info={},
                    warnings=(),
                    reason=fault.reason,
                    message=self._relative(fault.message, item, draft),
                    timings=_timings(elapsed_s, {}),
                )
                self._retract(item, record, drafts, keep_results=unreadable is not None)
                return Outcome(
                    item.id, "failed", reason=fault.reason, message=fault.message, elapsed_s=elapsed_s
                )
        return self._outcome(record, "done", elapsed_s)

    def _load(self, item: Item) -> tuple[Record | None, bool]:
        """The item's record if there is a sound one, and whether there is a damaged one."""
        try:
            return load_record(self.output, self.stage.name, item.id), False
        except DamagedRecord:
            return None, True

    def _read_inputs(self, item: Item) -> tuple[tuple[InputFile, ...], InputError | None]:
        """Digests of the inputs, and the error of the first that cannot be read."""
        found: list[InputFile] = []
        failure: InputError | None = None
        for path in item.inputs:
            try:
                found.append(self.digests.read(path))
            except OSError as error:
                found.append(InputFile(path.name, None, None))
                reason = "missing-input" if isinstance(error, FileNotFoundError) else "unreadable-input"
                failure = failure or InputError(
                    f"{path}: cannot be read ({error.strerror or error})", reason=reason
                )
        return tuple(found), failure

    def _settled(self, item: Item, previous: Record | None, inputs: tuple[InputFile, ...]) -> Outcome | None:
        """The outcome if an earlier run settled the item: same inputs, settings, weights, version."""
        if self.options.overwrite or previous is None or previous.inputs != inputs:
            return None
        if _made_with(previous) != self._making_with():
            return None
        if previous.status == "failed" and not self.options.retry_failed:
            return Outcome(item.id, "failed", reason=previous.reason, message=previous.message)
        if previous.status == "done" and outputs_are_there(previous, self.output):
            return self._outcome(previous, "skipped", 0.0)
        return None

    def _outcome(self, record: Record, status: Literal["done", "skipped"], elapsed_s: float) -> Outcome:
        outputs = tuple(self.output / made.path for made in record.outputs)
        return Outcome(
            record.id, status, outputs, info=record.info, warnings=record.warnings, elapsed_s=elapsed_s
        )

    def _making_with(self) -> dict[str, Json]:
        return {"settings": self.settings, "weights": self.weights, "version": __version__}

    def _done(self, record: Record, product: Product, item: Item, draft: Path) -> Record:
        return replace(
            record,
            status="done",
            outputs=_collect(product, draft),
            info=cast(Mapping[str, Json], as_json(dict(product.info))),
            warnings=tuple(self._relative(text, item, draft) for text in product.warnings),
        )

    def _publish(self, item: Item, record: Record, draft: Path, drafts: Drafts) -> None:
        """Move the outputs into place; the record last.

        The record says "moving" in between and then lists old and new outputs, so that a run killed there
        leaves no file that nobody remembers.
        """
        # A second process may be doing this item too. Its record comes before its files: look in that order
        # backwards, and whatever is there now is known to be ours.
        there = {made.path for made in record.outputs if os.path.lexists(self.output / made.path)}
        current, is_damaged = self._load(item)
        owned = {made.path: made for made in current.outputs} if current else {}
        for path in sorted(there):
            target = self.output / path
            if any(_is_same_file(target, source) for source in item.inputs):
                raise InputError(
                    f"{target}: the result would replace its own input. Choose another --output.",
                    reason="output-is-input",
                )
            if not (path in owned or is_damaged or self.options.overwrite):
                raise InputError(
                    f"{target}: exists already and was not made from this item. Move it away, choose another "
                    "--output, or replace it with --overwrite.",
                    reason="output-exists",
                )
        new = {made.path: made for made in record.outputs}
        self._store(replace(record, status="moving", outputs=tuple({**owned, **new}.values())), drafts)
        for path in new:
            move_into_place(draft / path, self.output / path)
        self._remove(path for path in owned if path not in new)
        self._store(record, drafts)

    def _retract(self, item: Item, record: Record, drafts: Drafts, *, keep_results: bool) -> None:
        """Record a failure. Results of an earlier input or setting go: no one shall take them for current.

        They stay if only the input could not be read, which says nothing about them.
        """
        current, _ = self._load(item)
        if current and current.outputs:
            if keep_results:
                return
            self._store(replace(record, status="moving", outputs=current.outputs), drafts)
            self._remove(made.path for made in current.outputs)
        self._store(record, drafts)

    def _store(self, record: Record, drafts: Drafts) -> None:
        drafts.write(record_path(self.output, record.stage, record.id), record.to_bytes())

    def _remove(self, paths: Iterable[str]) -> None:
        """Delete outputs, and the folders that this leaves empty."""
        for path in paths:
            target = self.output / path
            target.unlink(missing_ok=True)
            for folder in target.parents:
                if folder == self.output:
                    break
                try:
                    folder.rmdir()
                except OSError:
                    break

    def _relative(self, text: str, item: Item, draft: Path) -> str:
        """The sentence without the folders of this machine, so that records can be compared."""
        names = [(path, path.name) for path in item.inputs] + [(draft, ""), (self.output, "")]
        for path, name in names:
            for spelling in {str(path), str(absolute(path))}:
                pattern = re.escape(spelling if name else f"{spelling}/")
                text = re.sub(rf"(?<![\w./-]){pattern}", name.replace("\\", r"\\"), text)
        return text


@dataclass(frozen=True)
class _Steps:
    """Progress inside one item, and the point where a signal may end it."""

    item_id: str
    progress: Progress
    interruption: Interruption

    def step(self, done: int, total: int, label: str = "") -> None:
        self.interruption.check()
        self.progress.item_step(self.item_id, done, total, label)


def _check_ids(items: Sequence[Item]) -> None:
    keys = {collision_key(item.id) for item in items}
    if len(keys) != len(items):
        raise ValueError("two items have the same id")


def _made_with(record: Record) -> dict[str, Json]:
    return {"settings": record.settings, "weights": record.weights, "version": record.version}


def _collect(product: Product, draft: Path) -> tuple[OutputFile, ...]:
    """Digest what the stage made.

    Raises:
        ValueError: the stage broke its contract.
    """
    if not product.outputs or len(set(product.outputs)) != len(product.outputs):
        raise ValueError(f"a stage must list its outputs, each once, not {product.outputs}")
    made = []
    for name in product.outputs:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or path.parts[:1] == (HIDDEN,) or str(path) != name:
            raise ValueError(f"output {name!r} is not a plain path below the output folder")
        file = draft / name
        if not file.is_file() or file.is_symlink():
            raise ValueError(f"output {name!r} was listed but not written")
        made.append(OutputFile(name, sha256_of(file), file.stat().st_size))
    return tuple(made)


def _timings(elapsed_s: float, more: Mapping[str, float]) -> dict[str, float]:
    return {"elapsed_s": round(elapsed_s, 4), "peak_memory_bytes": peak_memory_bytes(), **more}


def _is_same_file(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return False


def _make_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output}: cannot be made ({error.strerror}). Choose another --output.") from error


def _note(options: RunOptions) -> str:
    return "; ".join([f"dp3d {__version__} on {where()}", *options.shard.note])
