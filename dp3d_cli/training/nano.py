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

`python -m dp3d_cli.training.nano --help` says how to start it; benchmarks/train_nano.sh as of commit 6fb5033
has the whole way from heads to a folder of weights.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from dp3d_cli.core.diffusion.codec import decode_latents
from dp3d_cli.core.diffusion.configs import Sizes, build_networks, nano
from dp3d_cli.core.diffusion.pipeline import DiffPortraitPipeline
from dp3d_cli.core.diffusion.sampler import ddim_scheduler
from dp3d_cli.core.diffusion.trunk import parts_of
from dp3d_cli.core.presets import read_yaml_mapping
from dp3d_cli.training.correspondence import Looked, attention_error, taken_error, watch_decoder
from dp3d_cli.training.export import write_pipeline
from dp3d_cli.training.latents import LatentShard
from dp3d_cli.training.loop import LoopSettings, load_average, train
from dp3d_cli.training.nano_batches import NanoBatch, NanoBatches, NanoSettings
from dp3d_cli.training.settings import build
from dp3d_cli.training.start import load_start

logger = logging.getLogger(__name__)

ModuleT = TypeVar("ModuleT", bound=nn.Module)

_LATE = 0.1  # of all timesteps, the last
_NUDGE = 0.1  # change of a latent that counts as small; their standard deviation is 1


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
