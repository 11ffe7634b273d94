r"""What is each module of DiffPortrait3D worth in a preset, and do the paper's ablations come out its way?

    python benchmarks/ablations.py WORK --heads 16 --steps 10 --variants '*/[!gs]*' \
        --output benchmarks/results/ablations.json --table benchmarks/results/ablations.md \
        --sheet benchmarks/results/ablations.jpg
    python benchmarks/ablations.py WORK --heads 66 --steps 10 --bases default full --variants '*ul?' \
        --output benchmarks/results/full_generation.json --table benchmarks/results/full_generation.md

WORK is a folder of `quality.py`, or becomes one: portraits of procedural heads of the test split, and
`dp3d run` over them. On the same aligned portraits, proxies and camera conditions the networks then make
views as the preset does, in full generation, and in full generation without the explicit hint, which is the
paper's own setting; each also without one module, or with something wrong in its place (the list and the
words are those of `ablation_variants.py`; what is measured, of `ablation_scores.py`; how it is compared, of
`ablation_report.py`). Views turned by more than 0.2 rad are compared with the truth; the Frechet distance,
pose and consistency take all. Without weights for LPIPS, "perceptual" is what its name in the JSON says; ID
needs a network that dp3d does not have.

Every result is kept in WORK/ablations, in a folder named after all that decides it (settings, weights,
source), so that a stopped run goes on where it was. `--shard 0/2` and `--shard 1/2`
share the heads among processes; run without it afterwards for the tables. `--variants 'default*'` takes a
part; the bases of its changes are always made.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import quality
from ablation_heads import Head, Store, cameras_of, digest_of, read_heads
from ablation_report import Scored, finite, markdown, means, module_rows, name_of, paper_rows, sanity
from ablation_scores import MIN_YAW, Angles, Judge
from ablation_variants import Pictures, Synthesizer, Variant, variants
from diffusers.utils import logging
from numpy.typing import NDArray
from PIL import Image

from dp3d_cli.core.contact_sheet import contact_sheet
from dp3d_cli.core.diffusion.pipeline import DiffPortraitPipeline
from dp3d_cli.core.images import read_image
from dp3d_cli.core.presets import Preset, as_settings, load_preset
from dp3d_cli.core.renderers.conditions import render_conditions
from dp3d_cli.core.weights.manifest import digest
from dp3d_cli.core.weights.registry import resolve
from dp3d_cli.stages.targets import Targets, make_targets
from dp3d_cli.training.data import SPLITS

BASES = ("default", "full", "plain")
BASELINES = (
    Variant("truth", "the true views"),
    Variant("proxy", "the proxies as they are"),
    Variant("copy", "the portrait, unturned"),
)
BLUR, NOISE = 2.0, 25.0  # px; grey levels: what the feature space must find worse than other people
TILE = 112  # px


def prepare(options: argparse.Namespace, preset: Preset) -> None:
    """Portraits and `dp3d run`, each only where something is missing or out of date."""
    quality.write_heads(options.work, options.heads, options.views, preset.size, jobs=1)
    portraits = [options.work / "portraits" / f"{seed}.png" for seed in SPLITS["test"][: options.heads]]
    overrides = [part for setting in settings_of(options) for part in ("-s", setting)]
    quality.dp3d("run", *portraits, "-o", options.work / "run", "-p", options.preset, *overrides, "--quiet")


def settings_of(options: argparse.Namespace) -> list[str]:
    return [f"cameras.num_views={options.views}", *options.set]


def widest(targets: Targets) -> list[int]:
    """The views turned farthest to either side: those of the sheet."""
    yaws = [camera.yaw for camera in cameras_of(targets)]
    return [int(np.argmin(yaws)), int(np.argmax(yaws))]


def evaluate_head(
    head: Head,
    wanted: Sequence[Variant],
    store: Store,
    tools: tuple[Synthesizer, Judge],
    targets: Targets,
    other_identity: Pictures,
    *,
    for_sheet: bool,
) -> None:
    """Make and score what is not in the store yet."""
    missing = [v for v in wanted if not store.has(v.name, head, with_strip=for_sheet)]
    if not missing:
        return
    synthesizer, judge = tools
    model = head.model()
    truth, inputs = head.truth(model, targets), head.inputs(model, targets, other_identity)
    del model
    true_angles = judge.angles(truth.images)
    made: dict[str, Pictures] = {
        "truth": truth.images,
        "proxy": head.proxies.images,
        "copy": np.repeat(head.portrait[None], len(truth.images), axis=0),
    }
    base_angles: dict[str, Angles] = {}
    by_name = {variant.name: variant for variant in wanted}
    for variant in missing:
        if variant.base not in made:
            made[variant.base] = synthesizer.views(by_name[variant.base], inputs)
            base_angles[variant.base] = judge.angles(made[variant.base])
        views = synthesizer.views(variant, inputs) if variant.change else made[variant.name]
        angles = judge.angles(views)
        scores = judge.score(views, angles, truth, true_angles)
        if variant.change:
            base = made[variant.base]
            scores |= judge.change(views, angles, base, base_angles[variant.base], truth.turned)
        content: dict[str, Any] = {"scores": scores, "features": _rounded(judge.features(list(views)))}
        if variant.name == "truth":
            content |= _spoilt_features(judge, truth.images, head.seed)
        strip = np.concatenate([views[v] for v in widest(targets)], axis=1) if for_sheet else None
        store.write(variant.name, head, content, strip)


def _spoilt_features(judge: Judge, images: Pictures, seed: int) -> dict[str, Any]:
    noise = np.random.default_rng(seed).normal(0, NOISE, images.shape)
    return {
        "blurred": _rounded(judge.features([cv2.GaussianBlur(image, (0, 0), BLUR) for image in images])),
        "noisy": _rounded(judge.features(list(np.clip(images + noise, 0, 255).astype(np.uint8)))),
    }


def _rounded(features: NDArray[np.floating]) -> list[list[float]]:
    return [[round(float(value), 6) for value in row] for row in features]


def summarize(
    store: Store, heads: Sequence[Head], shown: Sequence[Variant], what: str, notes: Sequence[str]
) -> dict[str, Any]:
    """One JSON object from the store."""
    contents = {v.name: [store.read(v.name, head) for head in heads] for v in shown}
    made = {
        name: Scored([c["scores"] for c in column], [np.array(c["features"]) for c in column])
        for name, column in contents.items()
    }
    truth = made["truth"]
    blurred, noisy = ([np.array(c[key]) for c in contents["truth"]] for key in ("blurred", "noisy"))
    bases = [base for base in BASES if base in made]
    content: dict[str, Any] = {
        "what": what,
        "notes": list(notes),
        "subjects": [head.seed for head in heads],
        "variants": {v.name: v.what for v in shown},
        "means": {name: means(scored, truth) for name, scored in made.items()},
        "feature space": sanity(truth, blurred, noisy),
        "modules": module_rows(made, truth, bases),
        "paper": paper_rows(made, truth, bases),
        "by_subject": {
            str(head.seed): {name: column[i]["scores"] for name, column in contents.items()}
            for i, head in enumerate(heads)
        },
    }
    cleaned: dict[str, Any] = finite(content)
    return cleaned


def sheet(store: Store, heads: Sequence[Head], shown: Sequence[Variant]) -> Pictures:
    """One row per change, the bases side by side, of each head two views; what a base has not is white."""
    known = {variant.name for variant in shown}
    bases = [base for base in BASES if base in known]
    rows = [[head.portrait for head in heads for _ in range(2)] * len(bases)]
    labels = ["portrait"]
    for change in [*(v.name for v in BASELINES), *dict.fromkeys(v.change for v in shown if v.base in bases)]:
        names = [change if change in known else name_of(base, change) for base in bases]
        row = []
        for name in names:
            for head in heads:
                path = store.path(name, head.seed, ".png")
                strip = (
                    read_image(path)
                    if name in known
                    else np.full_like(np.tile(head.portrait, (1, 2, 1)), 255)
                )
                row += np.split(strip, 2, axis=1)
        rows.append(row)
        labels.append(change or "as it is")
    headers = [f"{base} {head.seed}" for base in bases for head in heads for _ in range(2)]
    return contact_sheet(rows, labels, headers=headers, tile=TILE)


def wanted_variants(options: argparse.Namespace, preset: Preset, synthesizer: Synthesizer) -> list[Variant]:
    every = variants(
        options.bases,
        steps=options.steps,
        guidance=options.guidance,
        has_hint=synthesizer.has_hint,
        has_fusion=synthesizer.has_fusion,
        default_strength=preset.sampler.noise_strength,
    )
    chosen = {v.base for v in every if fnmatch(v.name, options.variants)}
    return [v for v in every if fnmatch(v.name, options.variants) or v.name in chosen]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--preset", default="nano")
    parser.add_argument(
        "-s", "--set", action="append", default=[], metavar="KEY=VALUE", help="as of `dp3d run`"
    )
    parser.add_argument("--bases", nargs="+", choices=BASES, default=list(BASES))
    parser.add_argument("--variants", default="*", help="pattern of names, as of files")
    parser.add_argument("--steps", type=int, default=20, help="of full generation")
    parser.add_argument("--guidance", type=float, default=1.0, help="of full generation and its ablations")
    parser.add_argument("--identity", type=int, default=2, help="seed of the other head in I_cam")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shard", default="0/1", help="i/n: score every n-th head only")
    parser.add_argument("--key", help="folder of results in WORK/ablations, whatever has changed")
    parser.add_argument("--no-run", action="store_true", help="take WORK/run as it is")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--sheet-heads", type=int, default=3)
    return parser.parse_args()


def main() -> None:
    """Make heads and views, score, print tables."""
    options = arguments()
    logging.disable_progress_bar()
    preset = load_preset(options.preset, settings_of(options))
    if not options.no_run:
        prepare(options, preset)
    targets = make_targets(preset.cameras, preset.size)
    if targets.trajectory is None or options.identity == preset.cameras.seed:
        raise SystemExit("--identity must differ from the preset's cameras.seed, and all cameras be known")
    other = np.stack(list(render_conditions(targets.trajectory, preset.size, seed=options.identity)))
    heads = read_heads(options.work, options.heads, targets, preset.size)
    synthesizer = Synthesizer(DiffPortraitPipeline.from_preset(preset, device=options.device))
    shown = [*BASELINES, *wanted_variants(options, preset, synthesizer)]
    key = options.key or digest_of(
        {
            "preset": as_settings(preset),
            "weights": digest(resolve(preset.weights)),
            "targets": targets.digest,
            "steps": options.steps,
            "guidance": options.guidance,
            "identity": options.identity,
        }
    )
    store = Store(options.work / "ablations" / key)
    judge = Judge()
    shard, shards = map(int, options.shard.split("/"))
    sheeted = [head.seed for head in heads[: options.sheet_heads]] if options.sheet else []
    for number, head in list(enumerate(heads))[shard::shards]:
        start = time.perf_counter()
        for_sheet = head.seed in sheeted
        evaluate_head(head, shown, store, (synthesizer, judge), targets, other, for_sheet=for_sheet)
        print(f"{number + 1}/{len(heads)} {head.seed}: {time.perf_counter() - start:.0f} s", flush=True)
    if shards > 1:
        return
    what = f"preset {options.preset} {options.set}, {len(heads)} test heads of {options.heads}, "
    what += f"{options.views} views"
    notes = [
        f"Views beyond {MIN_YAW} rad of yaw against the truth; pose, consistency, Frechet: all views. "
        f"Perceptual: {judge.perceptual_name}. Frechet: features of the landmark network, {len(heads)} x "
        f"{options.views} pictures; comparable only at this number. unseen: proxy confidence below 0.5; "
        "hidden: of these, the person."
    ]
    result = summarize(store, heads, shown, what, notes)
    text = markdown(result, shown)
    print(text)
    if options.table:
        options.table.write_text(text, encoding="utf-8")
    if options.output:
        options.output.write_text(json.dumps(result) + "\n", encoding="utf-8")
    if options.sheet:
        picture = sheet(store, [h for h in heads if h.seed in sheeted], shown)
        Image.fromarray(picture).save(options.sheet, quality=80)


if __name__ == "__main__":
    main()
