"""From what the user asked for to the protocol and the pairs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dp3d_cli.core.cameras.trajectories import load_trajectory
from dp3d_cli.core.errors import UsageError
from dp3d_cli.stages.evaluate.pairing import (
    BASELINE,
    Pairing,
    beyond_yaw,
    join,
    method_names,
    pair_method,
    pair_references,
    with_yaws,
)
from dp3d_cli.stages.evaluate.protocol import METRICS, Protocol, parse_crop
from dp3d_cli.stages.view_folders import Found, find_view_folders


@dataclass(frozen=True)
class Request:
    """The options of `dp3d evaluate`.

    Attributes:
        methods: folders, or NAME=FOLDER to name a method in the report.
        truth: folder of the ground truth.
        references: folder of the reference portraits, for the baseline.
        names: files or folders that hold the views inside each subject's folder ("proxy"). Each method takes
            the one that gives most pairs, or its subjects' folders themselves.
        truth_name: the same for the ground truth; it holds without a choice.
        metrics: names joined by commas, or "all".
        size, crop, min_yaw, cameras: as in `Protocol`, as text.
    """

    methods: tuple[str | Path, ...]
    truth: Path
    references: Path | None = None
    names: tuple[str, ...] = ()
    truth_name: str | None = None
    metrics: str = "psnr,ssim"
    size: int = 256
    crop: str = "none"
    min_yaw: float | None = None
    cameras: str | None = None


def plan(request: Request) -> tuple[Protocol, Pairing]:
    """Check the request and find all pairs.

    Raises:
        UsageError: an option makes no sense, a folder does not exist, or a method has not a single pair
            (reason "no-pairs").
    """
    truth = find_view_folders(request.truth, request.truth_name, videos=True)
    yaws = _yaws(request.cameras, truth)
    metrics = METRICS if request.metrics == "all" else request.metrics.split(",")
    protocol = Protocol(
        tuple(name.strip() for name in metrics),
        request.size,
        parse_crop(request.crop, request.size),
        request.min_yaw,
        yaws,
    )
    if request.references is not None and not request.references.exists():
        raise UsageError(f"{request.references}: there is no such folder.", reason="missing-folder")
    parts = [pair_references(request.references, truth)] if request.references else []
    for method, folder in _methods(request.methods).items():
        choices = [
            pair_method(method, find_view_folders(folder, name, videos=True), truth)
            for name in (*request.names, None)
        ]
        best = max(choices, key=lambda part: sum(len(match.pairs) for match in part.matches))
        if not best.matches:
            raise UsageError(_no_pairs(folder, request.truth, choices[-1]), reason="no-pairs")
        parts.append(best)
    pairing = join(parts)
    if yaws is not None:
        pairing = with_yaws(pairing, yaws)
    if request.min_yaw is not None:
        pairing = beyond_yaw(pairing, request.min_yaw)
        if not pairing.matches:
            raise UsageError(
                f"No camera is turned further than {request.min_yaw:g} rad. Lower --min-yaw.",
                reason="no-pairs",
            )
    return protocol, pairing


def _methods(texts: tuple[str | Path, ...]) -> dict[str, Path]:
    """Name → folder. A text is NAME=FOLDER unless it is the path of something that exists."""
    named: dict[str, Path] = {}
    others: list[Path] = []
    for text in texts:
        name, equals, folder = str(text).partition("=")
        if Path(text).exists() or not equals:
            others.append(Path(text))
        elif not name or "/" in name or name in named or name == BASELINE:
            raise UsageError(
                f"'{text}': a method needs a name of its own, without a slash.", reason="bad-name"
            )
        else:
            named[name] = Path(folder)
    if others:
        named.update(method_names(others, taken=named))
    return named


def _yaws(cameras: str | None, truth: Found) -> tuple[float, ...] | None:
    """Yaw [rad] of each view number. A shipped trajectory gets as many views as the ground truth has."""
    if cameras is None:
        return None
    counts = {view.index + 1 for subject in truth.folders for view in subject.views}
    is_file = Path(cameras).exists()
    trajectory = load_trajectory(cameras, None if is_file or not counts else max(counts))
    return tuple(camera.yaw for camera in trajectory.cameras)


def _no_pairs(folder: Path, truth: Path, pairing: Pairing) -> str:
    own = [omission.subject for omission in pairing.omissions if omission.reason == "no-ground-truth"]
    true = [omission.subject for omission in pairing.omissions if omission.reason == "no-prediction"]
    if not own or not true:
        lacking = folder if not own else truth
        others = [omission.message for omission in pairing.omissions if omission.subject not in (*own, *true)]
        return (
            f"{lacking}: no views found (folders of 000.png, 001.png, ..., or videos). "
            f"--name and --gt-name choose a file or folder inside each subject's. {' '.join(others[:1])}"
        )
    return (
        f"{folder} and {truth} have no view of a subject in common: '{own[0]}' against '{true[0]}', for "
        "example. Subjects are paired by their path below these folders; --name and --gt-name leave out a "
        "last part."
    )
