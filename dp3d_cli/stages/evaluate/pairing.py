"""Which picture is compared with which: by subject id, then by view. What is left over is listed.

Views of a subject belong together by file name, if every view of one side has its namesake on the other
("cam_222200037"), else by view number.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.errors import UsageError
from dp3d_cli.core.images import IMAGE_SUFFIXES
from dp3d_cli.stages.view_folders import Found, View, ViewFolder, find_reference

BASELINE = "reference-copied"

FIVE_YAWS_DEG = (0.0, -45.0, 45.0, -90.0, 90.0)
"""Front, left- and right-frontal, left and right, as Portrait Diffusion's Sec. 4.3 names five views. It gives
no angles; these are ours."""
FIVE_TOLERANCE_DEG = 10.0
"""A view farther than this from one of the five angles does not stand for it."""

# Cameras of prediction and truth that differ by more than this are not one view.
_SAME_CAMERA_DEG = 1.0


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
    """The pairs of one method and one subject, in order of their view numbers.

    Attributes:
        method: name of the method.
        subject: id of the subject.
        pairs: at least one.
        descriptions: files that say which files are views, and cameras.
        closed: whether the last view leads back to the first; None if unknown.
        has_all_views: False if a choice of views left some out, so that neighbours are not neighbours.
    """

    method: str
    subject: str
    pairs: tuple[Pair, ...]
    descriptions: tuple[Path, ...] = ()
    closed: bool | None = None
    has_all_views: bool = True

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
        warnings: sentences on pairs that may be wrong.
        outside_five: number of pairs that the choice of five views took out.
    """

    matches: tuple[Match, ...]
    omissions: tuple[Omission, ...] = ()
    outside_yaw: int = 0
    warnings: tuple[str, ...] = ()
    outside_five: int = 0


def pair_method(method: str, found: Found, truth: Found) -> Pairing:
    """Pair one method's subjects with the true ones.

    Two folders that are themselves one subject each are paired whatever their names.
    """
    truths = truth.by_id()
    ids = sorted({*truths, *found.by_id()})
    matches, omissions, warnings = [], _unusable(method, (found, truth)), []
    known = {omission.subject for omission in omissions}
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
            warnings += _other_cameras(match)
        omissions += missing
    return Pairing(tuple(matches), tuple(sorted(omissions, key=_order)), warnings=tuple(warnings))


def pair_references(references: Path, truth: Found) -> Pairing:
    """The baseline: the reference portrait, copied to every view of its subject."""
    matches, omissions = [], []
    for true in truth.folders:
        path = find_reference(references, true.id)
        if path is None:
            omissions.append(_no_reference(BASELINE, true.id, references))
            continue
        copy = View(0, path)
        pairs = (
            Pair(view.index, View(view.index, path), view, view.yaw, view.pitch, view.camera, copy)
            for view in true.views
        )
        ordered = tuple(sorted(pairs, key=lambda pair: pair.index))
        matches.append(Match(BASELINE, true.id, ordered, _descriptions(true), true.closed))
    return Pairing(tuple(matches), tuple(omissions))


def pair_without_truth(method: str, found: Found, references: Path) -> Pairing:
    """Pair one method's views with the portrait they were made from; there is no ground truth."""
    matches, omissions = [], _unusable(method, (found,))
    for own in found.folders:
        path = find_reference(references, own.id)
        if path is None:
            omissions.append(_no_reference(method, own.id, references))
            continue
        portrait = View(0, path)
        pairs = (
            Pair(view.index, view, None, view.yaw, view.pitch, view.camera, portrait) for view in own.views
        )
        ordered = tuple(sorted(pairs, key=lambda pair: pair.index))
        matches.append(Match(method, own.id, ordered, _descriptions(own), own.closed))
    return Pairing(tuple(matches), tuple(sorted(omissions, key=_order)))


def pair_reconstructions(method: str, root: Path, found: Found, references: Path) -> Pairing:
    """Pair reconstructions with the portraits themselves, which are the truth: the camera is the portrait's.

    Subjects are pictures `<id>.<suffix>` below `root` that have a portrait of the same id, else folders of
    views as everywhere.
    """
    flat = dict(_flat_pictures(root, references)) if references.is_dir() else {}
    omissions = _unusable(method, (found,))
    of_subject: dict[str, tuple[View, ...]] = {identity: (View(0, path),) for identity, path in flat.items()}
    for own in found.folders:
        rest = tuple(view for view in own.views if view.path not in flat.values())
        if rest:
            of_subject.setdefault(own.id, tuple(sorted(rest, key=lambda view: view.index)))
    matches = []
    for identity, views in sorted(of_subject.items()):
        path = find_reference(references, identity)
        if path is None:
            omissions.append(_no_reference(method, identity, references))
            continue
        portrait = View(0, path)
        pairs = tuple(Pair(view.index, view, portrait, reference=portrait) for view in views)
        matches.append(Match(method, identity, pairs, has_all_views=False))
    return Pairing(tuple(matches), tuple(sorted(omissions, key=_order)))


def join(parts: Sequence[Pairing]) -> Pairing:
    """Several methods' pairings as one."""
    return Pairing(
        tuple(match for part in parts for match in part.matches),
        tuple(omission for part in parts for omission in part.omissions),
        sum(part.outside_yaw for part in parts),
        tuple(warning for part in parts for warning in part.warnings),
        sum(part.outside_five for part in parts),
    )


def with_references(pairing: Pairing, references: Path) -> Pairing:
    """Add to every pair the reference portrait of its subject, where there is one."""

    def known(match: Match) -> Match:
        path = find_reference(references, match.subject)
        if path is None:
            return match
        pairs = (replace(pair, reference=pair.reference or View(0, path)) for pair in match.pairs)
        return replace(match, pairs=tuple(pairs))

    return replace(pairing, matches=tuple(known(match) for match in pairing.matches))


def with_cameras(pairing: Pairing, cameras: Sequence[Camera]) -> Pairing:
    """Set every pair's camera from a trajectory, by view number; beyond its end it becomes unknown."""

    def known(pair: Pair) -> Pair:
        camera = cameras[pair.index] if pair.index < len(cameras) else None
        if camera is None:
            return replace(pair, yaw=None, pitch=None, camera=None)
        return replace(pair, yaw=camera.yaw, pitch=camera.pitch, camera=camera)

    matches = (replace(match, pairs=tuple(map(known, match.pairs))) for match in pairing.matches)
    return replace(pairing, matches=tuple(matches))


def five_views(pairing: Pairing) -> Pairing:
    """Keep five views of each subject: those nearest to front, left- and right-frontal, left and right.

    A subject of exactly five views keeps them. One whose views do not come near all five angles is left out
    and listed.
    """
    kept, omissions, outside = [], list(pairing.omissions), 0
    for match in pairing.matches:
        chosen = choose_five(match)
        if chosen is None:
            degrees = ", ".join(f"{yaw:+.0f}" for yaw in FIVE_YAWS_DEG)
            message = f"{match.subject}: no five views near yaw {degrees} degrees."
            omissions.append(Omission(match.method, match.subject, None, "no-five-views", message))
            continue
        pairs = tuple(pair for pair in match.pairs if pair.index in chosen)
        outside += len(match.pairs) - len(pairs)
        all_views = match.has_all_views and len(pairs) == len(match.pairs)
        kept.append(replace(match, pairs=pairs, has_all_views=all_views))
    return replace(
        pairing,
        matches=tuple(kept),
        omissions=tuple(omissions),
        outside_five=pairing.outside_five + outside,
    )


def choose_five(match: Match) -> frozenset[int] | None:
    """View numbers of the five views of a subject; None if it has none such."""
    if len(match.pairs) == len(FIVE_YAWS_DEG):
        return frozenset(pair.index for pair in match.pairs)
    chosen = set()
    for target in FIVE_YAWS_DEG:
        near = [
            (abs(math.degrees(pair.yaw) - target), abs(pair.pitch or 0.0), pair.index)
            for pair in match.pairs
            if pair.yaw is not None
        ]
        if not near or min(near)[0] > FIVE_TOLERANCE_DEG:
            return None
        chosen.add(min(near)[2])
    return frozenset(chosen) if len(chosen) == len(FIVE_YAWS_DEG) else None


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
            all_views = match.has_all_views and len(pairs) == len(match.pairs)
            kept.append(replace(match, pairs=tuple(pairs), has_all_views=all_views))
    return replace(pairing, matches=tuple(kept), outside_yaw=pairing.outside_yaw + outside)


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
    if by_name := _by_name(own, true):
        ours = {by_name[view.path.stem]: view for view in own.views if view.path.stem in by_name}
    pairs, missing = [], []
    for index in sorted({*ours, *theirs}):
        if index in ours and index in theirs:
            pairs.append(_pair(index, ours[index], theirs[index]))
            continue
        lacking, reason = (
            ("ground truth", "no-ground-truth") if index in ours else ("prediction", "no-prediction")
        )
        message = f"{own.id}: there is no {lacking} for view {index}."
        missing.append(Omission(method, own.id, index, reason, message))
    if by_name:
        for view in own.views:
            if view.path.stem not in by_name:
                message = f"{own.id}: there is no ground truth for view {view.path.name}."
                missing.append(Omission(method, own.id, view.index, "no-ground-truth", message))
    closed = own.closed if own.closed is not None else true.closed
    descriptions = (*_descriptions(own), *_descriptions(true))
    return Match(method, own.id, tuple(pairs), descriptions, closed), missing


def _by_name(own: ViewFolder, true: ViewFolder) -> dict[str, int]:
    """Number of the true view by file name, if all views of one side have a namesake; else empty."""
    views = (*own.views, *true.views)
    if any(view.frame is not None for view in views):
        return {}
    ours = {view.path.stem for view in own.views}
    theirs = {view.path.stem: view.index for view in true.views}
    if len(ours) < len(own.views) or len(theirs) < len(true.views):
        return {}
    return theirs if ours <= theirs.keys() or theirs.keys() <= ours else {}


def _pair(index: int, own: View, true: View) -> Pair:
    known = true if true.yaw is not None else own
    camera = true.camera if true.camera is not None else own.camera
    return Pair(index, own, true, known.yaw, known.pitch, camera)


def _other_cameras(match: Match) -> list[str]:
    """A warning if prediction and truth state different cameras for views that were paired."""
    far = [
        (pair.index, math.degrees(pair.prediction.camera.angle_to(pair.truth.camera)))
        for pair in match.pairs
        if pair.truth is not None and pair.truth.camera is not None and pair.prediction.camera is not None
    ]
    far = [(index, angle) for index, angle in far if angle > _SAME_CAMERA_DEG]
    if not far:
        return []
    index, angle = max(far, key=lambda entry: entry[1])
    return [
        f"{match.id}: the cameras of {len(far)} of {len(match.pairs)} pairs differ (view {index} by "
        f"{angle:.0f} degrees). Are these the same views?"
    ]


def _descriptions(folder: ViewFolder) -> tuple[Path, ...]:
    files = (folder.description, folder.camera_file)
    return tuple(dict.fromkeys(path for path in files if path is not None))


def _unusable(method: str, searches: Sequence[Found]) -> list[Omission]:
    return [
        Omission(method, bad.id, None, bad.reason, bad.message)
        for found in searches
        for bad in found.unusable
    ]


def _no_reference(method: str, subject: str, references: Path) -> Omission:
    message = f"{subject}: there is no reference portrait for this subject below {references.name}."
    return Omission(method, subject, None, "no-reference", message)


def _flat_pictures(root: Path, references: Path) -> Iterator[tuple[str, Path]]:
    """Pictures below `root` that are called as a reference portrait is, with the subject's id."""
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
            continue
        identity = relative.with_suffix("").as_posix()
        if find_reference(references, identity) is not None:
            yield identity, path


def _order(omission: Omission) -> tuple[str, int]:
    return omission.subject, -1 if omission.view is None else omission.view
