"""Crops of photographs and textures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dp3d_cli.core.errors import InputError
from dp3d_cli.training.codec import CodecBatches, CodecData
from dp3d_cli.training.photos import PhotoCrops, PhotoFiles
from dp3d_cli.training.textures import folder_photos, read_photos

GREEN = (0, 200, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three plain photographs, one of them grey and one in a folder below."""
    (tmp_path / "more").mkdir()
    Image.new("RGB", (60, 40), GREEN).save(tmp_path / "a.png")
    Image.new("L", (40, 60), 128).save(tmp_path / "b.png")
    Image.new("RGB", (50, 50), (10, 20, 200)).save(tmp_path / "more" / "c.jpg")
    return tmp_path


def test_a_crop_is_a_function_of_seed_and_index(folder: Path) -> None:
    crops = PhotoCrops(folder, 32, 5, textures=0.5, count=20)
    again = PhotoCrops(folder, 32, 5, textures=0.5, count=20)
    backwards = {index: again[index] for index in reversed(range(20))}
    assert all(torch.equal(crops[index], backwards[index]) for index in range(20))
    assert not torch.equal(crops[0], PhotoCrops(folder, 32, 6, textures=0.5)[0])
    assert crops[0].shape == (3, 32, 32)
    assert float(crops[0].min()) >= -1
    assert float(crops[0].max()) <= 1
    with pytest.raises(IndexError):
        crops[20]


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.5, 25, 55), (1.0, 80, 80)])
def test_the_share_says_how_many_crops_are_textures(folder: Path, share: float, low: int, high: int) -> None:
    crops = PhotoCrops(folder, 16, 0, textures=share)
    structured = sum(
        float(crops[index].std((1, 2)).max()) > 0.02 for index in range(80)
    )  # photographs are plain
    assert low <= structured <= high


def test_unreadable_files_are_listed_and_the_next_one_stands_in(folder: Path) -> None:
    (folder / "a.png").write_bytes((folder / "a.png").read_bytes()[:60])
    (folder / "bad.jpg").write_text("no picture")
    photos = PhotoFiles(folder)
    assert len(photos) == 4
    assert photos[0].shape == (60, 40, 3)  # b.png for a.png
    assert tuple(photos[2][0, 0]) == tuple(photos[3][0, 0])  # more/c.jpg for bad.jpg
    assert {path.name for path in photos.skipped} == {"a.png", "bad.jpg"}
    assert "cut short" in photos.skipped[folder / "a.png"]


def test_an_error_if_nothing_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="below this folder"):
        PhotoCrops(tmp_path, 8, 0)
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(InputError, match="none of 1 photographs can be read") as caught:
        PhotoCrops(tmp_path, 8, 0, textures=0)[0]
    assert caught.value.reason == "no-photos"


@pytest.mark.parametrize("wrong", [{"textures": 1.2}, {"size": 0}, {"count": 0}])
def test_what_makes_no_sense_is_refused(folder: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]|positive"):
        PhotoCrops(**{"folder": folder, "size": 8, "seed": 0, **wrong})


def test_decoding_late_changes_no_crop_of_the_codec(folder: Path) -> None:
    (folder / "more" / "c.jpg").unlink()  # two decoders may round JPEG apart
    data = CodecData(crop_px=16, batch=6, leaves=0.3, photos_folder=str(folder))
    late, early = CodecBatches(data, 1, 4), CodecBatches(data, 1, 4)
    early.photos = read_photos(folder_photos(folder))
    assert all(torch.equal(late[step], early[step]) for step in range(4))


def test_installed_photographs_need_no_folder() -> None:
    crop = PhotoCrops(None, 24, 0, textures=0)[3]
    assert np.isfinite(crop.numpy()).all()
    assert float(crop.std()) > 0
