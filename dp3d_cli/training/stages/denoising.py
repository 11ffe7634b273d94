"""The stages that teach networks to denoise: `backbone`, `reference`, `camera`, `views`.

DiffPortrait3D (arXiv 2312.13016), Sec. 4: first all parameters of F_ref, without any camera guidance; then
F_cam, with F_ref frozen; then the view attention on groups of views in random order, all else frozen. The
backbone is frozen in all three. It has a stage of its own only for sizes of which no trained backbone exists:
there it learns single views without any condition.

**Dropped conditions.** Guidance compares with a call that has neither reference nor camera. In `reference`
and `camera` such a call runs nothing that is being trained, so nothing is dropped that would leave no
gradient: `camera` may drop the reference. `views` drops both, as its view attention runs in either call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dp3d_cli.core.contact_sheet import contact_sheet
from dp3d_cli.core.diffusion.codec import decode_latents, downsampling, encode_images
from dp3d_cli.core.diffusion.configs import Networks, build_networks
from dp3d_cli.core.diffusion.control import ControlResiduals
from dp3d_cli.core.diffusion.pipeline import DiffPortraitPipeline, to_uint8
from dp3d_cli.core.diffusion.sampler import ddim_scheduler
from dp3d_cli.core.errors import UsageError
from dp3d_cli.core.metrics.psnr import psnr
from dp3d_cli.core.metrics.ssim import ssim
from dp3d_cli.training.data import Subjects, open_subjects
from dp3d_cli.training.export import write_pipeline
from dp3d_cli.training.groups import DropRates, ViewBatch, ViewBatches
from dp3d_cli.training.loop import map_tensors, sample_noise
from dp3d_cli.training.preset import StageName, TrainPreset
from dp3d_cli.training.settings import build as checked
from dp3d_cli.training.start import Component, copy_backbone, load_start

_SHOWN = 4  # views of a subject in a sample grid


@dataclass(frozen=True)
class DenoisingStep:
    """What a step of a denoising stage looks like.

    Attributes:
        batch: pictures per step, a multiple of `views`.
        views: of one subject; only the stage `views` takes more than one to mix them.
        drop: which conditions are dropped at random.
        pool: views per subject that are made once and kept in memory; 0 makes new ones for each step.
        held_out_subjects: subjects to validate on.
        sample_steps: DDIM steps of the samples that validation draws.
    """

    batch: int = 16
    views: int = 1
    drop: DropRates = field(default_factory=DropRates)
    pool: int = 0
    held_out_subjects: int = 4
    sample_steps: int = 20


class DenoisingNetworks(nn.Module):
    """All networks of a pipeline as one module.

    Args:
        networks: see `build_networks`; the codec is frozen.
        preset: of the stage.
        step: its checked settings.
    """

    alphas: Tensor

    def __init__(self, networks: Networks, preset: TrainPreset, step: DenoisingStep) -> None:
        super().__init__()
        self.preset, self.step = preset, step
        self.unet = networks.unet
        self.reference_unet = networks.reference_unet
        self.controlnet = networks.controlnet
        self.empty_prompt = networks.empty_prompt
        self.vae = networks.vae
        alphas = ddim_scheduler(preset.prediction_type).alphas_cumprod
        self.register_buffer("alphas", alphas, persistent=False)
        self.held_out: ViewBatch | None = None
        """What is validated on, made when it is first needed."""

    def encode(self, images: Tensor) -> Tensor:
        """[..., 3, S, S] in [-1, 1] to scaled latents [..., C, h, w], without a gradient."""
        with torch.no_grad():
            latents = encode_images(self.vae, images.flatten(0, -4))
        return latents.reshape(*images.shape[:-3], *latents.shape[1:])

    def forward(
        self,
        sample: Tensor,
        timesteps: Tensor,
        references: Tensor | None = None,
        cameras: Tensor | None = None,
    ) -> Tensor:
        """Predict noise or velocity for subjects that have the same kinds of conditions.

        Args:
            sample: [B, V, C, h, w] noisy latents.
            timesteps: [B].
            references: [B, C, h, w] clean latents; None: no reference.
            cameras: [B, V, 3, S, S] camera conditions in [-1, 1]; None: no camera.

        Returns:
            [B, V, C, h, w].
        """
        prompt, flat = self.empty_prompt(), sample.flatten(0, 1)
        bank = None if references is None else self.reference_unet(references, timesteps, prompt)
        control: ControlResiduals | None = None
        if cameras is not None:
            hint = self.controlnet.embed_hint(cameras.flatten(0, 1))
            control = self.controlnet(flat, timesteps, prompt, hint_embedding=hint)
        out: Tensor = self.unet(
            flat,
            timesteps,
            prompt,
            num_views=sample.shape[1],
            reference_bank=bank,
            control_residuals=control,
            mid_view_attention=self.preset.mid_view_attention,
        )
        return out.view_as(sample)


Trained = Callable[[DenoisingNetworks], Sequence[nn.Module]]


@dataclass(frozen=True)
class DenoisingStage:
    """One of the stages; see the module docstring.

    Attributes:
        name: on the command line.
        trained: the parts that learn.
        needs: networks that must be trained already.
        reads_reference: whether the reference is shown.
        reads_camera: whether the camera condition is shown.
        may_drop: conditions whose absence leaves something to learn.
    """

    name: StageName
    trained: Trained
    needs: tuple[Component, ...]
    reads_reference: bool
    reads_camera: bool
    may_drop: tuple[str, ...] = ()

    def build(self, preset: TrainPreset) -> DenoisingNetworks:
        """See `TrainingStage`."""
        step = checked(DenoisingStep, preset.step)
        self._check(step)
        torch.manual_seed(preset.loop.seed)
        networks = load_start(build_networks(preset.sizes), preset.start, self.needs)
        levels = len(preset.sizes.trunk["block_out_channels"]) - 1
        smallest = downsampling(networks.vae) << levels
        if preset.size % smallest:
            raise UsageError(f"Pictures of {preset.size} px; these networks take multiples of {smallest} px.")
        module = DenoisingNetworks(networks, preset, step)
        module.requires_grad_(False)
        for part in self.trained(module):
            part.requires_grad_(True)
        return module

    def _check(self, step: DenoisingStep) -> None:
        for name in ("reference", "camera", "both"):
            rate = getattr(step.drop, name)
            if not 0 <= rate < 1:
                raise UsageError(f"drop.{name} is {rate}; it is a share in [0, 1).")
            if rate and name not in self.may_drop:
                raise UsageError(
                    f"drop.{name} is {rate}, but the stage '{self.name}' learns nothing from a subject "
                    "without it. Set it to 0."
                )
        if step.batch < 1 or step.views < 1 or step.batch % step.views:
            raise UsageError(f"batch {step.batch} is no whole number of groups of {step.views} views.")
        if step.pool and step.pool < step.views:
            raise UsageError(f"pool {step.pool} is too small for groups of {step.views} views.")
        if step.held_out_subjects < 1 or step.sample_steps < 1:
            raise UsageError("held_out_subjects and sample_steps are at least 1.")

    def batches(self, preset: TrainPreset, subjects: Subjects, seed: int, steps: int) -> ViewBatches:
        """See `TrainingStage`."""
        step = checked(DenoisingStep, preset.step)
        return ViewBatches(
            subjects,
            "train" if self.reads_camera else None,
            batch=step.batch,
            views=step.views,
            size=preset.size,
            drop=step.drop,
            pool=step.pool,
            seed=seed,
            steps=steps,
        )

    def loss(
        self, module: DenoisingNetworks, batch: ViewBatch, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        """Mean squared error of the predicted noise or velocity; `generator` is not needed."""
        clean = module.encode(batch.images)
        references = module.encode(batch.references) if self.reads_reference else None
        noise = sample_noise(batch.seeds, clean.shape[1:], clean)
        alpha = module.alphas[batch.timesteps].view(-1, 1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        target = noise
        if module.preset.prediction_type == "v_prediction":
            target = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        total = clean.new_zeros(())
        for with_reference, with_camera, chosen in self._kinds(batch):
            prediction = module(
                noisy[chosen],
                batch.timesteps[chosen],
                references[chosen] if references is not None and with_reference else None,
                batch.cameras[chosen] if batch.cameras is not None and with_camera else None,
            )
            total = total + functional.mse_loss(prediction.float(), target[chosen], reduction="sum")
        loss = total / clean.numel()
        return loss, {}

    def _kinds(self, batch: ViewBatch) -> list[tuple[bool, bool, Tensor]]:
        """The subjects of a batch by the conditions they keep: (reference, camera, indices)."""
        kinds = []
        for with_reference in (True, False):
            for with_camera in (True, False):
                same = (batch.use_reference == with_reference) & (batch.use_camera == with_camera)
                if bool(same.any()):
                    kinds.append((with_reference, with_camera, same.nonzero()[:, 0]))
        return kinds

    def validate(self, module: DenoisingNetworks) -> dict[str, float]:
        """Loss at fixed noise, and PSNR [dB] and SSIM of samples, which need not equal the truth."""
        batch = self._held_out(module)
        loss, _ = self.loss(module, batch, torch.Generator())
        truth, drawn = to_uint8(batch.images.flatten(0, 1)), self._sample(module, batch)
        pairs = list(zip(drawn.reshape(truth.shape), truth, strict=True))
        return {
            "loss": float(loss),
            "psnr": float(np.mean([psnr(one, other) for one, other in pairs])),
            "ssim": float(np.mean([ssim(one, other) for one, other in pairs])),
        }

    def grid(self, module: DenoisingNetworks) -> NDArray[np.uint8]:
        """For each held-out subject: reference, camera conditions if they are shown, samples, truth."""
        batch = self._held_out(module)
        drawn, size = self._sample(module, batch), module.preset.size
        rows, labels = [], []
        for subject in range(len(batch.images)):
            truth = to_uint8(batch.images[subject])[:_SHOWN]
            reference = to_uint8(batch.references[subject][None])[0]
            if batch.cameras is not None:
                rows.append([reference, *to_uint8(batch.cameras[subject])[:_SHOWN]])
                labels.append("camera")
            rows.append([reference, *drawn[subject][:_SHOWN]])
            labels.append("sample")
            rows.append([reference, *truth])
            labels.append("truth")
        return contact_sheet(rows, labels, tile=min(size, 256))

    def _held_out(self, module: DenoisingNetworks) -> ViewBatch:
        """The same subjects, cameras and noise each time, all conditions kept."""
        if module.held_out is None:
            preset, step = module.preset, module.step
            views = max(step.views, 2)
            subjects = open_subjects(preset.held_out or preset.data, "val")
            count = min(step.held_out_subjects, len(subjects))
            batches = ViewBatches(
                subjects, "val" if self.reads_camera else None, batch=count * views, views=views,
                size=preset.size, drop=DropRates(), pool=0, seed=0, steps=1,
            )  # fmt: skip
            module.held_out = map_tensors(batches[0], lambda part: part.to(module.alphas.device))
        return module.held_out

    def _sample(self, module: DenoisingNetworks, batch: ViewBatch) -> NDArray[np.uint8]:
        """[B, V, S, S, 3] by DDIM from random noise, without guidance."""
        references = module.encode(batch.references) if self.reads_reference else None
        shape = (*batch.images.shape[:2], module.unet.config.in_channels)
        side = module.preset.size // downsampling(module.vae)
        latents = sample_noise(batch.seeds, (*shape[1:], side, side), batch.images)
        scheduler = ddim_scheduler(module.preset.prediction_type, spacing="trailing")
        scheduler.set_timesteps(module.step.sample_steps)
        for timestep in scheduler.timesteps.tolist():
            timesteps = torch.full_like(batch.timesteps, timestep)
            prediction = module(latents, timesteps, references, batch.cameras)
            latents = scheduler.step(prediction, timestep, latents).prev_sample
        images = decode_latents(module.vae, latents.flatten(0, 1))
        return to_uint8(images).reshape(*shape[:2], *images.shape[2:], 3)

    def export(self, module: DenoisingNetworks, folder: Path) -> None:
        """Write a complete pipeline; networks that had no stage yet are what they will start as."""
        if self.name == "backbone":
            copy_backbone(module)
        write_pipeline(
            DiffPortraitPipeline(
                unet=module.unet,
                reference_unet=module.reference_unet,
                controlnet=module.controlnet,
                vae=module.vae,
                empty_prompt=module.empty_prompt,
                scheduler=ddim_scheduler(module.preset.prediction_type, spacing=_spacing(module.preset)),
                mid_view_attention=module.preset.mid_view_attention,
            ),
            folder,
        )


def _spacing(preset: TrainPreset) -> str:
    """A network that predicts velocity can start at the noisiest timestep; the published one starts below."""
    return "trailing" if preset.prediction_type == "v_prediction" else "leading"


def _backbone(module: DenoisingNetworks) -> list[nn.Module]:
    """Everything of the backbone but its view attention, and the prompt it has instead of a text encoder."""
    return [*_children(module, view_attention=False), module.empty_prompt]


def _view_attention(module: DenoisingNetworks) -> list[nn.Module]:
    return _children(module, view_attention=True)


def _children(module: DenoisingNetworks, *, view_attention: bool) -> list[nn.Module]:
    children = module.unet.named_children()
    return [child for name, child in children if ("view_attention" in name) == view_attention]


DENOISING_STAGES: Mapping[str, DenoisingStage] = {
    stage.name: stage
    for stage in (
        DenoisingStage("backbone", _backbone, ("vae",), reads_reference=False, reads_camera=False),
        DenoisingStage(
            "reference",
            lambda module: [module.reference_unet],
            ("vae", "unet", "empty_prompt"),
            reads_reference=True,
            reads_camera=False,
        ),
        DenoisingStage(
            "camera",
            lambda module: [module.controlnet],
            ("vae", "unet", "empty_prompt", "reference_unet"),
            reads_reference=True,
            reads_camera=True,
            may_drop=("reference",),
        ),
        DenoisingStage(
            "views",
            _view_attention,
            ("vae", "unet", "empty_prompt", "reference_unet", "controlnet"),
            reads_reference=True,
            reads_camera=True,
            may_drop=("reference", "camera", "both"),
        ),
    )
}
