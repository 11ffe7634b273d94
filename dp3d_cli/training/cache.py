"""A training set on disk: groups of procedural heads seen from shared cameras.

A head costs about as much as a training step on the same core, so heads are rendered once, by processes
of their own, in shards. A shard's heads share the target cameras, so that each can be the camera condition
("another subject seen from the same camera") of its neighbours. A shard is a function of (split, seed,
number) alone. What photographs do to pictures, and proxies, come later: see `dp3d_cli.training.latents`.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dp3d_cli.core.presets import read_yaml_mapping
from dp3d_cli.core.proxies.template import to_uint8
from dp3d_cli.training.data import ProceduralSubjects, Split, Subjects, reference_label, target_labels
from dp3d_cli.training.settings import build

logger = logging.getLogger(__name__)

_CELL = 8  # pixels along a side of what one depth stands for: the nano codec's downsampling


@dataclass(frozen=True)
class CacheSettings:
    """What a shard holds.

    Attributes:
        size: pixels along a side.
        subjects: heads per shard, K.
        views: target cameras per shard, V.
        seed: of the cameras.
    """

    size: int = 256
    subjects: int = 4
    views: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Shard:
    """One shard's arrays; K subjects, V views.

    Attributes:
        references: [K, S, S, 3] uint8.
        masks: [K, S, S, 1] uint8, 255 on the subject, of the references.
        images: [K, V, S, S, 3] uint8 ground truth.
        labels: [V, 25] float32 target cameras.
        reference_labels: [K, 25] float32.
        depths: [K, 1 + V, h, h] float16, h = S / 8: distance along the optical axis [world units] of what is
            in the middle of each square of 8 px, of the reference and the images; 0 beside the subject.
    """

    references: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    images: NDArray[np.uint8]
    labels: NDArray[np.float32]
    reference_labels: NDArray[np.float32]
    depths: NDArray[np.float16]

    FIELDS = ("references", "masks", "images", "labels", "reference_labels", "depths")


def make_shard(subjects: Subjects, number: int, settings: CacheSettings) -> Shard:
    """Make shard `number`: subjects number * K to number * K + K - 1, with masks and depths.

    Raises:
        ValueError: the subjects have none.
    """
    rng = np.random.default_rng((settings.seed, number))
    targets = target_labels(settings.views, rng)
    references, masks, images, reference_labels, depths = [], [], [], [], []
    for index in range(number * settings.subjects, (number + 1) * settings.subjects):
        own = reference_label(rng)
        views = subjects.views(index, torch.cat([own, targets]), settings.size)
        if views.mask is None or views.depth is None:
            raise ValueError("The cache needs subjects with masks and depths.")
        pictures = to_uint8(views.images)
        references.append(pictures[0])
        masks.append(to_uint8(views.mask[:1])[0])
        images.append(pictures[1:])
        reference_labels.append(own[0].numpy())
        middles = (views.depth * (views.mask > 0.5))[:, 0, _CELL // 2 :: _CELL, _CELL // 2 :: _CELL]
        depths.append(middles.numpy().astype(np.float16))
    return Shard(
        np.stack(references),
        np.stack(masks),
        np.stack(images),
        targets.numpy(),
        np.stack(reference_labels),
        np.stack(depths),
    )


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


def main() -> None:
    """Make a range of shards; those that exist are kept."""
    parser = argparse.ArgumentParser(description="Make shards of the training set.")
    parser.add_argument("--preset", type=Path, required=True)
    parser.add_argument("--split", choices=["train", "val", "test"], required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--shards", required=True, help="first:last, last excluded")
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
        write_shard(arguments.output, number, make_shard(subjects, number, settings))
        logger.info("shard %d of %d:%d", number, first, last)


if __name__ == "__main__":
    main()
