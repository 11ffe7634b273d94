"""Train the nano networks together: backbone, reference, camera and view attention, on procedural heads.

There is no Stable Diffusion to start from at this size, and little time, so all networks learn at once;
separate stages are for networks that start from a trained backbone. The backbone predicts velocity v. Two
tasks share it:

- the mean pass (`mean_share` of the steps): at the noisiest timestep T, from x_T = sqrt(abar_T) E(proxy)
  without noise, predict the clean views. Under a squared error the answer is their mean given all conditions;
  this is what the default output uses.
- denoising: from x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise at a uniform t.

Conditions are dropped at random, for the whole step (a dropped network is not run): the reference 10 %, the
camera 10 %, the hint's content 10 % (denoising only), reference and camera together 5 %. Single views may be
without a hint too: what they show has to come from the reference and from the other views. Some steps have
more references than one, other views of the subject: they show what the proxy had to guess. The error of each
latent channel counts by how much the channel is worth in pixels.

Where attention should look in the references and what it should take from there is taught directly
(`dp3d_cli.training.correspondence`).

`python -m dp3d_cli.training.nano --help` says how to start it; benchmarks/train_nano.sh has the whole way.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from dp3d_cli.core.diffusion.codec import decode_latents
from dp3d_cli.core.diffusion.configs import Sizes, build_networks, nano
from dp3d_cli.core.diffusion.pipeline import DiffPortraitPipeline
from dp3d_cli.core.diffusion.sampler import ddim_scheduler
from dp3d_cli.core.diffusion.trunk import parts_of
from dp3d_cli.core.presets import read_yaml_mapping
from dp3d_cli.training.augment import Recolouring
from dp3d_cli.training.cache import shard_folders
from dp3d_cli.training.correspondence import (
    Looked,
    attention_error,
    right_answers,
    taken_error,
    watch_decoder,
)
from dp3d_cli.training.export import write_pipeline
from dp3d_cli.training.latents import LatentShard, read_latents
from dp3d_cli.training.loop import LoopSettings, load_average, train
from dp3d_cli.training.settings import build
from dp3d_cli.training.start import load_start

logger = logging.getLogger(__name__)

ModuleT = TypeVar("ModuleT", bound=nn.Module)

_LATE = 0.1  # of all timesteps, the last
_NUDGE = 0.1  # change of a latent that counts as small; their standard deviation is 1


@dataclass(frozen=True)
class NanoSettings:
    """What a step looks like.

    Attributes:
        groups: (subjects, views) of a step, in turn.
        mean_share: share of the steps that train the mean pass.
        drop_reference: share of steps without the reference.
        drop_camera: share of steps without the camera condition.
        drop_both: share of steps without either.
        drop_hint: share of the denoising steps whose hint is empty.
        drop_view_hint: share of the views whose hint is empty, in any step.
        references: at most so many references per subject, as far as a group leaves views for it.
        mean_weights: exponent of a latent channel's worth in pixels (`pixel_worth`) in the mean pass's loss;
            2 is the error in pixels.
        denoise_weights: the same in that of denoising.
        noisiest: share of the denoising steps without a hint whose timesteps are in the last tenth, where the
            references are all that shows what a subject looks like.
        look: weight of the error in where attention looks.
        take: weight of the error in what it takes from there.
        look_side: tokens along a side of the decoder's layers that it is taken from.
    """

    groups: tuple[tuple[int, int], ...] = ((2, 4), (1, 8))
    mean_share: float = 0.75
    drop_reference: float = 0.1
    drop_camera: float = 0.1
    drop_both: float = 0.05
    drop_hint: float = 0.1
    drop_view_hint: float = 0.0
    references: int = 1
    mean_weights: float = 2.0
    denoise_weights: float = 1.0
    noisiest: float = 0.0
    look: float = 0.0
    take: float = 0.0
    look_side: int = 16

    @property
    def teaches(self) -> bool:
        """Whether attention is taught: its answers take time."""
        return bool(self.look or self.take)


@dataclass(frozen=True)
class NanoBatch:
    """B subjects, V views of each, n references; latents are scaled float32.

    Attributes:
        references: [B * n, C, h, w].
        images: [B * V, C, h, w] ground truth.
        proxies: [B * V, C, h, w].
        maps: [B * V, 2, h, w] in [0, 1], confidence and coverage.
        has_hint: [B * V, 1, 1, 1], 1 or 0.
        cameras: [B * V, 3, S, S] in [-1, 1], another subject from the same cameras.
        answers: [B * V, T, n * T] where each token should look, from `correspondence.right_answers`; None
            where it is not taught.
        num_views: V.
        num_references: n.
    """

    references: Tensor
    images: Tensor
    proxies: Tensor
    maps: Tensor
    has_hint: Tensor
    cameras: Tensor
    answers: Tensor | None
    num_views: int
    num_references: int

    @property
    def subjects(self) -> int:
        """B."""
        return len(self.images) // self.num_views

    @property
    def hint(self) -> Tensor:
        """[B * V, C + 2, h, w]: proxy latents, confidence, coverage; zeros for views without."""
        return torch.cat([self.proxies, self.maps], 1) * self.has_hint


class NanoBatches(Dataset[NanoBatch]):
    """Item `i` is step `i`'s batch, a function of (seed, i) and of the shards on disk."""

    def __init__(self, shards: Path, latents: Path, settings: NanoSettings, seed: int, steps: int) -> None:
        self.settings, self.seed, self.steps = settings, seed, steps
        names = [folder.name for folder in shard_folders(latents)]
        self.latents: list[LatentShard] = [read_latents(latents / name) for name in names]
        self.cameras = [np.load(shards / name / "images.npy", mmap_mode="r") for name in names]
        self.subjects = [
            (number, subject)
            for number, shard in enumerate(self.latents)
            for subject in range(len(shard.references))
        ]

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> NanoBatch:
        rng = np.random.default_rng((self.seed, step))
        subjects, views = self.settings.groups[step % len(self.settings.groups)]
        available = self.latents[0].images.shape[1]
        count = min(int(rng.integers(self.settings.references)), available - views) + 1
        rows = [self._subject(views, count, rng) for _ in range(subjects)]
        columns = [torch.cat(column) for column in zip(*rows, strict=True)]
        references, images, proxies, maps, has_hint, cameras, answers = columns
        taught = answers if self.settings.teaches else None
        return NanoBatch(references, images, proxies, maps, has_hint, cameras, taught, views, count)

    def _subject(self, views: int, references: int, rng: np.random.Generator) -> tuple[Tensor, ...]:
        number, subject = self.subjects[int(rng.integers(len(self.subjects)))]
        shard = self.latents[number]
        subjects, available = shard.images.shape[:2]
        other = (subject + int(rng.integers(1, subjects))) % subjects
        order = rng.permutation(available)
        chosen, further = order[:views], order[views : views + references - 1]
        cameras = torch.from_numpy(self.cameras[number][other][chosen]).permute(0, 3, 1, 2).float() / 255
        cameras = Recolouring.draw(rng)(cameras) * 2 - 1
        if shard.mirrored[subject]:
            cameras = cameras.flip(-1)
        has_hint = rng.random((views, 1, 1, 1)) >= self.settings.drop_view_hint
        shown = np.concatenate([shard.references[subject][None], shard.images[subject][further]])
        return (
            torch.from_numpy(shown.astype(np.float32)),
            torch.from_numpy(shard.images[subject][chosen].astype(np.float32)),
            torch.from_numpy(shard.proxies[subject][chosen].astype(np.float32)),
            torch.from_numpy(shard.maps[subject][chosen].astype(np.float32)) / 255,
            torch.from_numpy(has_hint.astype(np.float32)),
            cameras,
            self._answers(shard, subject, chosen, further),
        )

    def _answers(
        self, shard: LatentShard, subject: int, chosen: NDArray[np.int64], further: NDArray[np.int64]
    ) -> Tensor:
        """[V, T, n * T] for views `chosen` and the portrait with the views `further` as references."""
        if not self.settings.teaches:
            return torch.zeros(len(chosen), 0, 0)
        seen = np.concatenate([[0], 1 + further])  # the portrait comes first
        points = torch.from_numpy(shard.points[subject].astype(np.float32))
        labels = torch.from_numpy(shard.labels[subject][seen])
        return right_answers(points[1 + chosen], points[seen], labels, self.settings.look_side)


def batch_of(shard: LatentShard, subject: int, cameras: NDArray[np.uint8]) -> NanoBatch:
    """All views of one subject by its portrait; `cameras` [V, S, S, 3]: another from the same cameras."""
    conditions = torch.from_numpy(np.array(cameras)).permute(0, 3, 1, 2).float() / 127.5 - 1
    views = len(conditions)
    return NanoBatch(
        references=torch.from_numpy(shard.references[subject][None].astype(np.float32)),
        images=torch.from_numpy(shard.images[subject].astype(np.float32)),
        proxies=torch.from_numpy(shard.proxies[subject].astype(np.float32)),
        maps=torch.from_numpy(shard.maps[subject].astype(np.float32)) / 255,
        has_hint=torch.ones(views, 1, 1, 1),
        cameras=conditions.flip(-1) if shard.mirrored[subject] else conditions,
        answers=None,
        num_views=views,
        num_references=1,
    )


class NanoNetworks(nn.Module):
    """The trained networks as one module, and their joint forward pass.

    `readers`, one for each attention of the decoder, are for `correspondence.taken_error` and not exported.

    Args:
        sizes: of the networks.
        start: runs or weights to start from (`training.start.load_start`); by default random numbers.
    """

    def __init__(self, sizes: Sizes, start: Sequence[Path] = ()) -> None:
        super().__init__()
        networks = load_start(build_networks(sizes), start, ())
        self.unet = networks.unet
        self.reference_unet = networks.reference_unet
        self.controlnet = networks.controlnet
        self.empty_prompt = networks.empty_prompt
        channels, widths = sizes.trunk["in_channels"], sizes.trunk["block_out_channels"]
        self.readers = nn.ModuleList(
            nn.Linear(widths[level], channels * 4**level)
            for level, block in zip(reversed(range(len(widths))), self.unet.up_blocks, strict=True)
            for _ in parts_of(block, "attentions")
        )

    def forward(
        self,
        sample: Tensor,
        timesteps: Tensor,
        batch: NanoBatch,
        *,
        use_reference: bool = True,
        use_camera: bool = True,
        hint: Tensor | None = None,
        looked: list[Looked] | None = None,
    ) -> Tensor:
        """Predict velocity.

        Args:
            sample: [B * V, C, h, w].
            timesteps: [B], one per subject.
            batch: the conditions.
            use_reference: False leaves the reference network out.
            use_camera: False leaves the control network out.
            hint: instead of the batch's.
            looked: receives queries and keys of the decoder's attention to the references.
        """
        prompt = self.empty_prompt()
        bank = control = None
        if use_reference:
            count = batch.num_references
            bank = self.unet.project_reference(
                self.reference_unet(batch.references, timesteps, prompt, num_references=count)
            )
        if use_camera:
            embedded = self.controlnet.embed_hint(batch.cameras)
            control = self.controlnet(sample, timesteps, prompt, hint_embedding=embedded)
        with watch_decoder(self.unet, bank, [] if looked is None else looked):
            out: Tensor = self.unet(
                sample,
                timesteps,
                prompt,
                num_views=batch.num_views,
                reference_bank=bank,
                control_residuals=control,
                hint=batch.hint if hint is None else hint,
            )
        return out


class NanoLoss:
    """The loss of a step; see the module docstring.

    Args:
        settings: shares of tasks and dropped conditions.
        worth: [C] from `pixel_worth`.
    """

    def __init__(self, settings: NanoSettings, worth: Tensor) -> None:
        self.settings = settings
        mean, denoise = (worth**power for power in (settings.mean_weights, settings.denoise_weights))
        self.mean_weights = (mean / mean.mean()).view(1, -1, 1, 1)
        self.denoise_weights = (denoise / denoise.mean()).view(1, -1, 1, 1)
        self.alphas: Tensor = ddim_scheduler("v_prediction").alphas_cumprod

    def __call__(
        self, module: NanoNetworks, batch: NanoBatch, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        """One step's loss; for the mean pass also how far it is below the proxy's own error."""
        settings = self.settings
        draws = torch.rand(4, generator=generator).tolist()
        use_reference = draws[0] >= settings.drop_reference + settings.drop_both
        use_camera = not (
            draws[0] < settings.drop_both or draws[0] >= 1 - settings.drop_camera
        )  # one draw for both, so that shares add up
        if draws[1] < settings.mean_share:
            return self._mean_pass(module, batch, use_reference, use_camera)
        hint = torch.zeros_like(batch.hint) if draws[2] < settings.drop_hint else None
        is_late = hint is not None and draws[3] < settings.noisiest
        earliest = int((1 - _LATE) * len(self.alphas)) if is_late else 0
        timesteps = torch.randint(earliest, len(self.alphas), (batch.subjects,), generator=generator)
        alpha = self.alphas[timesteps].repeat_interleave(batch.num_views).view(-1, 1, 1, 1)
        noise = torch.randn(batch.images.shape, generator=generator)
        noisy = alpha.sqrt() * batch.images + (1 - alpha).sqrt() * noise
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * batch.images
        looked: list[Looked] = []
        prediction = module(
            noisy,
            timesteps,
            batch,
            use_reference=use_reference,
            use_camera=use_camera,
            hint=hint,
            looked=looked,
        )
        loss = ((prediction - target).square() * self.denoise_weights).mean()
        name = "denoise" if hint is None else "late" if is_late else "plain"
        return self._taught(module, loss, looked, batch, {name: float(loss.detach())})

    def _taught(
        self,
        module: NanoNetworks,
        loss: Tensor,
        looked: list[Looked],
        batch: NanoBatch,
        numbers: dict[str, float],
    ) -> tuple[Tensor, Mapping[str, float]]:
        """The loss with that of where attention looks and of what it takes."""
        answers = batch.answers
        if answers is None or not looked:
            return loss, numbers
        layers = [
            (layer, reader)
            for layer, reader in zip(looked, module.readers, strict=True)
            if layer.query.shape[2] == answers.shape[1]
        ]
        if not layers:
            side = self.settings.look_side
            raise ValueError(f"look_side is {side}, but no layer of the decoder has {side} x {side} tokens")
        look = torch.stack([attention_error(layer, answers) for layer, _ in layers]).mean()
        errors = [taken_error(layer, reader, batch.images, answers) for layer, reader in layers]
        take = torch.stack(errors).mean()
        numbers = {**numbers, "look": float(look.detach()), "take": float(take.detach())}
        return loss + self.settings.look * look + self.settings.take * take, numbers

    def _mean_pass(
        self, module: NanoNetworks, batch: NanoBatch, use_reference: bool, use_camera: bool
    ) -> tuple[Tensor, Mapping[str, float]]:
        looked: list[Looked] = []
        estimate = mean_pass(
            module, batch, self.alphas, use_reference=use_reference, use_camera=use_camera, looked=looked
        )
        error = self.mean_error(estimate, batch)
        now, before = float(error.detach()), float(self.mean_error(batch.proxies, batch))
        return self._taught(module, error, looked, batch, {"mean": now, "mean_of_proxy": now / before})

    def mean_error(self, estimate: Tensor, batch: NanoBatch) -> Tensor:
        """Weighted mean squared error of estimated clean latents [B * V, C, h, w]."""
        return ((estimate - batch.images).square() * self.mean_weights).mean()


def mean_pass(
    module: NanoNetworks,
    batch: NanoBatch,
    alphas: Tensor,
    *,
    use_reference: bool = True,
    use_camera: bool = True,
    looked: list[Looked] | None = None,
) -> Tensor:
    """The estimate of the clean views [B * V, C, h, w] in one evaluation, without noise."""
    last = len(alphas) - 1
    alpha = alphas[last]
    sample = alpha.sqrt() * batch.proxies
    timesteps = torch.full((batch.subjects,), last)
    velocity = module(
        sample, timesteps, batch, use_reference=use_reference, use_camera=use_camera, looked=looked
    )
    estimate: Tensor = alpha.sqrt() * sample - (1 - alpha).sqrt() * velocity
    return estimate


@torch.inference_mode()
def pixel_worth(vae: AutoencoderKL, latents: list[LatentShard]) -> Tensor:
    """[C] how much each latent channel is worth: the change of decoded pixels per unit of the channel.

    Root mean square over small random changes of one view from each of at most 8 shards.
    """
    generator = torch.Generator().manual_seed(0)
    views = torch.from_numpy(np.stack([np.asarray(shard.images[0, 0], np.float32) for shard in latents[:8]]))
    before = decode_latents(vae, views)
    worth = []
    for channel in range(views.shape[1]):
        moved = views.clone()
        moved[:, channel] += _NUDGE * torch.randn(views[:, 0].shape, generator=generator)
        worth.append((decode_latents(vae, moved) - before).square().mean().sqrt() / _NUDGE)
    return torch.stack(worth)


def load_mean(
    paths: Sequence[Path], module: ModuleT, load: Callable[[Path, ModuleT], object] = load_average
) -> None:
    """Fill `module` with the mean of what `load` finds: by default several checkpoints' averaged weights."""
    states = []
    for path in paths:
        load(path, module)
        states.append({name: value.clone() for name, value in module.state_dict().items()})
    module.load_state_dict({name: torch.stack([s[name] for s in states]).mean(0) for name in states[0]})


def export(module: NanoNetworks, codec: Path, folder: Path) -> None:
    """Write a pipeline folder in half precision, with its manifest."""
    pipeline = DiffPortraitPipeline(
        unet=module.unet,
        reference_unet=module.reference_unet,
        controlnet=module.controlnet,
        vae=AutoencoderKL.from_pretrained(codec),
        empty_prompt=module.empty_prompt,
        scheduler=ddim_scheduler("v_prediction", spacing="trailing"),
        mid_view_attention="always",
    )
    pipeline.to(dtype=torch.float16)
    write_pipeline(pipeline, folder)


def main() -> None:
    """Train as the preset says, then write the averaged networks and the codec as a pipeline folder."""
    parser = argparse.ArgumentParser(description="Train the nano networks.")
    parser.add_argument("--preset", type=Path, required=True)
    parser.add_argument("--codec", type=Path, required=True)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--latents", type=Path, required=True)
    parser.add_argument("--validation", type=Path, nargs=2, metavar=("SHARDS", "LATENTS"))
    parser.add_argument("--start", type=Path, nargs="*", default=[], help="Weights to go on from.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--export", type=Path, help="Write a pipeline folder here instead of training.")
    parser.add_argument("--mean-of", type=Path, nargs="+", help="Checkpoints whose mean is exported.")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    preset = read_yaml_mapping(arguments.preset)
    settings, loop = build(NanoSettings, preset["step"]), build(LoopSettings, preset["loop"])
    torch.manual_seed(loop.seed)
    module = NanoNetworks(nano(), arguments.start)
    if arguments.export:
        load_mean(arguments.mean_of or [arguments.output], module)
        export(module, arguments.codec, arguments.export)
        return
    batches = NanoBatches(arguments.shards, arguments.latents, settings, loop.seed, loop.steps)
    vae = AutoencoderKL.from_pretrained(arguments.codec).float().eval()
    loss = NanoLoss(settings, pixel_worth(vae, batches.latents))
    held_out = None
    if arguments.validation:
        shards, latents = arguments.validation
        whole = replace(settings, groups=((1, 8),), drop_view_hint=0.0, references=1)
        held_out = NanoBatches(shards, latents, whole, seed=0, steps=16)

    def validate(trained: NanoNetworks) -> dict[str, float]:
        assert held_out is not None
        numbers = []
        for number in range(len(held_out)):
            batch = held_out[number]
            estimate = mean_pass(trained, batch, loss.alphas)
            numbers.append(float(loss.mean_error(estimate, batch) / loss.mean_error(batch.proxies, batch)))
        return {"mean_of_proxy": sum(numbers) / len(numbers)}

    train(module, batches, loss, loop, arguments.output, validate if held_out else None)


if __name__ == "__main__":
    main()
