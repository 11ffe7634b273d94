"""The stages of training, each behind the same small interface."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from dp3d_cli.training.data import Subjects
from dp3d_cli.training.preset import StageName, TrainPreset

ModuleT = TypeVar("ModuleT", bound=nn.Module)
BatchT = TypeVar("BatchT")


class TrainingStage(Protocol[ModuleT, BatchT]):
    """What `dp3d train` needs to know of a stage.

    A stage keeps nothing: what it needs later, `build` leaves in the module.
    """

    @property
    def name(self) -> str:
        """Its name on the command line."""
        ...

    def build(self, preset: TrainPreset) -> ModuleT:
        """All networks of the stage as one module; those to train require gradients, the others do not.

        Raises:
            UsageError: a setting makes no sense, or `preset.start` lacks a network.
            WeightsError: what stands in `preset.start` does not fit.
        """
        ...

    def batches(self, preset: TrainPreset, subjects: Subjects, seed: int, steps: int) -> Dataset[BatchT]:
        """Item `i` is the whole batch of step `i`, a function of (seed, i)."""
        ...

    def loss(
        self, module: ModuleT, batch: BatchT, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        """See `dp3d_cli.training.loop.Loss`."""
        ...

    def validate(self, module: ModuleT) -> Mapping[str, float]:
        """Figures on held-out subjects, the same ones each time."""
        ...

    def grid(self, module: ModuleT) -> NDArray[np.uint8]:
        """Samples beside the truth, [H, W, 3] RGB."""
        ...

    def export(self, module: ModuleT, folder: Path) -> None:
        """Write the networks so that the next stage can start from `folder`."""
        ...


def open_stage(name: StageName) -> TrainingStage[Any, Any]:
    """The stage of this name."""
    if name == "vae":
        from dp3d_cli.training.stages.vae import VaeStage

        return VaeStage()
    if name == "proxy":
        from dp3d_cli.training.stages.proxy import ProxyStage

        return ProxyStage()
    from dp3d_cli.training.stages.denoising import DENOISING_STAGES

    return DENOISING_STAGES[name]
