"""How good are the views of a preset on heads that no training has seen? The whole tool, as a user runs it.

    cd benchmarks
    python quality.py WORK --output results/quality.json --plots results --portraits PORTRAITS

Writes frontal portraits of procedural heads of the test split (seeds from 1,100,000) and their true views,
runs `dp3d run` over the portraits, and scores views, proxies, blurred proxies, the truth itself and the
copied reference with `dp3d evaluate`: cameras turned by more than 0.2 rad, once the whole frame and once the
face; and, over all cameras, how far each picture's head is turned from the camera asked for, and how well
neighbouring views agree. The HTML reports stay in WORK. A head without a face that the detector finds is
counted as lost, and takes part in nothing.

The angle is the embedded landmark network's, whose own error is its number for the true views. The best blur
of a measure is the Gaussian under which the proxies' mean is highest in that measure.

--portraits: the same tool on real portraits with published frames (folders as `portraits.py` takes them),
scored against these. WORK/sheets gets a picture per portrait for people to look at.

Verdicts compare means over subjects with targets. Prints them as a table, and everything as one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import operator
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

import cv2
import numpy as np
import portraits
import torch

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.cameras.trajectories import load_trajectory
from dp3d_cli.core.errors import Dp3dError
from dp3d_cli.core.images import read_image, write_png
from dp3d_cli.core.presets import load_preset
from dp3d_cli.core.proxies.template import to_uint8
from dp3d_cli.core.renderers.procedural import ProceduralHead
from dp3d_cli.core.videos import count_frames
from dp3d_cli.stages.evaluate.statistics import statistic_of_subjects
from dp3d_cli.training.data import SPLITS

PORTRAIT_SIZE = 512
BLURS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)  # px
TURNED = ("--min-yaw", "0.2")
PARTS: Mapping[str, tuple[str, ...]] = {
    "full": (*TURNED, "--crop", "none"),
    "face": (*TURNED, "--crop", "face"),
    "all cameras": ("--pose", "landmarks", "--metrics", "pose,consistency,consistency_gt"),
}
ANGLE = "pose_camera_deg"
RULES = {">=": operator.ge, ">": operator.gt, "<=": operator.le}

Numbers = dict[str, dict[str, dict[str, float]]]
"""Method → metric → subject → mean over the subject's views."""


# The protocol on procedural heads.


def write_heads(work: Path, count: int, views: int, size: int, jobs: int) -> None:
    """Portraits and true views of `count` heads; what is there already is kept."""
    (work / "portraits").mkdir(parents=True, exist_ok=True)
    seeds = [seed for seed in SPLITS["test"][:count] if not (work / "portraits" / f"{seed}.png").exists()]
    if jobs == 1 or len(seeds) < 8:  # a process takes some heads' time to start
        for seed in seeds:
            write_head(work, views, size, seed)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as processes:
        list(processes.map(partial(write_head, work, views, size), seeds))


def write_head(work: Path, views: int, size: int, seed: int) -> None:
    """One head; the portrait comes last, so that its file says that all is there."""
    trajectory = load_trajectory("gen-videos", views)
    frontal = torch.from_numpy(Camera.look_at(0.0, 0.0).label)[None]
    folder = work / "truth" / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    head = ProceduralHead(seed, detail=PORTRAIT_SIZE / 256)
    images = to_uint8(head.render(torch.from_numpy(trajectory.labels), size).image)
    for name, image in zip(trajectory.view_names, images, strict=True):
        write_png(folder / f"{name}.png", image)
    write_png(work / "portraits" / f"{seed}.png", to_uint8(head.render(frontal, PORTRAIT_SIZE).image)[0])


def write_blurred(work: Path) -> list[str]:
    """The proxies under Gaussians: what a network must beat that only smooths."""
    methods = []
    for sigma in BLURS:
        target = work / f"blurred-{sigma:g}"
        for source in sorted((work / "run" / "proxy").glob("*/*.png")):
            copy = target / source.parent.name / source.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_png(copy, cv2.GaussianBlur(read_image(source), (0, 0), sigma))
        methods.append(f"blur-{sigma:g}={target}")
    return methods


def dp3d(*arguments: str | Path) -> None:
    """Run a command; lost portraits and missing backbones (status 1) are no reason to stop."""
    command = [sys.executable, "-m", "dp3d_cli", *map(str, arguments)]
    status = subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode
    if status not in (0, 1):
        raise SystemExit(f"{' '.join(command)}: status {status}")


def evaluate(work: Path, part: str, metrics: str, blurred: list[str]) -> dict[str, Any]:
    """Scores of all methods; the report's metrics.json."""
    report = work / f"report-{part.replace(' ', '-')}"
    run, truth, options = work / "run", work / "truth", PARTS[part]
    chosen = () if "--metrics" in options else ("--metrics", metrics)
    methods = (f"views={run / 'views'}", f"proxy={run / 'proxy'}", f"truth={truth}", *blurred)
    compared: tuple[str | Path, ...] = ("--gt", truth, "--references", run / "aligned")
    dp3d(
        *("evaluate", *methods, *compared, "--cameras", "gen-videos"),
        *(*options, *chosen, "-o", report, "--quiet"),
    )
    content: dict[str, Any] = json.loads((report / "metrics.json").read_text(encoding="utf-8"))
    return content


def numbers_of(content: Mapping[str, Any]) -> Numbers:
    """What a report has for each subject; a number that is not finite is left out."""
    numbers: Numbers = {}
    for method in content["methods"]:
        own = numbers[method["method"]] = {}
        for subject, metrics in method["by_subject"].items():
            for metric, value in metrics.items():
                number = value["mean"] if "mean" in value else value["value"]
                if number is not None:
                    own.setdefault(metric, {})[subject] = number
    return numbers


# What the numbers say.


def spread(values: Mapping[str, float]) -> dict[str, float]:
    """Mean and quantiles over subjects."""
    numbers = {"mean": fmean(values.values())}
    for name, share in (("p5", 0.05), ("p25", 0.25), ("median", 0.5), ("p75", 0.75), ("p95", 0.95)):
        numbers[name] = float(np.quantile(list(values.values()), share))
    return {name: round(number, 5) for name, number in numbers.items()}


def summary(content: Mapping[str, Any], numbers: Numbers) -> dict[str, Any]:
    """Every method's measures over subjects, and in how many of these the views beat the proxy."""
    methods = {method["method"]: method for method in content["methods"]}
    wins = {}
    for metric in numbers["views"]:
        gains = difference(numbers, metric, "proxy")
        if gains:
            wins[metric] = sum(gain > 0 for gain in gains.values()) / len(gains)
    return {
        "subjects": methods["views"]["subjects"],
        "pairs": methods["views"]["pairs"],
        "over subjects": {
            name: {metric: spread(values) for metric, values in own.items()} for name, own in numbers.items()
        },
        "faces found": {
            name: {metric: [count["found"], count["tried"]] for metric, count in method["coverage"].items()}
            for name, method in methods.items()
            if method["coverage"]
        },
        "share of subjects in which the views are higher than the proxy": wins,
    }


def difference(numbers: Numbers, metric: str, other: str) -> dict[str, float]:
    """Subject → the views' measure less another method's."""
    own, others = numbers["views"].get(metric, {}), numbers[other].get(metric, {})
    return {subject: value - others[subject] for subject, value in own.items() if subject in others}


def best_blur(numbers: Numbers, metric: str) -> str:
    """The blur with the highest mean."""
    blurs = {name: own[metric] for name, own in numbers.items() if name.startswith("blur-")}
    return max(blurs, key=lambda name: fmean(blurs[name].values()))


def verdict(
    value: float | None, rule: str, target: float, subjects: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """A number, what is asked of it, whether that is so; with the subjects' spread and interval if given."""
    met = value is not None and math.isfinite(value) and RULES[rule](value, target)
    row: dict[str, Any] = {"value": value, "target": f"{rule} {target:g}", "met": bool(met)}
    if subjects:
        row["over subjects"] = spread(subjects)
        interval = statistic_of_subjects({subject: [number] for subject, number in subjects.items()})
        row["interval_95 of the mean"] = [interval.low, interval.high]
    return row


def mean_verdict(subjects: Mapping[str, float], rule: str, target: float) -> dict[str, Any]:
    """`verdict` on the mean over subjects; not met without any."""
    return verdict(fmean(subjects.values()) if subjects else None, rule, target, subjects)


def head_verdicts(parts: Mapping[str, Numbers], views: int) -> dict[str, Any]:
    """What is asked of the views of held-out heads. Needs psnr, gradient_ncc, sharpness and grain."""
    full, face, everywhere = (parts[part] for part in PARTS)
    gains = difference(full, "psnr", "proxy")
    grain = {name: full[name]["grain"] for name in ("views", "proxy")}
    ratio = fmean(grain["views"].values()) / fmean(grain["proxy"].values())
    ratios = {
        subject: value / grain["proxy"][subject]
        for subject, value in grain["views"].items()
        if grain["proxy"].get(subject)
    }
    rows = {
        "heads scored": verdict(len(gains), ">=", 64),
        "views per head": verdict(views, ">=", 8),
        "PSNR over the proxy's, frame [dB]": mean_verdict(gains, ">=", 0.5),
        "the same, aimed at [dB]": mean_verdict(gains, ">=", 1.5),
        "share of heads with a higher PSNR, frame": verdict(
            fmean(gain > 0 for gain in gains.values()), ">=", 0.85
        ),
        "gradient NCC over the proxy's, face": mean_verdict(
            difference(face, "gradient_ncc", "proxy"), ">=", 0.03
        ),
    }
    for metric, title in (("psnr", "PSNR"), ("gradient_ncc", "gradient NCC")):
        for numbers, where in ((full, "frame"), (face, "face")):
            blur = best_blur(numbers, metric)
            row = mean_verdict(difference(numbers, metric, blur), ">", 0)
            row["best blur"] = blur
            row["is the largest that was tried"] = blur == f"blur-{BLURS[-1]:g}"
            rows[f"{title} over the best blur's, {where}"] = row
    # The ratio of means: a single proxy without any grain would decide a mean of ratios.
    rows["grain over the proxy's, ratio"] = verdict(ratio, "<=", 1.3, ratios)
    rows["sharpness of the face (1 = truth)"] = mean_verdict(face["views"].get("sharpness", {}), ">=", 0.6)
    rows["angle to the camera asked for [degrees]"] = {
        **mean_verdict(everywhere["views"].get(ANGLE, {}), "<=", 3),
        "the same of other pictures": {
            name: spread(own)
            for name in ("truth", "proxy")
            if (own := everywhere[name].get(ANGLE))  # of the truth: the estimator's own error
        },
    }
    return rows


def heads_part(options: argparse.Namespace) -> dict[str, Any]:
    """Make the heads, run, score."""
    work = options.work
    write_heads(work, options.heads, options.views, load_preset(options.preset).size, options.jobs)
    run(options, work / "portraits", work / "run", options.views)
    blurred = write_blurred(work)
    contents = {
        part: evaluate(work, part, options.metrics, [] if "--pose" in PARTS[part] else blurred)
        for part in PARTS
    }
    numbers = {part: numbers_of(content) for part, content in contents.items()}
    if options.plots is not None:
        from quality_plots import plot_heads

        name = options.output.stem if options.output is not None else "quality"
        options.plots.mkdir(parents=True, exist_ok=True)
        plot_heads(numbers, best_blur, options.plots / f"{name}.png")
    made = len(list((work / "portraits").glob("*.png")))
    return {
        "what": f"preset {options.preset} {options.set}, {made} test heads, {options.views} views, "
        "yaw beyond 0.2 rad",
        "heads": made,
        "lost": made - len(list((work / "run" / "views").glob("*/views.json"))),
        "verdicts": head_verdicts(numbers, options.views),
        **{part: summary(contents[part], own) for part, own in numbers.items()},
        "protocol": contents["full"]["protocol"],
    }


def run(options: argparse.Namespace, source: Path, output: Path, views: int) -> None:
    """`dp3d run` with the preset and settings asked for."""
    settings = [f"cameras.num_views={views}", *options.set]
    overrides = [part for setting in settings for part in ("-s", setting)]
    dp3d("run", source, "-o", output, "-p", options.preset, *overrides, "--quiet")


# The protocol on real portraits.


def portraits_part(options: argparse.Namespace) -> dict[str, Any]:
    """Run over the references, score against the published frames, and draw the sheets."""
    work = options.work / "real"
    folders = [path.parent for path in sorted(options.portraits.glob(f"*/{portraits.REFERENCE}.png"))]
    frames = {count_frames(folder / portraits.PUBLISHED_FRAMES) for folder in folders}
    if len(frames) != 1:
        raise SystemExit(f"{options.portraits}: needs portraits with one number of frames, has {frames}.")
    (work / "references").mkdir(parents=True, exist_ok=True)
    for folder in folders:
        shutil.copyfile(folder / f"{portraits.REFERENCE}.png", work / "references" / f"{folder.name}.png")
    run(options, work / "references", work / "run", frames.pop())
    methods = [f"{name}={work / 'run' / folder}" for name, folder in (("proxy", "proxy"), ("views", "views"))]
    full, face = (portraits.score(options.portraits, methods, crop) for crop in ("none", "face"))
    for subject, sheet in portraits.sheets(face, ("published-proxy", "proxy", "views")):
        write_png(options.work / "sheets" / f"{subject}.png", sheet)
    content = portraits.content(face)
    by_subject = {
        subject: portrait_verdicts(content["by_subject"], subject)
        for subject in content["by_subject"]["views"]["psnr"]
    }
    means = {
        method: {metric: {"mean": mean} for metric, mean in own.items()}
        for method, own in content["overall"].items()
    }
    return {
        "portraits": len(folders),
        "lost": len(folders) - len(by_subject),
        "verdicts": portrait_verdicts(means, "mean"),
        "verdicts by portrait": by_subject,
        "full": portraits.content(full),
        "face": content,
    }


def portrait_verdicts(numbers: Mapping[str, Any], subject: str) -> dict[str, Any]:
    """What is asked of the views of a real portrait, all on the face; see `portraits.content`."""
    views, proxy = (
        {metric: values.get(subject) for metric, values in numbers[method].items()}
        for method in ("views", "proxy")
    )
    return {
        "face PSNR over the proxy's [dB]": verdict(views["psnr"] - proxy["psnr"], ">=", 0),
        "face gradient NCC over the proxy's": verdict(
            views["gradient_ncc"] - proxy["gradient_ncc"], ">=", -0.01
        ),
        "face contrast over the proxy's, ratio": verdict(
            views["face_contrast"] / proxy["face_contrast"], ">=", 0.9
        ),
    }


def tables(result: Mapping[str, Any]) -> str:
    """Verdicts and means as Markdown."""
    lines = ["| what | value | target | met |", "|---|---|---|---|"]
    groups = [("", result.get("verdicts", {}))]
    if real := result.get("real portraits"):
        groups.append(("portraits, mean: ", real["verdicts"]))
        groups += [(f"{subject}: ", rows) for subject, rows in real["verdicts by portrait"].items()]
    for prefix, rows in groups:
        for name, row in rows.items():
            value = "–" if row["value"] is None else f"{row['value']:.4g}"
            note = f" ({row['best blur']})" if "best blur" in row else ""
            lines.append(f"| {prefix}{name}{note} | {value} | {row['target']} | {_yes(row['met'])} |")
    for part in PARTS:
        if part not in result:
            continue
        measures = result[part]["over subjects"]
        names = list(measures["views"])
        lines += ["", f"| {part} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for method, own in measures.items():
            cells = [f"{own[name]['mean']:.3f}" if name in own else "–" for name in names]
            lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _yes(met: bool) -> str:
    return "yes" if met else "**no**"


def main() -> None:
    """Do the parts that were asked for and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--heads", type=int, default=64, help="0 leaves them out")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of `dp3d run`")
    parser.add_argument(
        "--metrics",
        default="psnr,ssim,zncc,gradient_ncc,sharpness,grain",
        help="as of `dp3d evaluate`; verdicts need psnr, gradient_ncc, sharpness and grain, plots also zncc",
    )
    parser.add_argument("--portraits", type=Path, help="real portraits with published frames")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="gets a PNG called as the output")
    parser.add_argument("--jobs", type=int, default=2, help="processes that render heads")
    options = parser.parse_args()
    try:
        result: dict[str, Any] = heads_part(options) if options.heads else {}
        if options.portraits is not None:
            result["real portraits"] = portraits_part(options)
    except Dp3dError as error:
        raise SystemExit(str(error)) from error
    print(tables(result))
    print()
    print(json.dumps(result))
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
