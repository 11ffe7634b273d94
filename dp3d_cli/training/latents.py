"""Training shards after the codec: latents instead of images, with the augmentation built in.

Colours and mirroring have to happen before encoding, so each subject is augmented and
encoded once, here.

    python -m dp3d_cli.training.latents --codec CODEC --shards DATA --output LATENTS
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from dp3d_cli.core.diffusion.codec import encode_images
from dp3d_cli.training.augment import Recolouring
from dp3d_cli.training.cache import Shard, read_shard, shard_folders

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LatentShard:
    """A shard's latents; K subjects, V views.

    Attributes:
        references: [K, C, h, w] float16.
        images: [K, V, C, h, w] float16 ground truth.
        proxies: [K, V, C, h, w] float16.
        maps: [K, V, 2, h, w] uint8, confidence and coverage, 255 = 1.
        mirrored: [K] bool: whether this subject was flipped, so that its camera conditions must be too.
    """

    references: NDArray[np.float16]
    images: NDArray[np.float16]
    proxies: NDArray[np.float16]
    maps: NDArray[np.uint8]
    mirrored: NDArray[np.bool_]

    FIELDS = ("references", "images", "proxies", "maps", "mirrored")


def encode_shard(
    vae: AutoencoderKL, shard: Shard, rng: np.random.Generator, *, augment: bool = True
) -> LatentShard:
    """Recolour, mirror (half of the subjects) and encode a shard."""
    references, images, proxies, maps, mirrored = [], [], [], [], []
    for subject in range(len(shard.references)):
        recolour = Recolouring.draw(rng) if augment else None
        flip = augment and rng.random() < 0.5
        pictures = np.concatenate(
            [shard.references[subject][None], shard.images[subject], shard.proxies[subject]]
        )
        tensor = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
        tensor = tensor if recolour is None else recolour(tensor)
        subject_maps = np.asarray(shard.maps[subject])
        if flip:
            tensor, subject_maps = tensor.flip(-1), subject_maps[..., ::-1]
        with torch.inference_mode():
            latents = encode_images(vae, tensor * 2 - 1).half().numpy()
        views = shard.images.shape[1]
        references.append(latents[0])
        images.append(latents[1 : 1 + views])
        proxies.append(latents[1 + views :])
        maps.append(subject_maps)
        mirrored.append(flip)
    return LatentShard(
        np.stack(references),
        np.stack(images),
        np.stack(proxies),
        np.stack(maps),
        np.array(mirrored, np.bool_),
    )


def write_latents(folder: Path, name: str, shard: LatentShard) -> None:
    """Write `folder/<name>/<field>.npy`; the folder appears when it is whole."""
    draft = folder / f".{name}.{secrets.token_hex(4)}"
    draft.mkdir(parents=True)
    try:
        for field in LatentShard.FIELDS:
            np.save(draft / f"{field}.npy", getattr(shard, field))
        draft.replace(folder / name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def read_latents(folder: Path) -> LatentShard:
    """One shard's folder; the arrays stay on disk until they are used."""
    return LatentShard(*(np.load(folder / f"{field}.npy", mmap_mode="r") for field in LatentShard.FIELDS))


def main() -> None:
    """Encode all shards of a folder; those that exist are kept."""
    parser = argparse.ArgumentParser(description="Encode the shards of a training set.")
    parser.add_argument("--codec", type=Path, required=True, help="Folder that save_pretrained wrote.")
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", action="store_true", help="Neither recolour nor mirror.")
    parser.add_argument("--follow", action="store_true", help="Wait for further shards.")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    vae = AutoencoderKL.from_pretrained(arguments.codec).eval()
    while True:
        for folder in shard_folders(arguments.shards):
            if (arguments.output / folder.name).is_dir():
                continue
            rng = np.random.default_rng((arguments.seed, int(folder.name)))
            shard = encode_shard(vae, read_shard(folder), rng, augment=not arguments.plain)
            write_latents(arguments.output, folder.name, shard)
            logger.info("latents of %s", folder)
        if not arguments.follow:
            return
        time.sleep(5)


if __name__ == "__main__":
    main()
