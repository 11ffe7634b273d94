"""Loading of backbones: checked, found where they lie, never downloaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.metrics.dists import Dists
from dp3d_cli.core.metrics.fid import FidFeatures
from dp3d_cli.core.metrics.lpips import Lpips
from dp3d_cli.core.metrics.networks import checked_weights, offline_torch_hub, unit_tensor
from dp3d_cli.core.weights.backbones import BACKBONES
from dp3d_cli.core.weights.manifest import sha256
from tests.fakes.backbones import backbone_cache, write_torch_backbone

ALEXNET = "alexnet-owt-7be5be79.pth"


def test_checksum_is_that_of_the_file(backbones: Path) -> None:
    with backbone_cache(backbones):
        weights = checked_weights("alexnet")
    assert weights.describe() == {
        "weights": ALEXNET,
        "weights_sha256": sha256(backbones / "hub" / "checkpoints" / ALEXNET),
    }


@pytest.mark.parametrize("damage", ["other content", "cut off"])
def test_other_bytes_than_the_published_are_refused_before_they_are_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    file = write_torch_backbone(tmp_path, "alexnet")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the file was unpickled"))
    with backbone_cache(tmp_path):
        content = file.read_bytes()
        file.write_bytes(content[:-1] if damage == "cut off" else content[:-1] + b"?")
        with pytest.raises(WeightsError) as error:
            Lpips.load("alex")
    assert error.value.reason == "weights-damaged"
    problem = f"{len(content) - 1} bytes" if damage == "cut off" else f"sha256 {sha256(file)}"
    assert f"{ALEXNET} is not the published file: {problem}, expected" in str(error.value)
    assert "`dp3d weights fetch alexnet`" in str(error.value)


def test_stated_folder_comes_before_the_cache(
    backbones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = write_torch_backbone(tmp_path, "alexnet", seed=1)
    with backbone_cache(tmp_path):  # so that these bytes count as published
        monkeypatch.setenv("TORCH_HOME", str(backbones))
        monkeypatch.setenv("DP3D_WEIGHTS", str(tmp_path / "hub"))
        metric = Lpips.load("alex")
    assert metric.describe()["weights_sha256"] == sha256(stated)
    loaded = metric._network.net.slice1[0].weight
    assert torch.equal(loaded, torch.load(stated)["features.0.weight"])


@pytest.mark.usefixtures("no_sockets")
def test_library_that_wants_another_file_is_refused_the_download(backbones: Path) -> None:
    before = torch.hub.get_dir()
    with (
        backbone_cache(backbones),
        pytest.raises(WeightsError, match=r"wants another file beside it, new\.pth \(https://"),
        offline_torch_hub(checked_weights("alexnet")),
    ):
        torch.hub.load_state_dict_from_url("https://download.pytorch.org/models/new.pth")
    assert torch.hub.get_dir() == before
    assert torch.hub.download_url_to_file.__module__ == "torch.hub"


def test_weights_of_another_network_are_refused(backbones: Path, tmp_path: Path) -> None:
    target = tmp_path / "hub" / "checkpoints" / ALEXNET
    target.parent.mkdir(parents=True)
    shutil.copy(backbones / "hub" / "checkpoints" / BACKBONES["fid-inception"].files[0].name, target)
    with backbone_cache(tmp_path), pytest.raises(WeightsError, match="do not fit their network") as error:
        Lpips.load("alex")
    assert error.value.reason == "weights-damaged"


def test_unit_tensor_covers_the_range_exactly() -> None:
    picture = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    picture.setflags(write=False)
    tensor = unit_tensor(picture, torch.device("cpu"))
    assert tensor.shape == (1, 3, 16, 16)
    np.testing.assert_array_equal(tensor[0, 2].numpy().ravel(), np.arange(256, dtype=np.float32) / 255)


@pytest.mark.gpu
def test_cuda_gives_the_numbers_of_the_cpu(backbones: Path, pictures: list[np.ndarray]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    with backbone_cache(backbones):
        for load in (lambda device: Lpips.load("vgg", device), lambda device: Dists.load("native", device)):
            on_cpu, on_cuda = load("cpu"), load("cuda")
            assert on_cuda(*pictures[:2]) == pytest.approx(on_cpu(*pictures[:2]), abs=1e-5)
        inception = [FidFeatures.load(device=device).features(pictures[0]) for device in ("cpu", "cuda")]
    np.testing.assert_allclose(*inception, atol=1e-4)
