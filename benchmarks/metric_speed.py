"""Time of the metrics that have a network, on one thread of a CPU.

    OMP_NUM_THREADS=1 python benchmarks/metric_speed.py [--sizes 256 512] [--repeats 3] [--output FILE]

The networks have their full size and random weights, which cost the same as the published ones; nothing is
downloaded. Seconds are CPU seconds of the process, so that other work on the machine does not count. FID and
KID are two steps: features of one picture, and the distance of two sets of 1000 pictures. CLIP-I needs
`pip install 'dp3d[clip]'` and is left out without it.
"""

import argparse
import importlib.util
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from dp3d_cli.core.metrics.clip_i import ClipFeatures
from dp3d_cli.core.metrics.dists import Dists
from dp3d_cli.core.metrics.fid import FEATURES, FidFeatures, frechet_distance
from dp3d_cli.core.metrics.kid import kernel_distance
from dp3d_cli.core.metrics.lpips import Lpips
from dp3d_cli.core.metrics.psnr import psnr
from dp3d_cli.core.metrics.ssim import ssim
from tests.fakes.backbones import TORCH_HUB, backbone_cache, write_clip, write_torch_backbone

SET = 1000  # pictures


def main() -> None:
    """Measure, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    has_clip = importlib.util.find_spec("transformers") is not None
    with tempfile.TemporaryDirectory() as scratch:
        per_pair, per_picture = _load(Path(scratch), has_clip=has_clip)
    rng = np.random.default_rng(0)
    rows = []
    for size in options.sizes:
        a, b = rng.integers(0, 256, (2, size, size, 3), dtype=np.uint8)
        for name, metric in per_pair.items():
            rows.append(_row(name, "pair", size, options.repeats, lambda m=metric, a=a, b=b: m(a, b)))
        for name, features in per_picture.items():
            rows.append(_row(name, "picture", size, options.repeats, lambda f=features, a=a: f(a)))
    a, b = rng.gamma(1.0, size=(2, SET, FEATURES)).astype(np.float32)
    result = {
        "what": "metrics with a network, one CPU thread, random weights",
        "unit": "CPU seconds of the process, median of the repeats",
        "machine": _processor(),
        "versions": {
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "repeats": options.repeats,
        "rows": rows,
        "distance_s": {
            f"fid of {SET} and {SET}": _median_seconds(lambda: frechet_distance(a, b), 1),
            f"kid of {SET} and {SET}": _median_seconds(lambda: kernel_distance(a, b), 1),
        },
        "clip_i": "measured" if has_clip else "not measured: transformers is not installed",
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")


def _load(folder: Path, *, has_clip: bool) -> tuple[dict[str, Callable], dict[str, Callable]]:
    """Metrics of a pair, and features of a picture, by their keys in reports."""
    for name in TORCH_HUB:
        write_torch_backbone(folder, name)
    if has_clip:
        write_clip(folder, full_size=True)
    with backbone_cache(folder):
        dists = Dists.load("256")
        per_pair = {
            "psnr": psnr,
            "ssim": ssim,
            "lpips_alex": Lpips.load("alex"),
            "lpips_vgg": Lpips.load("vgg"),
            "dists@256": dists,
            "dists@native": dists.with_resize("native"),
        }
        per_picture = {
            "fid, kid": FidFeatures.load().features,
            "fid_clean": FidFeatures.load("clean-fid").features,
        }
        if has_clip:
            per_picture["clip_i"] = ClipFeatures.load().features
    return per_pair, per_picture


def _row(name: str, unit: str, size: int, repeats: int, call: Callable[[], object]) -> dict:
    call()
    seconds = _median_seconds(call, repeats)
    return {
        "metric": name,
        "of": unit,
        "size": size,
        "seconds": seconds,
        "per_second": float(f"{1 / seconds:.3g}"),
    }


def _median_seconds(call: Callable[[], object], repeats: int) -> float:
    measured = []
    for _ in range(repeats):
        started = time.process_time()
        call()
        measured.append(time.process_time() - started)
    return float(f"{statistics.median(measured):.3g}")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
