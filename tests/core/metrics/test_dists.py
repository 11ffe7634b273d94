"""DISTS against its formula written out, on a random VGG-16 that comes through torch hub's cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv2d
from torchvision.transforms.functional import resize as torchvision_resize

from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.metrics.dists import Dists, resize_as_authors
from dp3d_cli.core.weights.backbones import BACKBONES, find_backbone
from tests.core.metrics.conftest import smooth_noise
from tests.core.metrics.plain_vgg import as_unit, less_imagenet_mean, vgg_stages
from tests.fakes.backbones import backbone_cache


@pytest.fixture(scope="module")
def native(backbones: Path) -> Dists:
    with backbone_cache(backbones):
        return Dists.load("native")


def l2_pool(x: Tensor) -> Tensor:
    """Ding et al. 2020: root of the squares under a 3 x 3 Hann window, at every other pixel."""
    hann = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
    window = torch.outer(hann, hann).expand(x.shape[1], 1, 3, 3)
    return (conv2d(x.square(), window, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()


def plain_dists(folder: Path, a: np.ndarray, b: np.ndarray) -> float:
    """Ding et al. 2020: one minus the weighted likeness of means and of structure, per channel."""
    state = torch.load(folder / "hub" / "checkpoints" / "vgg16-397923af.pth")
    weights = torch.load(find_backbone("dists"))
    alpha, beta = (weights[name].double().flatten() for name in ("alpha", "beta"))
    channels = [
        [
            plane.flatten(1)
            for plane in (x[0], *(s[0] for s in vgg_stages(state, less_imagenet_mean(x), l2_pool)))
        ]
        for x in (as_unit(a), as_unit(b))
    ]
    texture, structure = [], []
    for layer_a, layer_b in zip(*channels, strict=True):
        for p, q in zip(layer_a, layer_b, strict=True):
            mean_p, mean_q = p.mean(), q.mean()
            covariance = ((p - mean_p) * (q - mean_q)).mean()
            variances = (p - mean_p).square().mean() + (q - mean_q).square().mean()
            texture.append((2 * mean_p * mean_q + 1e-6) / (mean_p.square() + mean_q.square() + 1e-6))
            structure.append((2 * covariance + 1e-6) / (variances + 1e-6))
    likeness = (alpha * torch.stack(texture)).sum() + (beta * torch.stack(structure)).sum()
    return float(1 - likeness / (alpha.sum() + beta.sum()))


def test_equals_the_formula(native: Dists, backbones: Path, pictures: list[np.ndarray]) -> None:
    for a, b in ((pictures[0], pictures[1]), (pictures[0], pictures[5])):
        assert native(a, b) == pytest.approx(plain_dists(backbones, a, b), abs=1e-5)


def test_golden_values(native: Dists, pictures: list[np.ndarray]) -> None:
    # Of the random VGG-16 of seed 0, with torchmetrics 1.9 and torch 2.15; DISTS-pytorch 0.1 gives the same.
    assert native(*pictures[:2]) == pytest.approx(0.1185979, abs=1e-5)


def test_identities(native: Dists, pictures: list[np.ndarray]) -> None:
    a, b, *_, near_a = pictures
    for picture in (a, np.zeros_like(a[:32]), np.full_like(a[:32], 255)):
        assert native(picture, picture) == pytest.approx(0, abs=1e-5)
    assert native(a, b) == pytest.approx(native(b, a), abs=1e-7)
    assert native(a, b) > native(a, near_a) > 1e-4


def test_what_was_scored_before_changes_nothing(native: Dists, pictures: list[np.ndarray]) -> None:
    first = native(*pictures[:2])
    native(pictures[2][:40, :50], pictures[3][:40, :50])
    assert native(*pictures[:2]) == first


@pytest.mark.parametrize(("height", "width"), [(300, 400), (431, 300), (257, 257), (256, 500), (90, 700)])
def test_resize_is_that_of_the_authors(height: int, width: int) -> None:
    picture = smooth_noise(np.random.default_rng(5), height, width)
    image = Image.fromarray(picture)
    expected = torchvision_resize(image, 256) if min(image.size) > 256 else image
    np.testing.assert_array_equal(resize_as_authors(picture), np.asarray(expected))


def test_the_two_keys_differ_only_above_256_pixels(
    native: Dists, monkeypatch: pytest.MonkeyPatch, pictures: list[np.ndarray]
) -> None:
    seen: list[Tensor] = []

    def network(a: Tensor, b: Tensor) -> Tensor:
        seen.extend((a, b))
        return (a - b).abs().mean()

    monkeypatch.setattr(native, "_network", network)
    at_256 = native.with_resize("256")
    assert at_256(*pictures[:2]) == native(*pictures[:2])
    large = [np.kron(picture, np.ones((5, 5, 1), np.uint8)) for picture in pictures[:2]]
    assert at_256(*large) == native(*(resize_as_authors(picture) for picture in large))
    assert [tuple(x.shape[2:]) for x in seen] == [(72, 64)] * 4 + [(288, 256)] * 4
    assert "256" in at_256.describe()["resize"]
    assert native.describe()["resize"].startswith("none")


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_pictures_without_a_stated_range_are_refused(
    native: Dists, pictures: list[np.ndarray], dtype: type
) -> None:
    with pytest.raises(ValueError, match=r"uint8 pictures with range 0\.\.255, got"):
        native(*((picture / 255).astype(dtype) for picture in pictures[:2]))


def test_wrong_sizes_are_refused(native: Dists, pictures: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="one size"):
        native(pictures[0], pictures[1][:-1])
    with pytest.raises(ValueError, match="at least 16 x 16 pixels, got"):
        native(pictures[0][:15], pictures[1][:15])


def test_channel_weights_are_the_published_ones(native: Dists) -> None:
    described = native.describe()
    assert described["channel_weights_sha256"] == BACKBONES["dists"].files[0].sha256
    assert described["weights"] == "vgg16-397923af.pth"


@pytest.mark.usefixtures("no_sockets")
def test_missing_trunk_names_the_command_that_gets_it(tmp_path: Path) -> None:
    with backbone_cache(tmp_path), pytest.raises(WeightsError, match="dp3d weights fetch vgg16") as error:
        Dists.load()
    assert error.value.reason == "weights-missing"
    assert not list(tmp_path.iterdir())
