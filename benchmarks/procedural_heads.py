"""How long procedural heads take: build per head and time per view, one JSON line per size.

    python benchmarks/procedural_heads.py --sizes 128 256 --heads 8 --views 4

Seconds of wall clock and of CPU time (which a busy machine does not distort), median and quartiles.
"""

import argparse
import json
import platform
import time

import numpy as np
import torch

from dp3d_cli.core.cameras.trajectories import gen_videos
from dp3d_cli.core.renderers.procedural import ProceduralHead


def clock(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return np.array([time.perf_counter(), time.process_time()])


def spread(times):
    low, middle, high = np.percentile(np.asarray(times), [25, 50, 75], axis=0)
    return {
        name: {"median_s": round(middle[i], 4), "quartiles_s": [round(low[i], 4), round(high[i], 4)]}
        for i, name in enumerate(("wall", "cpu"))
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    labels = torch.as_tensor(gen_videos(options.views).labels, device=device)
    for size in options.sizes:
        builds, views = [], []
        for seed in range(-1, options.heads):  # the first one warms up
            start = clock(device)
            head = ProceduralHead(max(seed, 0), device=device, detail=size / 256)
            built = clock(device)
            head.render(labels, size)
            done = clock(device)
            if seed >= 0:
                builds.append(built - start)
                views.append((done - built) / options.views)
        row = {
            "size": size,
            "samples": head.points.shape[1],
            "build": spread(builds),
            "view": spread(views),
            "heads": options.heads,
            "views": options.views,
            "threads": options.threads,
            "device": str(device),
            "machine": platform.processor() or platform.machine(),
            "torch": torch.__version__,
        }
        print(json.dumps(row))


if __name__ == "__main__":
    main()
