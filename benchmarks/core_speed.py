"""What a denoising step costs: ours against the released sampler's, and what each option adds.

    cd benchmarks
    python core_speed.py step --size nano --output results/core_speed_nano.json
    python core_speed.py step --size sd15 --latent 16 --output results/core_speed_sd15.json
    python core_speed.py flops --output results/core_flops.json
    python core_speed.py options --output results/core_options.json --plot results/core_options.png
    python core_speed.py presets --device cuda --dtype bfloat16 --output results/core_gpu.json

`step`: 16 views in groups of 8, guidance 3, the same random weights for both (see `as_published.py`); the two
take turns in one process. `flops`: operations of one step at 512 x 512 pixels on weightless tensors, by
torch's counter. `options`: whole runs of the embedded network (its trained weights, full generation from
3D-aware noise) on held-out procedural heads with one option changed at a time. `presets`: seconds per
portrait of 16 views and peak memory at Stable Diffusion size, random weights; made for GPUs.

On a CPU all times are processor times of one thread, which other programs on the machine do not stretch.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from as_published import as_published_step, copied_tokens
from diffusers.utils import logging
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dp3d_cli.core.diffusion.codec import downsampling
from dp3d_cli.core.diffusion.configs import nano, sd15
from dp3d_cli.core.diffusion.grouping import ViewGroup, view_groups
from dp3d_cli.core.diffusion.pipeline import DiffPortraitPipeline, explicit_hint
from dp3d_cli.core.diffusion.sampler import scheduler_named
from dp3d_cli.core.presets import ExecutionSettings, load_preset

VIEWS = 16
OPTION_VIEWS = 4
GUIDANCE = 3.0
TIMESTEP = 501
GROUPS = view_groups(VIEWS, ViewGroup(8))

Step = Callable[[], Tensor]
Run = Callable[..., list[Tensor]]


def networks(size: str, device: str, dtype: torch.dtype) -> DiffPortraitPipeline:
    """A pipeline in which no weight is zero: one that starts at zero would hide what it computes."""
    torch.manual_seed(0)
    if device == "meta":
        with torch.device("meta"):
            return DiffPortraitPipeline.from_sizes({"nano": nano, "sd15": sd15}[size]())
    pipeline = DiffPortraitPipeline.from_sizes({"nano": nano, "sd15": sd15}[size]())
    with torch.no_grad():
        for network in (pipeline.unet, pipeline.reference_unet, pipeline.controlnet, pipeline.empty_prompt):
            for parameter in network.parameters():
                if not parameter.any():
                    parameter.normal_(0, 0.02)
    return pipeline.to(device, dtype)


def step_inputs(pipeline: DiffPortraitPipeline, latent: int, device: str) -> dict[str, Any]:
    """Random inputs of one step at `latent` x `latent` latent pixels."""
    channels = int(pipeline.unet.config.in_channels)
    pixels = latent * downsampling(pipeline.vae)
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        if device == "meta":
            return torch.empty(shape, device="meta")
        return torch.randn(shape, generator=generator).to(device)

    hint = None
    if pipeline.unet.config.explicit_hint_channels:
        hint = explicit_hint(random(VIEWS, channels, latent, latent), None, None)
    return {
        "latents": random(VIEWS, channels, latent, latent),
        "reference_latents": random(1, channels, latent, latent),
        "camera_conditions": random(VIEWS, 3, pixels, pixels).clamp(-1, 1),
        "explicit_hint": hint,
    }


def steps(pipeline: DiffPortraitPipeline, inputs: dict[str, Any]) -> tuple[Step, Step]:
    """The released sampler's step and ours. What ours computes once per portrait is done beforehand."""
    conditions = pipeline.conditions(
        inputs["reference_latents"], inputs["camera_conditions"], inputs["explicit_hint"]
    )
    denoiser = pipeline.denoiser(ExecutionSettings(max_views_per_call=VIEWS))

    def published() -> Tensor:
        return as_published_step(
            pipeline, timestep=TIMESTEP, groups=GROUPS, guidance_scale=GUIDANCE, **inputs
        )

    def ours() -> Tensor:
        return denoiser.predict_groups(inputs["latents"], TIMESTEP, conditions, GROUPS, GUIDANCE)

    return published, ours


def seconds(step: Step, device: str) -> float:
    """Time of one call: by the clock on a GPU, of the processor on a CPU."""
    if device != "cuda":
        started = time.process_time()
        step()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def spread(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def count(step: Step) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def machine(options: argparse.Namespace) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if options.device == "cuda" else None
    return {
        "torch": torch.__version__,
        "machine": gpu or platform.machine(),
        "threads": torch.get_num_threads(),
        "command": " ".join(["python", *sys.argv]),
    }


def measure_step(options: argparse.Namespace) -> dict[str, Any]:
    """Ours against the released sampler's step: time, operations, difference of the outputs."""
    started = time.perf_counter()
    pipeline = networks(options.size, options.device, getattr(torch, options.dtype))
    built = time.perf_counter() - started
    latent = options.latent or {"nano": 32, "sd15": 64}[options.size]
    published, ours = steps(pipeline, step_inputs(pipeline, latent, options.device))
    expected, found = published(), ours()
    difference = (found - expected).abs().max() / expected.square().mean().sqrt()
    rows = [
        tuple(seconds(step, options.device) for step in (published, ours)) for _ in range(options.repeats)
    ]
    flops = [count(step) for step in (published, ours)]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if options.device == "cuda":
        memory = torch.cuda.max_memory_allocated() / 2**30
    parameters = sum(
        each.numel()
        for network in (pipeline.unet, pipeline.reference_unet, pipeline.controlnet)
        for each in network.parameters()
    )
    return {
        "what": f"one denoising step of {VIEWS} views in groups of 8, guidance {GUIDANCE:g}",
        "size": options.size,
        "latent": latent,
        "dtype": options.dtype,
        "parameters": parameters,
        "repeats": options.repeats,
        "seconds": {
            "as published": spread([row[0] for row in rows]),
            "ours": spread([row[1] for row in rows]),
        },
        "time ratio": spread([row[0] / row[1] for row in rows]),
        "gflop": {"as published": round(flops[0] / 1e9, 2), "ours": round(flops[1] / 1e9, 2)},
        "flop ratio": round(flops[0] / flops[1], 4),
        "largest difference over rms": float(difference),
        "seconds to build the networks": round(built, 1),
        "peak memory [GiB]": round(memory, 2),
        **machine(options),
    }


def measure_flops(options: argparse.Namespace) -> dict[str, Any]:
    """Operations of one step at full size, part of the views at a time, without weights."""
    result: dict[str, Any] = {"what": "TFLOP of one denoising step, 512 x 512 pixels, groups of 8"}
    pipeline = networks("sd15", "meta", torch.float32)
    inputs = step_inputs(pipeline, 64, "meta")
    for views in (8, VIEWS):
        part = {name: tensor if tensor is None else tensor[:views] for name, tensor in inputs.items()}
        part["reference_latents"] = inputs["reference_latents"]
        groups = view_groups(views, ViewGroup(8))
        conditions = pipeline.conditions(part["reference_latents"], part["camera_conditions"])
        row = {}
        for name, execution in (
            ("ours", ExecutionSettings()),
            ("ours, branches apart", ExecutionSettings(share_batch=False)),
        ):
            denoiser = pipeline.denoiser(execution)
            arguments = (part["latents"], TIMESTEP, conditions, groups, GUIDANCE)
            row[name] = count(lambda d=denoiser, a=arguments: d.predict_groups(*a)) / 1e12
        row["as published"] = (
            count(
                lambda p=part, g=groups: as_published_step(
                    pipeline, timestep=TIMESTEP, groups=g, guidance_scale=GUIDANCE, **p
                )
            )
            / 1e12
        )
        result[f"{views} views"] = {
            **{name: round(value, 3) for name, value in row.items()},
            "ratio": round(row["as published"] / row["ours"], 4),
        }
    return {**result, **machine(options)}


# Options --------------------------------------------------------------------------------------------------


def heads(count_: int, size: int) -> list[dict[str, Any]]:
    """References, cameras and proxies of held-out procedural heads."""
    from dp3d_cli.core.cameras.trajectories import gen_videos
    from dp3d_cli.core.renderers.procedural import ProceduralHead

    trajectory = gen_videos(OPTION_VIEWS)
    labels = torch.from_numpy(trajectory.labels)
    frontal = torch.from_numpy(gen_videos(4).labels[:1])
    conditions = ProceduralHead(1).render(labels, size).image * 2 - 1
    made = []
    for seed in range(1_100_000, 1_100_000 + count_):
        head = ProceduralHead(seed)
        truth = head.render(labels, size).image * 2 - 1
        # A proxy as blurry as the published ones; what the template adds is not the question here.
        proxy = nn.functional.avg_pool2d(truth, 9, stride=1, padding=4, count_include_pad=False)
        reference = head.render(frontal, size).image * 2 - 1
        made.append(
            {
                "references": reference,
                "camera_conditions": conditions,
                "proxies": proxy,
                "subject_id": str(seed),
            }
        )
    return made


def attention_cache(pipeline: DiffPortraitPipeline, **ranges: int) -> Callable[[], None]:
    """Diffusers' pyramid attention broadcast on the backbone; returns what empties it between subjects."""
    from diffusers import PyramidAttentionBroadcastConfig, apply_pyramid_attention_broadcast

    now = {"timestep": 1000}
    pipeline.unet.register_forward_pre_hook(lambda _module, arguments: now.update(timestep=int(arguments[1])))
    config = PyramidAttentionBroadcastConfig(
        **{f"{kind}_attention_block_skip_range": every for kind, every in ranges.items()},
        spatial_attention_block_identifiers=(r"transformer_blocks\.0\.attn1",),
        cross_attention_block_identifiers=(r"transformer_blocks\.0\.attn2",),
        temporal_attention_block_identifiers=(r"view_attention",),
        current_timestep_callback=lambda: now["timestep"],
    )
    apply_pyramid_attention_broadcast(pipeline.unet, config)

    def empty() -> None:
        for module in pipeline.unet.modules():
            if registry := getattr(module, "_diffusers_hook", None):
                registry.reset_stateful_hooks(recurse=False)

    return empty


BASE = {"num_inference_steps": 50, "guidance_scale": GUIDANCE, "noise_strength": 1.0, "refine_proxy": False}
BASE |= {"proxy_detail": 0.0, "eta": 0.0, "view_group": ViewGroup(8)}


def option_rows() -> dict[str, dict[str, Any]]:
    """Name of each row and what it changes."""
    return {
        "explicit attention instead of SDPA": {"kernel": SDPBackend.MATH},
        "view attention on copied tokens": {"copied": True},
        "the two branches apart": {"execution": {"share_batch": False}},
        "channels-last": {"execution": {"channels_last": True}},
        "torch.compile": {"execution": {"compile": True}},
        "guidance at 0.1 < t < 0.9": {"call": {"guidance_interval": (0.1, 0.9)}},
        "guidance at 0.2 < t < 0.8": {"call": {"guidance_interval": (0.2, 0.8)}},
        "no guidance": {"call": {"guidance_scale": 1.0}},
        "DDIM, 25 steps": {"call": {"num_inference_steps": 25}},
        "DPM-Solver++, 25 steps": {"call": {"num_inference_steps": 25}, "scheduler": "dpm-solver++"},
        "UniPC, 25 steps": {"call": {"num_inference_steps": 25}, "scheduler": "unipc"},
        "UniPC, 12 steps": {"call": {"num_inference_steps": 12}, "scheduler": "unipc"},
        "attention cache: view attention every 2nd step": {"cache": {"temporal": 2}},
        "attention cache: self-attention every 2nd step": {"cache": {"spatial": 2}},
        "attention cache: both every 2nd step": {"cache": {"temporal": 2, "spatial": 2}},
        # Emulated on most CPUs, where the whole way would take an hour.
        "bfloat16, 3 steps": {"dtype": "bfloat16", "steps": 3},
    }


def pipeline_of(row: dict[str, Any], device: str) -> DiffPortraitPipeline:
    preset = load_preset("nano")
    updates: dict[str, Any] = {"execution": ExecutionSettings(**row.get("execution", {}))}
    updates["dtype"] = row.get("dtype", "float32")
    if "scheduler" in row:
        updates["sampler"] = preset.sampler.model_copy(update={"scheduler": row["scheduler"]})
    return DiffPortraitPipeline.from_preset(preset.model_copy(update=updates), device=device)


def run_row(row: dict[str, Any], subjects: Sequence[dict[str, Any]], device: str) -> Run:
    """A whole run over all subjects with one row's changes; its argument departs from them once more."""
    pipeline = pipeline_of(row, device)
    call = {**BASE, **row.get("call", {})}
    cache = attention_cache(pipeline, **row["cache"]) if "cache" in row else None

    def run(**changes: Any) -> list[Tensor]:
        results = []
        kernel = sdpa_kernel(row["kernel"]) if "kernel" in row else nullcontext()
        with kernel, copied_tokens() if "copied" in row else nullcontext():
            for subject in subjects:
                if cache is not None:
                    cache()
                results.append(pipeline(**subject, **{**call, **changes}, output_type="pt").images)
        return results

    return run


def measure_options(options: argparse.Namespace) -> dict[str, Any]:
    """Time and change of the pictures, one option at a time, each beside the plain run."""
    subjects = heads(options.heads, int(load_preset("nano").size))
    plain = run_row({}, subjects, options.device)
    plain(num_inference_steps=2)
    table = {}
    for name, row in option_rows().items():
        if options.only and not any(text in name for text in options.only):
            continue
        pictures: dict[str, list[Tensor]] = {}

        def timed(label: str, run: Run, row: dict = row, kept: dict = pictures) -> float:
            changes = {"num_inference_steps": row["steps"]} if "steps" in row else {}
            return seconds(lambda: kept.update({label: run(**changes)}), options.device)

        try:
            run = run_row(row, subjects, options.device)
            started = time.perf_counter()
            run(num_inference_steps=2)  # also compiles
            first = time.perf_counter() - started
            ratios = [timed("plain", plain) / timed("row", run) for _ in range(options.repeats)]
        except (RuntimeError, torch.OutOfMemoryError) as error:
            table[name] = {"failed": str(error).splitlines()[0][:200]}
            continue
        pairs = list(zip(pictures["row"], pictures["plain"], strict=True))
        error = torch.stack([(a - b).square().mean() for a, b in pairs]).mean()
        table[name] = {
            "speed": spread(ratios, 2),
            "change [dB]": round(float(10 * torch.log10(4 / error)), 1) if error > 0 else None,
            "largest change [grey levels]": round(
                max(float((a - b).abs().max()) for a, b in pairs) * 127.5, 2
            ),
            "first two steps [s]": round(first, 1),
        }
        print(name, table[name], file=sys.stderr, flush=True)
    return {
        "what": f"embedded network, full generation, 50 DDIM steps, guidance 3, {OPTION_VIEWS} views in one "
        "group; speed is plain time over the option's time, change is the PSNR between the pictures of both",
        "heads": options.heads,
        "repeats": options.repeats,
        "rows": table,
        **machine(options),
    }


# Presets at Stable Diffusion size, for GPUs ----------------------------------------------------------------


def matrix_rate(device: str, dtype: torch.dtype, side: int = 8192, repeats: int = 20) -> float:
    """Operations per second of a large matrix product."""
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds(lambda: left @ right, device)
    return 2 * side**3 / statistics.median(seconds(lambda: left @ right, device) for _ in range(repeats))


def measure_presets(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds per portrait and peak memory of the three presets, random weights."""
    dtype = getattr(torch, options.dtype)
    pipeline = networks(options.size, options.device, dtype)
    latent = options.latent or 64
    pixels = latent * 8
    pictures = torch.rand(VIEWS, 3, pixels, pixels) * 2 - 1
    rows = {}
    for name in ("diffportrait3d", "diffportrait3d-official", "diffportrait3d-fast"):
        preset = load_preset(name)
        pipeline.scheduler = scheduler_named(preset.sampler.scheduler, pipeline.scheduler)
        pipeline.preset = preset
        times = []
        for _ in range(options.repeats):
            if options.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            times.append(
                seconds(
                    lambda: pipeline(pictures[:1], pictures, pictures, output_type="pt").latents,
                    options.device,
                )
            )
        rows[name] = {"seconds per portrait": spread(times, 2), "steps": preset.sampler.num_inference_steps}
        if options.device == "cuda":
            rows[name]["peak memory [GiB]"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    _, ours = steps(pipeline, step_inputs(pipeline, latent, options.device))
    ours()
    achieved = count(ours) / statistics.median(seconds(ours, options.device) for _ in range(options.repeats))
    rate = matrix_rate(options.device, dtype, options.matrix)
    return {
        "what": f"{VIEWS} views of one portrait at {pixels} x {pixels}, size {options.size}, random weights",
        "dtype": options.dtype,
        "presets": rows,
        "achieved [TFLOP/s]": round(achieved / 1e12, 2),
        "matrix rate [TFLOP/s]": round(rate / 1e12, 2),
        **machine(options),
    }


def plot_options(result: dict[str, Any], path: Path) -> None:
    """Speed of every option as a bar, with what it changes beside it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = {name: row for name, row in result["rows"].items() if "failed" not in row}
    figure, axes = pyplot.subplots(figsize=(9, 0.42 * len(rows) + 1.2), layout="constrained")
    for place, row in enumerate(rows.values()):
        speed, change = row["speed"], row["change [dB]"]
        bounds = [[speed["median"] - speed["min"]], [speed["max"] - speed["median"]]]
        axes.barh(place, speed["median"], xerr=bounds, color="#4c78a8" if speed["median"] >= 1 else "#e45756")
        text = "same pictures" if change is None else f"{change:g} dB to the plain run"
        axes.text(speed["max"] + 0.05, place, f"{speed['median']:.2f}x, {text}", va="center", fontsize=8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlim(0, max(row["speed"]["max"] for row in rows.values()) * 1.5)
    axes.set_xlabel(f"speed relative to the plain run ({result['machine']}, {result['threads']} thread)")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run one of the measurements and print its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("step", "flops", "options", "presets"))
    parser.add_argument("--size", choices=("nano", "sd15"), default="sd15")
    parser.add_argument(
        "--latent", type=int, help="side of the latents; default: of the size's full pictures"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="option rows whose names contain one of these")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--matrix", type=int, default=8192, help="side of the matrices for the matrix rate")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--plot", type=Path, help="PNG of the options' table")
    options = parser.parse_args()
    logging.disable_progress_bar()
    if options.device == "cpu":
        torch.set_num_threads(1)
    measure = {
        "step": measure_step,
        "flops": measure_flops,
        "options": measure_options,
        "presets": measure_presets,
    }[options.what]
    with torch.no_grad():
        result = measure(options)
    if options.plot:
        plot_options(result, options.plot)
    text = json.dumps(result, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
