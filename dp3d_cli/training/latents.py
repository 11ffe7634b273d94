"""Training shards after the volume proxy and the codec: latents, and the pictures they stand for.

What a camera, a painter and a segmentation do to pictures has to happen before proxies are made and encoded,
so each subject is varied (`dp3d_cli.training.augment`), seen and encoded once, here. A shard may be encoded
several times with different seeds.

    python -m dp3d_cli.training.latents --codec CODEC --proxy WEIGHTS --shards DATA --output LATENTS
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch.nn import functional

from dp3d_cli.core.diffusion.codec import encode_images
from dp3d_cli.core.proxies.template import to_uint8
from dp3d_cli.core.proxies.volume import VolumeProxy, see
from dp3d_cli.core.proxies.volume_weights import find_volume, load_volume
from dp3d_cli.training.augment import AugmentSettings, dented, estimated_camera, randomise, segmented
from dp3d_cli.training.cache import Shard, read_shard, shard_folders
from dp3d_cli.training.correspondence import world_points
from dp3d_cli.training.data import SubjectViews

logger = logging.getLogger(__name__)

_ESTIMATED = 0.8  # share of cameras as the tool estimates them
_SEGMENTED = 0.8  # share of masks as the tool finds them
_AUGMENT = AugmentSettings(occlude=0.0)  # what stands in front of a head has to turn with it


@dataclass(frozen=True)
class LatentShard:
    """A shard's latents; K subjects, V views.

    Attributes:
        references: [K, C, h, w] float16.
        images: [K, V, C, h, w] float16 ground truth.
        proxies: [K, V, C, h, w] float16.
        maps: [K, V, 2, h, w] uint8, confidence and coverage, 255 = 1.
        mirrored: [K] bool: whether this subject was flipped, so that its camera conditions must be too.
        points: [K, 1 + V, 3, h, w] float16, world position of what the reference and the images show in the
            middle of each latent; NaN beside the subject.
        labels: [K, 1 + V, 25] float32 cameras of the reference and the images.
        pictures: [K, V, S, S, 8] uint8: ground truth, proxy, confidence, coverage.
    """

    references: NDArray[np.float16]
    images: NDArray[np.float16]
    proxies: NDArray[np.float16]
    maps: NDArray[np.uint8]
    mirrored: NDArray[np.bool_]
    points: NDArray[np.float16]
    labels: NDArray[np.float32]
    pictures: NDArray[np.uint8]

    FIELDS = ("references", "images", "proxies", "maps", "mirrored", "points", "labels", "pictures")


@torch.inference_mode()
def encode_shard(
    vae: AutoencoderKL,
    volume: VolumeProxy,
    shard: Shard,
    rng: np.random.Generator,
    *,
    augment: bool = True,
    strength: float = 1.0,
) -> LatentShard:
    """Vary the subjects of a shard, make their proxies, and encode everything.

    Args:
        vae: the codec.
        volume: makes the proxies.
        shard: K subjects.
        rng: decides.
        augment: False shows them as they are, with true masks and cameras.
        strength: how often colours and crops vary, as a share of how often they do by default.
    """
    labels = torch.from_numpy(np.array(shard.labels))
    references, images, proxies, maps = [], [], [], []
    mirrored, points, cameras, kept = [], [], [], []
    for subject in range(len(shard.references)):
        pictures = np.concatenate([shard.references[subject][None], shard.images[subject]])
        own = torch.from_numpy(np.array(shard.reference_labels[subject]))[None]
        shown = SubjectViews(
            _planes(pictures),
            torch.cat([own, labels]),
            _planes(shard.masks[subject][None]),
            torch.from_numpy(shard.depths[subject].astype(np.float32))[:, None],
        )
        if augment:
            shown = randomise(shown, rng, _weakened(_AUGMENT, strength))
        assert shown.mask is not None
        assert shown.depth is not None
        points.append(world_points(shown.depth[:, 0], shown.labels).half().numpy())
        cameras.append(shown.labels.numpy())
        mask, own = shown.mask[:1], shown.labels[0]
        mirrored.append(not torch.equal(shown.labels[1:], labels))
        if augment:
            is_found = rng.random() < _SEGMENTED
            mask = segmented(shown.images[:1], mask) if is_found else dented(mask, rng)
            if rng.random() < _ESTIMATED:
                own = estimated_camera(shown.images[:1])
        made = see(volume, shown.images[0], mask[0], shown.labels[1:], own)
        latents = encode_images(vae, torch.cat([shown.images, made.images]) * 2 - 1).half().numpy()
        views = len(labels)
        references.append(latents[0])
        images.append(latents[1 : 1 + views])
        proxies.append(latents[1 + views :])
        layers = [shown.images[1:], made.images, made.confidence, made.coverage]
        kept.append(to_uint8(torch.cat(layers, 1)))
        small = functional.adaptive_avg_pool2d(
            torch.cat([made.confidence, made.coverage], 1), latents.shape[-1]
        )
        maps.append((small * 255).round().to(torch.uint8).numpy())
    return LatentShard(
        np.stack(references),
        np.stack(images),
        np.stack(proxies),
        np.stack(maps),
        np.array(mirrored, np.bool_),
        np.stack(points),
        np.stack(cameras),
        np.stack(kept),
    )


def _weakened(settings: AugmentSettings, strength: float) -> AugmentSettings:
    return replace(
        settings,
        recolour=strength * settings.recolour,
        tone=strength * settings.tone,
        palette=strength * settings.palette,
        crop=strength * settings.crop,
    )


def _planes(pictures: NDArray[np.uint8]) -> torch.Tensor:
    """uint8 [V, S, S, C] → [V, C, S, S] in [0, 1]."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 255


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
    parser.add_argument("--proxy", required=True, help="Weights with a volume proxy: a name or a folder.")
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", action="store_true", help="Vary nothing.")
    parser.add_argument("--strength", type=float, default=1.0, help="Of the variation of colours and crops.")
    parser.add_argument("--follow", action="store_true", help="Wait for further shards.")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    vae = AutoencoderKL.from_pretrained(arguments.codec).float().eval()
    volume = load_volume(find_volume(arguments.proxy))
    while True:
        for folder in shard_folders(arguments.shards):
            if (arguments.output / folder.name).is_dir():
                continue
            rng = np.random.default_rng((arguments.seed, int(folder.name)))
            options = {"augment": not arguments.plain, "strength": arguments.strength}
            shard = encode_shard(vae, volume, read_shard(folder), rng, **options)
            write_latents(arguments.output, folder.name, shard)
            logger.info("latents of %s", folder)
        if not arguments.follow:
            return
        time.sleep(5)


if __name__ == "__main__":
    main()
