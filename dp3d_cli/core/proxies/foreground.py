"""Which pixels of a portrait are head, hair and shoulders, by a small embedded network.

It saw procedural heads before photographs and generated textures; MODEL_CARD.md beside the weights says how
it was trained and how far it is off. A face box tells it whose head is asked for. Ours, not official.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dp3d_cli.core.proxies.blocks import PATCH, Encoder
from dp3d_cli.core.proxies.placement import Box
from dp3d_cli.core.weights.embedded import load_embedded

SIDE = 128
"""Side of the pictures that the network reads [px]."""
WEIGHTS = Path(__file__).resolve().parent / "foreground_weights" / "foreground.safetensors"

_CHANNELS = (32, 64, 96, 128, 128)
_FAR = 2.0  # places further from the box than this look alike [box widths]


class ForegroundNetwork(nn.Module):
    """Portrait and places around its face → log odds of foreground."""

    def __init__(self, channels: tuple[int, ...] = _CHANNELS) -> None:
        super().__init__()
        self.unet = Encoder(5, channels, PATCH**2)

    def forward(self, pictures: Tensor, boxes: Tensor) -> Tensor:
        """Log odds of every pixel.

        Args:
            pictures: [B, 3, S, S] in [0, 1], RGB, S a multiple of 64.
            boxes: [B, 4] face boxes x, y, width, height [sides].

        Returns:
            [B, 1, S, S].
        """
        size = pictures.shape[-1]
        x, y, width, height = (part.view(-1, 1, 1) for part in boxes.unbind(1))
        along = (torch.arange(size, device=pictures.device) + 0.5) / size
        across = (along.view(1, 1, -1) - x - width / 2) / width
        down = (along.view(1, -1, 1) - y - height / 2) / width
        places = torch.stack([across.expand(-1, size, -1), down.expand(-1, -1, size)], 1)
        places = places.clamp(-_FAR, _FAR) / _FAR / 2 + 0.5
        _, maps = self.unet(torch.cat([pictures, places], 1))
        odds: Tensor = functional.pixel_shuffle(maps, PATCH)
        return odds


@cache
def load_foreground(path: Path = WEIGHTS) -> ForegroundNetwork:
    """The network of a safetensors file, ready to be used.

    Raises:
        WeightsError: the file is missing, cannot be read or does not fit the network.
    """
    network = ForegroundNetwork()
    load_embedded(network, path, "foreground")
    return network.eval()


@torch.inference_mode()
def foreground_log_odds(
    image: NDArray[np.uint8], box: Box, network: ForegroundNetwork | None = None
) -> NDArray[np.float32]:
    """Log odds of foreground at the network's resolution, [128, 128].

    The mean of what the network says of the picture and of its mirror image.

    Args:
        image: [H, W, 3] uint8 RGB.
        box: face box in pixels.
        network: the embedded one if None.

    Raises:
        WeightsError: the installation is damaged.
    """
    network = load_foreground() if network is None else network
    height, width = image.shape[:2]
    method = cv2.INTER_AREA if min(height, width) > SIDE else cv2.INTER_LINEAR
    small = cv2.resize(image, (SIDE, SIDE), interpolation=method)
    picture = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255
    x, y, w, h = box[0] / width, box[1] / height, box[2] / width, box[3] / height
    boxes = torch.tensor([[x, y, w, h], [1 - x - w, y, w, h]])
    odds = network(torch.cat([picture, picture.flip(-1)]), boxes)[:, 0]
    return np.asarray(((odds[0] + odds[1].flip(-1)) / 2).numpy(), np.float32)
