"""A training set on disk: groups of procedural heads seen from shared cameras, and their proxies.

Heads and proxies cost several times what a training step costs on the same core, so they are made once, by
processes of their own, in shards. A shard's heads share the target cameras, so that each can be the camera
condition ("another subject seen from the same camera") of its neighbours. A shard is a function of (split,
seed, number) alone.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.presets import read_yaml_mapping
from dp3d_cli.core.proxies.placement import Box, Placement, place_portrait
from dp3d_cli.core.proxies.segmentation import segment_head
from dp3d_cli.core.proxies.template import default_reference_label, prepare_known, render, to_uint8
from dp3d_cli.training import augment
from dp3d_cli.training.data import ProceduralSubjects, Split, Subjects, reference_label, target_labels
from dp3d_cli.training.settings import build

logger = logging.getLogger(__name__)

# OpenCV's frontal face box in terms of five landmarks (ours, measured on 14 procedural heads).
_BOX_PER_FACE_HEIGHT = 2.50  # box width / distance between the middles of eyes and mouth
_BOX_RISE = 0.094  # how far the box's centre lies above the middle between them [box widths]


@dataclass(frozen=True)
class CacheSettings:
    """What a shard holds.

    Attributes:
        size: pixels along a side.
        latent_size: side of the confidence and coverage maps.
        subjects: heads per shard, K.
        views: target cameras per shard, V.
        seed: of cameras and degradations.
        estimated: share of proxies made as for a photograph of unknown camera (frontal reference, placed by
            its face box); the others know camera and place up to small errors.
    """

    size: int = 256
    latent_size: int = 32
    subjects: int = 4
    views: int = 8
    seed: int = 0
    estimated: float = 0.25


@dataclass(frozen=True)
class Shard:
    """One shard's arrays; K subjects, V views.

    Attributes:
        references: [K, S, S, 3] uint8, as degraded as the proxies' textures.
        images: [K, V, S, S, 3] uint8 ground truth.
        proxies: [K, V, S, S, 3] uint8.
        maps: [K, V, 2, h, h] uint8, confidence and coverage, 255 = 1.
        labels: [V, 25] float32 target cameras.
        reference_labels: [K, 25] float32.
    """

    references: NDArray[np.uint8]
    images: NDArray[np.uint8]
    proxies: NDArray[np.uint8]
    maps: NDArray[np.uint8]
    labels: NDArray[np.float32]
    reference_labels: NDArray[np.float32]

    FIELDS = ("references", "images", "proxies", "maps", "labels", "reference_labels")


def make_shard(subjects: Subjects, number: int, settings: CacheSettings, degrade: bool = True) -> Shard:
    """Make shard `number`: subjects number * K to number * K + K - 1.

    Args:
        subjects: where they come from.
        number: which shard.
        settings: see `CacheSettings`.
        degrade: noise, blur, wrong masks and misplaced proxies, as in practice; False: none of these.
    """
    rng = np.random.default_rng((settings.seed, number))
    targets = target_labels(settings.views, rng)
    rows = []
    for index in range(number * settings.subjects, (number + 1) * settings.subjects):
        own = reference_label(rng)
        views = subjects.views(index, torch.cat([own, targets]), settings.size)
        if views.mask is None or views.face_points is None:
            raise ValueError("The cache needs subjects with masks and face points.")
        reference, truth = views.images[:1], views.images[1:]
        if degrade:
            reference, truth = augment.degrade(reference, truth, rng)
        box = face_box(views.face_points, own[0], settings.size)
        mask, placement, label = views.mask[:1], Placement(), own
        if degrade:
            left, top, width, height = (value * float(rng.normal(1, 0.03)) for value in box)
            box = left, top, width, height
            mask = _practical_mask(reference, mask, box, rng)
            if rng.random() < settings.estimated:
                placement = place_portrait(box, settings.size, settings.size)
                label = default_reference_label()[None]
            else:
                scale = rng.normal(1, 0.015)
                shift = rng.normal(0, 0.007, 2) + (1 - scale) / 2
                placement = Placement(scale, *shift)
        prepared = prepare_known(
            reference, mask, [box], size=settings.size, placements=[placement], labels=label
        )
        proxy = render(prepared, targets)
        maps = functional.adaptive_avg_pool2d(
            torch.cat([proxy.confidence, proxy.coverage], 1), settings.latent_size
        )
        rows.append(
            (
                to_uint8(reference)[0],
                to_uint8(truth),
                to_uint8(proxy.images),
                (maps * 255).round().to(torch.uint8).numpy(),
                own[0].numpy(),
            )
        )
    references, images, proxies, maps_, reference_labels = (
        np.stack(column) for column in zip(*rows, strict=True)
    )
    return Shard(references, images, proxies, maps_, targets.numpy(), reference_labels)


def face_box(face_points: Tensor, label: Tensor, size: int) -> Box:
    """The box that a frontal face detector would find: x, y, width, height [px].

    Args:
        face_points: [5, 3] world positions of eyes, nose tip and mouth corners.
        label: [25] camera.
        size: pixels along the image's side.
    """
    camera = Camera.from_label(label.numpy())
    points = np.concatenate([face_points.numpy(), np.ones((5, 1))], 1) @ camera.world2cam.T
    pixels = (camera.intrinsics @ (points[:, :3] / points[:, 2:3]).T).T[:, :2] * size
    eyes, mouth = pixels[:2].mean(0), pixels[3:].mean(0)
    width = float(np.linalg.norm(eyes - mouth)) * _BOX_PER_FACE_HEIGHT
    centre = (eyes + mouth) / 2 - [0, _BOX_RISE * width]
    return float(centre[0]) - width / 2, float(centre[1]) - width / 2, width, width


def write_shard(folder: Path, number: int, shard: Shard) -> Path:
    """Write `folder/<number>/<field>.npy`; the folder appears when it is whole."""
    target = folder / f"{number:05d}"
    draft = folder / f".{target.name}.{secrets.token_hex(4)}"
    draft.mkdir(parents=True)
    try:
        for field in Shard.FIELDS:
            np.save(draft / f"{field}.npy", getattr(shard, field))
        draft.replace(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def read_shard(folder: Path) -> Shard:
    """One shard's folder; the arrays stay on disk until they are used."""
    return Shard(*(np.load(folder / f"{field}.npy", mmap_mode="r") for field in Shard.FIELDS))


def shard_folders(folder: Path) -> list[Path]:
    """The complete shards below `folder`, by number.

    Raises:
        ValueError: there is none.
    """
    found = sorted(path for path in folder.iterdir() if path.is_dir() and path.name.isdigit())
    if not found:
        raise ValueError(f"{folder}: no shards; make some with dp3d_cli.training.cache.")
    return found


def _practical_mask(reference: Tensor, mask: Tensor, box: Box, rng: np.random.Generator) -> Tensor:
    """The mask as practice gives it: by segmentation, or the true one grown, shrunk or dented."""
    kind = rng.random()
    size = mask.shape[-1]
    if kind < 0.3:
        return torch.from_numpy(segment_head(to_uint8(reference)[0], box, seed=0).mask)[None, None]
    if kind < 0.5:
        return mask
    # Move the outline by a smooth random field of about +-2 % of the image.
    binary = (mask[0, 0].numpy() > 0.5).astype(np.uint8)
    inside, outside = (cv2.distanceTransform(part, cv2.DIST_L2, 3) for part in (binary, 1 - binary))
    field = cv2.resize(
        rng.normal(0, 0.02 * size, (6, 6)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC
    )
    moved = np.clip((inside - outside + field + rng.normal(0, 0.008 * size)) / 2 + 0.5, 0, 1).astype(
        np.float32
    )
    return torch.from_numpy(moved)[None, None]


def main() -> None:
    """Make a range of shards; those that exist are kept."""
    parser = argparse.ArgumentParser(description="Make shards of the training set.")
    parser.add_argument("--preset", type=Path, required=True)
    parser.add_argument("--split", choices=["train", "val", "test"], required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--shards", required=True, help="first:last, last excluded")
    parser.add_argument("--clean", action="store_true", help="True masks, exact placement, no noise.")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    settings = build(CacheSettings, read_yaml_mapping(arguments.preset))
    split: Split = arguments.split
    subjects = ProceduralSubjects(split)
    first, last = (int(number) for number in arguments.shards.split(":"))
    for number in range(first, last):
        if (arguments.output / f"{number:05d}").is_dir():
            continue
        write_shard(
            arguments.output, number, make_shard(subjects, number, settings, degrade=not arguments.clean)
        )
        logger.info("shard %d of %d:%d", number, first, last)


if __name__ == "__main__":
    main()
