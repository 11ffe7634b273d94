"""The denoising loop over all views of one portrait, and what is computed only once in it.

Once per portrait: the camera conditions' embedding. Once per timestep: the reference network, at the batch of
the references themselves, and the projection of its features. Never: the reference and control networks for
the unconditional call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dp3d_cli.core.diffusion.attention import ProjectedBank
from dp3d_cli.core.diffusion.control import ControlResiduals, ViewControlNet
from dp3d_cli.core.diffusion.reference_unet import ReferenceUNet
from dp3d_cli.core.diffusion.sampler import LastStep, Scheduler, sampler_step
from dp3d_cli.core.diffusion.view_unet import MidViewAttention, ViewUNet

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conditions:
    """What one portrait's denoising is conditioned on.

    Attributes:
        reference_latents: [n, C, h, w] clean latents of the subject's references.
        hint_embedding: [V, C0, h, w] encoded camera conditions.
        prompt: [1, T, D] empty-prompt embedding.
        explicit_hint: [V, Ch, h, w] proxy latents, confidence and coverage, for networks that take them.
    """

    reference_latents: Tensor
    hint_embedding: Tensor
    prompt: Tensor
    explicit_hint: Tensor | None = None


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: prediction = uncond + scale * (cond - uncond).

    Attributes:
        scale: 1 skips the unconditional call.
        interval: timesteps t with low <= t / T <= high are guided, the others use the conditional call alone
            (Kynkaanniemi et al. 2024, arXiv 2404.07724).
    """

    scale: float = 3.0
    interval: tuple[float, float] = (0.0, 1.0)

    def active(self, timestep: int, total: int) -> bool:
        """Whether this timestep needs the unconditional call."""
        return self.scale != 1.0 and self.interval[0] <= timestep / total <= self.interval[1]


@dataclass
class Denoiser:
    """The three networks at work on one portrait.

    Attributes:
        unet: backbone.
        reference_unet: appearance reference network.
        controlnet: view control network.
        mid_view_attention: calls in which the backbone's middle view attention runs (released:
            "unconditional").
        max_views_per_call: views in one forward call; whole groups only. Halves when a CUDA device runs out
            of memory.
        share_batch: run both branches of guidance as one batch, which also shares what they have in common
            before the first attention to the references. Given up when a CUDA device runs out of memory for
            a single group.
    """

    unet: ViewUNet
    reference_unet: ReferenceUNet
    controlnet: ViewControlNet
    mid_view_attention: MidViewAttention = "unconditional"
    max_views_per_call: int = 16
    share_batch: bool = True

    def reference_features(self, conditions: Conditions, timestep: int) -> ProjectedBank:
        """The references' keys and values at a timestep: serves all views and groups."""
        latents = conditions.reference_latents.to(self.reference_unet.conv_in.weight.dtype)
        bank = self.reference_unet(
            latents,
            _as_tensor(timestep, latents),
            conditions.prompt,
            num_references=conditions.reference_latents.shape[0],
        )
        projected: ProjectedBank = self.unet.project_reference(bank)
        return projected

    def control(
        self, latents: Tensor, timestep: int, conditions: Conditions, views: Sequence[int]
    ) -> ControlResiduals:
        """Residuals of the control network for some views; `latents` are those views' only."""
        residuals: ControlResiduals = self.controlnet(
            latents.to(self.controlnet.conv_in.weight.dtype),
            _as_tensor(timestep, latents),
            conditions.prompt,
            hint_embedding=conditions.hint_embedding[list(views)],
        )
        return residuals

    def predict(
        self,
        latents: Tensor,
        timestep: int,
        conditions: Conditions,
        views: Sequence[int],
        num_views: int,
        bank: ProjectedBank | None,
        *,
        with_unconditional: bool = False,
    ) -> Tensor:
        """One call of the backbone.

        Args:
            latents: [N, C, h, w] latents of the `views`.
            timestep: the current one.
            conditions: of all views.
            views: which views these are; N = groups * `num_views`.
            num_views: size of each group.
            bank: the references; None: the unconditional call, without references and without camera.
            with_unconditional: both calls at once.

        Returns:
            [N, C, h, w] float32; with both calls [2 N, C, h, w], the conditional ones first.
        """
        hint = conditions.explicit_hint
        out: Tensor = self.unet(
            latents.to(self.unet.conv_in.weight.dtype),
            _as_tensor(timestep, latents),
            conditions.prompt,
            num_views=num_views,
            reference_bank=bank,
            control_residuals=None if bank is None else self.control(latents, timestep, conditions, views),
            hint=None if hint is None else hint[list(views)],
            mid_view_attention=self.mid_view_attention,
            with_unconditional=with_unconditional,
        )
        return out.float()

    def _predict_guided(
        self,
        latents: Tensor,
        timestep: int,
        conditions: Conditions,
        views: Sequence[int],
        num_views: int,
        bank: ProjectedBank,
        guidance_scale: float,
    ) -> Tensor:
        call = (latents, timestep, conditions, views, num_views)
        if guidance_scale == 1.0:
            return self.predict(*call, bank)
        if self.share_batch:
            conditional, unconditional = self.predict(*call, bank, with_unconditional=True).chunk(2)
        else:
            conditional, unconditional = self.predict(*call, bank), self.predict(*call, None)
        return unconditional + guidance_scale * (conditional - unconditional)

    def predict_groups(
        self,
        latents: Tensor,
        timestep: int,
        conditions: Conditions,
        groups: Sequence[tuple[int, ...]],
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """The guided prediction for all views, group by group; a view in several groups gets their mean.

        Args:
            latents: [V, C, h, w] latents of all views.
            timestep: the current one.
            conditions: of all views.
            groups: from `view_groups`.
            guidance_scale: 1 skips the unconditional call.

        Returns:
            [V, C, h, w] float32.
        """
        bank = self.reference_features(conditions, timestep)
        total = torch.zeros_like(latents)
        count = torch.zeros(latents.shape[0], dtype=latents.dtype, device=latents.device)
        pending = list(groups)
        while pending:
            batch = self._next_batch(pending)
            views = [view for group in batch for view in group]
            try:
                guided = self._predict_guided(
                    latents[views], timestep, conditions, views, len(batch[0]), bank, guidance_scale
                )
            except torch.cuda.OutOfMemoryError:
                if not self._shrink(len(batch), len(views)):
                    raise  # the views of one group see one another: they cannot be split
                continue
            index = torch.tensor(views, device=latents.device)
            total.index_add_(0, index, guided.to(latents.dtype))
            count.index_add_(0, index, torch.ones_like(index, dtype=count.dtype))
            del pending[: len(batch)]
        return total / count[:, None, None, None]

    def _shrink(self, groups: int, views: int) -> bool:
        """Make the next call smaller than one of this size; False if it cannot be."""
        if groups > 1:
            self.max_views_per_call = views // 2
            logger.warning("out of GPU memory with %d views at once: halved", views)
        elif self.share_batch:
            self.share_batch = False
            logger.warning("out of GPU memory: the two branches of guidance now run one after the other")
        else:
            return False
        torch.cuda.empty_cache()
        return True

    def _next_batch(self, pending: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        size = len(pending[0])
        fitting = max(self.max_views_per_call // size, 1)
        batch = []
        for group in pending[:fitting]:
            if len(group) != size:
                break
            batch.append(group)
        return batch

    def denoise(
        self,
        latents: Tensor,
        conditions: Conditions,
        scheduler: Scheduler,
        timesteps: Sequence[int],
        groups: Sequence[tuple[int, ...]],
        *,
        guidance: Guidance,
        eta: float = 0.0,
        last_step: LastStep = "noise",
        draw_noise: Callable[[], Tensor] | None = None,
        callback: Callable[[int, int, Tensor], None] | None = None,
    ) -> Tensor:
        """Walk down the timesteps with all groups in lockstep.

        Args:
            latents: [V, C, h, w] float32 noisy latents.
            conditions: of all views.
            scheduler: set up by `plan_timesteps`.
            timesteps: from `plan_timesteps`.
            groups: from `view_groups`.
            guidance: scale and interval.
            eta: share of fresh noise in DDIM steps.
            last_step: see `Quirks`.
            draw_noise: gives the next unit Gaussian [V, C, h, w]; called once per step if `eta` > 0.
            callback: called after each step with its number, the timestep and the latents.

        Returns:
            [V, C, h, w] denoised latents.
        """
        if eta > 0 and draw_noise is None:
            raise ValueError("eta > 0 needs a source of noise")
        total = int(scheduler.config.num_train_timesteps)
        for step, timestep in enumerate(timesteps):
            scale = guidance.scale if guidance.active(timestep, total) else 1.0
            prediction = self.predict_groups(latents, timestep, conditions, groups, scale)
            is_last = step + 1 == len(timesteps)
            step_eta = 0.0 if is_last and last_step != "noise" else eta
            noise = draw_noise() if step_eta > 0 and draw_noise is not None else None
            latents, clean = sampler_step(scheduler, prediction, timestep, latents, step_eta, noise)
            if is_last and last_step == "x0":
                latents = clean
            if callback is not None:
                callback(step, timestep, latents)
        return latents


def _as_tensor(timestep: int, like: Tensor) -> Tensor:
    """The timestep as a tensor: compiled networks would be compiled anew for every number."""
    return torch.tensor(timestep, device=like.device)
