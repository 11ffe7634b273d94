"""One training loop for every stage: schedule, EMA, clipping, checkpoints, a log of JSON lines, exact resume.

A stage gives a module, a map-style data set whose item `i` is the whole batch of step `i`, and a loss.
Everything random in a step depends on (seed, step) alone, so a run that was killed and resumed passes
through the same states as one that was not. The learning rate warms up, stays constant and decays linearly
to zero over the last `decay_steps`: unlike a cosine, such a run can be prolonged or ended early by changing
only `steps`.

Devices, number formats and processes are accelerate's. Each of N processes makes the step's whole batch,
takes its N-th part, and the gradients are averaged, so that N processes take the step that one would, as
long as the loss is a mean over the batch and what is random per sample comes with the batch (`sample_noise`),
not from the generator.
"""

from __future__ import annotations

import logging
import math
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, TypeAlias, TypeVar, cast

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, SequentialSampler, Subset

from dp3d_cli.core.errors import Dp3dError, UsageError
from dp3d_cli.core.images import write_png
from dp3d_cli.training.checkpointing import recompute_blocks
from dp3d_cli.training.journal import LOG, Journal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
SAMPLES = "samples"
__all__ = ["CHECKPOINT", "LOG", "SAMPLES", "LoopSettings", "load_average", "sample_noise", "train"]


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
        validate_first: also validate before the first step.
        workers: processes that make batches; 0 makes them in the training process.
        seed: of the batches and of everything random in a step.
        mixed_precision: number format of the matrix products; weights stay float32.
        gradient_checkpointing: compute blocks again in the backward pass instead of keeping what is inside.
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
    validate_first: bool = False
    workers: int = 1
    seed: int = 0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    gradient_checkpointing: bool = False

    def rate(self, step: int) -> float:
        """Learning rate of step `step`, counted from 0."""
        rise = min(1.0, (step + 1) / max(self.warmup_steps, 1))
        fall = min(1.0, (self.steps - step) / max(self.decay_steps, 1))
        return self.learning_rate * min(rise, fall)


ModuleT = TypeVar("ModuleT", bound=nn.Module)
BatchT = TypeVar("BatchT")
T = TypeVar("T")

Loss: TypeAlias = Callable[[ModuleT, BatchT, torch.Generator], tuple[Tensor, Mapping[str, float]]]
"""(module, batch, the step's generator) -> the scalar to minimise and further numbers for the log."""

Report: TypeAlias = Callable[[int, Mapping[str, float]], None]
"""(steps done, this step's numbers); called after every step in the main process."""


def train(
    module: ModuleT,
    batches: Dataset[BatchT],
    loss: Loss[ModuleT, BatchT],
    settings: LoopSettings,
    folder: Path,
    validate: Callable[[ModuleT], Mapping[str, float]] | None = None,
    *,
    grid: Callable[[ModuleT], NDArray[np.uint8]] | None = None,
    report: Report | None = None,
    stop: Callable[[], bool] | None = None,
    device: str = "cpu",
) -> EMAModel:
    """Train `module`, going on from `folder`'s checkpoint if there is one.

    Args:
        module: its parameters that require gradients are trained in place. Moved to the device.
        batches: item `i` is step `i`'s batch, a function of `i` alone; at least `settings.steps` items.
            Tensors in it have samples along their first axis.
        loss: see `Loss`; its generator is seeded by (seed, step), and by the process if there are several.
        settings: see `LoopSettings`.
        folder: receives `checkpoint.pt` (by rename), `log.jsonl`, `samples/<step>.png`, and a `tensorboard`
            folder if that is installed.
        validate: run on the averaged weights, in the main process; its numbers go to the log.
        grid: a picture of samples, uint8 [H, W, 3] RGB; drawn with the averaged weights at each validation.
        report: see `Report`.
        stop: asked after each step; True saves a checkpoint and returns.
        device: "cpu", or "auto" for what accelerate finds.

    Returns:
        The moving average of the trained parameters; `copy_to` puts it into a module.

    Raises:
        ValueError: nothing to train.
        UsageError: the checkpoint belongs to another module, a batch cannot be shared by the processes, or
            there is no GPU for fp16.
        Dp3dError: the loss is no longer a finite number.
    """
    if settings.mixed_precision == "fp16" and (device == "cpu" or not torch.cuda.is_available()):
        raise UsageError("mixed_precision fp16 needs a GPU, and there is none in use here; take bf16 or no.")
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision=settings.mixed_precision,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    main = accelerator.is_main_process
    folder.mkdir(parents=True, exist_ok=True)
    module.to(accelerator.device)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("No parameter requires a gradient: there is nothing to train.")
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay
    )
    ema = EMAModel(parameters, decay=settings.ema_decay, use_ema_warmup=False)
    start = _resume(folder, module, optimizer, ema)
    ema.to(accelerator.device)
    if start >= settings.steps:
        return ema
    module.train()
    if settings.gradient_checkpointing:
        recompute_blocks(module)
    step_of, stepper = accelerator.prepare(_Step(module, loss), optimizer)
    rest: Subset[BatchT] = Subset(batches, range(start, settings.steps))
    loader = DataLoader(
        rest,
        batch_size=None,
        sampler=SequentialSampler(rest),
        num_workers=settings.workers,
        prefetch_factor=4 if settings.workers else None,
    )
    steps = enumerate(loader, start=start)  # starts the workers, before TensorBoard starts a thread
    journal = Journal(folder, start, active=main)
    watch = _Watch(
        module,
        parameters,
        ema,
        partial(validate, module) if validate is not None else None,
        partial(grid, module) if grid is not None else None,
    )
    if settings.validate_first and start == 0 and main:
        journal.write(0, watch.look(folder, 0))
    for step, batch in steps:
        for group in optimizer.param_groups:
            group["lr"] = settings.rate(step)
        stepper.zero_grad(set_to_none=True)
        share = share_of(batch, accelerator.process_index, accelerator.num_processes)
        generator = step_generator(settings.seed, step, accelerator.process_index)
        value, numbers = step_of(map_tensors(share, lambda part: part.to(accelerator.device)), generator)
        if not math.isfinite(float(value.detach())):
            raise Dp3dError(
                f"The loss of step {step} is {float(value.detach())}. The checkpoint is from before. Lower "
                "learning_rate, or use mixed_precision bf16 or no.",
                reason="diverged",
            )
        accelerator.backward(value)
        norm = accelerator.clip_grad_norm_(parameters, settings.clip_norm)
        stepper.step()
        ema.step(parameters)
        done = step + 1
        journal.add(_mean_over_processes(accelerator, value, float(norm), numbers))
        last = done == settings.steps
        stopping = not last and _any_process(accelerator, stop is not None and stop())
        if done % settings.log_every == 0 or last or stopping:
            journal.close_line(done, settings.rate(step))
        if report is not None and main:
            report(done, journal.latest)
        if main and (done % settings.validate_every == 0 or last):
            journal.write(done, watch.look(folder, done))
        if main and (done % settings.save_every == 0 or done in settings.keep or last or stopping):
            _save(folder, done, module, optimizer, ema, settings)
            journal.restart_clock()
        if stopping:
            break
    accelerator.wait_for_everyone()
    journal.end()
    return ema


class _Step(nn.Module, Generic[ModuleT, BatchT]):
    """One step's loss as a forward pass, which accelerate wraps: gradients of processes, number formats."""

    def __init__(self, module: ModuleT, loss: Loss[ModuleT, BatchT]) -> None:
        super().__init__()
        self.module = module
        self.loss = loss

    def forward(self, batch: BatchT, generator: torch.Generator) -> tuple[Tensor, Mapping[str, float]]:
        return self.loss(self.module, batch, generator)


def map_tensors(value: T, function: Callable[[Tensor], Tensor]) -> T:
    """The same value with every tensor in it replaced: tensors, dataclasses, sequences, mappings of them."""
    new: object = value
    if isinstance(value, Tensor):
        new = function(value)
    elif is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        new = replace(value, **{name: map_tensors(part, function) for name, part in parts.items()})
    elif isinstance(value, Mapping):
        new = {name: map_tensors(part, function) for name, part in value.items()}
    elif isinstance(value, (list, tuple)):
        new = type(value)(map_tensors(part, function) for part in value)
    return cast(T, new)


def share_of(batch: T, process: int, processes: int) -> T:
    """The part of a batch that one of several processes works on: equal runs of samples.

    Raises:
        UsageError: a tensor's first axis is no multiple of the number of processes.
    """
    if processes == 1:
        return batch

    def part(tensor: Tensor) -> Tensor:
        if tensor.ndim == 0 or len(tensor) % processes:
            samples = len(tensor) if tensor.ndim else "a number for all"
            raise UsageError(f"{processes} processes cannot share a batch of {samples} samples equally.")
        size = len(tensor) // processes
        return tensor[process * size : (process + 1) * size]

    return map_tensors(batch, part)


def sample_noise(seeds: Tensor, shape: Sequence[int], like: Tensor) -> Tensor:
    """Unit Gaussian noise that depends on each sample's seed alone, not on its place in the batch.

    Args:
        seeds: [B] int64, made with the batch.
        shape: of one sample's noise.
        like: gives the device.

    Returns:
        [B, *shape] float32.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]
    return torch.stack([torch.randn(*shape, generator=each) for each in generators]).to(like.device)


def _mean_over_processes(
    accelerator: Accelerator, value: Tensor, norm: float, numbers: Mapping[str, float]
) -> dict[str, float]:
    own = {"loss": float(value.detach()), "grad_norm": norm, **numbers}
    if accelerator.num_processes == 1:
        return own
    # Only the loss: the others may have different further numbers.
    own["loss"] = float(cast(Tensor, accelerator.reduce(value.detach(), "mean")))
    return own


def _any_process(accelerator: Accelerator, wish: bool) -> bool:
    """Whether any process wishes it; all must do the same."""
    if accelerator.num_processes == 1:
        return wish
    flag = torch.tensor(float(wish), device=accelerator.device)
    return float(cast(Tensor, accelerator.reduce(flag, "sum"))) > 0


def step_generator(seed: int, step: int, process: int = 0) -> torch.Generator:
    """The CPU generator of everything random in one step; neighbouring steps and processes are unrelated."""
    number = (seed * 1_000_003 + step) * 2_654_435_761 + process * 0x9E37_79B9_7F4A_7C15
    return torch.Generator().manual_seed(number % (1 << 63))


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
    _load_trained(file, module, state["module"])
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    ema = EMAModel(parameters)
    ema.load_state_dict(state["ema"])
    ema.copy_to(parameters)
    return int(state["step"])


@dataclass(frozen=True)
class _Watch:
    """Looks at the averaged weights while training goes on with the others."""

    module: nn.Module
    parameters: list[nn.Parameter]
    ema: EMAModel
    validate: Callable[[], Mapping[str, float]] | None
    grid: Callable[[], NDArray[np.uint8]] | None

    def look(self, folder: Path, step: int) -> dict[str, float]:
        """Validate, and draw samples into `folder`."""
        if self.validate is None and self.grid is None:
            return {}
        numbers: Mapping[str, float] = {}
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        self.module.eval()
        with torch.inference_mode():
            if self.validate is not None:
                numbers = self.validate()
            if self.grid is not None:
                write_png(folder / SAMPLES / f"{step:07d}.png", self.grid())
        self.module.train()
        self.ema.restore(self.parameters)
        return {f"val_{name}": round(number, 6) for name, number in numbers.items()}


def _trained_state(module: nn.Module) -> dict[str, Tensor]:
    """The state without frozen parameters, which come from where the module was built."""
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in module.state_dict().items() if name not in frozen}


def _load_trained(path: Path, module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what `_trained_state` gave, or a whole state.

    Raises:
        UsageError: anything is missing or left over.
    """
    missing = sorted(_trained_state(module).keys() - state.keys())
    unexpected = sorted(state.keys() - module.state_dict().keys())
    if missing or unexpected:
        example = (missing or unexpected)[0]
        raise UsageError(
            f"{path}: a checkpoint of another module ({len(missing)} missing, {len(unexpected)} unexpected "
            f"tensors, as {example}). Train with the settings it was made with, or into another folder."
        )
    module.load_state_dict(state, strict=False)


def _resume(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, ema: EMAModel) -> int:
    path = folder / CHECKPOINT
    if not path.is_file():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    _load_trained(path, module, state["module"])
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
        "module": _trained_state(module),
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
