"""Tables of `ablations.py`: means of all variants, what each module is worth, the paper's own ablations.

Differences are paired by subject. Below half a percent of the measure they are no difference, however
constant. "clear" is one that is larger, and beyond two standard errors of its mean over subjects (for the
Frechet distance: jackknife, one subject left out at a time); with fewer than three subjects nothing is clear.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ablation_scores import CHANGE_MEASURES, MEASURES
from ablation_variants import Variant
from numpy.typing import NDArray

from dp3d_cli.core.metrics.fid import frechet_distance

MODULES: Mapping[str, Sequence[str]] = {
    "reference attention": ("no-reference", "stranger"),
    "training of F_ref": ("copied-reference",),
    "view attention": ("views-apart",),
    "I_cam": ("no-camera", "wrong-camera"),
    "explicit hint": ("no-hint",),
    "fusion": ("no-fusion",),
    "3D-aware noise": ("random-noise",),
}
"""Each module, and the changes that take it out or feed it what is wrong."""
FULL_WITHOUT_HINT = "plain"
MATTERS = 0.005
"""Relative difference below which a module does nothing to a measure."""
COMPARED = (
    *("psnr", "perceptual", "frechet", "face_psnr", "face_gradient_ncc", "hidden_psnr"),
    *("hidden_gradient_ncc", "consistency", "background_flicker", "pose_deg"),
)
"""What the table of modules shows; the JSON has all measures."""
NEGLIGIBLE = 0.05
"""Relative difference that counts as negligible; the largest of Table 1b, of LPIPS, is 0.037."""
IDENTITY_SHARE = 0.09 / 0.27
"""B.4: LPIPS between two I_cam identities over LPIPS against the truth (Table 2)."""
IDENTITY_POSE = 0.0041
"""B.4: POSE between two I_cam identities [rad^2]."""


@dataclass(frozen=True, eq=False)
class Scored:
    """One variant on all subjects.

    Attributes:
        scores: one mapping of measures per subject.
        features: [V, D] per subject.
    """

    scores: Sequence[Mapping[str, float]]
    features: Sequence[NDArray[np.floating]]


@dataclass(frozen=True)
class Difference:
    """Second less first, as losses: positive means that the second is worse.

    Attributes:
        first: mean of the measure itself.
        second: the same.
        loss: mean difference of the losses.
        error: standard error of that; NaN below three subjects.
    """

    first: float
    second: float
    loss: float
    error: float

    @property
    def matters(self) -> bool:
        """Large enough to be called a difference."""
        return abs(self.loss) > MATTERS * max(abs(self.first), abs(self.second))

    @property
    def is_clear(self) -> bool:
        """Large enough, and beyond two standard errors."""
        return self.matters and not math.isnan(self.error) and abs(self.loss) > 2 * self.error


def means(scored: Scored, truth: Scored) -> dict[str, float]:
    """Mean of each measure over subjects, and the Frechet distance to the truth over all views."""
    names = dict.fromkeys(name for row in scored.scores for name in row)
    values = {name: _mean([row[name] for row in scored.scores if name in row]) for name in names}
    if scored is not truth:
        values["frechet"] = _frechet(scored.features, truth.features)
    return values


def difference(measure: str, first: Scored, second: Scored, truth: Scored) -> Difference | None:
    """Compare two variants; None where a measure does not exist in both."""
    if measure == "frechet":
        return _frechet_difference(first, second, truth)
    better = MEASURES[measure]
    pairs = [
        (one[measure], other[measure])
        for one, other in zip(first.scores, second.scores, strict=True)
        if measure in one and measure in other
    ]
    if not pairs:
        return None
    losses = [better.loss(other) - better.loss(one) for one, other in pairs]
    error = float(np.std(losses, ddof=1) / math.sqrt(len(losses))) if len(losses) > 2 else math.nan
    return Difference(_mean([one for one, _ in pairs]), _mean([b for _, b in pairs]), _mean(losses), error)


def sanity(
    truth: Scored, blurred: Sequence[NDArray[np.floating]], noisy: Sequence[NDArray[np.floating]]
) -> dict[str, Any]:
    """Does the feature space order what it must? Half of the subjects against pictures of the other half."""
    half = len(truth.features) // 2
    one, rest = truth.features[:half], slice(half, 2 * half)
    found = {
        "truth of other subjects": _frechet(truth.features[rest], one),
        "the same blurred": _frechet(blurred[rest], one),
        "the same with noise": _frechet(noisy[rest], one),
    }
    values = list(found.values())
    return {**found, "ordered": values == sorted(values) and len(set(values)) == len(values)}


def module_rows(made: Mapping[str, Scored], truth: Scored, bases: Sequence[str]) -> list[dict[str, Any]]:
    """For every base and change of `MODULES`: each measure with and without, and what is clearly worse."""
    rows = []
    for base in bases:
        for module, changes in MODULES.items():
            for change in changes:
                name = name_of(base, change)
                if name not in made:
                    continue
                found = {m: difference(m, made[base], made[name], truth) for m in MEASURES}
                known = {m: d for m, d in found.items() if d}
                rows.append(
                    {
                        "base": base,
                        "module": module,
                        "change": change,
                        "variant": name,
                        "differences": {m: _as_json(d) for m, d in known.items()},
                        "clearly worse without": [m for m, d in known.items() if d.is_clear and d.loss > 0],
                        "clearly better without": [m for m, d in known.items() if d.is_clear and d.loss < 0],
                    }
                )
    return rows


def paper_rows(made: Mapping[str, Scored], truth: Scored, bases: Sequence[str]) -> list[dict[str, Any]]:
    """The paper's ablations, each with both numbers and whether they lie in the paper's direction."""
    image = ("perceptual", "ssim", "frechet")
    references = (*image, "hidden_psnr")
    across = ("consistency", "hidden_consistency", "background_flicker")
    claims: list[tuple[str, str, str, str, Sequence[str]]] = [
        ("Table 2", "3D-aware noise beats random noise", "", "random-noise", image),
        ("Fig. 5", "3D-aware noise is more consistent than random noise", "", "random-noise", across),
        ("Fig. 5", "view attention makes views more consistent", "", "views-apart", across),
        ("Table 1b", "trained F_ref beats a copy of the backbone", "", "copied-reference", image),
        ("Fig. 8", "two references beat one", "", "two-references", references),
        ("Fig. 8", "three references beat two", "two-references", "three-references", references),
    ]  # fmt: skip
    rows: list[dict[str, Any]] = []
    for base in bases:
        for source, claim, first, second, measures in claims:
            one, other = _named(base, first), _named(base, second)
            if source == "Fig. 8":  # the claim is that the second is the better one
                one, other = other, one
            if one in made and other in made:
                found = {m: difference(m, made[one], made[other], truth) for m in measures}
                known = {m: d for m, d in found.items() if d}
                rows.append(_row(source, claim, base, one, other, known))
        rows += _alignment(made, truth, base, image) + _identities(made, base)
    return rows


def _row(
    source: str, claim: str, base: str, one: str, other: str, known: Mapping[str, Difference]
) -> dict[str, Any]:
    right = {m: ("yes" if d.loss > 0 else "no") if d.matters else "no difference" for m, d in known.items()}
    return {
        "paper": source,
        "claim": claim,
        "base": base,
        "better": one,
        "worse": other,
        "differences": {m: _as_json(d) for m, d in known.items()},
        "in the paper's direction by measure": right,
        "paper's direction": _verdict(right),
        "clear": [m for m, d in known.items() if d.is_clear],
    }


def _verdict(right: Mapping[str, str]) -> str:
    """Of a row, from "yes", "no" or "no difference" of each measure."""
    answers = set(right.values())
    if len(answers) == 1:
        return answers.pop()
    return "in part" if "yes" in answers else "no"


def _alignment(
    made: Mapping[str, Scored], truth: Scored, base: str, measures: Sequence[str]
) -> list[dict[str, Any]]:
    """Table 1b has two statements: aligning helps, and it helps next to nothing."""
    other = _named(base, "unaligned")
    if base not in made or other not in made:
        return []
    found = {m: difference(m, made[base], made[other], truth) for m in measures}
    known = {m: d for m, d in found.items() if d}
    helps = _row("Table 1b", "an aligned reference is the better one", base, base, other, known)
    small = {
        m: "yes" if abs(d.second - d.first) <= NEGLIGIBLE * abs(d.first) else "no" for m, d in known.items()
    }
    stranger = made.get(_named(base, "stranger"))
    used = stranger is None or any(
        found and found.matters for m in measures for found in [difference(m, made[base], stranger, truth)]
    )
    little = helps | {
        "claim": f"whether it is aligned matters little (at most {NEGLIGIBLE:.0%})",
        "in the paper's direction by measure": small,
        "paper's direction": _verdict(small) if used else "empty: a stranger's portrait does as well",
    }
    return [helps, little]


def _identities(made: Mapping[str, Scored], base: str) -> list[dict[str, Any]]:
    """B.4: two heads in I_cam at one camera change the views little, compared with their error."""
    name = _named(base, "other-identity")
    if base not in made or name not in made:
        return []
    moved = {m: _mean([row[m] for row in made[name].scores if m in row]) for m in CHANGE_MEASURES}
    error = _mean([row["perceptual"] for row in made[base].scores if "perceptual" in row])
    share = moved["change_perceptual"] / error if error else math.nan
    right = {"perceptual": "yes" if share <= IDENTITY_SHARE else "no"}
    if not math.isnan(moved["change_pose"]):  # in some pictures no face is found
        right["pose"] = "yes" if moved["change_pose"] <= IDENTITY_POSE else "no"
    row: dict[str, Any] = {
        "paper": "B.4",
        "claim": "the identity in I_cam hardly matters",
        "base": base,
        "better": base,
        "worse": name,
        "between the two": moved,
        "perceptual: between the two over base against truth": share,
        "limits": {"perceptual share": IDENTITY_SHARE, "pose rad2": IDENTITY_POSE},
        "in the paper's direction by measure": right,
        "paper's direction": _verdict(right),
        "clear": [],
    }
    wrong = made.get(_named(base, "wrong-camera"))
    if wrong:  # a control network that does nothing would pass: how much does the camera itself change?
        turned = {m: _mean([scores[m] for scores in wrong.scores if m in scores]) for m in CHANGE_MEASURES}
        row["for comparison, I_cam of a wrong camera"] = turned
        if turned["change_perceptual"] < 2 * moved["change_perceptual"]:
            row["paper's direction"] = "empty: a wrong camera changes hardly more"
    return [row]


def markdown(result: Mapping[str, Any], shown: Sequence[Variant]) -> str:
    """The result as tables."""
    columns = [*MEASURES, "faces", *CHANGE_MEASURES]
    titles = [MEASURES[m].label if m in MEASURES else m.replace("_", " ") for m in columns]
    lines = [f"# Ablations: {result['what']}", "", *result["notes"], ""]
    space = {key: value for key, value in result["feature space"].items() if key != "ordered"}
    shown_space = ", ".join(f"{key} {_number(value, 3)}" for key, value in space.items())
    verdict = "in this order, as it must be" if result["feature space"]["ordered"] else "NOT in this order"
    lines += [
        f"Frechet distances of one half of the truths to: {shown_space} ({verdict}; 4 subjects or more).",
        "",
    ]
    lines += ["## All variants", ""]
    lines += [_line(["variant", "what", *titles]), _line(["---"] * 2 + ["---:"] * len(columns))]
    for variant in shown:
        values = result["means"].get(variant.name)
        if values:
            cells = [_number(values.get(m), MEASURES[m].digits if m in MEASURES else 4) for m in columns]
            lines.append(_line([variant.name, variant.what, *cells]))
    if result["modules"]:
        lines += _module_lines(result["modules"])
    if result["paper"]:
        lines += _paper_lines(result["paper"])
    return "\n".join(lines) + "\n"


def _module_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["", "## What each module is worth", ""]
    lines += [
        "With → without; **bold**: a clear difference (beyond half a percent and two standard errors).",
        "",
    ]
    lines += [_line(["base", "module", "change", *(MEASURES[m].label for m in COMPARED), "clearly worse on"])]
    lines += [_line(["---"] * 3 + ["---:"] * len(COMPARED) + ["---"])]
    for row in rows:
        cells = [_arrow(m, row["differences"].get(m)) for m in COMPARED]
        worse = ", ".join(row["clearly worse without"]) or "nothing"
        lines.append(_line([row["base"], row["module"], row["change"], *cells, worse]))
    return lines


def _paper_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["", "## The paper's ablations", ""]
    lines += ["Paper's better / worse; **bold**: clear. An answer is that of the means, clear or not.", ""]
    lines += [_line(["paper", "claim", "base", "numbers", "direction"]), _line(["---"] * 5)]
    for row in rows:
        cells = [row["paper"], row["claim"], row["base"], _numbers(row), row["paper's direction"]]
        lines.append(_line(cells))
    return lines


def _numbers(row: Mapping[str, Any]) -> str:
    if "between the two" in row:
        moved, share = row["between the two"], row["perceptual: between the two over base against truth"]
        text = f"perceptual {moved['change_perceptual']:.4f}, {share:.2f} of the base's error; "
        text += f"POSE {_number(moved['change_pose'], 4)} rad2"
        wrong = row.get("for comparison, I_cam of a wrong camera")
        return text + (
            f" (wrong camera: {wrong['change_perceptual']:.4f}, {_number(wrong['change_pose'], 4)})"
            if wrong
            else ""
        )
    parts = []
    for m, right in row["in the paper's direction by measure"].items():
        shown = _arrow(m, row["differences"][m], "/")
        parts.append(f"{MEASURES[m].label} {shown} {right}")
    return "; ".join(parts)


def _arrow(measure: str, found: Mapping[str, Any] | None, sign: str = "→") -> str:
    if not found:
        return "–"
    digits = MEASURES[measure].digits
    text = f"{_number(found['first'], digits)} {sign} {_number(found['second'], digits)}"
    return f"**{text}**" if found["clear"] else text


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def finite(content: Any) -> Any:
    """The content with None for what is not a number, as JSON has it."""
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _named(base: str, change: str) -> str:
    return f"{base}/{change}" if change else base


def name_of(base: str, change: str) -> str:
    """Full generation without the hint has a name of its own."""
    return FULL_WITHOUT_HINT if (base, change) == ("full", "no-hint") else _named(base, change)


def _as_json(found: Difference) -> dict[str, Any]:
    error = None if math.isnan(found.error) else found.error
    return {
        "first": found.first,
        "second": found.second,
        "second worse by": found.loss,
        "standard error": error,
        "clear": found.is_clear,
    }


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _frechet(views: Sequence[NDArray[np.floating]], truths: Sequence[NDArray[np.floating]]) -> float:
    return frechet_distance(np.concatenate(views), np.concatenate(truths)) if len(views) else math.nan


def _frechet_difference(first: Scored, second: Scored, truth: Scored) -> Difference:
    def distances(kept: Sequence[int]) -> tuple[float, float]:
        sets = [[scored.features[i] for i in kept] for scored in (first, second, truth)]
        return _frechet(sets[0], sets[2]), _frechet(sets[1], sets[2])

    count = len(truth.features)
    one, other = distances(range(count))
    error = math.nan
    if count > 2:
        left_out = [distances([i for i in range(count) if i != out]) for out in range(count)]
        changes = np.array([b - a for a, b in left_out])
        error = float(np.sqrt((count - 1) / count * np.square(changes - changes.mean()).sum()))
    return Difference(one, other, other - one, error)
