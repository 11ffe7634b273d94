"""How close are views to the published ones? Scores methods against the frames of a published video.

    python benchmarks/portraits.py PORTRAITS --method template-proxy=work/proxy --method views=work/views

PORTRAITS holds one folder per subject with `reference.png`, the published frames `official_views.mp4` and the
published proxies `proxy/*.png`. Always scored are the reference copied to every view and the published
proxies; every --method NAME=DIR adds `DIR/<subject>/<view>.png` (or `DIR/<subject>/reference/<view>.png`, as
a run over `<subject>/reference.png` makes them).

The rule: 256 x 256 pixels, cameras turned by more than 0.2 rad to either side, the face (rows 56:196, columns
62:194); PSNR, luma ZNCC, gradient NCC, sharpness. PSNR alone says little: a flat grey picture beats the
copied reference. Prints a Markdown table and one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from dp3d_cli.core.cameras.trajectories import load_trajectory
from dp3d_cli.core.errors import Dp3dError, UsageError
from dp3d_cli.stages.evaluate.pairing import (
    Pairing,
    beyond_yaw,
    join,
    pair_method,
    pair_references,
    with_yaws,
)
from dp3d_cli.stages.evaluate.protocol import Protocol, parse_crop
from dp3d_cli.stages.evaluate.report import find_warnings, methods_table, statistic
from dp3d_cli.stages.evaluate.score import SubjectScores, score_match
from dp3d_cli.stages.view_folders import Found, find_view_folders

SIZE = 256
MIN_YAW = 0.2
METRICS = ("psnr", "zncc", "gradient_ncc", "sharpness")
PUBLISHED_FRAMES = "official_views.mp4"
PUBLISHED_PROXIES = "proxy"
REFERENCE = "reference"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("portraits", type=Path)
    parser.add_argument("--method", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--cameras", default="gen-videos", help="trajectory name, or cameras.json")
    options = parser.parse_args()
    try:
        truth = find_view_folders(options.portraits, PUBLISHED_FRAMES, videos=True)
        if not truth.folders:
            raise UsageError(f"{options.portraits}: no <subject>/{PUBLISHED_FRAMES} below this folder.")
        yaws = yaws_of(options.cameras, truth)
        protocol = Protocol(METRICS, SIZE, parse_crop("face", SIZE), MIN_YAW, yaws)
        pairing = beyond_yaw(with_yaws(pair_all(options.portraits, options.method, truth), yaws), MIN_YAW)
        scores = [score_match(match, protocol) for match in pairing.matches]
    except Dp3dError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    show(scores, protocol, pairing)
    return 1 if any(score.bad for score in scores) else 0


def yaws_of(cameras: str, truth: Found) -> tuple[float, ...]:
    """Yaw of every published frame [rad]."""
    counts = {len(subject.views) for subject in truth.folders}
    if len(counts) > 1:
        raise UsageError(f"The published videos differ in length: {sorted(counts)} frames.")
    trajectory = load_trajectory(cameras, counts.pop())
    return tuple(camera.yaw for camera in trajectory.cameras)


def pair_all(portraits: Path, methods: list[str], truth: Found) -> Pairing:
    parts = [
        pair_references(portraits, truth),
        pair_method("published-proxy", find_view_folders(portraits, PUBLISHED_PROXIES), truth),
    ]
    for text in methods:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise UsageError(f"--method takes NAME=DIR, got '{text}'.")
        choices = [
            pair_method(name, find_view_folders(Path(folder), inner), truth) for inner in (None, REFERENCE)
        ]
        parts.append(max(choices, key=lambda pairing: len(pairing.matches)))
        if not parts[-1].matches:
            raise UsageError(f"{folder}: no views of any subject of {portraits}.")
    return join(parts)


def show(scores: list[SubjectScores], protocol: Protocol, pairing: Pairing) -> None:
    print(methods_table(scores, protocol))
    subjects = sorted({score.subject for score in scores})
    print(f"| method | metric | {' | '.join(subjects)} |")
    print("|---" * (len(subjects) + 2) + "|")
    means: dict[str, dict[str, dict[str, float | None]]] = {}
    for score in scores:
        for name in protocol.metrics:
            numbers = statistic([row.values[name] for row in score.rows])
            means.setdefault(score.method, {}).setdefault(name, {})[score.subject] = numbers.mean
    for method, by_metric in means.items():
        for name, by_subject in by_metric.items():
            cells = [by_subject.get(subject) for subject in subjects]
            print(f"| {method} | {name} | {' | '.join('–' if c is None else f'{c:.3f}' for c in cells)} |")
    overall = {
        method: {
            name: statistic([row.values[name] for s in scores if s.method == method for row in s.rows]).mean
            for name in protocol.metrics
        }
        for method in means
    }
    result = {
        "protocol": protocol.describe(),
        "overall": overall,
        "by_subject": means,
        "warnings": list(find_warnings(scores, protocol)),
        "omitted": [omission.message for omission in pairing.omissions],
        "bad_pairs": [bad.message for score in scores for bad in score.bad],
    }
    print()
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
