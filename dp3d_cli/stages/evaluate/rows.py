"""What scoring one method on one subject gives, as it lies in a file between scoring and reporting."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class PairScore:
    """One row of the report: a view of a method and what it was compared with.

    Attributes:
        view: view number.
        yaw: angle of the requested camera [rad] if known, as in `core.cameras.camera`.
        pitch: the same; negative is above the face.
        prediction: file name, with "#frame" for a video.
        truth: the same for the ground truth; None where only a reference is compared.
        prediction_side: side of the prediction before resizing [px].
        truth_side: side of the truth before resizing [px]; None without one.
        values: metric name → number; inf or NaN where that is the answer. A metric that does not apply to
            this view, or found no face in it, is not there.
        failures: face metric → where no face was found: "prediction", "truth" or "reference".
        prediction_sha256: of the prediction's pixels before resizing; the same picture twice has it twice.
        truth_sha256: the same for the truth; "" without one.
        reference: file name of the reference portrait; None without one.
        alpha: whether a picture of this row is not fully opaque; it was composited over white.
    """

    view: int
    yaw: float | None
    prediction: str
    truth: str | None
    prediction_side: int
    truth_side: int | None
    values: Mapping[str, float]
    failures: Mapping[str, str] = field(default_factory=dict)
    pitch: float | None = None
    prediction_sha256: str = ""
    truth_sha256: str = ""
    reference: str | None = None
    alpha: bool = False


@dataclass(frozen=True)
class BadPair:
    """A pair that could not be scored."""

    view: int
    reason: str
    message: str


@dataclass(frozen=True)
class SubjectScores:
    """One method on one subject, rows in order of their view numbers.

    Attributes:
        method: name of the method.
        subject: id of the subject.
        rows: what was scored.
        bad: what could not be.
        sequences: metric over the whole sequence of views → number; absent where it does not apply.
        problems: sentences on what could not be computed although the rows could.
    """

    method: str
    subject: str
    rows: tuple[PairScore, ...]
    bad: tuple[BadPair, ...] = ()
    sequences: Mapping[str, float] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """As a JSON file; inf and NaN as texts, since JSON has no such numbers."""
        content = asdict(self)
        for row in content["rows"]:
            row["values"] = _texts(row["values"])
        content["sequences"] = _texts(content["sequences"])
        return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes) -> SubjectScores:
        """Read `to_bytes` back."""
        content = json.loads(data)
        rows = (PairScore(**{**row, "values": _numbers(row["values"])}) for row in content["rows"])
        return cls(
            content["method"],
            content["subject"],
            tuple(rows),
            tuple(BadPair(**entry) for entry in content["bad"]),
            _numbers(content["sequences"]),
            tuple(content["problems"]),
        )


def _texts(values: Mapping[str, float]) -> dict[str, float | str]:
    return {name: value if math.isfinite(value) else str(value) for name, value in values.items()}


def _numbers(values: Mapping[str, float | str]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}
