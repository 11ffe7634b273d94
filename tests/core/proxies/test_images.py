from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dp3d_cli.core.errors import InputError
from dp3d_cli.core.images import write_png
from dp3d_cli.core.proxies.images import find_proxy_images, map_files, read_proxy_images


def flat(path: Path, value: int, size: tuple[int, int] = (16, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, np.full((*size, 3), value, np.uint8))
    return path


def test_images_named_by_view_are_taken_by_name(tmp_path: Path) -> None:
    for index in (2, 0, 1, 3):
        flat(tmp_path / f"{index:03d}.png", index)
    assert [path.stem for path in find_proxy_images(tmp_path, ["001", "003"])] == ["001", "003"]


def test_other_names_are_taken_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for index in (10, 2, 1):
        flat(tmp_path / f"frame{index}.png", index)
    (tmp_path / "notes.txt").write_text("not an image")
    read = read_proxy_images(tmp_path, ["000", "001", "002"], 16)
    assert read.images[:, 0, 0, 0].tolist() == [1, 2, 10]
    assert (read.confidences == 255).all()
    assert (read.coverages == 255).all()


def test_maps_are_read_and_everything_is_brought_to_size(tmp_path: Path) -> None:
    flat(tmp_path / "000.png", 9, (32, 32))
    flat(tmp_path / "confidence/000.png", 40)
    flat(tmp_path / "coverage/000.png", 200, (64, 64))
    read = read_proxy_images(tmp_path, ["000"], 24)
    assert read.images.shape == (1, 24, 24, 3)
    assert (read.confidences == 40).all()
    assert (read.coverages == 200).all()
    assert read.coverages.shape == (1, 24, 24)
    assert len(map_files(tmp_path, [tmp_path / "000.png"])) == 2


def test_there_must_be_one_image_per_view(tmp_path: Path) -> None:
    flat(tmp_path / "a.png", 1)
    with pytest.raises(InputError, match="1 proxy images for") as caught:
        find_proxy_images(tmp_path, ["000", "001"])
    assert caught.value.reason == "proxy-count"


def test_a_missing_folder_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one folder per portrait") as caught:
        find_proxy_images(tmp_path / "anna", ["000"])
    assert caught.value.reason == "no-proxies"


def test_proxies_must_be_square(tmp_path: Path) -> None:
    flat(tmp_path / "000.png", 1, (16, 20))
    with pytest.raises(InputError, match="20x16") as caught:
        read_proxy_images(tmp_path, ["000"], 16)
    assert caught.value.reason == "not-square"
