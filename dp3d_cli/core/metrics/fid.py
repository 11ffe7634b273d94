"""Fréchet inception distance: features of one picture, and the distance of two sets of features.

Symbols: N and M pictures in two sets, D features each.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Literal

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image
from pytorch_fid.inception import InceptionV3

from dp3d_cli.core.metrics.networks import (
    Weights,
    checked_weights,
    offline_torch_hub,
    repeatable_inference,
    unit_tensor,
)
from dp3d_cli.core.metrics.pictures import Picture, check_picture

FEATURES = 2048
"""D of the Inception network: below as many pictures its covariance has no full rank."""

Convention = Literal["pytorch-fid", "clean-fid"]

_SIDE = 299  # of the network's input [px]


class FidFeatures:
    """Features of pytorch-fid's Inception network, in one of two conventions that must never be mixed.

    "pytorch-fid", for `fid` and `kid`: the picture, scaled to [0, 1], is brought to 299 x 299 inside the
    network by torch's bilinear filter *without* antialiasing, then to [-1, 1]. torchmetrics antialiases
    there: its numbers are others.

    "clean-fid" (Parmar et al. 2022), for `fid_clean`: `clean_resize`, then (x - 128) / 128. clean-fid reads
    the same published TensorFlow weights from another file, as TorchScript.

    Both squeeze a picture that is not square. One picture at a time, so that no feature depends on a batch.
    """

    def __init__(
        self, network: InceptionV3, convention: Convention, weights: Weights, device: torch.device
    ) -> None:
        self._network = network
        self._convention = convention
        self._weights = weights
        self._device = device

    @classmethod
    def load(cls, convention: Convention = "pytorch-fid", device: torch.device | str = "cpu") -> FidFeatures:
        """Build the network from weights at hand; nothing is downloaded.

        Args:
            convention: how a picture reaches the network.
            device: where it runs.

        Raises:
            WeightsError: the weights are missing or damaged.
        """
        weights = checked_weights("fid-inception")
        block = InceptionV3.BLOCK_INDEX_BY_DIM[FEATURES]
        prepares = convention == "pytorch-fid"
        with offline_torch_hub(weights):
            network = InceptionV3([block], resize_input=prepares, normalize_input=prepares)
        device = torch.device(device)
        return cls(network.eval().to(device), convention, weights, device)

    def features(self, picture: Picture) -> NDArray[np.float32]:
        """Features of one picture.

        Args:
            picture: uint8 [H, W, 3] RGB.

        Returns:
            float32 [2048], >= 0.

        Raises:
            ValueError: not a uint8 RGB picture.
            WeightsError: the network gave no numbers.
        """
        if self._convention == "pytorch-fid":
            planes = unit_tensor(picture, self._device)
        else:
            resized = clean_resize(picture).transpose(2, 0, 1)[None].copy()
            planes = (torch.from_numpy(resized).to(self._device) - 128) / 128
        with repeatable_inference():
            pooled = self._network(planes)[0].reshape(FEATURES).cpu().numpy()
        if not np.isfinite(pooled).all():
            raise self._weights.damaged("the network gives features that are not finite.")
        return np.asarray(pooled, np.float32)

    def describe(self) -> dict[str, str]:
        """Everything that decides the features, for a report's protocol."""
        inputs = {
            "pytorch-fid": "RGB in [0, 1], as 2 x - 1 inside",
            "clean-fid": "RGB in [0, 255], as (x - 128) / 128",
        }
        resizes = {
            "pytorch-fid": f"torch {version('torch')}, bilinear without antialiasing",
            "clean-fid": f"Pillow {PIL.__version__}, bicubic with antialiasing, float32 without rounding",
        }
        return {
            "implementation": f"pytorch-fid {version('pytorch-fid')}, its block of {FEATURES} features",
            "convention": self._convention,
            **self._weights.describe(),
            "input": inputs[self._convention],
            "resize": f"{resizes[self._convention]}, to {_SIDE} x {_SIDE}",
            "device": str(self._device),
            "dtype": "float32",
        }


def clean_resize(picture: Picture) -> NDArray[np.float32]:
    """The resize of clean-fid 0.1.35, mode "clean".

    Args:
        picture: uint8 [H, W, 3].

    Returns:
        float32 [299, 299, 3] in [0, 255], not rounded.
    """
    check_picture(picture)
    planes = [
        Image.fromarray(np.ascontiguousarray(picture[..., channel], np.float32)).resize(
            (_SIDE, _SIDE), Image.Resampling.BICUBIC
        )
        for channel in range(3)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1).clip(0, 255)


def frechet_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Fréchet distance of two Gaussians with the means and covariances (N - 1) of two feature sets.

    With centred features A [N, D] over sqrt(N - 1) and B [M, D] over sqrt(M - 1), the covariances are A'A and
    B'B, and

        trace((A'A B'B)^(1/2)) = sum of the singular values of A B',

    because the eigenvalues of A'A B'B that are not zero are those of (A B')(A B')'. This needs no matrix
    square root, stays exact where the covariances have no full rank, and depends neither on the order of the
    pictures nor on which set comes first, up to rounding. In float64. Source of the distance: Heusel et al.
    2017; the numbers equal pytorch-fid's.

    Args:
        a: [N, D] features, N >= 2.
        b: [M, D] features, M >= 2.

    Returns:
        A number >= 0, lower is better. It is biased upwards, the more the fewer pictures: compare only sets
        of the same N, and see `fid_warning`.

    Raises:
        ValueError: fewer than two pictures, different D, or features that are not finite.
    """
    (mean_a, root_a), (mean_b, root_b) = _moments(a, "a"), _moments(b, "b")
    if mean_a.shape != mean_b.shape:
        raise ValueError(f"Both sets must have the same features, got {mean_a.size} and {mean_b.size}.")
    difference = mean_a - mean_b
    shared = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    distance = difference @ difference + np.sum(root_a**2) + np.sum(root_b**2) - 2 * shared
    return max(float(distance), 0.0)  # rounding can give -1e-13 of the trace


def fid_warning(n: int) -> str | None:
    """What a reader must know about a FID of so few pictures.

    Args:
        n: pictures in the smaller set.

    Returns:
        A sentence, or None for 2048 pictures and more.
    """
    if n >= FEATURES:
        return None
    return (
        f"FID of {n} pictures: below {FEATURES} the covariance of the features has no full rank (at most "
        f"{max(n - 1, 0)} of {FEATURES}) and the distance is biased upwards. Compare it only with a FID of "
        "as many pictures; KID has no such bias."
    )


def _moments(features: NDArray[np.floating], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean [D], and R [min(N, D), D] such that R'R is the covariance."""
    if features.ndim != 2 or features.shape[0] < 2:
        raise ValueError(
            "FID needs at least two pictures in each set, because one has no covariance; "
            f"got features of shape {features.shape} for set {name}."
        )
    values = np.asarray(features, np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"The features of set {name} are not all finite.")
    mean = values.mean(axis=0)
    centred = (values - mean) / np.sqrt(len(values) - 1)
    if len(values) > values.shape[1]:
        centred = np.linalg.qr(centred, mode="r")
    return mean, centred
