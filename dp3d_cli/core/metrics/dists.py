"""Deep image structure and texture similarity."""

from __future__ import annotations

import math
from importlib.metadata import version
from typing import Literal

import numpy as np
import PIL
import torch
from PIL import Image
from torchmetrics.functional.image.dists import DISTSNetwork

from dp3d_cli.core.metrics.networks import (
    Weights,
    checked_weights,
    offline_torch_hub,
    repeatable_inference,
    unit_tensor,
)
from dp3d_cli.core.metrics.pictures import Picture, check_pair, check_picture

SIZE = 256
"""Shorter side for which its authors made DISTS [px]."""

MIN_SIDE = 16
"""As VGG-16 halves a picture four times [px]."""

Resize = Literal["256", "native"]


class Dists:
    """DISTS of Ding et al. 2020 (arXiv 2004.07728), by the network of torchmetrics.

    The key in reports is `dists@256` or `dists@native`, because the number depends on the size. The uint8
    values are scaled to [0, 1] here; the ImageNet mean and deviation are taken off inside the network. One
    pair at a time, so that no number depends on a batch.

    Why torchmetrics: its code is that of DISTS-pytorch 0.1 and its channel weights are the same file, but it
    is maintained, while DISTS-pytorch (2020) looks for that file in the root of the Python environment.
    """

    def __init__(
        self,
        network: DISTSNetwork,
        resize: Resize,
        weights: tuple[Weights, Weights],
        device: torch.device,
    ) -> None:
        self._network = network
        self._resize = resize
        self._weights, self._channel_weights = weights
        self._device = device

    @classmethod
    def load(cls, resize: Resize = "256", device: torch.device | str = "cpu") -> Dists:
        """Build the network from weights at hand; nothing is downloaded.

        Args:
            resize: "256" brings each picture to its authors' size first (`resize_as_authors`); "native" not.
            device: where it runs.

        Raises:
            WeightsError: the weights of VGG-16 or of the channels are missing or damaged.
        """
        channel_weights = checked_weights("dists")
        weights = checked_weights("vgg16")
        with offline_torch_hub(weights):
            network = DISTSNetwork()
        device = torch.device(device)
        return cls(network.eval().to(device), resize, (weights, channel_weights), device)

    def with_resize(self, resize: Resize) -> Dists:
        """The same network with the other resize."""
        return Dists(self._network, resize, (self._weights, self._channel_weights), self._device)

    def __call__(self, prediction: Picture, truth: Picture) -> float:
        """The distance of one pair; symmetric.

        Args:
            prediction: uint8 [H, W, 3] RGB, at least 16 x 16.
            truth: uint8 [H, W, 3] RGB.

        Returns:
            A number in about [0, 1], lower is better; 0 for identical pictures, up to float32 rounding (1e-5)
            of either sign.

        Raises:
            ValueError: not a pair of uint8 pictures of one size, or smaller than 16 x 16.
            WeightsError: the network gave no number.
        """
        check_pair(prediction, truth)
        if min(truth.shape[:2]) < MIN_SIDE:
            raise ValueError(f"DISTS needs at least {MIN_SIDE} x {MIN_SIDE} pixels, got {truth.shape[:2]}.")
        if self._resize == "256":
            prediction, truth = resize_as_authors(prediction), resize_as_authors(truth)
        with repeatable_inference():
            a, b = (unit_tensor(picture, self._device) for picture in (prediction, truth))
            distance = float(self._network(a, b).item())
        if not math.isfinite(distance):
            raise self._weights.damaged(f"the network gives {distance}.")
        return distance

    def describe(self) -> dict[str, str]:
        """Everything that decides the number, for a report's protocol."""
        resizes = {
            "256": f"Pillow {PIL.__version__}, bilinear with antialiasing, on uint8: "
            f"shorter side to {SIZE} px, smaller pictures as they are",
            "native": "none: at the size of the pair",
        }
        return {
            "implementation": f"torchmetrics {version('torchmetrics')}, torchvision {version('torchvision')}",
            **self._weights.describe(),
            "channel_weights": f"{self._channel_weights.file} of {self._channel_weights.path.parent.name}",
            "channel_weights_sha256": self._channel_weights.sha256,
            "input": "RGB in [0, 1]",
            "resize": resizes[self._resize],
            "device": str(self._device),
            "dtype": "float32",
        }


def resize_as_authors(picture: Picture) -> Picture:
    """Bring the shorter side to 256 px if it is longer, as `prepare_image` of the authors' code does.

    That is torchvision's resize of a PIL image: Pillow's antialiased bilinear filter on uint8, the longer
    side in proportion and rounded down.

    Args:
        picture: uint8 [H, W, 3] RGB.

    Returns:
        uint8 [h, w, 3] with min(h, w) <= 256.
    """
    check_picture(picture)
    height, width = picture.shape[:2]
    shorter = min(height, width)
    if shorter <= SIZE:
        return picture
    size = (SIZE * width // shorter, SIZE * height // shorter)
    resized = Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(resized, np.uint8)
