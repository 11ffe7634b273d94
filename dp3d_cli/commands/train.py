"""dp3d train: one stage of the training, from a preset to a folder of weights."""

from __future__ import annotations

import contextlib
import os
import signal
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dp3d_cli.commands.options import Overrides, configure_logging, protected_stdout
from dp3d_cli.commands.screen import printable, say
from dp3d_cli.commands.training_screen import TrainingScreen
from dp3d_cli.core.errors import UsageError
from dp3d_cli.stages.engine.signals import catch_signals

if TYPE_CHECKING:
    from dp3d_cli.training.preset import StageName, TrainPreset


class Stage(str, Enum):
    """What can be trained, in the order of the work; `proxy` stands for itself."""

    vae = "vae"
    backbone = "backbone"
    reference = "reference"
    camera = "camera"
    views = "views"
    proxy = "proxy"


class TrainDevice(str, Enum):
    """Where training happens."""

    auto = "auto"
    cpu = "cpu"


def train(
    stage: Annotated[
        Stage,
        typer.Argument(help="What to train; each starts from the ones before, `proxy` from nothing."),
    ],
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            "-p",
            metavar="NAME|FILE",
            show_default=False,
            help="Sizes, steps and pace: nano-smoke (minutes), nano-stages, full, or a file.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="RUN", show_default=False, help="Folder of the run; made if needed."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="procedural[:N]|FOLDER",
            show_default="the preset's",
            help="Who to learn from: heads made on the fly, or <subject>/ folders of pictures with cameras.",
        ),
    ] = None,
    start: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER|RUN",
            show_default=False,
            help="Networks to start from: Stable Diffusion 1.5 as diffusers stores it, or the run of an "
            "earlier stage. May be repeated; the later one counts.",
        ),
    ] = None,
    overrides: Overrides = None,
    steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", show_default="the preset's", help="Steps in all.")
    ] = None,
    device: Annotated[
        TrainDevice,
        typer.Option(help="auto takes the GPU, or the GPUs of `accelerate launch -m dp3d_cli train ...`."),
    ] = TrainDevice.auto,
    overwrite: Annotated[
        bool, typer.Option("--overwrite/--no-overwrite", help="Begin again, without what the run has.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet/--no-quiet", "-q", help="Say nothing but errors.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose/--no-verbose", "-v", help="Log details and tracebacks.")
    ] = False,
) -> None:
    """Train a stage: vae, backbone, reference, camera, views, or the proxy network.

    Prints the folder of the averaged weights, which the next stage starts from (--start) and which
    `-s weights=FOLDER` shows to `synthesize`. The same command goes on where it stopped.
    """
    if quiet and verbose:
        raise UsageError("--quiet and --verbose exclude each other.")
    configure_logging(quiet, verbose)
    with protected_stdout() as stdout:
        export = _train(
            stage,
            preset,
            output,
            data,
            tuple(start or ()),
            tuple(overrides or ()),
            steps,
            device,
            overwrite,
            quiet,
        )
        if export is not None:
            stdout.write(os.fsencode(export) + b"\n")


def _train(
    stage: Stage,
    preset: str,
    output: Path,
    data: str | None,
    start: tuple[Path, ...],
    overrides: tuple[str, ...],
    steps: int | None,
    device: TrainDevice,
    overwrite: bool,
    quiet: bool,
) -> Path | None:
    """Run it, and return the folder of weights if this is the process that writes it."""
    from dp3d_cli.training.preset import load_train_preset  # pulls in torch
    from dp3d_cli.training.run import forget, is_main_process, run_training

    if output.exists() and not output.is_dir():
        raise UsageError(f"{output}: is a file. Name a folder for the run.")
    changes: dict[str, object] = {"start": start}
    if data is not None:
        changes |= {"data": data, "held_out": ""}
    pace = (*overrides, *([] if steps is None else [f"loop.steps={steps}"]))

    def settings(name: StageName) -> TrainPreset:
        # What is asked for is meant for the stage that is asked for, not for those that it needs.
        own = pace if name == stage.value else ()
        return load_train_preset(preset, name, own, changes=changes)

    main = is_main_process()
    settings(stage.value)  # wrong settings are found before anything is touched
    if overwrite and main:
        forget(output)
    screen = TrainingScreen(quiet=quiet or not main)
    with catch_signals(_announce if main else None) as interruption, contextlib.closing(screen):
        trained = run_training(
            settings,
            stage.value,
            output,
            progress=screen,
            stop=lambda: interruption.signal is not None,
            device=device.value,
        )
    if trained.export is None:
        number = interruption.signal or signal.SIGINT
        if main and not quiet:
            say(
                f"Interrupted by {signal.Signals(number).name} behind step {trained.steps} of "
                f"'{trained.stage}'. It is saved in {printable(str(output))}; the same command goes on."
            )
        raise typer.Exit(128 + number)
    return trained.export if main else None


def _announce(number: int) -> None:
    """Answer a signal at once, from within its handler: a raw write, which nothing can hold up."""
    again = " Press Ctrl-C again to end at once." if number == signal.SIGINT else ""
    with contextlib.suppress(OSError):
        os.write(2, f"\nStopping behind this step, with a checkpoint.{again}\n".encode())
