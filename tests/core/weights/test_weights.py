from pathlib import Path

import pytest

from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.weights.manifest import digest, problems, total_size, write_manifest
from dp3d_cli.core.weights.registry import REGISTRY, find, resolve


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "w" / "unet").mkdir(parents=True)
    (tmp_path / "w" / "model_index.json").write_text("{}", encoding="utf-8")
    (tmp_path / "w" / "unet" / "weights.safetensors").write_bytes(b"0123456789")
    write_manifest(tmp_path / "w")
    return tmp_path / "w"


def test_a_path_is_found_as_it_is(folder: Path) -> None:
    assert resolve(str(folder)) == folder


def test_a_known_name_is_found_in_the_users_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.rename(folder.with_name("diffportrait3d"))
    monkeypatch.setenv("DP3D_WEIGHTS", str(folder.parent))
    assert resolve("diffportrait3d") == folder.with_name("diffportrait3d")


def test_missing_weights_name_the_command_that_gets_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DP3D_WEIGHTS", str(tmp_path))
    assert find("diffportrait3d") is None
    with pytest.raises(WeightsError, match="dp3d weights fetch diffportrait3d --from") as caught:
        resolve("diffportrait3d")
    assert caught.value.reason == "weights-missing"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(WeightsError, match="nano, diffportrait3d"):
        resolve("no-such-weights")
    assert all(entry.licence and entry.source for entry in REGISTRY.values())


def test_the_digest_changes_with_the_content(folder: Path) -> None:
    before = digest(folder)
    assert digest(folder) == before
    (folder / "unet" / "weights.safetensors").write_bytes(b"012345678X")
    assert problems(folder) != []
    write_manifest(folder)
    assert problems(folder) == []
    assert digest(folder) != before
    assert total_size(folder) == 12


def test_a_model_card_is_not_part_of_the_weights(folder: Path) -> None:
    before = digest(folder)
    (folder / "MODEL_CARD.md").write_text("corrected", encoding="utf-8")
    assert problems(folder) == []
    write_manifest(folder)
    assert digest(folder) == before


def test_a_truncated_or_missing_file_is_refused(folder: Path) -> None:
    path = folder / "unet" / "weights.safetensors"
    path.write_bytes(b"0123")
    with pytest.raises(WeightsError, match="4 bytes, expected 10 bytes"):
        digest(folder)
    path.unlink()
    with pytest.raises(WeightsError, match="missing, expected 10 bytes"):
        digest(folder)
    assert problems(folder) == ["unet/weights.safetensors: missing"]


@pytest.mark.parametrize("text", [None, "{", "[]", '{"format": "other"}'])
def test_a_folder_without_a_proper_manifest_is_refused(folder: Path, text: str | None) -> None:
    (folder / "manifest.json").unlink()
    if text is not None:
        (folder / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(WeightsError, match="manifest"):
        digest(folder)
