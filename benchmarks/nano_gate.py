"""Nano's refined views against its own proxies: on held-out heads and on portraits with known views.

    python benchmarks/nano_gate.py --weights FOLDER --shards TEST_SHARDS --portraits FOLDER --output out.json

Shards come from `dp3d_cli.training.cache --split test`. A portrait is a folder with `reference.png` and
`official_views.mp4`, 16 frames on the gen-videos trajectory; only frames with |yaw| > 0.2 count. Numbers are
means over views, then over subjects. "full" is the whole frame, "face" rows 56:196, columns 62:194 of 256.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers.utils import logging

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.cameras.trajectories import gen_videos
from dp3d_cli.core.diffusion.grouping import ViewGroup
from dp3d_cli.core.diffusion.pipeline import DiffPortraitPipeline
from dp3d_cli.core.images import read_image
from dp3d_cli.core.metrics.gradient_ncc import gradient_ncc
from dp3d_cli.core.metrics.grain import grain
from dp3d_cli.core.metrics.psnr import psnr
from dp3d_cli.core.metrics.sharpness import sharpness
from dp3d_cli.core.metrics.zncc import zncc
from dp3d_cli.core.renderers.procedural import ProceduralHead
from dp3d_cli.core.videos import read_frames
from dp3d_cli.stages.proxy import template_proxies
from dp3d_cli.training.cache import read_shard, shard_folders

FACE = (slice(56, 196), slice(62, 194))
BLURS = (1.0, 1.5, 2.0, 3.0)


def measures(views: np.ndarray, truths: np.ndarray, which: np.ndarray) -> dict[str, float]:
    rows = []
    for view, truth in zip(views[which], truths[which], strict=True):
        face, true_face = (np.ascontiguousarray(image[FACE]) for image in (view, truth))
        rows.append(
            {
                "full_psnr": psnr(view, truth),
                "face_psnr": psnr(face, true_face),
                "full_zncc": zncc(view, truth),
                "face_zncc": zncc(face, true_face),
                "full_gradient_ncc": gradient_ncc(view, truth),
                "face_gradient_ncc": gradient_ncc(face, true_face),
                "full_sharpness": sharpness(view, truth),
                "face_sharpness": sharpness(face, true_face),
                "face_contrast": float(face.mean(2).std() / true_face.mean(2).std()),
                "grain": grain(view),
            }
        )
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def blurred(views: np.ndarray, sigma: float) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(view, (0, 0), sigma) for view in views])


def tensor(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def variants(settings: list[str]) -> dict[str, dict[str, float]]:
    """`name:key=value,key=value` → pipeline arguments."""
    parsed = {}
    for text in settings:
        name, _, pairs = text.partition(":")
        parsed[name] = {key: float(value) for key, value in (pair.split("=") for pair in pairs.split(","))}
    return parsed


def synthesize(pipe, reference, cameras, proxies, confidence, coverage, options, group):
    options = {"proxy_detail": 1.0, "noise_strength": 0.0, "num_inference_steps": 20, **options}
    options["num_inference_steps"] = int(options["num_inference_steps"])
    return pipe(
        reference, cameras, proxies, confidences=confidence, coverages=coverage, guidance_scale=1.0,
        refine_proxy=True, view_group=group, output_type="np", **options,
    ).images  # fmt: skip


def maps_of(maps: np.ndarray, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    full = torch.nn.functional.interpolate(
        torch.from_numpy(np.array(maps)).float() / 255, size=(size, size), mode="bilinear"
    )
    return full[:, :1], full[:, 1:]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--shards", type=Path)
    parser.add_argument("--portraits", type=Path)
    parser.add_argument("--heads", type=int, default=1000)
    parser.add_argument("--variants", nargs="*", default=["default:proxy_detail=1,proxy_elsewhere=0.3"])
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--kind", default="strided")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sheet", type=Path, help="PNG: reference, then truth, proxy, refined.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    pipe = DiffPortraitPipeline.from_pretrained(
        arguments.weights, dtype=torch.float32, low_cpu_mem_usage=False
    )
    group = ViewGroup(size=arguments.group, kind=arguments.kind)
    options = variants(arguments.variants)
    results: dict[str, list] = {"heads": [], "portraits": []}
    sheet = []

    def judge(kind, name, reference, cameras, proxies, truths, confidence, coverage, which):
        row = {"name": name, "proxy": measures(proxies, truths, which)}
        row["copy"] = measures(np.repeat(reference[None], len(truths), 0), truths, which)
        for sigma in BLURS:
            row[f"blur{sigma}"] = measures(blurred(proxies, sigma), truths, which)
        shown = [truths, proxies]
        for label, option in options.items():
            views = synthesize(pipe, reference, cameras, tensor(proxies), confidence, coverage, option, group)
            row[label] = measures(views, truths, which)
            shown.append(views)
        results[kind].append(row)
        picked = np.flatnonzero(which)[:: max(1, which.sum() // 4)][:4]
        sheet.append(np.concatenate([reference] + [part[v] for v in picked for part in shown], 1))

    count = 0
    if arguments.shards:
        for folder in shard_folders(arguments.shards):
            shard = read_shard(folder)
            for subject in range(len(shard.references)):
                if count >= arguments.heads:
                    break
                other = np.asarray(shard.images[(subject + 1) % len(shard.references)])
                yaws = np.array([abs(Camera.from_label(label).yaw) for label in shard.labels])
                which = yaws > 0.2 if (yaws > 0.2).any() else yaws >= 0
                maps = maps_of(shard.maps[subject], 256)
                pictures = (np.asarray(part[subject]) for part in (shard.proxies, shard.images))
                name, reference = f"{folder.name}/{subject}", np.asarray(shard.references[subject])
                judge("heads", name, reference, tensor(other), *pictures, *maps, which)
                count += 1
    if arguments.portraits:
        trajectory = gen_videos(16)
        labels = torch.from_numpy(trajectory.labels)
        which = np.array([abs(camera.yaw) > 0.2 for camera in trajectory.cameras])
        conditions = ProceduralHead(1).render(labels, 256).image * 2 - 1
        for folder in sorted(path.parent for path in arguments.portraits.glob("*/reference.png")):
            reference = read_image(folder / "reference.png")
            made = template_proxies(folder / "reference.png", trajectory.labels, 256)
            truths = np.stack([
                cv2.resize(frame, (256, 256), interpolation=cv2.INTER_AREA)
                for frame in read_frames(folder / "official_views.mp4")
            ])  # fmt: skip
            small = cv2.resize(reference, (256, 256), interpolation=cv2.INTER_AREA)
            maps = [torch.from_numpy(m).float()[:, None] / 255 for m in (made.confidences, made.coverages)]
            judge("portraits", folder.name, small, conditions, made.images, truths, *maps, which)

    summary: dict[str, dict] = {}
    for kind, rows in results.items():
        if not rows:
            continue
        names = [name for name in rows[0] if name != "name"]
        summary[kind] = {
            name: {key: round(float(np.mean([row[name][key] for row in rows])), 4) for key in rows[0][name]}
            for name in names
        }
        for name in options:
            wins = [row[name]["full_psnr"] > row["proxy"]["full_psnr"] for row in rows]
            summary[kind][name]["wins_full_psnr"] = f"{sum(wins)}/{len(wins)}"
    arguments.output.write_text(json.dumps({"summary": summary, **results}, indent=1) + "\n")
    for kind, rows in summary.items():
        print(kind, len(results[kind]))
        for name, row in rows.items():
            print(f"  {name:12s}", " ".join(f"{key[:14]}={value}" for key, value in row.items()))
    for row in results["portraits"]:
        for name in ("proxy", *options):
            print(row["name"], name, {key: round(value, 3) for key, value in row[name].items()})
    if arguments.sheet:
        cv2.imwrite(str(arguments.sheet), np.concatenate(sheet)[..., ::-1])


if __name__ == "__main__":
    main()
