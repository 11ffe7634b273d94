"""The published checkpoint becomes a folder of weights, whole or not at all."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from safetensors.torch import load_file

from dp3d_cli.core.diffusion import convert
from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.weights.catalogue import describe
from dp3d_cli.core.weights.fetch import fetch_diffusion, install_checkpoint
from dp3d_cli.core.weights.manifest import problems
from dp3d_cli.core.weights.registry import REGISTRY, find
from tests.fakes.file_server import FileServer
from tests.fakes.trees import snapshot

FIXTURE = Path(__file__).parents[3] / "../shared/diffportrait3d/fixture"
ENTRY = REGISTRY["diffportrait3d"]


def silent(done: int, total: int | None) -> None:
    """A report that nobody reads."""


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of weights; conversion copies the checkpoint's bytes and fails on b"bad"."""
    monkeypatch.setenv("DP3D_WEIGHTS", str(tmp_path / "w"))
    monkeypatch.setenv("no_proxy", "*")

    def convert_checkpoint(source: Path, output: Path, **_: object) -> None:
        output.mkdir()
        (output / "model_index.json").write_bytes(source.read_bytes())
        if source.read_bytes() == b"bad":
            raise WeightsError("no checkpoint", reason="foreign-checkpoint")

    monkeypatch.setattr(convert, "convert_checkpoint", convert_checkpoint)
    return tmp_path / "w"


def test_a_file_or_an_address_becomes_weights_with_a_manifest(
    weights: Path, server: FileServer, tmp_path: Path
) -> None:
    (tmp_path / "model.th").write_bytes(b"{}")
    for source in (str(tmp_path / "model.th"), server.give("/model.th", b"{ }")):
        fetched = fetch_diffusion(ENTRY, silent, source=source)
        assert fetched.path == weights / "diffportrait3d" == find("diffportrait3d")
        assert problems(fetched.path) == []
        assert [path.name for path in weights.iterdir()] == ["diffportrait3d"]
        assert fetch_diffusion(ENTRY, silent, source=source).was_present
        (fetched.path / "model_index.json").write_bytes(b"damaged")
        assert describe("diffportrait3d").state == "damaged"


def test_a_failed_conversion_leaves_the_earlier_weights(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "good.th").write_bytes(b"{}")
    (tmp_path / "bad.th").write_bytes(b"bad")
    install_checkpoint(tmp_path / "good.th", weights / "diffportrait3d")
    before = snapshot(weights)
    with pytest.raises(WeightsError, match="no checkpoint"):
        install_checkpoint(tmp_path / "bad.th", weights / "diffportrait3d", replace=True)
    assert snapshot(weights) == before


def test_a_failed_exchange_puts_the_earlier_weights_back(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = weights / "diffportrait3d"
    (tmp_path / "one.th").write_bytes(b"{}")
    (tmp_path / "two.th").write_bytes(b"{ }")
    install_checkpoint(tmp_path / "one.th", folder)
    before = snapshot(weights)
    rename = Path.rename

    def fail_once(path: Path, target: Path) -> Path:
        if target == folder and not path.name.endswith(".old"):
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(WeightsError, match="Input/output error"):
        install_checkpoint(tmp_path / "two.th", folder, replace=True)
    assert snapshot(weights) == before


def test_a_folder_that_cannot_be_made_is_told(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "good.th").write_bytes(b"{}")
    weights.touch()
    with pytest.raises(WeightsError, match="cannot be written"):
        install_checkpoint(tmp_path / "good.th", weights / "diffportrait3d")


def test_offline_needs_no_connection_for_a_file(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "model.th").write_bytes(b"{}")
    with pytest.raises(WeightsError, match="offline") as caught:
        fetch_diffusion(ENTRY, silent, source="https://example.org/model.th", offline="DP3D_OFFLINE=1")
    assert caught.value.reason == "offline"
    assert not weights.exists()
    assert fetch_diffusion(ENTRY, silent, source=str(tmp_path / "model.th"), offline="DP3D_OFFLINE=1").path


def test_without_a_source_the_authors_page_is_named(weights: Path) -> None:
    with pytest.raises(WeightsError, match=r"drive\.google\.com/file/d/\S+/view.*--from model_state"):
        fetch_diffusion(ENTRY, silent)


@pytest.mark.skipif(not FIXTURE.is_dir(), reason=f"{FIXTURE} is not here")
def test_a_checkpoint_in_the_published_layout_can_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dp3d_cli.core.diffusion.pipeline import DiffPortraitPipeline

    monkeypatch.setenv("DP3D_WEIGHTS", str(tmp_path / "w"))
    of_this_size = functools.partial(
        convert.convert_checkpoint,
        config=FIXTURE / "config.json",
        empty_prompt=load_file(FIXTURE / "io.safetensors")["in.context"],
    )
    monkeypatch.setattr(
        convert,
        "convert_checkpoint",
        lambda source, output, *, config, **settings: of_this_size(source, output, **settings),
    )
    fetched = fetch_diffusion(ENTRY, silent, source=str(FIXTURE / "state_dict.safetensors"))
    assert DiffPortraitPipeline.from_pretrained(fetched.path).unet.dtype.is_floating_point
