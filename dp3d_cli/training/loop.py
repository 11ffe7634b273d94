"""One training loop for every stage: schedule, EMA, clipping, checkpoints, a log of JSON lines, exact resume.

A stage gives a module, a map-style data set whose item `i` is the whole batch of step `i`, and a loss.
Everything random in a step depends on (seed, step) alone, so a run that was killed and resumed passes
through the same states as one that was not. The learning rate warms up, stays constant and decays linearly
to zero over the last `decay_steps`: unlike a cosine, such a run can be prolonged or ended early by changing
only `steps`.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, SequentialSampler, Subset

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"


@dataclass(frozen=True)
class LoopSettings:
    """How long and how fast to train.

    Attributes:
        steps: optimiser steps in all.
        decay_steps: how many of the last steps the learning rate decays over.
        warmup_steps: how many of the first steps it rises over.
        learning_rate: AdamW's, between warm-up and decay.
        weight_decay: AdamW's.
        ema_decay: upper bound of the moving average's decay; it starts lower: (1 + step) / (10 + step).
        clip_norm: largest gradient norm.
        log_every: steps between lines of the log; each line is the mean since the last.
        save_every: steps between checkpoints.
        keep: steps whose checkpoints are also kept as `checkpoint-<step>.pt`.
        validate_every: steps between validations.
        workers: processes that make batches; 0 makes them in the training process.
        seed: of the batches and of everything random in a step.
    """

    steps: int
    decay_steps: int
    warmup_steps: int = 50
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    ema_decay: float = 0.995
    clip_norm: float = 1.0
    log_every: int = 20
    save_every: int = 200
    keep: tuple[int, ...] = ()
    validate_every: int = 200
    workers: int = 1
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate of step `step`, counted from 0."""
        rise = min(1.0, (step + 1) / max(self.warmup_steps, 1))
        fall = min(1.0, (self.steps - step) / max(self.decay_steps, 1))
        return self.learning_rate * min(rise, fall)


ModuleT = TypeVar("ModuleT", bound=nn.Module)
BatchT = TypeVar("BatchT")

Loss: TypeAlias = Callable[[ModuleT, BatchT, torch.Generator], tuple[Tensor, Mapping[str, float]]]
"""(module, batch, the step's generator) -> the scalar to minimise and further numbers for the log."""


def train(
    module: ModuleT,
    batches: Dataset[BatchT],
    loss: Loss[ModuleT, BatchT],
    settings: LoopSettings,
    folder: Path,
    validate: Callable[[ModuleT], Mapping[str, float]] | None = None,
) -> EMAModel:
    """Train `module`, going on from `folder`'s checkpoint if there is one.

    Args:
        module: its parameters that require gradients are trained in place.
        batches: item `i` is step `i`'s batch; at least `settings.steps` items.
        loss: see `Loss`; its generator is seeded by (seed, step).
        settings: see `LoopSettings`.
        folder: receives `checkpoint.pt` (by rename) and `log.jsonl`.
        validate: run on the averaged weights; its numbers go to the log.

    Returns:
        The moving average of the trained parameters; `copy_to` puts it into a module.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay
    )
    ema = EMAModel(parameters, decay=settings.ema_decay, use_ema_warmup=False)
    start = _resume(folder, module, optimizer, ema)
    if start >= settings.steps:
        return ema
    module.train()
    rest: Subset[BatchT] = Subset(batches, range(start, settings.steps))
    loader = DataLoader(
        rest,
        batch_size=None,
        sampler=SequentialSampler(rest),
        num_workers=settings.workers,
        prefetch_factor=4 if settings.workers else None,
    )
    sums: dict[str, float] = {}
    logged_at, logged_step = time.perf_counter(), start
    for step, batch in enumerate(loader, start=start):
        for group in optimizer.param_groups:
            group["lr"] = settings.rate(step)
        optimizer.zero_grad(set_to_none=True)
        value, numbers = loss(module, batch, step_generator(settings.seed, step))
        value.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
        optimizer.step()
        ema.step(parameters)
        for name, number in {"loss": float(value.detach()), "grad_norm": float(norm), **numbers}.items():
            sums[f"{name}/sum"] = sums.get(f"{name}/sum", 0.0) + number
            sums[f"{name}/count"] = sums.get(f"{name}/count", 0.0) + 1
        done = step + 1
        if done % settings.log_every == 0 or done == settings.steps:
            names = sorted({key.rpartition("/")[0] for key in sums})
            means = {name: round(sums[f"{name}/sum"] / sums[f"{name}/count"], 6) for name in names}
            rate = (time.perf_counter() - logged_at) / (done - logged_step)
            _log(folder, {"step": done, **means, "lr": settings.rate(step), "step_s": round(rate, 4)})
            sums, logged_at, logged_step = {}, time.perf_counter(), done
        if validate is not None and (done % settings.validate_every == 0 or done == settings.steps):
            _log(folder, {"step": done, **_validate(module, parameters, ema, validate)})
            logged_at = time.perf_counter()
        if done % settings.save_every == 0 or done in settings.keep or done == settings.steps:
            _save(folder, done, module, optimizer, ema, settings)
            logged_at = time.perf_counter()
    return ema


def step_generator(seed: int, step: int) -> torch.Generator:
    """The CPU generator of everything random in one step; neighbouring steps are unrelated."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 2_654_435_761 % (1 << 63))


def load_average(path: Path, module: nn.Module) -> int:
    """Fill `module` with the averaged weights of a checkpoint and return its step.

    Args:
        path: the checkpoint, or the folder of a run.
        module: as it was trained.

    Raises:
        FileNotFoundError: there is no checkpoint.
    """
    file = path / CHECKPOINT if path.is_dir() else path
    state = torch.load(file, map_location="cpu", weights_only=True)
    module.load_state_dict(state["module"])
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    ema = EMAModel(parameters)
    ema.load_state_dict(state["ema"])
    ema.copy_to(parameters)
    return int(state["step"])


def _validate(
    module: ModuleT,
    parameters: list[nn.Parameter],
    ema: EMAModel,
    validate: Callable[[ModuleT], Mapping[str, float]],
) -> dict[str, float]:
    ema.store(parameters)
    ema.copy_to(parameters)
    module.eval()
    with torch.inference_mode():
        numbers = validate(module)
    module.train()
    ema.restore(parameters)
    return {f"val_{name}": round(number, 6) for name, number in numbers.items()}


def _resume(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, ema: EMAModel) -> int:
    path = folder / CHECKPOINT
    if not path.is_file():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    ema.load_state_dict(state["ema"])
    logger.info("resume %s at step %d", path, state["step"])
    return int(state["step"])


def _save(
    folder: Path,
    step: int,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: EMAModel,
    settings: LoopSettings,
) -> None:
    state = {
        "step": step,
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "ema": ema.state_dict(),
        "settings": asdict(settings),
    }
    target = folder / CHECKPOINT
    draft = folder / f".{target.name}.{secrets.token_hex(4)}"
    try:
        torch.save(state, draft)
        if step in settings.keep:
            shutil.copyfile(draft, folder / f"{target.stem}-{step}{target.suffix}")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def _log(folder: Path, line: Mapping[str, float]) -> None:
    logger.info("%s", line)
    with (folder / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + os.linesep)
