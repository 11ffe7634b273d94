"""What could make numbers misleading, as sentences for the report and the screen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from dp3d_cli.stages.evaluate.protocol import Protocol
from dp3d_cli.stages.evaluate.results import MethodResults


def find_warnings(methods: Sequence[MethodResults], protocol: Protocol) -> tuple[str, ...]:
    """Sentences on numbers that do not compare, or not mean what they seem to."""
    warnings = []
    pairs_of = {
        method.method: frozenset((subject.subject, row.view) for subject, row in method.rows)
        for method in methods
    }
    if len(set(pairs_of.values())) > 1:
        counts = ", ".join(f"{method} {len(pairs)}" for method, pairs in pairs_of.items())
        warnings.append(
            f"The methods were not scored on the same pairs ({counts}): their means do not compare."
        )
    for method in methods:
        rows = [row for _, row in method.rows]
        name = method.method
        identical = sum(row.values.get("psnr") == math.inf for row in rows)
        if identical:
            warnings.append(
                f"{name}: {identical} predictions equal the ground truth exactly. The same files?"
            )
        enlarged = sum(min(row.prediction_side, row.truth_side or math.inf) < protocol.size for row in rows)
        if enlarged:
            warnings.append(
                f"{name}: in {enlarged} pairs a picture is below {protocol.size} px and was enlarged."
            )
        lossy = sum(_is_lossy(row.prediction) != _is_lossy(row.truth) for row in rows if row.truth)
        if lossy:
            warnings.append(
                f"{name}: in {lossy} pairs one picture has lossy compression (JPEG, video), the other none."
            )
    return tuple(warnings)


def _is_lossy(name: str) -> bool:
    return "#" in name or Path(name).suffix.lower() in (".jpg", ".jpeg")
