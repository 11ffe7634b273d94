"""CLIP-I: how alike two pictures are to CLIP's image encoder."""

from __future__ import annotations

import importlib.util
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image

from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.metrics.networks import Weights, checked_weights, repeatable_inference, unit_tensor
from dp3d_cli.core.metrics.pictures import Picture, check_picture

if TYPE_CHECKING:
    from transformers import CLIPVisionModelWithProjection

_SIDE = 224  # of the network's input [px]
# Mean and deviation of CLIP's training pictures in [0, 1], RGB (Radford et al. 2021, published code).
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class ClipFeatures:
    """Image embeddings of CLIP ViT-B/32, by transformers (`pip install 'dp3d[clip]'`).

    A picture's shorter side is brought to 224 px by Pillow's antialiased bicubic filter on uint8, its middle
    224 x 224 is cut out, and CLIP's mean and deviation are taken off, as transformers' processor without
    torchvision does. Portrait Diffusion does not say which CLIP its table was made with.
    """

    def __init__(
        self, network: CLIPVisionModelWithProjection, weights: Weights, device: torch.device
    ) -> None:
        self._network = network
        self._weights = weights
        self._device = device

    @classmethod
    def load(cls, device: torch.device | str = "cpu") -> ClipFeatures:
        """Build the network from weights at hand; nothing is downloaded.

        Raises:
            WeightsError: transformers is not installed ("package-missing"), or the weights are missing or
                damaged.
        """
        if importlib.util.find_spec("transformers") is None:
            raise WeightsError(
                "CLIP-I needs the package transformers, which is not installed. "
                "Get it with `pip install 'dp3d[clip]'`.",
                reason="package-missing",
            )
        weights = checked_weights("clip-vit-b32")
        from transformers import CLIPVisionModelWithProjection
        from transformers.utils import logging

        verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()  # it warns of the text encoder's tensors, which are not needed
        logging.disable_progress_bar()
        try:
            network, loading = CLIPVisionModelWithProjection.from_pretrained(
                weights.path, local_files_only=True, output_loading_info=True
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise weights.damaged(f"the weights cannot be loaded ({error}).") from error
        finally:
            logging.set_verbosity(verbosity)
            if has_bars:
                logging.enable_progress_bar()
        if missing := sorted(loading["missing_keys"]):
            raise weights.damaged(f"{len(missing)} tensors are missing, such as {missing[0]}.")
        device = torch.device(device)
        return cls(network.eval().float().to(device), weights, device)

    def features(self, picture: Picture) -> NDArray[np.float32]:
        """The embedding of one picture, not normalised.

        Args:
            picture: uint8 [H, W, 3] RGB.

        Returns:
            float32 [512].

        Raises:
            ValueError: not a uint8 RGB picture.
            WeightsError: the network gave no numbers.
        """
        pixels = unit_tensor(clip_crop(picture), self._device)
        mean, deviation = (
            torch.tensor(values, device=self._device)[:, None, None] for values in (_MEAN, _DEVIATION)
        )
        with repeatable_inference():
            embedding = self._network(pixel_values=(pixels - mean) / deviation).image_embeds[0].cpu().numpy()
        if not np.isfinite(embedding).all() or not embedding.any():
            raise self._weights.damaged("the network gives an embedding that is zero or not finite.")
        return np.asarray(embedding, np.float32)

    def describe(self) -> dict[str, str]:
        """Everything that decides the embedding, for a report's protocol."""
        return {
            "implementation": f"transformers {version('transformers')}, CLIP ViT-B/32, image embedding",
            **self._weights.describe(),
            "input": "RGB in [0, 1], less CLIP's mean, over its deviation",
            "resize": (
                f"Pillow {PIL.__version__}, bicubic with antialiasing, on uint8: shorter side to {_SIDE} px, "
                f"then the middle {_SIDE} x {_SIDE}"
            ),
            "device": str(self._device),
            "dtype": "float32",
        }


def clip_crop(picture: Picture) -> Picture:
    """The 224 x 224 pixels that CLIP sees of a picture.

    Args:
        picture: uint8 [H, W, 3] RGB.

    Returns:
        uint8 [224, 224, 3].
    """
    check_picture(picture)
    height, width = picture.shape[:2]
    shorter = min(height, width)
    width, height = _SIDE * width // shorter, _SIDE * height // shorter
    resized = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - _SIDE) // 2, (height - _SIDE) // 2
    return np.asarray(resized.crop((left, top, left + _SIDE, top + _SIDE)), np.uint8)


def cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Cosine of two embeddings, in [-1, 1]; float64, symmetric.

    Args:
        a: [D].
        b: [D].

    Raises:
        ValueError: not two vectors of one length, or one that is zero or not finite.
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"The cosine is of two vectors of one length, got shapes {x.shape} and {y.shape}.")
    norms = float(np.sqrt((x @ x) * (y @ y)))
    if not (np.isfinite(norms) and norms > 0):
        raise ValueError("The cosine of a vector that is zero or not finite is not defined.")
    return min(1.0, max(-1.0, float(x @ y) / norms))
