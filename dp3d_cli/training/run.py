"""One run of `dp3d train`: a stage, trained in a folder, exported when it is done.

RUN/train.json       what the run was started with; other settings than before are refused
    checkpoint.pt    trained weights, their average, the optimizer, the step
    log.jsonl        loss and validation; tensorboard/ the same, if that is installed
    samples/         a grid of pictures per validation
    export/          the averaged weights as a folder that the next stage starts from
    <stage>/         runs of earlier stages, where the preset says to train them first
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from dp3d_cli.core.errors import Dp3dError, UsageError
from dp3d_cli.core.weights.manifest import MANIFEST_NAME, sha256
from dp3d_cli.training.data import open_subjects
from dp3d_cli.training.export import replaced
from dp3d_cli.training.journal import BOARD, LOG
from dp3d_cli.training.loop import CHECKPOINT, SAMPLES, train
from dp3d_cli.training.preset import STAGES, StageName, TrainPreset
from dp3d_cli.training.stages import open_stage
from dp3d_cli.training.start import EXPORT

SETTINGS = "train.json"
_PACE = (
    "steps", "decay_steps", "log_every", "save_every", "keep", "validate_every", "validate_first", "workers",
    "gradient_checkpointing",
)  # fmt: skip
"""Settings of the loop that may change when a run goes on: they change no step that was taken."""


class TrainProgress(Protocol):
    """What the outside sees of a run."""

    def started(self, stage: str, done: int, total: int, folder: Path) -> None:
        """A stage begins, or goes on behind `done` steps."""
        ...

    def step(self, done: int, numbers: Mapping[str, float]) -> None:
        """A step is done."""
        ...

    def finished(
        self, stage: str, done: int, total: int, validation: Mapping[str, tuple[float, float]]
    ) -> None:
        """A stage ends; its validation figures at the beginning and at the end."""
        ...


@dataclass(frozen=True)
class Trained:
    """What became of a run.

    Attributes:
        export: the folder of weights; None if the run was interrupted.
        stage: the stage that was trained last.
        steps: taken in all.
    """

    export: Path | None
    stage: StageName
    steps: int


def run_training(
    presets: Callable[[StageName], TrainPreset],
    stage: StageName,
    folder: Path,
    *,
    progress: TrainProgress,
    stop: Callable[[], bool],
    device: str = "auto",
) -> Trained:
    """Train a stage, and the ones before it if the preset says so and no start is given.

    Args:
        presets: gives the settings of a stage.
        stage: what to train.
        folder: of the run.
        progress: sees what happens.
        stop: asked after each step; True ends the run with a checkpoint.
        device: "auto" or "cpu".

    Raises:
        UsageError: settings that make no sense or differ from those of the run in `folder`.
        WeightsError: a start that does not fit.
        InputError: data that cannot be used.
    """
    preset = presets(stage)
    if preset.train_earlier and not preset.start and stage in STAGES[:-1]:
        exports: list[Path] = []
        for earlier in STAGES[: STAGES.index(stage)]:
            part = _train(
                replace(presets(earlier), start=tuple(exports)), folder / earlier, progress, stop, device
            )
            if part.export is None:
                return part
            exports.append(part.export)
        preset = replace(preset, start=tuple(exports))
    return _train(preset, folder, progress, stop, device)


def forget(folder: Path) -> None:
    """Remove what a run left in its folder, and nothing else."""
    for name in (CHECKPOINT, LOG, SETTINGS):
        (folder / name).unlink(missing_ok=True)
    for name in (SAMPLES, BOARD, EXPORT, *STAGES):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)


def is_main_process() -> bool:
    """Whether this is the only process, or the first of those that accelerate or torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _train(
    preset: TrainPreset, folder: Path, progress: TrainProgress, stop: Callable[[], bool], device: str
) -> Trained:
    stage, loop = open_stage(preset.stage), preset.loop
    subjects = open_subjects(preset.data, "train")
    module = stage.build(preset)
    if is_main_process():
        _claim(folder, preset)
    done = steps_taken(folder)
    progress.started(preset.stage, done, loop.steps, folder)
    taken = max(done, 0)

    def report(step: int, numbers: Mapping[str, float]) -> None:
        nonlocal taken
        taken = step
        progress.step(step, numbers)

    try:
        average = train(
            module,
            stage.batches(preset, subjects, loop.seed, loop.steps),
            stage.loss,
            loop,
            folder,
            stage.validate,
            grid=stage.grid,
            report=report,
            stop=stop,
            device=device,
        )
    except torch.cuda.OutOfMemoryError as error:
        raise Dp3dError(
            "Out of GPU memory. Use a smaller batch, gradient_checkpointing=true, mixed_precision=bf16, or "
            "more processes.",
            reason="out-of-memory",
        ) from error
    taken = steps_taken(folder) if not is_main_process() else taken
    progress.finished(preset.stage, taken, loop.steps, _validation(folder))
    if taken < loop.steps:
        return Trained(None, preset.stage, taken)
    export = folder / EXPORT
    if is_main_process():
        average.copy_to([parameter for parameter in module.parameters() if parameter.requires_grad])
        module.eval().cpu()
        with replaced(export) as draft:
            stage.export(module, draft)
    return Trained(export, preset.stage, taken)


def steps_taken(folder: Path) -> int:
    """The step of a run's checkpoint, 0 without one."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return 0
    return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["step"])


def _claim(folder: Path, preset: TrainPreset) -> None:
    """Write down what the run is, or check that it is the one that was begun here.

    Raises:
        UsageError: it was begun with other settings.
    """
    settings = _settings(preset)
    path = folder / SETTINGS
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        differing = _differences(before, settings)
        if differing:
            key, old, new = differing[0]
            more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
            raise UsageError(
                f"{folder}: a run with other settings: {key} was {old!r}, now {new!r}{more}. Name another "
                "folder, or --overwrite."
            )
    elif (folder / CHECKPOINT).is_file():
        raise UsageError(f"{folder}: holds a checkpoint of something else. Name another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{SETTINGS}.{secrets.token_hex(4)}"
    draft.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    draft.replace(path)


def _settings(preset: TrainPreset) -> dict[str, object]:
    """What decides the weights, as JSON values; of a start also the digest of its manifest if it has one."""
    content = asdict(preset)
    for key in ("name", "description", "train_earlier"):
        del content[key]
    content["loop"] = {key: value for key, value in content["loop"].items() if key not in _PACE}
    content["start"] = [[str(start.resolve()), _manifest(start)] for start in preset.start]
    values: dict[str, object] = json.loads(json.dumps(content, default=str))
    return values


def _manifest(start: Path) -> str:
    places = (start / EXPORT / MANIFEST_NAME, start / MANIFEST_NAME)
    return next((sha256(place) for place in places if place.is_file()), "")


def _differences(before: object, now: object, key: str = "") -> list[tuple[str, object, object]]:
    if isinstance(before, dict) and isinstance(now, dict):
        names = sorted(before.keys() | now.keys())
        parts = [
            _differences(before.get(name), now.get(name), f"{key}.{name}" if key else name) for name in names
        ]
        return [difference for part in parts for difference in part]
    return [] if before == now else [(key, before, now)]


def _validation(folder: Path) -> dict[str, tuple[float, float]]:
    """The first and the last value of each validation figure in the log."""
    figures: dict[str, tuple[float, float]] = {}
    log = folder / LOG
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else ():
        for name, value in json.loads(line).items():
            if name.startswith("val_"):
                figures[name[4:]] = (figures.get(name[4:], (value,))[0], value)
    return figures
