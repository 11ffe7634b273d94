"""Which picture is compared with which: by subject id, then by view number. What is left over is listed."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.errors import UsageError
from dp3d_cli.stages.view_folders import Found, View, ViewFolder, find_reference

BASELINE = "reference-copied"


@dataclass(frozen=True)
class Pair:
    """A view of a method and what it is compared with.

    Attributes:
        index: number of the view.
        prediction: the method's picture.
        truth: the true one; None where there are references only.
        yaw: angle of the requested camera [rad], if known.
        pitch: the same.
        camera: the requested camera, if known.
        reference: the portrait that the view was made from, if given.
    """

    index: int
    prediction: View
    truth: View | None
    yaw: float | None = None
    pitch: float | None = None
    camera: Camera | None = None
    reference: View | None = None


@dataclass(frozen=True)
class Match:
    """The pairs of one method and one subject, in order of their view numbers."""

    method: str
    subject: str
    pairs: tuple[Pair, ...]
    descriptions: tuple[Path, ...] = ()

    @property
    def id(self) -> str:
        """Identity below the report's folder."""
        return self.method if self.subject == "." else f"{self.method}/{self.subject}"


@dataclass(frozen=True)
class Omission:
    """What was not paired, and why. `view` is None if the whole subject was not."""

    method: str
    subject: str
    view: int | None
    reason: str
    message: str


@dataclass(frozen=True)
class Pairing:
    """All matches and what is missing from them.

    Attributes:
        matches: sorted by the order of methods, then by subject.
        omissions: in the same order.
        outside_yaw: number of pairs that the limit on yaw took out.
    """

    matches: tuple[Match, ...]
    omissions: tuple[Omission, ...] = ()
    outside_yaw: int = 0


def pair_method(method: str, found: Found, truth: Found) -> Pairing:
    """Pair one method's subjects with the true ones.

    Two folders that are themselves one subject each are paired whatever their names.
    """
    truths = truth.by_id()
    ids = sorted({*truths, *found.by_id()})
    matches, omissions = [], []
    for bad in (*found.unusable, *truth.unusable):
        omissions.append(Omission(method, bad.id, None, bad.reason, bad.message))
    known = {bad.id for bad in (*found.unusable, *truth.unusable)}
    for identity in ids:
        own, true = found.by_id().get(identity), truths.get(identity)
        if own is None or true is None:
            if identity not in known:
                lacking = "prediction" if own is None else "ground truth"
                reason = "no-prediction" if own is None else "no-ground-truth"
                message = f"{identity}: there is no {lacking} for this subject."
                omissions.append(Omission(method, identity, None, reason, message))
            continue
        match, missing = _pair_views(method, own, true)
        if match.pairs:
            matches.append(match)
        omissions += missing
    return Pairing(tuple(matches), tuple(sorted(omissions, key=_order)))


def pair_references(references: Path, truth: Found) -> Pairing:
    """The baseline: the reference portrait, copied to every view of its subject."""
    matches, omissions = [], []
    for true in truth.folders:
        path = find_reference(references, true.id)
        if path is None:
            message = f"{true.id}: there is no reference portrait for this subject below {references.name}."
            omissions.append(Omission(BASELINE, true.id, None, "no-reference", message))
            continue
        pairs = (Pair(view.index, View(view.index, path), view, view.yaw) for view in true.views)
        matches.append(Match(BASELINE, true.id, tuple(sorted(pairs, key=lambda pair: pair.index))))
    return Pairing(tuple(matches), tuple(omissions))


def join(parts: Sequence[Pairing]) -> Pairing:
    """Several methods' pairings as one."""
    return Pairing(
        tuple(match for part in parts for match in part.matches),
        tuple(omission for part in parts for omission in part.omissions),
        sum(part.outside_yaw for part in parts),
    )


def with_yaws(pairing: Pairing, yaws: Sequence[float]) -> Pairing:
    """Set every pair's yaw [rad] from a trajectory, by view number; beyond its end it becomes unknown."""

    def known(pair: Pair) -> Pair:
        return replace(pair, yaw=yaws[pair.index] if pair.index < len(yaws) else None)

    matches = (replace(match, pairs=tuple(map(known, match.pairs))) for match in pairing.matches)
    return replace(pairing, matches=tuple(matches))


def beyond_yaw(pairing: Pairing, min_yaw: float) -> Pairing:
    """Keep the pairs whose camera is turned by more than `min_yaw` [rad] to either side.

    Angles of one subject's views that one method states (its `views.json`) hold for the others, too.

    Raises:
        UsageError: a pair's angle is unknown.
    """
    stated: dict[tuple[str, int], float] = {}
    for match in pairing.matches:
        for pair in match.pairs:
            if pair.yaw is not None:
                stated.setdefault((match.subject, pair.index), pair.yaw)
    kept, outside = [], 0
    for match in pairing.matches:
        pairs = []
        for pair in match.pairs:
            yaw = pair.yaw if pair.yaw is not None else stated.get((match.subject, pair.index))
            if yaw is None or not math.isfinite(yaw):
                raise UsageError(
                    f"{match.id}: the camera angle of view {pair.index} is unknown, which --min-yaw needs. "
                    "Name the trajectory: --cameras FILE_OR_NAME.",
                    reason="no-angles",
                )
            if abs(yaw) > min_yaw:
                pairs.append(replace(pair, yaw=yaw))
        outside += len(match.pairs) - len(pairs)
        if pairs:
            kept.append(replace(match, pairs=tuple(pairs)))
    return Pairing(tuple(kept), pairing.omissions, pairing.outside_yaw + outside)


def method_names(folders: Sequence[Path], taken: Collection[str] = ()) -> dict[str, Path]:
    """A short, distinct name for each method: the last folder names that tell them apart, joined by "-".

    Raises:
        UsageError: a folder is given twice.
    """
    resolved = [folder.resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        raise UsageError("A method's folder is given twice. Give each once.", reason="method-twice")
    longest = max(len(path.parts) for path in resolved)
    for count in range(1, longest + 1):
        names = ["-".join(part.strip("/") or "root" for part in path.parts[-count:]) for path in resolved]
        if len(set(names)) == len(names) and not {BASELINE, *taken}.intersection(names):
            return dict(zip(names, folders, strict=True))
    numbered: Mapping[str, Path] = {f"{path.name}-{n}": path for n, path in enumerate(folders, 1)}
    return dict(numbered)


def _pair_views(method: str, own: ViewFolder, true: ViewFolder) -> tuple[Match, list[Omission]]:
    ours = {view.index: view for view in own.views}
    theirs = {view.index: view for view in true.views}
    pairs, missing = [], []
    for index in sorted({*ours, *theirs}):
        if index in ours and index in theirs:
            yaw = theirs[index].yaw if theirs[index].yaw is not None else ours[index].yaw
            pairs.append(Pair(index, ours[index], theirs[index], yaw))
            continue
        lacking, reason = (
            ("ground truth", "no-ground-truth") if index in ours else ("prediction", "no-prediction")
        )
        message = f"{own.id}: there is no {lacking} for view {index}."
        missing.append(Omission(method, own.id, index, reason, message))
    descriptions = tuple(path for path in (own.description, true.description) if path is not None)
    return Match(method, own.id, tuple(pairs), descriptions), missing


def _order(omission: Omission) -> tuple[str, int]:
    return omission.subject, -1 if omission.view is None else omission.view
