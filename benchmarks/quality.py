"""How good are the views of a preset on heads that no training has seen? The whole tool, as a user runs it.

    python benchmarks/quality.py WORK --heads 64 --output benchmarks/results/quality.json

Writes frontal portraits of procedural heads of the test split (seeds from 1,100,000) and their true views,
runs `dp3d run` over the portraits, and scores views, proxies, blurred proxies and the copied reference with
`dp3d evaluate`: cameras turned by more than 0.2 rad, once the whole frame and once the face. The HTML reports
stay in WORK. A head without a face that the detector finds is counted as lost, and takes part in nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import torch

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.cameras.trajectories import load_trajectory
from dp3d_cli.core.images import read_image, write_png
from dp3d_cli.core.presets import load_preset
from dp3d_cli.core.proxies.template import to_uint8
from dp3d_cli.core.renderers.procedural import ProceduralHead
from dp3d_cli.training.data import SPLITS

PORTRAIT_SIZE = 512
BLURS = (1.0, 1.5, 2.0, 3.0)  # px
CROPS = ("none", "face")


def write_heads(work: Path, count: int, views: int, size: int) -> None:
    """Portraits and true views of `count` heads; what is there already is kept."""
    trajectory = load_trajectory("gen-videos", views)
    frontal = torch.from_numpy(Camera.look_at(0.0, 0.0).label)[None]
    for seed in SPLITS["test"][:count]:
        portrait = work / "portraits" / f"{seed}.png"
        if portrait.exists():
            continue
        folder = work / "truth" / str(seed)
        folder.mkdir(parents=True, exist_ok=True)
        portrait.parent.mkdir(exist_ok=True)
        head = ProceduralHead(seed, detail=PORTRAIT_SIZE / 256)
        images = to_uint8(head.render(torch.from_numpy(trajectory.labels), size).image)
        for name, image in zip(trajectory.view_names, images, strict=True):
            write_png(folder / f"{name}.png", image)
        write_png(portrait, to_uint8(head.render(frontal, PORTRAIT_SIZE).image)[0])


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


def evaluate(work: Path, crop: str, metrics: str, blurred: list[str]) -> dict[str, Any]:
    """Scores of all methods; the report's metrics.json."""
    report = work / f"report-{'full' if crop == 'none' else crop}"
    dp3d(
        *("evaluate", f"views={work / 'run' / 'views'}", f"proxy={work / 'run' / 'proxy'}", *blurred),
        *("--gt", work / "truth", "--references", work / "run" / "aligned", "--cameras", "gen-videos"),
        *("--min-yaw", "0.2", "--crop", crop, "--metrics", metrics, "-o", report, "--quiet"),
    )
    content: dict[str, Any] = json.loads((report / "metrics.json").read_text(encoding="utf-8"))
    return content


def summary(content: dict[str, Any]) -> dict[str, Any]:
    """Means of every method, and in how many subjects the views beat the proxy."""
    methods = {method["method"]: method for method in content["methods"]}
    wins = {}
    for metric, numbers in methods["views"]["metrics"].items():
        pairs = [
            (numbers_of[metric]["mean"], methods["proxy"]["by_subject"][subject][metric]["mean"])
            for subject, numbers_of in methods["views"]["by_subject"].items()
            if metric in numbers_of
        ]
        known = [(own, other) for own, other in pairs if own is not None and other is not None]
        if known and numbers.get("mean") is not None:
            wins[metric] = sum(own > other for own, other in known) / len(known)
    return {
        "subjects": methods["views"]["subjects"],
        "pairs": methods["views"]["pairs"],
        "mean": {
            name: {metric: numbers.get("mean") for metric, numbers in method["metrics"].items()}
            for name, method in methods.items()
        },
        "share of subjects in which the views are higher than the proxy": wins,
    }


def main() -> None:
    """Make the heads, run, score, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--heads", type=int, default=64)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of `dp3d run`")
    parser.add_argument("--metrics", default="psnr,ssim,zncc,gradient_ncc,sharpness,grain")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    write_heads(options.work, options.heads, options.views, load_preset(options.preset).size)
    settings = [f"cameras.num_views={options.views}", *options.set]
    overrides = [part for setting in settings for part in ("-s", setting)]
    run = options.work / "run"
    dp3d("run", options.work / "portraits", "-o", run, "-p", options.preset, *overrides, "--quiet")
    blurred = write_blurred(options.work)
    contents = {crop: evaluate(options.work, crop, options.metrics, blurred) for crop in CROPS}
    result = {
        "what": f"preset {options.preset} {options.set}, {options.heads} test heads, {options.views} views, "
        "yaw beyond 0.2 rad",
        "heads": options.heads,
        "lost": options.heads - len(list((run / "views").glob("*/views.json"))),
        "full": summary(contents["none"]),
        "face": summary(contents["face"]),
        "protocol": contents["none"]["protocol"],
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
