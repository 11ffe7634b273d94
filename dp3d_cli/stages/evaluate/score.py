"""The numbers of one method on one subject: an item of the engine, so that a long evaluation resumes."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.errors import InputError
from dp3d_cli.core.images import read_image
from dp3d_cli.core.metrics.pictures import Picture
from dp3d_cli.core.videos import read_frames
from dp3d_cli.stages.engine.atomic import HIDDEN
from dp3d_cli.stages.engine.stage import Item, Json, Product, StepProgress
from dp3d_cli.stages.evaluate.availability import Availability
from dp3d_cli.stages.evaluate.metrics import METRICS, Comparison, NoFace
from dp3d_cli.stages.evaluate.networks import Features, NetworkName, Networks, Sight, pixels_digest
from dp3d_cli.stages.evaluate.pairing import Match, Pair, choose_five
from dp3d_cli.stages.evaluate.protocol import Protocol, bring_to_size
from dp3d_cli.stages.evaluate.rows import BadPair, PairScore, SubjectScores
from dp3d_cli.stages.evaluate.sequences import SequenceMeter, relative_turns_deg
from dp3d_cli.stages.view_folders import View

if TYPE_CHECKING:
    from dp3d_cli.core.metrics.pose import HeadAngles

SCORES = "scores"  # folder of the per-subject files below the report
FEATURES = "features"  # the same for the features of set metrics

_TURNS = "pose_camera_rel_deg"
_CHUNK = 16  # pairs in memory at a time


@dataclass(frozen=True)
class Scored:
    """All that scoring a match gives.

    Attributes:
        scores: rows and sequence numbers.
        features: "<network>/prediction" and "<network>/truth" → float32 [N, D] for set metrics, in order of
            the rows; one row of the reference stands for the truth where there is none.
    """

    scores: SubjectScores
    features: Mapping[str, Features] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluateStage:
    """Scores matches. One item is one method on one subject.

    The engine rather than a plain loop: it resumes, shards, shows progress and survives a kill, which matters
    as soon as a metric is a network. What combines all subjects is `collect.collect`, done after it.
    """

    protocol: Protocol
    matches: Mapping[str, Match]
    available: Availability
    networks: Networks

    name = "evaluate"

    @classmethod
    def of(
        cls, protocol: Protocol, matches: Sequence[Match], available: Availability, networks: Networks
    ) -> EvaluateStage:
        """The stage for these matches."""
        return cls(protocol, {match.id: match for match in matches}, available, networks)

    @property
    def items(self) -> list[Item]:
        """One item per match; its inputs are all files of its pairs."""
        return [Item(match.id, _files_of(match)) for match in self.matches.values()]

    @property
    def settings(self) -> Mapping[str, Json]:
        """The protocol, the metrics that are computed, and the networks that compute them."""
        names = self.available.metrics
        return {
            **self.protocol.settings(),
            "metrics": list(names),
            "networks": {name: dict(self.available.implementation(name)) for name in names},
        }

    @property
    def weights(self) -> Mapping[str, str]:
        """Sha256 of every weights file of the networks."""
        found: dict[str, str] = {}
        for name in self.available.metrics:
            found.update(weights_of(self.available.implementation(name)))
        return dict(sorted(found.items()))

    def process(self, item: Item, draft: Path, progress: StepProgress) -> Product:
        """Score one method on one subject. Pairs that cannot be scored are listed; they fail nothing else."""
        match = self.matches[item.id]
        scored = score_match(match, self.protocol, self.available.metrics, self.networks, progress)
        self.networks.forget()
        scores = scored.scores
        files = {scores_path(item.id): scores.to_bytes()}
        if scored.features:
            files[features_path(item.id)] = _npz(scored.features)
        for name, content in files.items():
            target = draft / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        warnings = (*(bad.message for bad in scores.bad), *scores.problems)
        info = {"pairs": len(scores.rows), "bad_pairs": len(scores.bad)}
        return Product(tuple(files), info, warnings=warnings)


def scores_path(match_id: str) -> str:
    """Path of a subject's scores below the report's folder."""
    return f"{SCORES}/{match_id}.json"


def features_path(match_id: str) -> str:
    """Path of a subject's features below the report's folder."""
    return f"{FEATURES}/{match_id}.npz"


def cache_folder(output: Path) -> Path:
    """Where features of truths and references are kept between methods and runs."""
    return output / HIDDEN / "feature-cache"


def weights_of(implementation: Mapping[str, Json]) -> dict[str, str]:
    """File name → sha256 of the weights that a network's description names."""
    weights = implementation.get("weights")
    if isinstance(weights, Mapping):
        return {str(name): str(digest) for name, digest in weights.items()}
    found = {str(weights): str(implementation["weights_sha256"])} if weights else {}
    for kind in ("linear", "channel"):
        if f"{kind}_weights" in implementation:
            found[str(implementation[f"{kind}_weights"])] = str(implementation[f"{kind}_weights_sha256"])
    return found


def score_match(
    match: Match,
    protocol: Protocol,
    metrics: Sequence[str],
    networks: Networks,
    progress: StepProgress | None = None,
) -> Scored:
    """Apply metrics to every pair of a match.

    Args:
        match: the pairs.
        protocol: size, window.
        metrics: names of the metrics that can be computed.
        networks: what computes some of them.
        progress: told after each pair.
    """
    scorer = _Scorer(match, protocol, metrics, networks)
    rows: list[PairScore] = []
    bad: list[BadPair] = []
    for done, (pair, pictures) in enumerate(_pictures(match), 1):
        try:
            if isinstance(pictures, InputError):
                raise pictures
            rows.append(scorer.row(pair, *pictures))
        except InputError as error:
            bad.append(BadPair(pair.index, error.reason, f"{match.id}, view {pair.index}: {error}"))
        if progress is not None:
            progress.step(done, len(match.pairs), "pairs")
    sequences = {**({} if bad else scorer.sequences.values()), **scorer.turns()}
    if bad and scorer.has_sequence:
        scorer.problems.append(f"{match.id}: no consistency, since a view in between could not be read.")
    scores = SubjectScores(
        match.method, match.subject, tuple(rows), tuple(bad), sequences, tuple(scorer.problems)
    )
    return Scored(scores, scorer.stacked_features())


class _Scorer:
    """What the rows of one match share."""

    def __init__(self, match: Match, protocol: Protocol, metrics: Sequence[str], networks: Networks) -> None:
        self._match, self._protocol, self._networks = match, protocol, networks
        self.problems: list[str] = []
        self._row_metrics = [METRICS[name] for name in metrics if METRICS[name].measure is not None]
        self._set_networks: list[NetworkName] = list(
            dict.fromkeys(
                network
                for name in metrics
                if METRICS[name].kind == "set" and (network := METRICS[name].network) is not None
            )
        )
        in_order = [name for name in metrics if "sequence" in METRICS[name].needs and match.has_all_views]
        self.has_sequence = bool(in_order)
        self.sequences = SequenceMeter(in_order, closed=bool(match.closed))
        self._five = choose_five(match) or frozenset() if "lpips_ref5" in metrics else frozenset()
        self._has_turns = _TURNS in metrics
        self._turns: list[tuple[HeadAngles, Camera]] = []
        self._features: dict[str, list[Features]] = {}
        self._references: dict[Path, Sight | None] = {}
        self._needs_reference = any("reference" in METRICS[name].needs for name in metrics) or (
            bool(self._set_networks) and protocol.against == "references"
        )

    def row(self, pair: Pair, prediction: Picture, truth: Picture | None) -> PairScore:
        """One row.

        Raises:
            InputError: a picture cannot be used.
        """
        own = Sight.of(bring_to_size(prediction, self._protocol.size, _label(pair.prediction)))
        true = None
        if truth is not None and pair.truth is not None:
            true = Sight.of(bring_to_size(truth, self._protocol.size, _label(pair.truth)))
        reference = None
        if pair.reference is not None and self._needs_reference:
            reference = self._reference(pair.reference)
        comparison = Comparison(
            own, true, reference, pair.camera, self._protocol.window, pair.index in self._five
        )
        values: dict[str, float] = {}
        failures: dict[str, str] = {}
        for metric in self._row_metrics:
            assert metric.measure is not None
            answer = metric.measure(comparison, self._networks)
            if isinstance(answer, NoFace):
                failures[metric.name] = answer.where
            elif answer is not None:
                values[metric.name] = answer
        self._keep_features(own, true, reference)
        if self._has_turns and pair.camera is not None:
            angles = self._networks.angles(own, "prediction")
            if angles is not None:
                self._turns.append((angles, pair.camera))
        if self.has_sequence:
            self.sequences.add(own.pixels, None if true is None else true.pixels)
        views = [view for view in (pair.prediction, pair.truth) if view is not None]
        return PairScore(
            view=pair.index,
            yaw=pair.yaw,
            prediction=_label(pair.prediction),
            truth=None if pair.truth is None else _label(pair.truth),
            prediction_side=prediction.shape[0],
            truth_side=None if truth is None else truth.shape[0],
            values=values,
            failures=failures,
            pitch=pair.pitch,
            prediction_sha256=pixels_digest(prediction),
            truth_sha256="" if truth is None else pixels_digest(truth),
            reference=None if pair.reference is None else _label(pair.reference),
            alpha=any(has_alpha(view.path) for view in views if view.frame is None),
        )

    def turns(self) -> dict[str, float]:
        """How the views turn against one another, if asked for and known."""
        value = relative_turns_deg(self._turns)
        return {} if value is None else {_TURNS: value}

    def stacked_features(self) -> dict[str, Features]:
        """Features for set metrics as arrays [N, D]."""
        return {key: np.stack(rows) for key, rows in sorted(self._features.items()) if rows}

    def _reference(self, view: View) -> Sight | None:
        """The subject's portrait, read once; None if it cannot be, which costs no other metric."""
        if view.path not in self._references:
            try:
                picture = bring_to_size(read_image(view.path), self._protocol.size, _label(view))
                self._references[view.path] = Sight.of(picture)
            except InputError as error:
                self._references[view.path] = None
                self.problems.append(f"{self._match.id}: the reference: {_unrooted(error, view.path)}")
        return self._references[view.path]

    def _keep_features(self, own: Sight, true: Sight | None, reference: Sight | None) -> None:
        for name in self._set_networks:
            features = self._networks.features(name, own, "prediction")
            assert features is not None
            self._features.setdefault(f"{name}/prediction", []).append(features)
            truths = self._features.setdefault(f"{name}/truth", [])
            if true is not None:
                theirs = self._networks.features(name, true, "truth")
            elif reference is not None and not truths:  # one portrait, however many views
                theirs = self._networks.features(name, reference, "reference")
            else:
                continue
            assert theirs is not None
            truths.append(theirs)


def has_alpha(path: Path) -> bool:
    """Whether a picture file that could be read is transparent anywhere."""
    with Image.open(path) as image:
        if image.mode not in ("RGBA", "LA", "PA", "RGBa", "La") and "transparency" not in image.info:
            return False
        lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
    return isinstance(lowest, int | float) and lowest < 255


Pictures = tuple[Picture, Picture | None]


def _pictures(match: Match) -> Iterator[tuple[Pair, Pictures | InputError]]:
    """Each pair with its pictures or the reason why one of them cannot be read; videos are read in chunks."""
    for start in range(0, len(match.pairs), _CHUNK):
        chunk = match.pairs[start : start + _CHUNK]
        predictions = _read([pair.prediction for pair in chunk])
        truths = _read([pair.truth for pair in chunk if pair.truth is not None])
        for pair in chunk:
            prediction = predictions[_key(pair.prediction)]
            truth = None if pair.truth is None else truths[_key(pair.truth)]
            if isinstance(prediction, InputError):
                yield pair, prediction
            elif isinstance(truth, InputError):
                yield pair, truth
            else:
                yield pair, (prediction, truth)


def _read(views: Sequence[View]) -> dict[tuple[Path, int | None], Picture | InputError]:
    """The views' pictures. Frames of one video are decoded together, one file only once."""
    known: dict[tuple[Path, int | None], NDArray[np.uint8] | InputError] = {}
    for path in {view.path: None for view in views}:
        frames = sorted({view.frame for view in views if view.path == path and view.frame is not None})
        keys: list[tuple[Path, int | None]] = [(path, frame) for frame in frames] or [(path, None)]
        try:
            pictures = list(read_frames(path, frames)) if frames else [read_image(path)]
        except InputError as error:
            known.update(dict.fromkeys(keys, InputError(_unrooted(error, path), reason=error.reason)))
        else:
            known.update(zip(keys, pictures, strict=True))
    return known


def _key(view: View) -> tuple[Path, int | None]:
    return view.path, view.frame


def _unrooted(error: InputError, path: Path) -> str:
    """The message with the file's name for its path: reports are the same wherever the files lie."""
    return str(error).replace(str(path), path.name)


def _label(view: View) -> str:
    return view.path.name if view.frame is None else f"{view.path.name}#{view.frame}"


def _files_of(match: Match) -> tuple[Path, ...]:
    """Files whose content decides the scores. One that is not there fails its pair only, not the match."""
    views = [pair.prediction for pair in match.pairs]
    views += [pair.truth for pair in match.pairs if pair.truth is not None]
    views += [pair.reference for pair in match.pairs if pair.reference is not None]
    files = [view.path for view in views if _is_readable(view.path)]
    return tuple(dict.fromkeys([*files, *match.descriptions]))


def _is_readable(path: Path) -> bool:
    try:
        with path.open("rb"):
            return True
    except OSError:
        return False


def _npz(arrays: Mapping[str, Features]) -> bytes:
    """Arrays as one file; equal arrays give equal bytes."""
    content = io.BytesIO()
    renamed: Mapping[str, Any] = {name.replace("/", "."): array for name, array in arrays.items()}
    np.savez(content, **renamed)
    return content.getvalue()
