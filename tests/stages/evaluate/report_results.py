"""Results as scoring would give them, made up, with pictures on disk: what reports are tested on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dp3d_cli.core.images import write_png
from dp3d_cli.stages.evaluate.pairing import BASELINE, Match, Omission, Pair
from dp3d_cli.stages.evaluate.results import (
    Coverage,
    MethodResults,
    MetricFacts,
    Results,
    SetValue,
    SubjectResults,
    Unavailable,
)
from dp3d_cli.stages.evaluate.rows import BadPair, PairScore
from dp3d_cli.stages.evaluate.statistics import statistic, statistic_of_subjects
from dp3d_cli.stages.view_folders import View

PSNR = MetricFacts(
    "psnr", "pair", "higher", "dB", "mean of per-image 10 log10(255^2 / MSE)", {"package": "dp3d"}
)
SSIM = MetricFacts("ssim", "pair", "higher", "", "Wang et al. 2004")
SHARPNESS = MetricFacts("sharpness", "pair", "near 1", "x truth", "Laplacian over that of the truth")
LPIPS = MetricFacts("lpips_alex", "pair", "lower", "", "LPIPS 0.1, AlexNet")
ID_GT = MetricFacts(
    "id_gt",
    "face",
    "higher",
    "",
    "cosine of ArcFace embeddings",
    {"weights": "w600k_r50.onnx", "sha256": "ab" * 32, "device": "cpu"},
    worst=0.0,
)
FID = MetricFacts("fid", "set", "lower", "", "Frechet distance of Inception features")
KID = MetricFacts("kid", "set", "lower", "", "kernel distance of Inception features")
CONSISTENCY = MetricFacts("consistency", "sequence", "lower", "grey levels", "warped error of neighbours")
METRICS = (PSNR, SSIM, SHARPNESS, LPIPS, ID_GT, FID, KID, CONSISTENCY)

PROTOCOL = {
    "name": "diffportrait3d-256",
    "published_tables": ["diffportrait3d-1a"],
    "stated": ["Pictures are compared at 256 x 256."],
    "deviations": ["Pictures are cropped."],
    "notes": ["The paper does not name LPIPS's network."],
    "size": 256,
    "range": "uint8 RGB, 0..255",
    "resize": "Pillow: Lanczos",
    "crop": "none",
    "min_yaw": None,
    "device": "cpu",
    "dtype": "float64",
    "pairing": "by subject id, then by view number",
    "packages": {"numpy": "2.0", "torch": "2.9"},
}


def turned_picture(view: int, tint: int, side: int = 96) -> np.ndarray:
    """A disc on a gradient that moves with the view; each method has another tint."""
    y, x = np.mgrid[0:side, 0:side] / side
    disc = (x - 0.5 - 0.25 * math.sin(view)) ** 2 + (y - 0.5) ** 2 < 0.06
    colour = [(0.9, 0.3, 0.3), (0.3, 0.8, 0.4), (0.3, 0.4, 0.9), (0.8, 0.7, 0.2)][tint % 4]
    picture = np.stack([0.3 + 0.4 * y] * 3, -1)
    picture[disc] = colour
    return (picture * 255).astype(np.uint8)


def made_up_results(
    folder: Path,
    methods: Sequence[str] = (BASELINE, "ours", "theirs"),
    subjects: Sequence[str] = ("anna", "bob"),
    views: int = 6,
    side: int = 96,
    noise: bool = False,
) -> Results:
    """Results of every kind of metric; LPIPS is unavailable, some faces are not found, one pair is bad.

    Args:
        folder: where pictures are written.
        methods: their names.
        subjects: their ids.
        views: views of each subject.
        side: of the pictures [px].
        noise: whether pictures are noise, which no codec makes small.
    """
    rng = np.random.default_rng(7)

    def file(name: str, view: int, tint: int) -> View:
        path = folder / name / f"{view:03d}.png"
        if noise:
            write_png(path, rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        else:
            write_png(path, turned_picture(view, tint, side))
        return View(view, path)

    truths = {(s, v): file(f"truth/{n}", v, 0) for n, s in enumerate(subjects) for v in range(views)}
    references = {s: file(f"reference/{n}", 0, 0) for n, s in enumerate(subjects)}
    made = []
    for m, method in enumerate(methods):
        own = []
        for n, subject in enumerate(subjects):
            pairs, rows = [], []
            for view in range(views):
                yaw = 0.35 * math.sin(2 * math.pi * view / views)
                pitch = -0.05 + 0.25 * math.cos(2 * math.pi * view / views)
                prediction = references[subject] if method == BASELINE else file(f"{m}/{n}", view, m)
                truth = truths[subject, view]
                pairs.append(Pair(view, prediction, truth, yaw, pitch, reference=references[subject]))
                values = {
                    "psnr": 15 + m + 3 * math.cos(yaw * 4) + rng.normal(),
                    "ssim": 0.5 + 0.05 * m + 0.02 * rng.normal(),
                    "sharpness": 0.5 + 0.2 * m + 0.05 * rng.normal(),
                }
                failures = {}
                if view == 1 and m == 1:
                    failures = {"id_gt": "prediction"}
                else:
                    values["id_gt"] = 0.4 + 0.1 * m + 0.1 * rng.normal()
                rows.append(
                    PairScore(
                        view, yaw, f"{view:03d}.png", f"{view:03d}.png", side, side, values, failures, pitch
                    )
                )
            bad: tuple[BadPair, ...] = ()
            if m == len(methods) - 1 and n == 0 and views > 1:
                rows.pop()
                bad = (
                    BadPair(
                        views - 1, "unreadable-image", f"{method}/{subject}, view {views - 1}: no picture"
                    ),
                )
            match = Match(method, subject, tuple(pairs))
            own.append(SubjectResults(match, tuple(rows), bad, {"consistency": 3 + m + n / 2}))
        made.append(method_results(method, own, sets={"fid": SetValue(60.0 - m, None, 12, 12)}))
    return Results(
        metrics=METRICS,
        methods=tuple(made),
        unavailable=(
            Unavailable(
                "lpips_alex", None, "weights-missing", "alexnet is not here.", "dp3d weights fetch alexnet"
            ),
            *(
                Unavailable("kid", method, "too-few-pictures", "KID needs 50 pictures, there are 12.")
                for method in methods
            ),
        ),
        protocol=PROTOCOL,
        omissions=(Omission(methods[-1], "carl", None, "no-prediction", "carl: no prediction."),)
        if methods
        else (),
        warnings=("The methods were not scored on the same pairs.",),
    )


def method_results(
    method: str, subjects: Sequence[SubjectResults], sets: dict[str, SetValue]
) -> MethodResults:
    """Sums of a method as collecting makes them."""
    names = {name for subject in subjects for row in subject.rows for name in row.values}
    statistics, by_subject = {}, {subject.subject: {} for subject in subjects}
    for name in sorted(names):
        values = {s.subject: [row.values[name] for row in s.rows if name in row.values] for s in subjects}
        statistics[name] = statistic_of_subjects(values)
        for subject, own in values.items():
            by_subject[subject][name] = statistic(own)
    statistics["consistency"] = statistic_of_subjects(
        {subject.subject: [subject.sequences["consistency"]] for subject in subjects}
    )
    rows = [row for subject in subjects for row in subject.rows]
    found = sum("id_gt" in row.values for row in rows)
    skipped = {"unreadable-image": sum(len(subject.bad) for subject in subjects)}
    return MethodResults(
        method,
        tuple(subjects),
        statistics,
        by_subject,
        sets,
        {"id_gt": Coverage(found, len(rows))},
        {reason: times for reason, times in skipped.items() if times},
    )


def without_numbers(results: Results, value: float) -> Results:
    """The same with every row's numbers replaced, by NaN for example."""
    methods = []
    for method in results.methods:
        subjects = [
            replace(s, rows=tuple(replace(r, values=dict.fromkeys(r.values, value)) for r in s.rows))
            for s in method.subjects
        ]
        methods.append(method_results(method.method, subjects, {"fid": SetValue(value, value, 1, 1)}))
    return replace(results, methods=tuple(methods))
