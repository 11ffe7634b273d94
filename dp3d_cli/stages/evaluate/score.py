"""The numbers of one method on one subject: an item of the engine, so that a long evaluation resumes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dp3d_cli.core.errors import InputError
from dp3d_cli.core.images import read_image
from dp3d_cli.core.videos import read_frames
from dp3d_cli.stages.engine.stage import Item, Json, Product, StepProgress
from dp3d_cli.stages.evaluate.pairing import Match, Pair
from dp3d_cli.stages.evaluate.protocol import METRICS, Protocol, bring_to_size
from dp3d_cli.stages.evaluate.rows import BadPair, PairScore, SubjectScores
from dp3d_cli.stages.view_folders import View

SCORES = "scores"  # folder of the per-subject files below the report

_CHUNK = 16  # pairs in memory at a time


@dataclass(frozen=True)
class EvaluateStage:
    """Scores matches. One item is one method on one subject.

    The engine rather than a plain loop: it resumes, shards, shows progress and survives a kill, which matters
    as soon as a metric is a network. What combines all subjects is `collect.collect`, done after it.
    """

    protocol: Protocol
    matches: Mapping[str, Match]

    name = "evaluate"

    @classmethod
    def of(cls, protocol: Protocol, matches: Sequence[Match]) -> EvaluateStage:
        """The stage for these matches."""
        return cls(protocol, {match.id: match for match in matches})

    @property
    def items(self) -> list[Item]:
        """One item per match; its inputs are all files of its pairs."""
        return [Item(match.id, _files_of(match)) for match in self.matches.values()]

    @property
    def settings(self) -> Mapping[str, Json]:
        """The protocol."""
        return self.protocol.describe()

    @property
    def weights(self) -> Mapping[str, str]:
        """None so far."""
        return {}

    def process(self, item: Item, draft: Path, progress: StepProgress) -> Product:
        """Score one method on one subject. Pairs that cannot be scored are listed; they fail nothing else."""
        scores = score_match(self.matches[item.id], self.protocol, progress)
        name = scores_path(item.id)
        target = draft / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(scores.to_bytes())
        warnings = tuple(bad.message for bad in scores.bad)
        return Product((name,), {"pairs": len(scores.rows), "bad_pairs": len(scores.bad)}, warnings=warnings)


def scores_path(match_id: str) -> str:
    """Path of a subject's scores below the report's folder."""
    return f"{SCORES}/{match_id}.json"


def score_match(match: Match, protocol: Protocol, progress: StepProgress | None = None) -> SubjectScores:
    """Apply the protocol's metrics to every pair of a match."""
    rows: list[PairScore] = []
    bad: list[BadPair] = []
    for done, (pair, pictures) in enumerate(_pictures(match), 1):
        try:
            if isinstance(pictures, InputError):
                raise pictures
            prediction, truth = pictures
            own = bring_to_size(prediction, protocol.size, _label(pair.prediction))
            true = bring_to_size(truth, protocol.size, _label(pair.truth or pair.prediction))
        except InputError as error:
            bad.append(BadPair(pair.index, error.reason, f"{match.id}, view {pair.index}: {error}"))
        else:
            values = {name: METRICS[name].function(own, true, protocol.window) for name in protocol.metrics}
            rows.append(
                PairScore(
                    pair.index,
                    pair.yaw,
                    _label(pair.prediction),
                    _label(pair.truth or pair.prediction),
                    prediction.shape[0],
                    truth.shape[0],
                    values,
                    pitch=pair.pitch,
                )
            )
        if progress is not None:
            progress.step(done, len(match.pairs), "pairs")
    return SubjectScores(match.method, match.subject, tuple(rows), tuple(bad))


Pictures = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def _pictures(match: Match) -> Iterator[tuple[Pair, Pictures | InputError]]:
    """Each pair with its pictures or the reason why one of them cannot be read; videos are read in chunks."""
    for start in range(0, len(match.pairs), _CHUNK):
        chunk = match.pairs[start : start + _CHUNK]
        predictions = _read([pair.prediction for pair in chunk])
        truths = _read([pair.truth or pair.prediction for pair in chunk])
        for pair, prediction, truth in zip(chunk, predictions, truths, strict=True):
            if isinstance(prediction, InputError):
                yield pair, prediction
            elif isinstance(truth, InputError):
                yield pair, truth
            else:
                yield pair, (prediction, truth)


def _read(views: Sequence[View]) -> list[NDArray[np.uint8] | InputError]:
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
    return [known[view.path, view.frame] for view in views]


def _unrooted(error: InputError, path: Path) -> str:
    """The message with the file's name for its path: reports are the same wherever the files lie."""
    return str(error).replace(str(path), path.name)


def _label(view: View) -> str:
    return view.path.name if view.frame is None else f"{view.path.name}#{view.frame}"


def _files_of(match: Match) -> tuple[Path, ...]:
    files = [pair.prediction.path for pair in match.pairs]
    files += [pair.truth.path for pair in match.pairs if pair.truth is not None]
    return tuple(dict.fromkeys([*files, *match.descriptions]))
