"""Learned perceptual image patch similarity."""

from __future__ import annotations

import inspect
import math
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import lpips
import torch

from dp3d_cli.core.metrics.networks import (
    Weights,
    checked_weights,
    offline_torch_hub,
    repeatable_inference,
    unit_tensor,
)
from dp3d_cli.core.metrics.pictures import Picture, check_pair
from dp3d_cli.core.weights.manifest import sha256

MIN_SIDE = 32
"""AlexNet's last layer has no pixel left below 31 pixels, VGG-16's below 16 [px]."""

_BACKBONES = {"alex": "alexnet", "vgg": "vgg16"}


class Lpips:
    """LPIPS of Zhang et al. 2018, version 0.1, as the package `lpips` computes it.

    Both pictures are compared at the size they have: whoever reports the number states the resize. The uint8
    values are scaled to [-1, 1] here, so that a picture in [0, 1], which the package accepts silently and
    scores too low, cannot be fed. One pair at a time, so that no number depends on a batch.
    """

    def __init__(
        self, network: lpips.LPIPS, trunk: Literal["alex", "vgg"], weights: Weights, device: torch.device
    ) -> None:
        self._network = network
        self._trunk = trunk
        self._weights = weights
        self._device = device

    @classmethod
    def load(cls, trunk: Literal["alex", "vgg"], device: torch.device | str = "cpu") -> Lpips:
        """Build the network from weights at hand; nothing is downloaded.

        Args:
            trunk: "alex" for `lpips_alex`, "vgg" for `lpips_vgg`. Numbers of the two cannot be compared.
            device: where it runs.

        Raises:
            WeightsError: the trunk's weights are missing or damaged.
        """
        weights = checked_weights(_BACKBONES[trunk])
        with offline_torch_hub(weights), warnings.catch_warnings():
            # lpips 0.1.4 builds torchvision's networks with an argument that has another name since 0.13.
            for message in ("The parameter 'pretrained' is deprecated", "Arguments other than a weight enum"):
                warnings.filterwarnings("ignore", message, UserWarning)
            network = lpips.LPIPS(net=trunk, version="0.1", verbose=False)
        device = torch.device(device)
        return cls(network.eval().to(device), trunk, weights, device)

    def __call__(self, prediction: Picture, truth: Picture) -> float:
        """The distance of one pair; symmetric.

        Args:
            prediction: uint8 [H, W, 3] RGB, at least 32 x 32.
            truth: uint8 [H, W, 3] RGB.

        Returns:
            A number >= 0, lower is better; 0 for identical pictures.

        Raises:
            ValueError: not a pair of uint8 pictures of one size, or smaller than 32 x 32.
            WeightsError: the network gave no number.
        """
        check_pair(prediction, truth)
        if min(truth.shape[:2]) < MIN_SIDE:
            raise ValueError(f"LPIPS needs at least {MIN_SIDE} x {MIN_SIDE} pixels, got {truth.shape[:2]}.")
        with repeatable_inference():
            a, b = (unit_tensor(picture, self._device) * 2 - 1 for picture in (prediction, truth))
            distance = float(self._network(a, b).item())
        if not math.isfinite(distance):
            raise self._weights.damaged(f"the network gives {distance}.")
        return distance

    def describe(self) -> dict[str, str]:
        """Everything that decides the number, for a report's protocol."""
        linear = Path(inspect.getfile(lpips)).parent / "weights" / "v0.1" / f"{self._trunk}.pth"
        return {
            "implementation": f"lpips {version('lpips')}, version 0.1, torchvision {version('torchvision')}",
            **self._weights.describe(),
            "linear_weights": f"{linear.name} of the package lpips",
            "linear_weights_sha256": sha256(linear),
            "input": "RGB in [-1, 1]",
            "resize": "none: at the size of the pair",
            "device": str(self._device),
            "dtype": "float32",
        }
