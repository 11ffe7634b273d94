r"""Train the fusion network: the networks' views with the proxies' detail, corrected towards the truth.

The networks are finished by then. Their views of the training heads are made once (`views`); a step takes
pictures at random from everywhere, bends some into other faces and gives some other colours: a network that
learns where procedural heads have their features would move those of real faces there. The loss is squared
error, the perceptual distance that S is trained with (`stages.proxy.Perceptual`), and the difference in local
sharpness, which a mean alone would give up.

    python -m dp3d_cli.training.fusion views --weights NANO --shards DATA --latents LATENTS --output VIEWS
    python -m dp3d_cli.training.fusion train --preset presets/train/fusion.yaml --latents LATENTS \
        --views VIEWS --validation VAL_LATENTS --validation-views VAL_VIEWS --run RUN
    python -m dp3d_cli.training.fusion export --run RUN --weights NANO
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from dp3d_cli.core.diffusion.codec import decode_latents
from dp3d_cli.core.diffusion.configs import nano
from dp3d_cli.core.diffusion.fusion import Fusion, with_detail
from dp3d_cli.core.diffusion.sampler import ddim_scheduler
from dp3d_cli.core.presets import read_yaml_mapping
from dp3d_cli.core.proxies.template import to_uint8
from dp3d_cli.training.augment import Recolouring, bent
from dp3d_cli.training.cache import read_shard, shard_folders
from dp3d_cli.training.export import tidy
from dp3d_cli.training.latents import LatentShard, read_latents
from dp3d_cli.training.loop import LoopSettings, load_average, train
from dp3d_cli.training.nano import NanoNetworks, load_mean, mean_pass
from dp3d_cli.training.nano_batches import batch_of
from dp3d_cli.training.settings import build
from dp3d_cli.training.stages.proxy import Perceptual

logger = logging.getLogger(__name__)

FOLDER = "fusion"
"""Where the network lies within a folder of weights."""


@dataclass(frozen=True)
class FusionSettings:
    """What a step is made of.

    Attributes:
        pictures: per step.
        perceptual: weight of the perceptual distance.
        sharpness: weight of the difference in local sharpness.
        unchanged: share of pictures whose view is the proxy itself, as of networks that change nothing.
        bent: share of pictures that are bent (`augment.bent`): faces unlike those of procedural heads.
        recoloured: share of pictures in other colours (`augment.Recolouring`).
    """

    pictures: int = 16
    perceptual: float = 0.1
    sharpness: float = 0.0
    unchanged: float = 0.0
    bent: float = 0.0
    recoloured: float = 0.0


@dataclass(frozen=True)
class FusionBatch:
    """B pictures [B, 3, S, S] in [-1, 1] and maps [B, 1, S, S] in [0, 1]; see `Fusion.forward`."""

    truths: Tensor
    images: Tensor
    views: Tensor
    proxies: Tensor
    confidences: Tensor
    coverages: Tensor


class FusionBatches(Dataset[FusionBatch]):
    """Item i is step i's batch, a function of (seed, i) and of what is on disk.

    Args:
        latents: shards from `training.latents`.
        views: what `make_views` made of them; None: as if the networks changed nothing.
        settings: see `FusionSettings`.
        seed: decides.
        steps: number of items.
    """

    def __init__(
        self, latents: Path, views: Path | None, settings: FusionSettings, seed: int, steps: int
    ) -> None:
        self.settings, self.seed, self.steps = settings, seed, steps
        names = [folder.name for folder in shard_folders(latents)]
        self.pictures = [read_latents(latents / name).pictures for name in names]
        self.views = (
            [] if views is None else [np.load(views / f"{name}.npy", mmap_mode="r") for name in names]
        )

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> FusionBatch:
        rng = np.random.default_rng((self.seed, step))
        rows = []
        for _ in range(self.settings.pictures):
            shard = int(rng.integers(len(self.pictures)))
            subjects, views = self.pictures[shard].shape[:2]
            rows.append((shard, int(rng.integers(subjects)), int(rng.integers(views))))
        return self.batch(rows, rng)

    def batch(self, rows: list[tuple[int, int, int]], rng: np.random.Generator | None = None) -> FusionBatch:
        """Pictures by shard, subject and view; varied as the settings say if there is a generator."""
        layers = torch.stack([self._layers(*row, rng) for row in rows])
        colours = layers[:, :12] * 2 - 1
        return FusionBatch(
            truths=colours[:, :3],
            images=colours[:, 6:9],
            views=colours[:, 9:],
            proxies=colours[:, 3:6],
            confidences=layers[:, 12:13],
            coverages=layers[:, 13:],
        )

    def _layers(self, shard: int, subject: int, view: int, rng: np.random.Generator | None) -> Tensor:
        """[14, S, S] in [0, 1]: truth, proxy, view with detail, view alone, confidence, coverage."""
        picture = np.asarray(self.pictures[shard][subject, view])
        if not self.views or (rng is not None and rng.random() < self.settings.unchanged):
            made = np.concatenate([picture[..., 3:6], picture[..., 3:6]], -1)
        else:
            made = np.asarray(self.views[shard][subject, view])
        stacked = np.concatenate([picture[..., :6], made, picture[..., 6:]], -1)
        if rng is not None and rng.random() < self.settings.bent:
            stacked = bent(stacked, rng)
        layers = _planes(stacked)
        if rng is not None and rng.random() < self.settings.recoloured:
            colours = Recolouring.draw(rng)(layers[:12].view(4, 3, *layers.shape[1:]))
            layers = torch.cat([colours.flatten(0, 1), layers[12:]])
        return layers


def _planes(pictures: NDArray[np.uint8]) -> Tensor:
    """uint8 [..., S, S, C] → [..., C, S, S] in [0, 1]."""
    return torch.from_numpy(np.array(pictures)).movedim(-1, -3).float() / 255


class FusionLoss:
    """See the module docstring."""

    def __init__(self, settings: FusionSettings) -> None:
        self.settings = settings
        self.perceptual = Perceptual()

    def __call__(
        self, network: Fusion, batch: FusionBatch, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        """The loss, on a scale of [0, 1] per pixel; nothing in it is random."""
        out = corrected(network, batch)
        images, truths = (out + 1) / 2, (batch.truths + 1) / 2
        squared = (images - truths).square().mean()
        perceptual = self.perceptual(images, truths)
        blunt = (local_sharpness(images) - local_sharpness(truths)).abs().mean()
        loss = squared + self.settings.perceptual * perceptual + self.settings.sharpness * blunt
        before = ((batch.images + 1) / 2 - truths).square().mean()
        numbers = {
            "squared": squared,
            self.perceptual.name: perceptual,
            "sharpness": blunt,
            "squared_before": before,
        }
        return loss, {name: float(value.detach()) for name, value in numbers.items()}


def local_sharpness(images: Tensor) -> Tensor:
    """Root mean square of the Laplacian of grey values, in windows of 9 px: [B, 3, S, S] → [B, 1, S', S']."""
    grey = images.mean(1, keepdim=True)
    middle = grey[..., 1:-1, 1:-1]
    laplacian = grey[..., 2:, 1:-1] + grey[..., :-2, 1:-1] + grey[..., 1:-1, 2:] + grey[..., 1:-1, :-2]
    return (functional.avg_pool2d((laplacian - 4 * middle).square(), 9, stride=4) + 1e-6).sqrt()


def corrected(network: Fusion, batch: FusionBatch) -> Tensor:
    """[B, 3, S, S] around [-1, 1]."""
    out: Tensor = network(batch.images, batch.views, batch.proxies, batch.confidences, batch.coverages)
    return out


@torch.inference_mode()
def validate(network: Fusion, batches: FusionBatches) -> dict[str, float]:
    """Mean PSNR [dB] of all pictures, of the corrected ones and of those before."""
    found: dict[str, list[Tensor]] = {"psnr": [], "psnr_before": []}
    for shard, pictures in enumerate(batches.pictures):
        for subject in range(pictures.shape[0]):
            batch = batches.batch([(shard, subject, view) for view in range(pictures.shape[1])])
            for name, images in (("psnr", corrected(network, batch)), ("psnr_before", batch.images)):
                error = (images.clamp(-1, 1) - batch.truths).square().mean((1, 2, 3)) / 4
                found[name].append(-10 * torch.log10(error))
    return {name: float(torch.cat(values).mean()) for name, values in found.items()}


@torch.inference_mode()
def make_views(
    networks: NanoNetworks, vae: AutoencoderKL, shard: LatentShard, cameras: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """The networks' views of a shard's heads in one pass, and what `with_detail` makes of them.

    Args:
        networks: trained.
        vae: the codec.
        shard: K subjects, V views of each.
        cameras: [K, V, S, S, 3] the same heads from the same cameras; the neighbour is the camera condition.

    Returns:
        [K, V, S, S, 6] uint8: with detail, alone.
    """
    alphas = ddim_scheduler("v_prediction").alphas_cumprod
    made = []
    for subject in range(len(shard.images)):
        batch = batch_of(shard, subject, cameras[(subject + 1) % len(cameras)])
        views = decode_latents(vae, mean_pass(networks, batch, alphas))
        pictures = _planes(shard.pictures[subject])
        proxies, confidences = pictures[:, 3:6] * 2 - 1, pictures[:, 6:7]
        images = with_detail(views, proxies, decode_latents(vae, batch.proxies), confidences)
        made.append(to_uint8((torch.cat([images, views], 1) + 1) / 2))
    return np.stack(made)


def _make_all(weights: Path, shards: Path, latents: Path, output: Path) -> None:
    networks = NanoNetworks(nano(), [weights]).eval()
    vae = AutoencoderKL.from_pretrained(weights / "vae").float().eval()
    output.mkdir(parents=True, exist_ok=True)
    for folder in shard_folders(latents):
        target = output / f"{folder.name}.npy"
        if target.exists():
            continue
        made = make_views(networks, vae, read_latents(folder), read_shard(shards / folder.name).images)
        draft = target.with_name(f".{target.name}")
        np.save(draft, made)
        draft.replace(target)
        logger.info("views of %s", folder)


def _train(
    preset: Path,
    data: tuple[Path, Path | None],
    validation: tuple[Path, Path | None],
    start: Path | None,
    run: Path,
) -> None:
    content = read_yaml_mapping(preset)
    loop, settings = build(LoopSettings, content["loop"]), build(FusionSettings, content["step"])
    torch.manual_seed(loop.seed)
    network = Fusion()
    if start is not None:
        load_fusion(start, network)
    watched = FusionBatches(*validation, settings, 0, 0)
    batches = FusionBatches(*data, settings, loop.seed, loop.steps)
    train(network, batches, FusionLoss(settings), loop, run, partial(validate, batches=watched))


def load_fusion(path: Path, network: Fusion) -> None:
    """Fill the network with what a folder of weights has, or with the averaged weights of a run."""
    if not (path / FOLDER).is_dir():
        load_average(path, network)
        return
    network.load_state_dict(Fusion.from_pretrained(path / FOLDER, low_cpu_mem_usage=False).state_dict())


def export(runs: Sequence[Path], weights: Path) -> None:
    """Write the mean of what `load_fusion` finds in half precision into a pipeline's folder."""
    network = Fusion()
    load_mean(runs, network, load_fusion)
    network.half().save_pretrained(weights / FOLDER, safe_serialization=True)
    index = weights / "model_index.json"
    content = json.loads(index.read_text(encoding="utf-8"))
    content[FOLDER] = [Fusion.__module__, Fusion.__name__]
    index.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    tidy(weights)


def main() -> None:
    """Make views, train, or export."""
    parser = argparse.ArgumentParser(description="Train the fusion network.")
    actions = parser.add_subparsers(dest="action", required=True)
    views = actions.add_parser("views", help="Make the networks' views of all shards; those there are kept.")
    views.add_argument("--weights", type=Path, required=True, help="Folder of the trained networks.")
    views.add_argument("--shards", type=Path, required=True)
    views.add_argument("--latents", type=Path, required=True)
    views.add_argument("--output", type=Path, required=True)
    fit = actions.add_parser("train", help="Train, or go on training.")
    fit.add_argument("--preset", type=Path, required=True)
    fit.add_argument("--latents", type=Path, required=True)
    fit.add_argument("--views", type=Path, help="By default as if the networks changed nothing.")
    fit.add_argument("--validation", type=Path, required=True, help="Latents of held-out heads.")
    fit.add_argument("--validation-views", type=Path)
    fit.add_argument("--start", type=Path, help="Run, or folder of weights, to go on from.")
    fit.add_argument("--run", type=Path, required=True)
    out = actions.add_parser("export", help="Write the averaged network into a folder of weights.")
    out.add_argument(
        "--run", type=Path, nargs="+", required=True, help="Run, or folder of weights; of several the mean."
    )
    out.add_argument("--weights", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if arguments.action == "views":
        _make_all(arguments.weights, arguments.shards, arguments.latents, arguments.output)
    elif arguments.action == "train":
        data = (arguments.latents, arguments.views)
        held_out = (arguments.validation, arguments.validation_views)
        _train(arguments.preset, data, held_out, arguments.start, arguments.run)
    else:
        export(arguments.run, arguments.weights)


if __name__ == "__main__":
    main()
