"""Camera conditions that exist as files: order, number, shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dp3d_cli.core.errors import InputError, UsageError
from dp3d_cli.core.images import write_png
from dp3d_cli.core.renderers.images import find_condition_images
from dp3d_cli.core.videos import write_video


def flat(value: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def read(source: Path, num_views: int | None = None, size: int = 8, **options: bool) -> list[int]:
    """The middle grey value of each image."""
    images = find_condition_images(source)
    crop = options.pop("centre_crop", False)
    chosen = images.choose(num_views, **options)
    return [int(image[size // 2, size // 2, 0]) for image in images.read(chosen, size, centre_crop=crop)]


def test_images_come_by_name_with_numbers_in_numeric_order(tmp_path: Path) -> None:
    for value, name in enumerate(["1.png", "2.png", "10.png", "a1.png", "a02.png", "a10.png"]):
        write_png(tmp_path / name, flat(value))
    assert read(tmp_path) == [0, 1, 2, 3, 4, 5]


def test_other_files_folders_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    write_png(tmp_path / "a.PNG", flat(7))
    write_png(tmp_path / ".b.png", flat(8))
    (tmp_path / "cameras.json").write_text("{}")
    (tmp_path / "c.png").mkdir()
    assert read(tmp_path) == [7]


def test_frames_of_a_video_come_in_time_order(tmp_path: Path) -> None:
    path = tmp_path / "drive.mp4"
    write_video(path, np.stack([flat(20 * index, 64, 64) for index in range(10)]), 10)
    images = find_condition_images(path)
    assert (images.count, images.files, images.is_video) == (10, (path,), True)
    assert read(path, size=64) == pytest.approx([20 * index for index in range(10)], abs=4)
    assert read(path, 4, size=64, resample=True) == pytest.approx([0, 60, 120, 180], abs=4)


def test_more_images_than_views_are_thinned_only_on_request(tmp_path: Path) -> None:
    for index in range(9):
        write_png(tmp_path / f"{index}.png", flat(index))
    with pytest.raises(UsageError, match=r"9 images for 5 views.*--resample"):
        read(tmp_path, 5)
    assert read(tmp_path, 5, resample=True) == [0, 2, 4, 6, 8]
    assert read(tmp_path, 1, resample=True) == [0]
    assert read(tmp_path, 9) == list(range(9))


@pytest.mark.parametrize("resample", [False, True])
def test_fewer_images_than_views_are_never_repeated(tmp_path: Path, resample: bool) -> None:
    write_png(tmp_path / "0.png", flat(0))
    with pytest.raises(UsageError, match="1 images for 2 views"):
        read(tmp_path, 2, resample=resample)


def test_images_of_another_size_are_resized(tmp_path: Path) -> None:
    gradient = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    write_png(tmp_path / "0.png", gradient)
    images = find_condition_images(tmp_path)
    (small,) = images.read((0,), 16)
    assert small.shape == (16, 16, 3)
    assert small.dtype == np.uint8
    expected = gradient.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(small[:, 2:-2], expected[:, 2:-2], atol=2)


def test_images_that_are_not_square_are_cut_only_on_request(tmp_path: Path) -> None:
    image = flat(50, 8, 16)
    image[:, 4:12] = 200
    write_png(tmp_path / "wide.png", image)
    with pytest.raises(InputError, match=r"wide\.png: 16x8 is not square.*--centre-crop") as caught:
        read(tmp_path)
    assert caught.value.reason == "not-square"
    images = find_condition_images(tmp_path)
    (square,) = images.read((0,), 8, centre_crop=True)
    np.testing.assert_array_equal(square, flat(200))


def test_a_source_that_holds_no_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images in this folder") as caught:
        find_condition_images(tmp_path)
    assert caught.value.reason == "no-images"
    with pytest.raises(UsageError, match="no such folder or video"):
        find_condition_images(tmp_path / "missing")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UsageError, match="expected a folder of images or a video"):
        find_condition_images(tmp_path / "notes.txt")


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    write_png(tmp_path / "0.png", flat(1))
    (tmp_path / "1.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"1\.png"):
        read(tmp_path)
