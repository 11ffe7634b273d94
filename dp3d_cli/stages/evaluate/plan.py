"""From what the user asked for to the protocol and the pairs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.cameras.trajectories import load_trajectory
from dp3d_cli.core.errors import UsageError
from dp3d_cli.stages.evaluate.metrics import named_metrics
from dp3d_cli.stages.evaluate.networks import PoseBackend
from dp3d_cli.stages.evaluate.pairing import (
    BASELINE,
    Pairing,
    beyond_yaw,
    five_views,
    join,
    method_names,
    pair_method,
    pair_reconstructions,
    pair_references,
    pair_without_truth,
    with_cameras,
    with_references,
)
from dp3d_cli.stages.evaluate.protocol import (
    DEFAULT_METRICS,
    DEFAULT_SIZE,
    Against,
    Protocol,
    PublishedProtocol,
    Views,
    load_protocol,
    parse_crop,
)
from dp3d_cli.stages.view_folders import Found, find_view_folders


@dataclass(frozen=True)
class Request:
    """The options of `dp3d evaluate`. None is "not said": the protocol's value, else the default.

    Attributes:
        methods: folders, or NAME=FOLDER to name a method in the report. FOLDER/*/INNER takes what is
            called INNER inside each subject's folder, for this method.
        truth: folder of the ground truth; None compares with the references only.
        references: folder of the reference portraits: for the baseline and metrics that need them.
        names: files or folders that hold the views inside each subject's folder ("proxy"). Each method takes
            the one that gives most pairs, or its subjects' folders themselves.
        truth_name: the same for the ground truth; it holds without a choice.
        metrics: as `named_metrics` takes them.
        size, crop, min_yaw: as in `Protocol`, the crop as text.
        cameras: name or file of a trajectory that tells every view's camera.
        protocol: name of a shipped protocol.
        views: "all" or "five".
        strict: a prediction without a face scores the worst.
        require: metrics without which the command fails, as `named_metrics` takes them.
        reconstruction: predictions are at the reference's own camera, so that the reference is the truth.
        device: torch device of the metrics' networks; "auto" is CUDA where there is one.
        pose: the pose estimator.
    """

    methods: tuple[str | Path, ...]
    truth: Path | None
    references: Path | None = None
    names: tuple[str, ...] = ()
    truth_name: str | None = None
    metrics: str | None = None
    size: int | None = None
    crop: str | None = None
    min_yaw: float | None = None
    cameras: str | None = None
    protocol: str | None = None
    views: str | None = None
    strict: bool | None = None
    require: str | None = None
    reconstruction: bool = False
    device: str = "cpu"
    pose: str = "auto"

    @property
    def required(self) -> tuple[str, ...]:
        """Metrics without which the command fails.

        Raises:
            UsageError: an unknown name.
        """
        return named_metrics(self.require) if self.require else ()


def plan(request: Request) -> tuple[Protocol, Pairing]:
    """Check the request and find all pairs.

    Raises:
        UsageError: an option makes no sense, a folder does not exist, or a method has not a single pair
            (reason "no-pairs").
    """
    _check(request)
    truth = None
    if request.truth is not None:
        truth = find_view_folders(request.truth, request.truth_name, videos=True)
    methods = _methods(request.methods)
    found = {method: _searches(*place, request.names) for method, place in methods.items()}
    cameras = _cameras(request.cameras, truth, [search for own in found.values() for search in own])
    protocol = _protocol(request, cameras)
    parts = []
    if truth is not None and request.references is not None:
        parts.append(pair_references(request.references, truth))
    for method, (folder, _) in methods.items():
        choices = [_pair(request, method, folder, search, truth) for search in found[method]]
        best = max(choices, key=lambda part: sum(len(match.pairs) for match in part.matches))
        if not best.matches:
            raise UsageError(_no_pairs(folder, request, choices[-1]), reason="no-pairs")
        parts.append(best)
    pairing = join(parts)
    if request.references is not None:
        pairing = with_references(pairing, request.references)
    if cameras is not None:
        pairing = with_cameras(pairing, cameras)
    return protocol, _chosen(pairing, protocol)


def _check(request: Request) -> None:
    if request.references is not None and not request.references.exists():
        raise UsageError(f"{request.references}: there is no such folder.", reason="missing-folder")
    if request.truth is None and request.references is None:
        raise UsageError(
            "Nothing to compare with: give the ground truth (--gt FOLDER), or reference portraits "
            "(--references FOLDER).",
            reason="no-truth",
        )
    if request.reconstruction and request.truth is not None:
        raise UsageError(
            "--reconstruction takes the references for the truth, so that --gt has no place beside it.",
            reason="two-truths",
        )
    if request.pose not in get_args(PoseBackend):
        raise UsageError(
            f"--pose is one of {', '.join(get_args(PoseBackend))}; got '{request.pose}'.", reason="bad-pose"
        )
    if request.views is not None and request.views not in get_args(Views):
        raise UsageError(
            f"--views is one of {', '.join(get_args(Views))}; got '{request.views}'.", reason="bad-views"
        )


def _protocol(request: Request, cameras: tuple[Camera, ...] | None) -> Protocol:
    """The rule: options before the shipped protocol before defaults, and what deviates from the second."""
    published = load_protocol(request.protocol) if request.protocol else None
    base = published or PublishedProtocol(
        description="", paper="", metrics=DEFAULT_METRICS, size=DEFAULT_SIZE
    )
    metrics = named_metrics(request.metrics) if request.metrics else base.metrics
    metrics += tuple(name for name in request.required if name not in metrics)
    size = base.size if request.size is None else request.size
    crop = base.crop if request.crop is None else request.crop
    min_yaw = base.min_yaw if request.min_yaw is None else request.min_yaw
    views: Views = base.views if request.views is None else ("five" if request.views == "five" else "all")
    strict = base.strict if request.strict is None else request.strict
    deviations = []
    if published is not None:
        lacking = [name for name in base.metrics if name not in metrics]
        if lacking:
            deviations.append(f"Not asked for: {', '.join(lacking)}.")
        for what, here, there in (
            ("size", size, base.size),
            ("crop", crop, base.crop),
            ("views", views, base.views),
            ("least yaw", min_yaw, base.min_yaw),
            ("strict", strict, base.strict),
        ):
            if here != there:
                deviations.append(f"{what}: {_word(here)} instead of {_word(there)}.")
    against: Against = "ground truth"
    if request.truth is None:
        against = "references, as reconstructions" if request.reconstruction else "references"
    return Protocol(
        metrics=metrics,
        size=size,
        window=parse_crop(crop, size),
        min_yaw=min_yaw,
        cameras=cameras,
        views=views,
        strict=strict,
        against=against,
        device=_device(request.device),
        pose=_pose(request.pose),
        name=request.protocol,
        published=published,
        deviations=tuple(deviations),
    )


def _pair(request: Request, method: str, folder: Path, found: Found, truth: Found | None) -> Pairing:
    if truth is not None:
        return pair_method(method, found, truth)
    assert request.references is not None
    if request.reconstruction:
        return pair_reconstructions(method, folder, found, request.references)
    return pair_without_truth(method, found, request.references)


def _searches(folder: Path, inner: str | None, names: tuple[str, ...]) -> list[Found]:
    choices = (inner,) if inner is not None else (*names, None)
    return [find_view_folders(folder, name, videos=True) for name in choices]


def _chosen(pairing: Pairing, protocol: Protocol) -> Pairing:
    """The pairs whose views the protocol scores."""
    if protocol.min_yaw is not None:
        pairing = beyond_yaw(pairing, protocol.min_yaw)
        if not pairing.matches:
            raise UsageError(
                f"No camera is turned further than {protocol.min_yaw:g} rad. Lower --min-yaw.",
                reason="no-pairs",
            )
    if protocol.views == "five":
        pairing = five_views(pairing)
        if not pairing.matches:
            raise UsageError(
                f"{pairing.omissions[-1].message} Give views at these angles (--cameras names a trajectory "
                "where nothing else tells the angles), exactly five views, or --views all.",
                reason="no-pairs",
            )
    return pairing


def _methods(texts: tuple[str | Path, ...]) -> dict[str, tuple[Path, str | None]]:
    """Name → folder and inner name. A text is NAME=FOLDER unless it is the path of something that exists."""
    named: dict[str, tuple[Path, str | None]] = {}
    others: list[Path] = []
    inners: dict[Path, str | None] = {}
    for text in texts:
        name, equals, folder = str(text).partition("=")
        if _place(str(text))[0].exists() or not equals:
            whole, inner = _place(str(text))
            # The inner name tells methods of one folder apart.
            others.append(whole / inner if inner else whole)
            inners[others[-1]] = inner
        elif not name or "/" in name or name in named or name == BASELINE:
            raise UsageError(
                f"'{text}': a method needs a name of its own, without a slash.", reason="bad-name"
            )
        else:
            named[name] = _place(folder)
    if others:
        for name, path in method_names(others, taken=named).items():
            inner = inners[path]
            named[name] = (path.parent if inner else path, inner)
    return named


def _place(text: str) -> tuple[Path, str | None]:
    """The folder and the inner name of FOLDER/*/INNER."""
    folder, star, inner = text.partition("/*/")
    return Path(folder), inner if star and "/" not in inner else None


def _cameras(cameras: str | None, truth: Found | None, found: list[Found]) -> tuple[Camera, ...] | None:
    """Camera of each view number. A shipped trajectory gets as many views as the ground truth has."""
    if cameras is None:
        return None
    searches = found if truth is None else [truth]
    counts = {view.index + 1 for search in searches for subject in search.folders for view in subject.views}
    is_file = Path(cameras).exists()
    return load_trajectory(cameras, None if is_file or not counts else max(counts)).cameras


def _pose(text: str) -> PoseBackend:
    return "insightface" if text == "insightface" else "landmarks" if text == "landmarks" else "auto"


def _device(name: str) -> str:
    """The device that a name means here: "auto" is resolved, since the report states it."""
    if name == "cpu":
        return name
    from dp3d_cli.core.devices import torch_device

    return str(torch_device(name))


def _word(value: object) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _no_pairs(folder: Path, request: Request, pairing: Pairing) -> str:
    own = [
        omission.subject
        for omission in pairing.omissions
        if omission.reason in ("no-ground-truth", "no-reference")
    ]
    true = [omission.subject for omission in pairing.omissions if omission.reason == "no-prediction"]
    other = request.truth or request.references
    if not own or (not true and request.truth is not None):
        lacking = folder if not own else other
        others = [omission.message for omission in pairing.omissions if omission.subject not in (*own, *true)]
        return (
            f"{lacking}: no views found (folders of 000.png, 001.png, ..., or videos). "
            f"--name and --gt-name choose a file or folder inside each subject's. {' '.join(others[:1])}"
        )
    if request.truth is None:
        return (
            f"{other}: no reference portrait for any subject of {folder}, '{own[0]}' for example. Portraits "
            "are found by the subject's path: <id>.png, <id>/reference.png, or any picture in <id>/."
        )
    return (
        f"{folder} and {other} have no view of a subject in common: '{own[0]}' against '{true[0]}', for "
        "example. Subjects are paired by their path below these folders; --name and --gt-name leave out a "
        "last part."
    )
