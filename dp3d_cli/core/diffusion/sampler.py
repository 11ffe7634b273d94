"""Schedulers and the order of timesteps: as the released sampler walks them, as the paper says, and faster.

All steps are diffusers' own. Symbols: T = 1000 training timesteps, S inference steps, abar = cumulative
alpha.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor

Scheduler: TypeAlias = DDIMScheduler | DPMSolverMultistepScheduler | UniPCMultistepScheduler
SchedulerName = Literal["ddim", "dpm-solver++", "unipc"]
LastStep = Literal["noise", "no-noise", "x0"]
PredictionType = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True)
class Quirks:
    """Where the released DiffPortrait3D sampler departs from the textbook; the defaults do as it does.

    Attributes:
        extra_steps: DDIM timesteps are all 1 + i * floor(T / S) below T, which may be more than S of them.
        start_noise_timestep: timestep whose abar the 3D-aware start uses (999, although sampling starts at
            981 with 50 steps); None: the first timestep that is sampled. Used with noise strength 1 only.
        last_step: "noise": the last DDIM step adds noise like every other and ends at abar[0]; "no-noise": it
            adds none; "x0": the result is the last step's estimate of the clean latents.
        sample_posterior: references and proxies are random samples of the codec's posterior, not its mean.
        truncate: images become 8 bit by cutting off, not by rounding.
    """

    extra_steps: bool = True
    start_noise_timestep: int | None = 999
    last_step: LastStep = "noise"
    sample_posterior: bool = True
    truncate: bool = True


PUBLISHED = Quirks()
"""The released sampler, to the letter."""

NO_QUIRKS = Quirks(
    extra_steps=False, start_noise_timestep=None, last_step="x0", sample_posterior=False, truncate=False
)
"""None of its quirks."""


def ddim_scheduler(
    prediction_type: PredictionType = "epsilon",
    *,
    spacing: str = "leading",
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    train_timesteps: int = 1000,
) -> DDIMScheduler:
    """DDIM steps on Stable Diffusion 1.5's noise schedule: beta = linspace(sqrt(start), sqrt(end), T)^2.

    Args:
        prediction_type: what the network predicts.
        spacing: timesteps 1 + i c ("leading", as published) or counted down from T - 1 ("trailing").
        beta_start: first beta.
        beta_end: last beta.
        train_timesteps: T.

    Returns:
        A scheduler whose last step ends at abar[0], not at 1, and which clips nothing.
    """
    scheduler = DDIMScheduler(
        num_train_timesteps=train_timesteps,
        beta_start=beta_start,
        beta_end=beta_end,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing=spacing,
        prediction_type=prediction_type,
    )
    return scheduler


def scheduler_named(name: SchedulerName, like: Scheduler) -> Scheduler:
    """Another solver for the same noise schedule and prediction type as `like`."""
    config = dict(like.config)
    if name == "ddim":
        return DDIMScheduler.from_config(config)
    if name == "dpm-solver++":
        return DPMSolverMultistepScheduler.from_config(config, algorithm_type="dpmsolver++")
    if name == "unipc":
        return UniPCMultistepScheduler.from_config(config)
    raise ValueError(f"unknown scheduler {name!r}: use ddim, dpm-solver++ or unipc")


def plan_timesteps(
    scheduler: Scheduler, num_inference_steps: int, noise_strength: float = 1.0, *, extra_steps: bool = False
) -> list[int]:
    """Set the scheduler up and list the timesteps to sample, noisiest first.

    Args:
        scheduler: its own timesteps are set.
        num_inference_steps: S for the whole way from pure noise.
        noise_strength: s in [0, 1]: only timesteps below s * T are sampled; 0: none.
        extra_steps: the released DDIM spacing, see `Quirks`.

    Raises:
        ValueError: an argument is out of range.
    """
    total = int(scheduler.config.num_train_timesteps)
    if not 0.0 <= noise_strength <= 1.0:
        raise ValueError(f"noise strength {noise_strength} is outside [0, 1]")
    if not 1 <= num_inference_steps <= total:
        raise ValueError(f"{num_inference_steps} inference steps asked for; 1 to {total} are possible")
    with warnings.catch_warnings():
        # diffusers' multistep solvers convert tensors in a way that NumPy 2 frowns upon.
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
        scheduler.set_timesteps(num_inference_steps)
    if extra_steps and isinstance(scheduler, DDIMScheduler):
        offset = int(scheduler.config.steps_offset)
        spaced = torch.arange(offset, total, total // num_inference_steps)
        scheduler.timesteps = spaced.flip(0)
    timesteps = [int(t) for t in scheduler.timesteps]
    first = next((i for i, t in enumerate(timesteps) if t < noise_strength * total), len(timesteps))
    if not isinstance(scheduler, DDIMScheduler):
        scheduler.set_begin_index(first)
    return timesteps[first:]


def sampler_step(
    scheduler: Scheduler, prediction: Tensor, timestep: int, latents: Tensor, eta: float, noise: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One step down.

    Args:
        scheduler: set up by `plan_timesteps`.
        prediction: [V, C, h, w] guided noise or velocity.
        timestep: the current one.
        latents: [V, C, h, w] at that timestep.
        eta: share of fresh noise, 0 (deterministic) to 1; DDIM only.
        noise: unit Gaussian for `eta` > 0.

    Returns:
        Latents at the next timestep and the estimate of the clean latents, each [V, C, h, w].
    """
    clean = clean_latents(scheduler, prediction, timestep, latents)
    if isinstance(scheduler, DDIMScheduler):
        step = scheduler.step(prediction, timestep, latents, eta=eta, variance_noise=noise, return_dict=False)
    else:
        step = scheduler.step(prediction, timestep, latents, return_dict=False)
    return step[0], clean


def clean_latents(scheduler: Scheduler, prediction: Tensor, timestep: int, latents: Tensor) -> Tensor:
    """The network's estimate of x0 from its prediction at a timestep; all tensors [V, C, h, w]."""
    alpha = scheduler.alphas_cumprod[timestep].to(latents)
    if scheduler.config.prediction_type == "v_prediction":
        clean: Tensor = alpha.sqrt() * latents - (1 - alpha).sqrt() * prediction
    else:
        clean = (latents - (1 - alpha).sqrt() * prediction) / alpha.sqrt()
    return clean
