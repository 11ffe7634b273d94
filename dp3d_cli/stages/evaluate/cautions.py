"""What could make numbers misleading, as sentences for the report and the screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from dp3d_cli.stages.evaluate.pairing import BASELINE
from dp3d_cli.stages.evaluate.protocol import Protocol
from dp3d_cli.stages.evaluate.results import MethodResults
from dp3d_cli.stages.evaluate.rows import PairScore
from dp3d_cli.stages.evaluate.sequences import SHARE

_FOLLOWED = 0.5  # below this share of pixels consistency says little


def find_warnings(methods: Sequence[MethodResults], protocol: Protocol) -> tuple[str, ...]:
    """Sentences on numbers that do not compare, or not mean what they seem to."""
    warnings = [*_different_pairs(methods), *_different_sets(methods), *_same_methods(methods)]
    for method in methods:
        warnings += _of_pictures(method, protocol)
        warnings += _of_metrics(method)
    return tuple(dict.fromkeys(warnings))


def _different_pairs(methods: Sequence[MethodResults]) -> Iterator[str]:
    pairs_of = {
        method.method: frozenset((subject.subject, row.view) for subject, row in method.rows)
        for method in methods
    }
    if len(set(pairs_of.values())) > 1:
        counts = ", ".join(f"{method} {len(pairs)}" for method, pairs in pairs_of.items())
        yield f"The methods were not scored on the same pairs ({counts}): their means do not compare."


def _different_sets(methods: Sequence[MethodResults]) -> Iterator[str]:
    for name in dict.fromkeys(name for method in methods for name in method.sets):
        counts = {method.method: method.sets[name].predictions for method in methods if name in method.sets}
        if len(set(counts.values())) > 1:
            shown = ", ".join(f"{method} {count}" for method, count in counts.items())
            yield f"{name} depends on the number of pictures, which differs ({shown}): it does not compare."


def _same_methods(methods: Sequence[MethodResults]) -> Iterator[str]:
    first: dict[tuple[tuple[str, int, str], ...], str] = {}
    for method in methods:
        pictures = tuple((subject.subject, row.view, row.prediction_sha256) for subject, row in method.rows)
        other = first.setdefault(pictures, method.method)
        if pictures and other != method.method:
            yield f"{other} and {method.method} have the same predictions, picture by picture."


def _of_pictures(method: MethodResults, protocol: Protocol) -> Iterator[str]:
    name, rows = method.method, [row for _, row in method.rows]
    identical = sum(bool(row.truth_sha256) and row.prediction_sha256 == row.truth_sha256 for row in rows)
    if identical:
        other = "the ground truth" if protocol.against == "ground truth" else "what they are compared with"
        yield f"{name}: {identical} predictions equal {other} exactly. The same files?"
    if name != BASELINE:
        yield from _repeated(method)
    sizes = Counter(row.prediction_side for row in rows)
    if len(sizes) > 1:
        shown = ", ".join(f"{count} of {side} px" for side, count in sorted(sizes.items()))
        yield f"{name}: predictions of mixed sizes ({shown}); all were brought to {protocol.size} px."
    other_size = [row for row in rows if row.truth_side not in (None, row.prediction_side)]
    if other_size:
        row = other_size[0]
        yield (
            f"{name}: in {len(other_size)} pairs the pictures differ in size ({row.prediction} "
            f"{row.prediction_side} px, {row.truth} {row.truth_side} px, for example); the resize is part of "
            "these numbers."
        )
    enlarged = sum(min(_sides(row)) < protocol.size for row in rows)
    if enlarged:
        yield f"{name}: in {enlarged} pairs a picture is below {protocol.size} px and was enlarged."
    lossy = sum(_is_lossy(row.prediction) != _is_lossy(row.truth) for row in rows if row.truth)
    if lossy:
        yield f"{name}: in {lossy} pairs one picture has lossy compression (JPEG, video), the other none."
    transparent = sum(row.alpha for row in rows)
    if transparent:
        yield f"{name}: in {transparent} pairs a picture has an alpha channel; it was put over white."


def _repeated(method: MethodResults) -> Iterator[str]:
    """One picture as several predictions."""
    places: dict[str, list[str]] = {}
    for subject, row in method.rows:
        if row.prediction_sha256:
            places.setdefault(row.prediction_sha256, []).append(f"{subject.subject}/{row.prediction}")
    repeated = [own for own in places.values() if len(own) > 1]
    if repeated:
        count = sum(len(own) for own in repeated)
        yield (
            f"{method.method}: {count} predictions are only {len(repeated)} different pictures "
            f"({repeated[0][0]} and {repeated[0][1]} are the same). The same files twice?"
        )


def _of_metrics(method: MethodResults) -> Iterator[str]:
    name = method.method
    for metric in ("fid", "fid_clean"):
        if metric in method.sets:
            from dp3d_cli.core.metrics.fid import fid_warning

            value = method.sets[metric]
            if text := fid_warning(min(value.predictions, value.truths)):
                yield f"{metric}: {text}"
    for metric, coverage in method.coverage.items():
        missed = coverage.tried - coverage.found
        if missed:
            own = missed - coverage.without_truth
            yield (
                f"{name}: {metric} covers {coverage.found} of {coverage.tried} rows (no face in {own} "
                f"predictions and in {coverage.without_truth} truths or references)."
            )
    shares = [subject.sequences[SHARE] for subject in method.subjects if SHARE in subject.sequences]
    if shares and sum(shares) / len(shares) < _FOLLOWED:
        share = 100 * sum(shares) / len(shares)
        yield f"{name}: consistency follows only {share:.0f} % of the pixels; of the rest it says nothing."


def _sides(row: PairScore) -> tuple[int, ...]:
    return (row.prediction_side,) if row.truth_side is None else (row.prediction_side, row.truth_side)


def _is_lossy(name: str) -> bool:
    return "#" in name or Path(name).suffix.lower() in (".jpg", ".jpeg")
