"""The data of the page's turntable, and which pairs are the best and the worst: what to look at."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dp3d_cli.stages.engine.stage import Json
from dp3d_cli.stages.evaluate.pairing import Pair
from dp3d_cli.stages.evaluate.report_figures import (
    Angles,
    badness,
    known_angles,
    measured_row_metrics,
    number,
    shown,
)
from dp3d_cli.stages.evaluate.report_pictures import Key, encode_views, key_of
from dp3d_cli.stages.evaluate.results import MethodResults, MetricFacts, Results, SubjectResults
from dp3d_cli.stages.evaluate.rows import PairScore
from dp3d_cli.stages.view_folders import View

MAX_VIEWS = 48  # of one subject; of more, as many are taken at equal distances
_SIDE = 256  # px
_QUALITY = 85
_THUMB_SIDE = 128  # px
_THUMB_QUALITY = 82
_EXTREMES = 3  # best and worst pairs shown of each method

# Metrics that best and worst pairs are shown by: the first of each line that is there.
_LOOKED_AT = (
    ("lpips_alex", "lpips_vgg", "dists@256", "dists@native"),
    ("ssim", "zncc", "psnr", "gradient_ncc"),
    ("id_gt", "id_ref"),
    ("pose_camera_deg", "pose_mae_deg", "pose_mse"),
)


@dataclass(frozen=True)
class Turntable:
    """Subjects with their views of all methods.

    Attributes:
        data: JSON for the page's script: methods, metrics, subjects and pictures.
        subjects: number of subjects in it.
        of_subjects: number of subjects in the report.
        thinned: largest number of views that a subject has, where not all of its views are in it; else None.
    """

    data: str
    subjects: int
    of_subjects: int
    thinned: int | None


@dataclass(frozen=True)
class Extreme:
    """A pair with its small pictures (base64, "" where unreadable; truth None without one)."""

    subject: str
    view: int
    angles: str
    value: str
    prediction: str
    truth: str | None


@dataclass(frozen=True)
class ExtremesOfMethod:
    """Best and worst pairs of one method, the best first, the worst first."""

    method: str
    style: int | None
    best: tuple[Extreme, ...]
    worst: tuple[Extreme, ...]


def turntable(results: Results, max_bytes: int) -> Turntable:
    """Embed subjects in order of their ids while their pictures fit into `max_bytes` of base64.

    The first subject is always there: with fewer views, if need be.
    """
    metrics = measured_row_metrics(results)
    angles = known_angles(results)
    ids = sorted({subject.subject for method in results.methods for subject in method.subjects})
    pictures: list[str] = []
    subjects: list[Json] = []
    used, thinned = 0, None
    for identity in ids:
        owners = [_subject(method, identity) for method in results.methods]
        views = sorted({row.view for own in owners if own for row in own.rows})
        chosen = _spread(views, MAX_VIEWS)
        encoded = _pictures(owners, chosen)
        while not subjects and _size(encoded) > max_bytes and len(chosen) > 1:
            chosen = _spread(chosen, len(chosen) // 2)
            encoded = _pictures(owners, chosen)
        if used + _size(encoded) > max_bytes and subjects:
            break
        if not chosen:
            continue
        if len(chosen) < len(views):
            thinned = max(thinned or 0, len(views))
        used += _size(encoded)
        numbers = {key: len(pictures) + n for n, key in enumerate(encoded)}
        pictures += encoded.values()
        subjects.append(_subject_json(identity, owners, chosen, numbers, metrics, angles))
    content: dict[str, Json] = {
        "methods": [shown(method.method) for method in results.methods],
        "metrics": [{"name": facts.name, "unit": facts.unit} for facts in metrics],
        "subjects": subjects,
        "pictures": pictures,
    }
    return Turntable(_script_json(content), len(subjects), len(ids), thinned)


def looked_at(results: Results) -> list[MetricFacts]:
    """The metrics that best and worst pairs are shown by; at most one of a kind."""
    known = {
        facts.name: facts
        for facts in measured_row_metrics(results)
        if any(_finite_rows(method, facts) for method in results.methods)
    }
    chosen = [next((known[n] for n in names if n in known), None) for names in _LOOKED_AT]
    return [facts for facts in chosen if facts is not None] or list(known.values())[:1]


def extremes(
    results: Results, facts: MetricFacts, styles: Sequence[int | None], most: int
) -> list[ExtremesOfMethod]:
    """Best and worst pairs of the first `most` methods, with few pairs fewer, so that none is shown twice."""
    found = []
    key, angles = badness(facts), known_angles(results)
    for method, style in list(zip(results.methods, styles, strict=True))[:most]:
        ranked = sorted(
            _finite_rows(method, facts),
            key=lambda entry: (key(entry[1].values[facts.name]), entry[0].subject, entry[1].view),
        )
        if not ranked:
            continue
        shown_each = min(_EXTREMES, max(1, len(ranked) // 2))
        best = ranked[:shown_each]
        worst = ranked[shown_each:][::-1][:shown_each]
        pairs = [subject.pair(row.view) for subject, row in (*best, *worst)]
        encoded = encode_views(_files(pairs), _THUMB_SIDE, _THUMB_QUALITY)
        found.append(
            ExtremesOfMethod(
                method.method,
                style,
                tuple(_extreme(subject, row, facts, encoded, angles) for subject, row in best),
                tuple(_extreme(subject, row, facts, encoded, angles) for subject, row in worst),
            )
        )
    return found


def angles_text(yaw: float | None, pitch: float | None) -> str:
    """Angles [rad] of a camera as "yaw -12°, pitch 3°"; "" if unknown."""
    known = [(name, angle) for name, angle in (("yaw", yaw), ("pitch", pitch)) if angle is not None]
    return ", ".join(f"{name} {round(math.degrees(angle))}°" for name, angle in known)


def _finite_rows(method: MethodResults, facts: MetricFacts) -> list[tuple[SubjectResults, PairScore]]:
    return [
        (subject, row) for subject, row in method.rows if math.isfinite(row.values.get(facts.name, math.nan))
    ]


def _extreme(
    subject: SubjectResults, row: PairScore, facts: MetricFacts, encoded: Mapping[Key, str], angles: Angles
) -> Extreme:
    pair = subject.pair(row.view)
    truth = encoded.get(key_of(pair.truth), "") if pair.truth is not None else None
    return Extreme(
        subject.subject,
        row.view,
        angles_text(*angles[subject.subject, row.view]),
        number(facts, row.values[facts.name]),
        encoded.get(key_of(pair.prediction), ""),
        truth,
    )


def _subject(method: MethodResults, identity: str) -> SubjectResults | None:
    return next((subject for subject in method.subjects if subject.subject == identity), None)


def _spread(views: Sequence[int], most: int) -> list[int]:
    """At most `most` of them at equal distances, the first included."""
    if len(views) <= most:
        return list(views)
    return [views[n * len(views) // most] for n in range(most)]


def _pairs(owner: SubjectResults, views: Sequence[int]) -> list[Pair]:
    """Pairs of the chosen views that have a row."""
    scored = {row.view for row in owner.rows}.intersection(views)
    return [pair for pair in owner.match.pairs if pair.index in scored]


def _files(pairs: Sequence[Pair]) -> list[View]:
    files = [pair.prediction for pair in pairs]
    files += [pair.truth for pair in pairs if pair.truth is not None]
    return files


def _pictures(owners: Sequence[SubjectResults | None], views: Sequence[int]) -> Mapping[Key, str]:
    pairs = [pair for own in owners if own is not None for pair in _pairs(own, views)]
    references = [pair.reference for pair in pairs if pair.reference is not None]
    return encode_views([*_files(pairs), *references], _SIDE, _QUALITY)


def _size(encoded: Mapping[Key, str]) -> int:
    return sum(map(len, encoded.values()))


def _subject_json(
    identity: str,
    owners: Sequence[SubjectResults | None],
    views: Sequence[int],
    numbers: Mapping[Key, int],
    metrics: Sequence[MetricFacts],
    angles: Angles,
) -> Json:
    """One subject: angles, truth, reference and every method's picture and numbers, by view."""
    rows = [{row.view: row for row in own.rows} if own is not None else {} for own in owners]
    pairs = [{p.index: p for p in _pairs(own, views)} if own is not None else {} for own in owners]
    entries: list[Json] = []
    for view in views:
        own_pairs = [pair[view] for pair in pairs if view in pair]
        methods: list[Json] = []
        for row, pair in zip(rows, pairs, strict=True):
            if view not in row or view not in pair:
                methods.append(None)
                continue
            score = row[view]
            texts: list[Json] = [
                number(facts, score.values[facts.name])
                if facts.name in score.values
                else ("no face" if facts.name in score.failures else None)
                for facts in metrics
            ]
            methods.append({"picture": numbers.get(key_of(pair[view].prediction)), "values": texts})
        yaw, pitch = angles[identity, view]
        entries.append(
            {
                "view": view,
                "yaw": _degrees(yaw),
                "pitch": _degrees(pitch),
                "truth": _first(numbers, [pair.truth for pair in own_pairs]),
                "reference": _first(numbers, [pair.reference for pair in own_pairs]),
                "methods": methods,
            }
        )
    return {"id": shown(identity), "views": entries}


def _first(numbers: Mapping[Key, int], views: Sequence[View | None]) -> int | None:
    return next((numbers[key_of(v)] for v in views if v is not None and key_of(v) in numbers), None)


def _degrees(angle: float | None) -> float | None:
    return None if angle is None else round(math.degrees(angle), 2)


def _script_json(content: Json) -> str:
    """JSON that may stand inside a script element: no "<", no line separators, ASCII only."""
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
