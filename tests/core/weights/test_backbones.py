"""Where backbones are found."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.weights.backbones import (
    BACKBONES,
    Backbone,
    backbone_folders,
    find_backbone,
    how_to_get,
    library_folder,
    require_backbone,
)
from dp3d_cli.core.weights.catalogue import describe
from dp3d_cli.core.weights.check import check_backbone


@pytest.fixture(autouse=True)
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DP3D_WEIGHTS", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))


def put(backbone: Backbone, folder: Path) -> None:
    folder.mkdir(parents=True)
    for file in backbone.files:
        if not file.is_optional:
            (folder / file.name).touch()


@pytest.mark.parametrize("name", [name for name, entry in BACKBONES.items() if entry.library == "torch-hub"])
@pytest.mark.parametrize(
    "variables", [(), ("TORCH_HOME",), ("XDG_CACHE_HOME",), ("TORCH_HOME", "XDG_CACHE_HOME")]
)
@pytest.mark.parametrize("is_torch_loaded", [True, False])
def test_torch_hubs_folder_is_that_of_torch(
    name: str,
    variables: tuple[str, ...],
    is_torch_loaded: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in variables:
        monkeypatch.setenv(variable, str(tmp_path / variable))
    expected = Path(torch.hub.get_dir()) / "checkpoints"
    if not is_torch_loaded:
        monkeypatch.delitem(__import__("sys").modules, "torch.hub")
    assert library_folder(BACKBONES[name]) == expected
    assert find_backbone(name) is None
    put(BACKBONES[name], expected)
    assert find_backbone(name) == expected / BACKBONES[name].files[0].name


def test_file_names_carry_the_start_of_the_digest() -> None:
    for backbone in BACKBONES.values():
        for file in backbone.files:
            prefix = re.search(r"-([0-9a-f]{8})\.pth$", file.name)
            assert (prefix is not None) == (backbone.library == "torch-hub")
            assert prefix is None or (file.sha256 or "").startswith(prefix[1])


def test_torchvision_and_pytorch_fid_ask_for_the_same_addresses() -> None:
    from pytorch_fid.inception import FID_WEIGHTS_URL
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    assert BACKBONES["alexnet"].url == AlexNet_Weights.IMAGENET1K_V1.url
    assert BACKBONES["vgg16"].url == VGG16_Weights.IMAGENET1K_V1.url
    assert BACKBONES["fid-inception"].url == FID_WEIGHTS_URL
    for name in ("alexnet", "vgg16", "fid-inception"):
        assert BACKBONES[name].files[0].name == BACKBONES[name].url.rsplit("/", 1)[1]


def test_insightface_would_take_the_same_archive() -> None:
    from insightface.utils.storage import model_zoo_download_url

    archive = BACKBONES["buffalo_l"].archive
    assert archive is not None
    assert BACKBONES["buffalo_l"].url == model_zoo_download_url(archive.name)


def test_the_package_that_brings_dists_is_installed_and_intact() -> None:
    place = require_backbone("dists")
    assert [file.problem for file in check_backbone(BACKBONES["dists"], place)] == [""]


@pytest.mark.parametrize("name", ["alexnet", "buffalo_l", "clip-vit-b32"])
def test_the_stated_folder_comes_before_the_librarys_own(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = BACKBONES[name]
    own = library_folder(backbone)
    put(backbone, own)
    monkeypatch.setenv("DP3D_WEIGHTS", str(tmp_path / "stated"))
    assert find_backbone(name) == (own if backbone.is_folder else own / backbone.files[0].name)
    stated, second = backbone_folders(backbone)
    assert stated.is_relative_to(tmp_path / "stated")
    assert second == own
    put(backbone, stated)
    found = find_backbone(name)
    assert found is not None
    assert found.is_relative_to(stated)


def test_the_stated_folder_is_laid_out_as_the_libraries_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DP3D_WEIGHTS", str(tmp_path / "w"))
    assert backbone_folders(BACKBONES["vgg16"])[0] == tmp_path / "w" / "checkpoints"
    assert backbone_folders(BACKBONES["buffalo_l"])[0] == tmp_path / "w" / "models" / "buffalo_l"
    clip = BACKBONES["clip-vit-b32"]
    folder = backbone_folders(clip)[0]
    put(clip, folder)
    local = huggingface_hub.snapshot_download(
        clip.url,
        revision=clip.revision,
        cache_dir=tmp_path / "w" / "hub",
        local_files_only=True,
        allow_patterns=[file.name for file in clip.files],
    )
    assert Path(local) == folder


def test_a_folder_with_a_needed_file_missing_is_not_found() -> None:
    backbone = BACKBONES["buffalo_l"]
    folder = library_folder(backbone)
    put(backbone, folder)
    assert find_backbone("buffalo_l") == folder
    (folder / "w600k_r50.onnx").unlink()
    assert find_backbone("buffalo_l") is None


@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "dists"])
def test_what_is_missing_names_the_command_and_the_folder(name: str) -> None:
    with pytest.raises(WeightsError, match=re.escape(f"`dp3d weights fetch {name}`")) as caught:
        require_backbone(name)
    assert caught.value.reason == "weights-missing"
    assert str(library_folder(BACKBONES[name])) in str(caught.value)


def test_what_comes_with_a_package_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dp3d_cli.core.weights.backbones._PACKAGED", (("no_such_package", ""),))
    with pytest.raises(WeightsError, match="pip install torchmetrics"):
        require_backbone("dists")
    assert how_to_get(BACKBONES["dists"]) == "pip install torchmetrics"


def test_a_check_tells_size_digest_and_absence(tmp_path: Path) -> None:
    small = replace(
        BACKBONES["alexnet"], files=(replace(BACKBONES["alexnet"].files[0], size=3, sha256="00"),)
    )
    path = tmp_path / small.files[0].name
    assert [file.problem for file in check_backbone(small, path)] == ["missing"]
    path.write_bytes(b"ab")
    assert [file.problem for file in check_backbone(small, path)] == ["2 bytes, expected 3"]
    path.write_bytes(b"abc")
    assert [file.problem for file in check_backbone(small, path, read=False)] == [""]
    (checked,) = check_backbone(small, path)
    assert checked.problem == f"sha256 {checked.sha256}, expected 00"
    unpublished = replace(small, files=(replace(small.files[0], sha256=None),))
    (checked,) = check_backbone(unpublished, path)
    assert checked.problem == ""
    assert checked.sha256 is not None
    assert checked.sha256.startswith("ba7816bf")  # of "abc"


def test_needed_by_is_what_the_metrics_ask_for() -> None:
    from dp3d_cli.stages.evaluate.metrics import METRICS

    asked = {(name, key) for key, metric in METRICS.items() for name in metric.backbones}
    stated = {(name, key) for name, entry in BACKBONES.items() for key in entry.needed_by if key in METRICS}
    assert stated == asked


def test_a_folder_that_is_closed_to_us_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", closed)
    assert find_backbone("alexnet") is None
    assert describe("buffalo_l").state == "missing"


def test_a_file_that_may_not_be_read_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(BACKBONES["alexnet"], files=(replace(BACKBONES["alexnet"].files[0], size=0),))
    path = tmp_path / small.files[0].name
    path.touch()

    def closed(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", closed)
    assert [file.problem for file in check_backbone(small, path)] == ["cannot be read (Permission denied)"]
