"""Training pictures for the landmark network: procedural heads whose points are known exactly.

A head costs ten times what a view of it does, so heads are rendered once, each from several cameras, and kept
on disk; crops, turns, warps and everything photometric are drawn anew in every step.
`presets/train/landmarks.yaml` has the commands.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from dp3d_cli.core.cameras.camera import FOCAL, RADIUS, Camera, look_at_cam2world, normalised_intrinsics
from dp3d_cli.core.faces.landmarks import (
    CROP_CENTRE,
    CROP_SIDE,
    FEATURE_NAMES,
    MIRRORED,
    LandmarkNetwork,
    apply_affine,
    crop_affine,
    network_input,
    sample_crop,
)
from dp3d_cli.core.presets import read_yaml_mapping
from dp3d_cli.core.renderers.procedural.features import NOSE_TIP_Y, brow, eyes, mouth
from dp3d_cli.core.renderers.procedural.geometry import head_patch
from dp3d_cli.core.renderers.procedural.head import ProceduralHead
from dp3d_cli.core.renderers.procedural.subject import Subject
from dp3d_cli.training.augment import occlude
from dp3d_cli.training.data import SPLITS, Split
from dp3d_cli.training.export import save_weights
from dp3d_cli.training.loop import LoopSettings, load_average, train
from dp3d_cli.training.settings import build
from dp3d_cli.training.textures import backdrops, noise_texture

logger = logging.getLogger(__name__)

_BROW_ENDS = (0.04, 0.93)  # along the brow's middle line, where it still has its full colour


@dataclass(frozen=True)
class RenderSettings:
    """What is rendered.

    Attributes:
        size: pixels along a side.
        views: cameras per head.
        heads: how many heads, from the split's first seed on.
        shard: heads per file.
        zoom: focal length, as a factor of EG3D's; below 1 leaves room around the head for turns and shifts.
        yaw: largest angle to either side [rad].
        elevation: largest angle above and below [rad].
        seed: of the cameras.
    """

    size: int = 144
    views: int = 6
    heads: int = 2400
    shard: int = 50
    zoom: float = 0.88
    yaw: float = 0.95
    elevation: float = 0.55
    seed: int = 0


def feature_points(head: ProceduralHead) -> NDArray[np.float64]:
    """[K, 3] world positions of this head's `FEATURE_NAMES`.

    Those that the head does not name itself are read off the curves that paint and relief follow.
    """
    subject = head.subject
    surface = head_patch(subject, 1.0, torch.device("cpu")).position
    x, y, z = surface.unbind(0)
    behind = torch.where(z > 0.05, torch.zeros_like(z), torch.full_like(z, 9.0))
    flat = surface.reshape(3, -1)

    def on_surface(px: float, py: float) -> NDArray[np.float64]:
        nearest = ((x - px) ** 2 + (y - py) ** 2 + behind).argmin()
        return flat[:, nearest].double().numpy()

    places = _frontal_places(subject)
    named = {name: point.cpu().double().numpy() for name, point in head.landmarks.items()}
    return np.stack([named[name] if name in named else on_surface(*places[name]) for name in FEATURE_NAMES])


def _frontal_places(subject: Subject) -> dict[str, tuple[float, float]]:
    """Where the points that a head does not name lie, seen from the front."""
    places = {}
    for side, eye in zip(("left", "right"), eyes(subject), strict=True):
        for end, along in zip(("inner", "outer"), _BROW_ENDS, strict=True):
            across = torch.tensor(eye.x + eye.side * eye.half_width * (2.6 * along - 1.12))
            height = -brow(subject, across, torch.tensor(eye.y), eye)[1]
            places[f"{side}_brow_{end}"] = (float(across), eye.y + eye.half_width * float(height))
        ala = 0.031 * subject.shape.nose_width + 0.011
        places[f"{side}_ala"] = (eye.side * ala, NOSE_TIP_Y - 0.016)
    top, _, _, bottom = mouth(subject).outlines(torch.zeros(1))
    base = NOSE_TIP_Y - 0.038 * (0.6 + 0.4 * subject.shape.nose_length)
    return {
        **places,
        "subnasale": (0.0, base),
        "upper_lip": (0.0, float(top)),
        "lower_lip": (0.0, float(bottom)),
    }


def draw_cameras(settings: RenderSettings, rng: np.random.Generator) -> list[Camera]:
    """Cameras of one head: half of them near frontal, half anywhere; near and far, at equal size."""
    cameras = []
    for index in range(settings.views):
        if index % 2:
            yaw, elevation = rng.uniform(-1, 1, 2) * (settings.yaw, settings.elevation)
        else:
            yaw, elevation = np.clip(rng.normal(0, 0.4, 2), -1, 1) * (settings.yaw, settings.elevation)
        distance = rng.uniform(0.65, 1.25)
        focal = FOCAL * settings.zoom * (distance * RADIUS - 0.2) / (RADIUS - 0.2)
        pitch = -math.pi / 2 * math.sin(elevation)
        cam2world = look_at_cam2world(yaw, pitch, RADIUS * distance)[0]
        cameras.append(Camera(cam2world, normalised_intrinsics(focal)))
    return cameras


def project(points: NDArray[np.float64], camera: Camera, size: int) -> NDArray[np.float64]:
    """[K, 2] pixel indices (the centre of pixel i is i) of world points [K, 3] in a square picture."""
    seen = points @ camera.world2cam[:3, :3].T + camera.world2cam[:3, 3]
    pixels = seen @ camera.pixel_intrinsics(size).T
    return np.asarray(pixels[:, :2] / pixels[:, 2:] - 0.5)


def render_shard(seeds: range, settings: RenderSettings) -> dict[str, NDArray[np.generic]]:
    """All views of some heads.

    Returns:
        images [N, S, S, 3] uint8, masks [N, S, S] uint8 (255 on the subject), points [N, K, 2] float32 [px],
        labels [N, 25] float32, shapes [heads, K, 3] float32, seeds [heads] int64; N = heads * views.
    """
    images, masks, points, labels, shapes = [], [], [], [], []
    for seed in seeds:
        rng = np.random.default_rng((settings.seed, seed))
        head = ProceduralHead(seed, detail=settings.size / 256)
        shape = feature_points(head)
        cameras = draw_cameras(settings, rng)
        label = np.stack([camera.label for camera in cameras])
        rendering = head.render(torch.from_numpy(label), settings.size)
        images.append((rendering.image.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy())
        masks.append((rendering.mask[:, 0] * 255).round().to(torch.uint8).numpy())
        points.append(np.stack([project(shape, camera, settings.size) for camera in cameras]))
        labels.append(label)
        shapes.append(shape)
    return {
        "images": np.concatenate(images),
        "masks": np.concatenate(masks),
        "points": np.concatenate(points).astype(np.float32),
        "labels": np.concatenate(labels),
        "shapes": np.stack(shapes).astype(np.float32),
        "seeds": np.array(seeds, np.int64),
    }


def write_shard(path: Path, shard: dict[str, NDArray[np.generic]]) -> None:
    """Write one `.npz`; it appears when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.npz")
    try:
        np.savez(draft, **shard)  # type: ignore[arg-type]
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@dataclass(frozen=True)
class CropSettings:
    """How a rendered view becomes a crop to learn from; standard deviations, and shares of the crops.

    Attributes:
        batch: crops per step.
        turn: of the crop in the image [rad]; at most `most_turn`.
        most_turn: [rad].
        shift: of its centre [crop sides].
        scale: of its side, as a logarithm.
        stretch: of width against height, as a logarithm.
        warp: amplitude of each of the smooth waves that displace features against one another [crop sides].
        background: share of crops with another background.
        occluder: share with something in front of the face.
        blur: share that is softened.
        noise: share with noise.
        jpeg: share with JPEG blocks.
        shade: share with uneven light.
        texture: share whose surfaces get a texture.
        pictures: how many pictures to take backgrounds and occluders from.
    """

    batch: int = 32
    turn: float = 0.22
    most_turn: float = 0.5
    shift: float = 0.05
    scale: float = 0.10
    stretch: float = 0.09
    warp: float = 0.011
    background: float = 0.5
    occluder: float = 0.3
    blur: float = 0.5
    noise: float = 0.4
    jpeg: float = 0.3
    shade: float = 0.5
    texture: float = 0.3
    pictures: int = 200


class Views:
    """The rendered views of one folder, in memory."""

    def __init__(self, folder: Path) -> None:
        paths = sorted(path for path in folder.glob("*.npz") if not path.name.startswith("."))
        if not paths:
            raise ValueError(f"{folder}: no shards; make some with `render`.")
        shards = [np.load(path) for path in paths]
        self.images: NDArray[np.uint8] = np.concatenate([shard["images"] for shard in shards])
        self.masks: NDArray[np.uint8] = np.concatenate([shard["masks"] for shard in shards])
        self.points = np.concatenate([shard["points"] for shard in shards]).astype(np.float64)
        self.labels: NDArray[np.float32] = np.concatenate([shard["labels"] for shard in shards])

    def __len__(self) -> int:
        return len(self.images)


class CropBatches(Dataset[tuple[Tensor, Tensor]]):
    """Item i is the batch of step i: inputs [B, 2, S, S] and points [B, K, 2] in crop sides."""

    def __init__(self, views: Views, settings: CropSettings, seed: int, steps: int) -> None:
        self.views, self.settings, self.seed, self.steps = views, settings, seed, steps
        self.backdrops = backdrops(np.random.default_rng((seed, 1)), views.images.shape[1], settings.pictures)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        if not 0 <= step < self.steps:
            raise IndexError(step)
        rng = np.random.default_rng((self.seed, 2, step))
        chosen = rng.integers(len(self.views), size=self.settings.batch)
        crops = [draw_crop(self.views, int(index), self.backdrops, self.settings, rng) for index in chosen]
        inputs, points = zip(*crops, strict=True)
        return torch.from_numpy(np.stack(inputs)), torch.from_numpy(np.stack(points).astype(np.float32))


def true_crop(view: int, views: Views) -> tuple[NDArray[np.float64], float]:
    """Centre (x, y) and side [px] of the standard crop of a view, from its camera."""
    camera, size = Camera.from_label(views.labels[view]), views.images.shape[1]
    centre = project(np.array([CROP_CENTRE]), camera, size)[0]
    depth = float(camera.world2cam[2] @ np.array([*CROP_CENTRE, 1.0]))
    return centre, CROP_SIDE * float(camera.intrinsics[0, 0]) * size / depth


def draw_crop(
    views: Views,
    index: int,
    pictures: Sequence[NDArray[np.uint8]],
    settings: CropSettings,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """One crop as the network sees it [2, S, S], and its points [K, 2] in crop sides."""
    image, points = views.images[index], views.points[index]
    if rng.random() < settings.background:
        alpha = views.masks[index][..., None].astype(np.float32) / 255
        behind = pictures[int(rng.integers(len(pictures)))]
        image = (image * alpha + behind * (1 - alpha)).astype(np.uint8)
    grey = _random_grey(image, rng)
    centre, side = true_crop(index, views)
    side *= math.exp(rng.normal(0, settings.scale))
    centre = centre + side * rng.normal(0, settings.shift, 2)
    turn = float(np.clip(rng.normal(0, settings.turn), -settings.most_turn, settings.most_turn))
    affine = crop_affine(centre, side, turn)
    stretch = math.exp(rng.normal(0, settings.stretch) / 2)
    affine = np.diag([stretch, 1 / stretch]) @ (affine - [[0, 0, 0.5]]) + [[0, 0, 0.5]]
    if rng.random() < 0.5:  # the mirrored head
        affine = affine * [[-1], [1]] + [[0, 0, 1], [0, 0, 0]]
        points = points[list(MIRRORED)]
    crop = sample_crop(grey, affine)
    crop, where = _warp(crop, apply_affine(affine, points), settings.warp, rng)
    return network_input(_photograph(crop, pictures, settings, rng)), where


def _random_grey(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A grey picture by random weights of the channels, so that no skin or hair has a fixed brightness."""
    weights = rng.dirichlet([1.5, 2.5, 1.0]).astype(np.float32)
    return np.asarray(np.clip(image.astype(np.float32) @ weights + 0.5, 0, 255), np.uint8)


def _warp(
    crop: NDArray[np.uint8], points: NDArray[np.float64], amplitude: float, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Displace features by a few smooth waves d: what lay at q + d(q) is now at q."""
    angle = rng.uniform(0, 2 * math.pi, 5)
    waves = rng.uniform(0.5, 1.6, 5)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    phase = rng.uniform(0, 2 * math.pi, 5)
    size = rng.normal(0, amplitude, (5, 2))

    def displacement(q: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.sin(2 * math.pi * q @ waves.T + phase) @ size)

    side = len(crop)
    axis = (np.arange(side) + 0.5) / side
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    source = ((grid + displacement(grid)) * side - 0.5).astype(np.float32)
    warped = cv2.remap(crop, source, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    moved = points
    for _ in range(6):  # q = p - d(q); d changes slowly, so this contracts
        moved = points - displacement(moved)
    return np.asarray(warped, np.uint8), moved


def _photograph(
    crop: NDArray[np.uint8],
    pictures: Sequence[NDArray[np.uint8]],
    settings: CropSettings,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Light, surface, lens, sensor and file of some camera; grey crop [S, S] in, about [0, 1] out."""
    size = len(crop)
    picture: NDArray[np.floating[Any]] = crop.astype(np.float32) / 255
    if rng.random() < settings.texture:
        picture = picture * (1 + rng.uniform(0.05, 0.35) * (noise_texture(size, rng) - 0.5))
    if rng.random() < settings.shade:
        coarse = rng.normal(0, 1, (3, 3)).astype(np.float32)
        soft = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
        ramp = np.linspace(-1, 1, size, dtype=np.float32)
        slope = rng.normal(0, 0.35, 2).astype(np.float32)
        light = np.exp(slope[0] * ramp + slope[1] * ramp[:, None] + rng.uniform(0, 0.25) * soft)
        picture = picture * light.astype(np.float32)
    picture = np.clip(picture, 0, None) ** np.float32(math.exp(rng.normal(0, 0.35)))
    if rng.random() < settings.occluder:
        picture = occlude(picture, pictures, rng)
    if rng.random() < settings.blur:
        picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.3, 1.8)))
    elif rng.random() < 0.3:
        picture = picture + rng.uniform(0.3, 1.5) * (picture - cv2.GaussianBlur(picture, (0, 0), 1.0))
    low, high = np.sort(rng.uniform(0, 1, 2))
    picture = low * 0.5 + picture * (0.5 + 0.5 * high - 0.5 * low)
    if rng.random() < settings.noise:
        grain = rng.normal(0, rng.uniform(0.005, 0.04), picture.shape)
        picture = picture + grain.astype(np.float32)
    picture = np.clip(picture, 0, 1)
    if rng.random() < settings.jpeg:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 85))]
        data = cv2.imencode(".jpg", (picture * 255).astype(np.uint8), quality)[1]
        picture = np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.float32) / 255
    return picture.astype(np.float32)


def landmark_loss(
    network: nn.Module, batch: tuple[Tensor, Tensor], generator: torch.Generator
) -> tuple[Tensor, Mapping[str, float]]:
    """Laplace likelihood of the points with the predicted spread, plus the plain distance.

    Points outside the crop are not counted: a heat map cannot reach them.
    """
    inputs, truth = batch
    points, log_miss = network(inputs)
    inside = ((truth > 0.01) & (truth < 0.99)).all(-1).float()  # [B, K]
    distance = (points - truth).abs().sum(-1)
    likelihood = distance * torch.exp(-log_miss) + 2 * log_miss
    count = inside.sum().clamp_min(1)
    value = ((likelihood + 20 * distance) * inside).sum() / count
    miss = (torch.linalg.vector_norm(points.detach() - truth, dim=-1) * inside).sum() / count
    return value, {"miss": float(miss)}


def validation_batches(views: Views, settings: CropSettings, steps: int = 12) -> list[tuple[Tensor, Tensor]]:
    """Crops of heads that are not trained on, with every disturbance of training."""
    few = replace(settings, pictures=min(settings.pictures, 40))  # to start sooner
    batches = CropBatches(views, few, 7, steps)
    return [batches[step] for step in range(steps)]


def _render(preset: Mapping[str, object], split: Split, output: Path, part: str | None) -> None:
    settings = build(RenderSettings, preset)
    seeds = SPLITS[split][: settings.heads]
    count = math.ceil(len(seeds) / settings.shard)
    first, last = (int(number) for number in part.split(":")) if part else (0, count)
    for number in range(first, min(last, count)):
        path = output / split / f"{number:05d}.npz"
        if not path.is_file():
            write_shard(path, render_shard(seeds[number * settings.shard :][: settings.shard], settings))
            logger.info("shard %d of %d:%d", number, first, min(last, count))


def _train(preset: Mapping[str, Mapping[str, object]], data: Path, run: Path) -> None:
    settings = build(LoopSettings, preset["loop"])
    torch.manual_seed(settings.seed)
    network = LandmarkNetwork()
    crops = build(CropSettings, preset["crops"])
    batches = CropBatches(Views(data / "train"), crops, settings.seed, settings.steps)
    held_out = validation_batches(Views(data / "val"), crops)

    def validate(module: nn.Module) -> dict[str, float]:
        rows = [landmark_loss(module, batch, torch.Generator()) for batch in held_out]
        losses, misses = [float(loss) for loss, _ in rows], [numbers["miss"] for _, numbers in rows]
        return {"loss": sum(losses) / len(rows), "miss": sum(misses) / len(rows)}

    train(network, batches, landmark_loss, settings, run, validate)


def main() -> None:
    """Render the views, train on them, export the averaged weights."""
    parser = argparse.ArgumentParser(description="Train the landmark network.")
    actions = parser.add_subparsers(dest="action", required=True)
    render = actions.add_parser("render", help="Render heads (several processes may share a folder).")
    render.add_argument("--preset", type=Path, required=True)
    render.add_argument("--split", choices=list(SPLITS), required=True)
    render.add_argument("--output", type=Path, required=True)
    render.add_argument("--shards", help="first:last, last excluded")
    fit = actions.add_parser("train", help="Train, or go on training.")
    fit.add_argument("--preset", type=Path, required=True)
    fit.add_argument("--data", type=Path, required=True)
    fit.add_argument("--run", type=Path, required=True)
    export = actions.add_parser("export", help="Write the averaged weights of a run.")
    export.add_argument("--run", type=Path, required=True)
    export.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if arguments.action == "export":
        network = LandmarkNetwork()
        step = load_average(arguments.run, network)
        save_weights(network, arguments.output)
        logger.info("step %d: %s", step, arguments.output)
        return
    preset = read_yaml_mapping(arguments.preset)
    if arguments.action == "render":
        _render(preset["render"], arguments.split, arguments.output, arguments.shards)
    else:
        _train(preset, arguments.data, arguments.run)


if __name__ == "__main__":
    main()
