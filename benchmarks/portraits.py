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

from dp3d_cli.core.errors import Dp3dError, UsageError
from dp3d_cli.stages.evaluate.availability import find_available
from dp3d_cli.stages.evaluate.collect import sum_up
from dp3d_cli.stages.evaluate.networks import Networks
from dp3d_cli.stages.evaluate.plan import Request, plan
from dp3d_cli.stages.evaluate.report import methods_table
from dp3d_cli.stages.evaluate.results import Results
from dp3d_cli.stages.evaluate.score import score_match

SIZE = 256
MIN_YAW = 0.2
METRICS = "psnr,zncc,gradient_ncc,sharpness"
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
        if bad := [text for text in options.method if not all(text.partition("="))]:
            raise UsageError(f"--method takes NAME=DIR, got '{bad[0]}'.")
        request = Request(
            methods=(f"published-proxy={options.portraits}", *options.method),
            truth=options.portraits,
            references=options.portraits,
            names=(PUBLISHED_PROXIES, REFERENCE),
            truth_name=PUBLISHED_FRAMES,
            metrics=METRICS,
            size=SIZE,
            crop="face",
            min_yaw=MIN_YAW,
            cameras=options.cameras,
        )
        protocol, pairing = plan(request)
        networks = Networks()
        available = find_available(protocol, pairing, networks)
        scored = {
            match.id: score_match(match, protocol, available.metrics, networks) for match in pairing.matches
        }
    except Dp3dError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    results = sum_up(protocol, pairing, available, scored)
    show(results)
    return 1 if results.bad_pairs else 0


def show(results: Results) -> None:
    names = [facts.name for facts in results.metrics]
    print(methods_table(results))
    subjects = sorted({subject.subject for method in results.methods for subject in method.subjects})
    print(f"| method | metric | {' | '.join(subjects)} |")
    print("|---" * (len(subjects) + 2) + "|")
    means = {
        method.method: {
            name: {subject: stats[name].mean for subject, stats in method.by_subject.items()}
            for name in names
        }
        for method in results.methods
    }
    for method, by_metric in means.items():
        for name, by_subject in by_metric.items():
            cells = [by_subject.get(subject) for subject in subjects]
            print(f"| {method} | {name} | {' | '.join('–' if c is None else f'{c:.3f}' for c in cells)} |")
    overall = {
        method.method: {name: method.statistics[name].mean for name in names} for method in results.methods
    }
    result = {
        "protocol": results.protocol,
        "overall": overall,
        "by_subject": means,
        "warnings": list(results.warnings),
        "omitted": [omission.message for omission in results.omissions],
        "bad_pairs": [
            bad.message for method in results.methods for subject in method.subjects for bad in subject.bad
        ],
    }
    print()
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
