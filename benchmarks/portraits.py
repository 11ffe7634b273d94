"""How close are views to the published ones? Scores methods against the frames of a published video.

    python benchmarks/portraits.py PORTRAITS --method template-proxy=work/proxy --method views=work/views

PORTRAITS holds one folder per subject with `reference.png`, the published frames `official_views.mp4` and the
published proxies `proxy/*.png`. Always scored are the reference copied to every view and the published
proxies; every --method NAME=DIR adds `DIR/<subject>/<view>.png` (or `DIR/<subject>/reference/<view>.png`, as
a run over `<subject>/reference.png` makes them).

The rule: 256 x 256 pixels, cameras turned by more than 0.2 rad to either side, the face (rows 56:196, columns
62:194); PSNR, luma ZNCC, gradient NCC, sharpness, and contrast: the standard deviation of the face's luma
over that of the published frame. PSNR alone says little: a flat grey picture beats the copied reference.
Prints a Markdown table and one JSON object; --sheets FOLDER writes a picture per portrait, for people to look
at.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp3d_cli.core.contact_sheet import contact_sheet
from dp3d_cli.core.errors import Dp3dError, UsageError
from dp3d_cli.core.images import read_image, write_png
from dp3d_cli.core.metrics.pictures import Picture, cut, luma
from dp3d_cli.core.videos import read_frames
from dp3d_cli.stages.evaluate.availability import find_available
from dp3d_cli.stages.evaluate.collect import sum_up
from dp3d_cli.stages.evaluate.networks import Networks
from dp3d_cli.stages.evaluate.pairing import BASELINE, Match
from dp3d_cli.stages.evaluate.plan import Request, plan
from dp3d_cli.stages.evaluate.protocol import bring_to_size, parse_crop
from dp3d_cli.stages.evaluate.report import methods_table
from dp3d_cli.stages.evaluate.results import Results
from dp3d_cli.stages.evaluate.score import score_match
from dp3d_cli.stages.view_folders import View

SIZE = 256
MIN_YAW = 0.2
METRICS = "psnr,zncc,gradient_ncc,sharpness"
CAMERAS = "gen-videos"
PUBLISHED_FRAMES = "official_views.mp4"
PUBLISHED_PROXIES = "proxy"
REFERENCE = "reference"


def score(portraits: Path, methods: Sequence[str], crop: str = "face", cameras: str = CAMERAS) -> Results:
    """Score methods (NAME=DIR), the published proxies and the copied reference by the rule above.

    Raises:
        Dp3dError: a folder that cannot be used, or a method without views.
    """
    request = Request(
        methods=(f"published-proxy={portraits}", *methods),
        truth=portraits,
        references=portraits,
        names=(PUBLISHED_PROXIES, REFERENCE),
        truth_name=PUBLISHED_FRAMES,
        metrics=METRICS,
        size=SIZE,
        crop=crop,
        min_yaw=MIN_YAW,
        cameras=cameras,
    )
    protocol, pairing = plan(request)
    networks = Networks()
    available = find_available(protocol, pairing, networks)
    scored = {
        match.id: score_match(match, protocol, available.metrics, networks) for match in pairing.matches
    }
    return sum_up(protocol, pairing, available, scored)


def matches(results: Results) -> dict[str, dict[str, Match]]:
    """Method → subject → what was compared; subjects with a pair that could not be read are left out."""
    return {
        method.method: {own.subject: own.match for own in method.subjects if not own.bad}
        for method in results.methods
    }


def contrast(match: Match) -> float:
    """Mean over views of the s.d. of the face's luma over that of the published frame."""
    window = parse_crop("face", SIZE)
    ratios = []
    for pair in match.pairs:
        assert pair.truth is not None
        own, true = (luma(cut(picture(view), window)).std() for view in (pair.prediction, pair.truth))
        ratios.append(float(own / true))
    return fmean(ratios)


def sheets(results: Results, rows: Sequence[str]) -> Iterator[tuple[str, Picture]]:
    """Subject and its sheet: the reference, a row per method, the published frames."""
    by_method = matches(results)
    for subject, copied in by_method[BASELINE].items():
        shown = [name for name in rows if subject in by_method[name]]
        pictures = [[picture(pair.prediction) for pair in by_method[name][subject].pairs] for name in shown]
        published = [picture(pair.truth) for pair in copied.pairs if pair.truth is not None]
        yield (
            subject,
            contact_sheet(
                [[picture(copied.pairs[0].prediction)], *pictures, published],
                [REFERENCE, *shown, "published"],
            ),
        )


def picture(view: View) -> Picture:
    """The view at the size that is scored, uint8 [256, 256, 3] RGB."""
    pixels = read_image(view.path) if view.frame is None else _frames(view.path)[view.frame]
    return bring_to_size(pixels, SIZE, view.path.name)


@lru_cache(maxsize=4)
def _frames(path: Path) -> NDArray[np.uint8]:
    return read_frames(path)


def content(results: Results) -> dict[str, Any]:
    """The rule, means over all pairs, and means by subject, as JSON values."""
    names = [facts.name for facts in results.metrics]
    by_subject = {
        method.method: {
            name: {subject: stats[name].mean for subject, stats in method.by_subject.items()}
            for name in names
        }
        for method in results.methods
    }
    overall = {
        method.method: {name: method.statistics[name].mean for name in names} for method in results.methods
    }
    for method, own in matches(results).items():
        contrasts = {subject: contrast(match) for subject, match in own.items()}
        by_subject[method]["face_contrast"] = dict(contrasts)
        overall[method]["face_contrast"] = fmean(contrasts.values()) if contrasts else None
    return {
        "protocol": results.protocol,
        "overall": overall,
        "by_subject": by_subject,
        "warnings": list(results.warnings),
        "omitted": [omission.message for omission in results.omissions],
        "bad_pairs": [
            bad.message for method in results.methods for subject in method.subjects for bad in subject.bad
        ],
    }


def main() -> int:
    """Score, write sheets if asked for, print tables and one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("portraits", type=Path)
    parser.add_argument("--method", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--cameras", default=CAMERAS, help="trajectory name, or cameras.json")
    parser.add_argument("--sheets", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    try:
        if bad := [text for text in options.method if not all(text.partition("="))]:
            raise UsageError(f"--method takes NAME=DIR, got '{bad[0]}'.")
        results = score(options.portraits, options.method, cameras=options.cameras)
        result = content(results)
        if options.sheets is not None:
            names = [method.method for method in results.methods if method.method != BASELINE]
            for subject, sheet in sheets(results, names):
                write_png(options.sheets / f"{subject}.png", sheet)
    except Dp3dError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    print(methods_table(results))
    subjects = sorted({subject.subject for method in results.methods for subject in method.subjects})
    print(f"| method | metric | {' | '.join(subjects)} |")
    print("|---" * (len(subjects) + 2) + "|")
    for method, by_metric in result["by_subject"].items():
        for name, values in by_metric.items():
            cells = [values.get(subject) for subject in subjects]
            print(f"| {method} | {name} | {' | '.join('–' if c is None else f'{c:.3f}' for c in cells)} |")
    print()
    print(json.dumps(result))
    return 1 if results.bad_pairs else 0


if __name__ == "__main__":
    sys.exit(main())
