"""How did training go? Loss and validation of every stage as curves, and thinned as numbers to keep.

    python benchmarks/training_curves.py RUN... --output benchmarks/results/training/nano

Writes OUTPUT.json and OUTPUT.png. A RUN is a folder that `dp3d train` left (with the runs of earlier stages
inside, if there are any) or the output folder of a module such as `dp3d_cli.training.nano`; a log
`*.jsonl`; or a `.json` that this script wrote, which is how curves of several machines come together. Stages
are called as train.json says, else as the folder; NAME=RUN names them otherwise.

JSON: stage → steps, hours (of the steps, without validation), curves → number → step, value. A training curve
of more than 400 points is averaged in blocks of neighbours (step: the last of the block), a validation curve
loses points in between.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dp3d_cli.training.journal import LOG
from dp3d_cli.training.preset import STAGES
from dp3d_cli.training.run import SETTINGS

MOST_POINTS = 400
UNSHOWN = ("lr", "grad_norm")
LOG_RANGE = 20  # of the smoothed values, beyond which the axis is logarithmic
VALIDATION = "val_"

OLD_NAMES = {
    "mean_pass": "mean",
    "mean_pass_over_proxy": "mean_of_proxy",
    "denoising": "denoise",
    "psnr_db": "psnr",
    "portraits_psnr_db": "val_psnr",
    "learning_rate": "lr",
}
"""Curves of the first embedded weights, and what the logs call them."""

Curve = tuple[list[int], list[float]]
"""Steps and values."""
Stage = dict[str, Any]


def read_runs(text: str) -> dict[str, Stage]:
    """Stage → what happened, of [NAME=]RUN.

    Raises:
        ValueError: nothing there that training writes.
    """
    name, _, place = text.rpartition("=")
    path = Path(place)
    if path.suffix == ".json":
        stages = _read_curves(path)
    elif path.is_file():
        stages = {path.stem if path.name != LOG else path.parent.name: read_log(path)}
    else:
        found = {_stage_of(log.parent): log for log in sorted(path.rglob(LOG))}
        stages = {stage: read_log(found[stage]) for stage in sorted(found, key=_turn)}
    stages = {stage: content for stage, content in stages.items() if content["curves"]}
    if not stages:
        raise ValueError("no log of training, or nothing in it yet.")
    if not name:
        return stages
    return {name if len(stages) == 1 else f"{name} {stage}": content for stage, content in stages.items()}


def _stage_of(folder: Path) -> str:
    settings = folder / SETTINGS
    if settings.is_file():
        return str(json.loads(settings.read_text(encoding="utf-8"))["stage"])
    return folder.resolve().name


def _turn(stage: str) -> int:
    names: tuple[str, ...] = STAGES
    return names.index(stage) if stage in names else len(names)


def _read_curves(path: Path) -> dict[str, Stage]:
    """A file that this script wrote, or that of the first embedded weights: stage → number → step, value."""
    stages: dict[str, Stage] = {}
    for stage, entry in json.loads(path.read_text(encoding="utf-8")).items():
        stages[stage] = entry
        if "curves" not in entry:
            curves = {OLD_NAMES.get(name, name): curve for name, curve in entry.items()}
            last = max(curve["step"][-1] for curve in curves.values())
            stages[stage] = {"steps": last, "hours": None, "curves": curves}
    return stages


def read_log(path: Path) -> Stage:
    """Curves of a log of JSON lines; half a line at the end, of a run that was killed, is left out."""
    curves: dict[str, Curve] = {}
    last, seconds = 0, 0.0
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number}: no JSON.") from error
        step = int(row.pop("step"))
        if "step_s" in row:
            seconds += float(row.pop("step_s")) * (step - last)
            last = step
        for name, value in row.items():
            steps, values = curves.setdefault(name, ([], []))
            steps.append(step)
            values.append(float(value))
    return {
        "steps": max((steps[-1] for steps, _ in curves.values()), default=0),
        "hours": float(f"{seconds / 3600:.3g}"),
        "curves": {name: _thinned(name, curve) for name, curve in curves.items()},
    }


def _thinned(name: str, curve: Curve) -> dict[str, list[Any]]:
    steps, values = curve
    if len(steps) > MOST_POINTS and name.startswith(VALIDATION):
        kept = np.linspace(0, len(steps) - 1, MOST_POINTS).round().astype(int)
        steps, values = [steps[i] for i in kept], [values[i] for i in kept]
    elif len(steps) > MOST_POINTS:
        blocks = np.array_split(np.arange(len(steps)), MOST_POINTS)
        steps, values = (
            [steps[own[-1]] for own in blocks],
            [float(np.mean(values[own[0] : own[-1] + 1])) for own in blocks],
        )
    return {"step": steps, "value": [float(f"{value:.5g}") for value in values]}


def smoothed(values: Sequence[float]) -> np.ndarray:
    """Running mean over about a fifteenth of the curve; shorter at its ends."""
    width = max(1, len(values) // 15) | 1
    kernel = np.ones(width)
    sums = np.convolve(values, kernel, mode="full")[width // 2 : width // 2 + len(values)]
    counts = np.convolve(np.ones(len(values)), kernel, mode="full")[width // 2 : width // 2 + len(values)]
    return np.asarray(sums / counts)


def plot(stages: dict[str, Stage], path: Path) -> None:
    """A row per stage: its loss first, then every other number; in each panel training and validation."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {stage: _panels(content["curves"]) for stage, content in stages.items()}
    columns = max(len(names) for names in panels.values())
    figure, grid = pyplot.subplots(
        len(stages), columns, figsize=(3.6 * columns, 2.6 * len(stages)), squeeze=False, layout="constrained"
    )
    for row, (stage, names) in enumerate(panels.items()):
        content = stages[stage]
        for column, axes in enumerate(grid[row]):
            if column >= len(names):
                axes.set_axis_off()
                continue
            _panel(axes, content["curves"], names[column])
            axes.set_title(f"{stage}: {names[column]}", fontsize=10)
            axes.tick_params(labelsize=8)
            axes.grid(linewidth=0.3)
        hours = content["hours"]
        time = "" if hours is None else f", {hours:.2g} h" if hours >= 0.1 else f", {hours * 60:.2g} min"
        grid[row][0].set_xlabel(f"step (of {content['steps']}{time})", fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _panels(curves: dict[str, Any]) -> list[str]:
    names = dict.fromkeys(name.removeprefix(VALIDATION) for name in curves if name not in UNSHOWN)
    return sorted(names, key=lambda name: name != "loss")  # stable: the others stay in the log's order


def _panel(axes: Any, curves: dict[str, Any], name: str) -> None:
    both = []
    if name in curves:
        step, value = curves[name]["step"], curves[name]["value"]
        mean = smoothed(value)
        both.append(mean)
        axes.plot(step, value, color="#4c78a8", alpha=0.3, linewidth=0.7)
        axes.plot(step, mean, color="#4c78a8", linewidth=1.5, label="training, smoothed")
    if VALIDATION + name in curves:
        step, value = curves[VALIDATION + name]["step"], curves[VALIDATION + name]["value"]
        both.append(np.asarray(value))
        marker = "o" if len(step) <= 40 else ""
        axes.plot(
            step, value, color="#f58518", marker=marker, markersize=3, linewidth=1.2, label="validation"
        )
    values = np.concatenate(both)
    if values.min() > 0 and values.max() > LOG_RANGE * values.min():
        axes.set_yscale("log")
    axes.legend(fontsize=7)


def write_json(stages: dict[str, Stage], path: Path) -> None:
    """One line per curve, so that changes can be read."""
    parts = []
    for stage, content in stages.items():
        curves = ",\n".join(
            f"   {json.dumps(name)}: {json.dumps(curve, separators=(',', ':'))}"
            for name, curve in content["curves"].items()
        )
        facts = f'"steps": {content["steps"]}, "hours": {json.dumps(content["hours"])}'
        parts.append(f' {json.dumps(stage)}: {{\n  {facts},\n  "curves": {{\n{curves}\n  }}\n }}')
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def main() -> None:
    """Read all runs, write numbers and picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="[NAME=]RUN")
    parser.add_argument("--output", type=Path, required=True, help="without .json and .png")
    options = parser.parse_args()
    stages: dict[str, Stage] = {}
    for text in options.runs:
        try:
            found = read_runs(text)
        except (OSError, ValueError) as error:
            sys.exit(f"{text}: {error}")
        for stage, content in found.items():
            if stage in stages:
                sys.exit(f"{text}: there is a stage '{stage}' already; name one of them: NAME={text}")
            stages[stage] = content
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(stages, options.output.with_name(options.output.name + ".json"))
    plot(stages, options.output.with_name(options.output.name + ".png"))
    for stage, content in stages.items():
        ends = {name: curve["value"][-1] for name, curve in content["curves"].items() if name not in UNSHOWN}
        print(f"{stage}: {content['steps']} steps, {content['hours']} h, last: {ends}")


if __name__ == "__main__":
    main()
