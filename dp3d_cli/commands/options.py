"""Options that several commands share, each with one name, help and check.

A batch command takes one parameter `flags: RunFlags` and is decorated with `batch_command`, which puts the
options of every batch in its place. Sources and output are `Annotated` aliases of their own.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, get_type_hints

import typer

from dp3d_cli.core.errors import UsageError
from dp3d_cli.stages.engine.run import RunOptions
from dp3d_cli.stages.engine.shards import Shard

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        show_default=False,
        help="Files, folders (searched through), quoted globs, or - for paths on standard input.",
    ),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where results go; made if needed.")
]


class References(str, Enum):
    """How portraits make subjects."""

    each = "each"
    folder = "folder"

    @property
    def group(self) -> Literal["file", "folder"]:
        """The same in the engine's words."""
        return "folder" if self is References.folder else "file"


ReferencesOption = Annotated[
    References,
    typer.Option(
        "--references", help="Each portrait is a subject, or all portraits of a folder show one subject."
    ),
]
PresetName = Annotated[
    str, typer.Option("--preset", "-p", metavar="NAME|FILE", help="Settings that belong together.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="KEY=VALUE", show_default=False, help="Change one setting of the preset."
    ),
]
Device = Annotated[
    str, typer.Option(metavar="auto|cpu|cuda", help="Torch device; auto takes CUDA where there is one.")
]

_RUN = "Which items, and again or not"
_SCREEN = "What is printed"

_Overwrite = Annotated[
    bool, typer.Option("--overwrite/--no-overwrite", help="Do everything again.", rich_help_panel=_RUN)
]
_RetryFailed = Annotated[
    bool,
    typer.Option(
        "--retry-failed/--no-retry-failed", help="Try items again that failed.", rich_help_panel=_RUN
    ),
]
_DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run/--no-dry-run",
        help="Only list what would run and what is done, and the weights needed.",
        rich_help_panel=_RUN,
    ),
]
_Limit = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", show_default=False, help="Look at the first N items only.", rich_help_panel=_RUN
    ),
]
_FailFast = Annotated[
    bool,
    typer.Option("--fail-fast/--no-fail-fast", help="Stop at the first failed item.", rich_help_panel=_RUN),
]
_Shard = Annotated[
    str | None,
    typer.Option(
        metavar="I/N|auto",
        show_default=False,
        help="Do only part I of N, counted from 0; auto takes both from SLURM.",
        rich_help_panel=_RUN,
    ),
]
_Root = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        show_default=False,
        help="Files named one by one are called by their path below this folder.",
        rich_help_panel=_RUN,
    ),
]
_Null = Annotated[
    bool,
    typer.Option(
        "--null/--no-null", "-0", help="Paths on standard input end with NUL.", rich_help_panel=_RUN
    ),
]
_Json = Annotated[
    bool,
    typer.Option(
        "--json/--no-json",
        help="One JSON object per item on standard output instead of one path.",
        rich_help_panel=_SCREEN,
    ),
]
_Print0 = Annotated[
    bool,
    typer.Option(
        "--print0/--no-print0", help="End each printed path with NUL, not newline.", rich_help_panel=_SCREEN
    ),
]
_Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet/--no-quiet", "-q", help="On the screen, only what failed.", rich_help_panel=_SCREEN
    ),
]
_Verbose = Annotated[
    bool,
    typer.Option("--verbose/--no-verbose", "-v", help="Log details and tracebacks.", rich_help_panel=_SCREEN),
]


@dataclass(frozen=True)
class RunFlags:
    """The options of every batch, parsed.

    Attributes:
        options: what the engine needs to know.
        root, null: how sources are read.
        json, print0: form of the results on standard output.
        quiet, verbose: how much is said on standard error.
        stdout: where results go; the process's standard output if None.
    """

    options: RunOptions = field(default_factory=RunOptions)
    root: Path | None = None
    null: bool = False
    json: bool = False
    print0: bool = False
    quiet: bool = False
    verbose: bool = False
    stdout: BinaryIO | None = None


def _run_flags(
    *,
    root: _Root = None,
    null: _Null = False,
    overwrite: _Overwrite = False,
    retry_failed: _RetryFailed = False,
    dry_run: _DryRun = False,
    limit: _Limit = None,
    fail_fast: _FailFast = False,
    shard: _Shard = None,
    json: _Json = False,
    print0: _Print0 = False,
    quiet: _Quiet = False,
    verbose: _Verbose = False,
) -> RunFlags:
    if json and print0:
        raise UsageError("--json and --print0 exclude each other; JSON objects stand one a line.")
    if quiet and verbose:
        raise UsageError("--quiet and --verbose exclude each other.")
    options = RunOptions(
        overwrite=overwrite,
        retry_failed=retry_failed,
        dry_run=dry_run,
        limit=limit,
        fail_fast=fail_fast,
        shard=Shard.parse(shard, os.environ),
    )
    return RunFlags(options, root, null, json, print0, quiet, verbose)


def batch_command(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of every batch in place of its parameter `flags: RunFlags`.

    Within the command standard output is out of reach: what libraries print there goes to standard error, as
    a reader of the results would take it for paths. Without a parameter named `sources`, the options that say
    how sources are read are left out.
    """
    own = inspect.signature(function)
    own_types = get_type_hints(function, include_extras=True)
    shared_types = get_type_hints(_run_flags, include_extras=True)
    parameters = []
    for name, parameter in own.parameters.items():
        if name != "flags":
            parameters.append(parameter.replace(annotation=own_types[name], kind=parameter.KEYWORD_ONLY))
    shared = [
        parameter.replace(annotation=shared_types[name])
        for name, parameter in inspect.signature(_run_flags).parameters.items()
        if "sources" in own.parameters or name not in ("root", "null")
    ]
    names = [parameter.name for parameter in shared]

    @functools.wraps(function)
    def command(**values: Any) -> None:
        chosen = {name: values.pop(name) for name in names if name in values}
        configure_logging(chosen.get("quiet", False), chosen.get("verbose", False))
        flags = _run_flags(**chosen)
        with protected_stdout() as stdout:
            function(**values, flags=RunFlags(**{**vars(flags), "stdout": stdout}))

    del command.__wrapped__  # typer reads the signature below, not the one without the shared options
    parameters += shared
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


class _StderrHandler(logging.Handler):
    """Writes to whatever standard error is at that moment: the progress display puts its own there."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(self.format(record) + "\n")


def configure_logging(quiet: bool, verbose: bool) -> None:
    """Send dp3d's own log to standard error: warnings, or everything with --verbose."""
    logger = logging.getLogger("dp3d_cli")
    logger.handlers = [_StderrHandler()]
    logger.handlers[0].setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.propagate = False
    logger.setLevel(logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING)


@contextlib.contextmanager
def protected_stdout() -> Iterator[BinaryIO]:
    """Standard output for results alone, while print() and native libraries write to standard error."""
    original = sys.stdout
    if original is None:  # closed by the caller (>&-)
        with Path(os.devnull).open("wb") as nowhere:
            yield nowhere
        return
    original.flush()
    try:
        is_real = original.fileno() == 1
    except (OSError, ValueError):
        is_real = False
    if not is_real:  # a test's or a caller's replacement
        with contextlib.redirect_stdout(sys.stderr):
            yield original.buffer
        return
    kept = os.dup(1)
    os.dup2(2, 1)
    stream = open(kept, "wb", closefd=False)  # noqa: SIM115 - closed below, whatever the pipe says
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield stream
    finally:
        with contextlib.suppress(BrokenPipeError):
            stream.close()
        os.dup2(kept, 1)
        os.close(kept)
