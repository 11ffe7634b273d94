"""Time and peak memory of `dp3d run`, stage by stage: 16 views of one portrait with the nano preset.

    python benchmarks/run_time.py [PORTRAIT] [--threads 2] [--repeats 3] [--output results.json]

Each repeat runs the real command in a fresh process and folder. A stage's seconds are the sum of its items'
times in the records; "start-up" is what the process took beyond them. Memory is the peak resident set of the
process. Without PORTRAIT the astronaut of scikit-image is used.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import skimage.data

from dp3d_cli.core.images import write_png

STAGES = {
    "align": "aligned",
    "render-cams": "cameras",
    "proxy": "proxy",
    "synthesize": "views",
    "video": "video",
}


def main() -> None:
    """Run, measure, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("portrait", type=Path, nargs="?")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        portrait = options.portrait or Path(scratch) / "astronaut.png"
        if options.portrait is None:
            write_png(portrait, skimage.data.astronaut())
        runs = [
            _run(portrait, Path(scratch) / f"run-{index}", options.threads)
            for index in range(options.repeats)
        ]
    seconds = {name: [run["seconds"][name] for run in runs] for name in runs[0]["seconds"]}
    result = {
        "what": "dp3d run, one portrait, preset nano",
        "threads": options.threads,
        "repeats": options.repeats,
        "seconds": {
            name: {"median": round(statistics.median(values), 2), "min": min(values), "max": max(values)}
            for name, values in seconds.items()
        },
        "peak_memory_gib": round(max(run["peak_memory_gib"] for run in runs), 2),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")


def _run(portrait: Path, work: Path, threads: int) -> dict:
    command = [sys.executable, "-m", "dp3d_cli", "run", str(portrait), "-o", str(work), "--quiet"]
    limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "SLURM_CPUS_PER_TASK")}
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **limits})
    total = time.perf_counter() - started
    seconds = {stage: _stage_seconds(work / folder, stage) for stage, folder in STAGES.items()}
    seconds["start-up"] = total - sum(seconds.values())
    return {
        "seconds": {name: round(value, 2) for name, value in {**seconds, "total": total}.items()},
        # The largest of all children so far: an upper bound for this run.
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20,
    }


def _stage_seconds(output: Path, stage: str) -> float:
    records = (output / ".dp3d" / stage).rglob("*.json")
    return sum(json.loads(record.read_bytes())["timings"]["elapsed_s"] for record in records)


if __name__ == "__main__":
    main()
