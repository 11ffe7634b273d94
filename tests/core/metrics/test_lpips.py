"""LPIPS against its formula written out, on random trunks that come through torch hub's cache."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import lpips
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d

from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.metrics.lpips import Lpips
from tests.core.metrics.plain_vgg import as_unit, less_imagenet_mean, vgg_stages
from tests.fakes.backbones import backbone_cache

Trunk = Literal["alex", "vgg"]
TRUNKS: tuple[Trunk, ...] = ("alex", "vgg")
GOLDEN = [0.1391652, 0.2312028]
FILES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}


@pytest.fixture(scope="module")
def metrics(backbones: Path) -> dict[Trunk, Lpips]:
    with backbone_cache(backbones):
        return {trunk: Lpips.load(trunk) for trunk in TRUNKS}


def alex_stages(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    found = []
    for layer, stride, padding in ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)):
        if layer in (3, 6):
            x = max_pool2d(x, 3, 2)
        weight, bias = (state[f"features.{layer}.{name}"].double() for name in ("weight", "bias"))
        x = conv2d(x, weight, bias, stride=stride, padding=padding).relu()
        found.append(x)
    return found


def plain_lpips(trunk: Trunk, folder: Path, a: np.ndarray, b: np.ndarray) -> float:
    """Zhang et al. 2018, Eq. (1): channels of unit length, weighted squares, pixel mean, layer sum."""
    state = torch.load(folder / "hub" / "checkpoints" / FILES[trunk])
    linear = torch.load(Path(inspect.getfile(lpips)).parent / "weights" / "v0.1" / f"{trunk}.pth", "cpu")
    stages: Callable[[Tensor], list[Tensor]] = (
        (lambda x: alex_stages(state, x))
        if trunk == "alex"
        else (lambda x: vgg_stages(state, x, lambda y: max_pool2d(y, 2)))
    )
    total = 0.0
    for layer, (p, q) in enumerate(
        zip(*(stages(less_imagenet_mean(as_unit(picture))) for picture in (a, b)), strict=True)
    ):
        p, q = (x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in (p, q))
        weight = linear[f"lin{layer}.model.1.weight"].double().reshape(1, -1, 1, 1)
        total += float(((p - q).square() * weight).sum(1).mean())
    return total


@pytest.mark.parametrize("trunk", TRUNKS)
def test_equals_the_formula(
    metrics: dict[Trunk, Lpips], trunk: Trunk, backbones: Path, pictures: list[np.ndarray]
) -> None:
    for a, b in ((pictures[0], pictures[1]), (pictures[0], pictures[5])):
        assert metrics[trunk](a, b) == pytest.approx(plain_lpips(trunk, backbones, a, b), abs=1e-5)


def test_equals_the_package_when_that_is_told_the_range(
    metrics: dict[Trunk, Lpips], backbones: Path, pictures: list[np.ndarray]
) -> None:
    with backbone_cache(backbones), pytest.warns(UserWarning, match="pretrained|weight enum"):
        network = lpips.LPIPS(net="alex", verbose=False)
    a, b = (as_unit(picture).float() for picture in pictures[:2])
    right = network(a, b, normalize=True).item()
    assert metrics["alex"](*pictures[:2]) == pytest.approx(right, abs=1e-5)
    # The trap: [0, 1] without that flag is another number, and no error.
    assert abs(network(a, b).item() - right) > 1e-3


def test_golden_values(metrics: dict[Trunk, Lpips], pictures: list[np.ndarray]) -> None:
    # Of the random trunks of seed 0, with lpips 0.1.4 and torch 2.15; a change here changes a definition.
    values = [metrics[trunk](*pictures[:2]) for trunk in TRUNKS]
    assert values == pytest.approx(GOLDEN, abs=1e-5)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_identities(metrics: dict[Trunk, Lpips], trunk: Trunk, pictures: list[np.ndarray]) -> None:
    metric = metrics[trunk]
    a, b, *_, near_a = pictures
    assert metric(a, a) == 0
    assert metric(a, b) == metric(b, a) > metric(a, near_a) > 0


def test_what_was_scored_before_changes_nothing(
    metrics: dict[Trunk, Lpips], pictures: list[np.ndarray]
) -> None:
    metric = metrics["alex"]
    forwards = [metric(picture, pictures[0]) for picture in pictures]
    metric(pictures[0][:40, :50], pictures[1][:40, :50])
    assert [metric(picture, pictures[0]) for picture in reversed(pictures)] == forwards[::-1]


@pytest.mark.parametrize("trunk", TRUNKS)
def test_flat_pictures_have_a_distance(metrics: dict[Trunk, Lpips], trunk: Trunk) -> None:
    black, white = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)
    assert metrics[trunk](black, black) == 0
    assert 0 < metrics[trunk](black, white) < 10


@pytest.mark.parametrize("scale", [1 / 255, 2 / 255, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pictures_without_a_stated_range_are_refused(
    metrics: dict[Trunk, Lpips], pictures: list[np.ndarray], scale: float, dtype: type
) -> None:
    ranged = [(picture * scale - (scale > 1 / 255)).astype(dtype) for picture in pictures[:2]]
    with pytest.raises(ValueError, match=r"uint8 pictures with range 0\.\.255, got float"):
        metrics["alex"](*ranged)


def test_wrong_sizes_are_refused(metrics: dict[Trunk, Lpips], pictures: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="one size"):
        metrics["alex"](pictures[0], pictures[1][:-1])
    with pytest.raises(ValueError, match="at least 32 x 32 pixels, got"):
        metrics["vgg"](pictures[0][:31], pictures[1][:31])


def test_protocol_names_what_decides_the_number(metrics: dict[Trunk, Lpips]) -> None:
    described = metrics["vgg"].describe()
    assert described["weights"] == "vgg16-397923af.pth"
    assert described["input"] == "RGB in [-1, 1]"
    assert described["resize"].startswith("none")
    # Of lpips 0.1.4, as published on PyPI.
    assert described["linear_weights_sha256"] == (
        "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"
    )
    assert metrics["alex"].describe()["linear_weights_sha256"] == (
        "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"
    )


@pytest.mark.usefixtures("no_sockets")
def test_loading_opens_no_socket_and_prints_nothing(
    backbones: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with backbone_cache(backbones):
        Lpips.load("alex")
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("no_sockets")
def test_missing_trunk_names_the_command_that_gets_it(tmp_path: Path) -> None:
    with backbone_cache(tmp_path), pytest.raises(WeightsError, match="dp3d weights fetch alexnet") as error:
        Lpips.load("alex")
    assert error.value.reason == "weights-missing"
    assert not list(tmp_path.iterdir())


def test_weights_that_give_no_number_are_an_error(
    metrics: dict[Trunk, Lpips], pictures: list[np.ndarray]
) -> None:
    metric = copy.deepcopy(metrics["alex"])
    with torch.no_grad():
        next(metric._network.parameters()).fill_(torch.nan)
    with pytest.raises(WeightsError, match="the network gives nan") as error:
        metric(*pictures[:2])
    assert error.value.reason == "weights-damaged"
