from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dp3d_cli.core.errors import InputError
from dp3d_cli.core.videos import count_frames, read_frames, write_video


def moving_picture(count: int = 7, height: int = 64, width: int = 80) -> np.ndarray:
    """[N, H, W, 3]: a smooth coloured wave that moves; frames differ clearly from each other."""
    y, x = np.mgrid[0:height, 0:width]
    frames = [
        np.stack([127 + 100 * np.sin(x / 9 + t), 127 + 100 * np.cos(y / 11 - t), 90 + x + 5 * t], axis=-1)
        for t in range(count)
    ]
    return np.stack(frames).clip(0, 255).astype(np.uint8)


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_frames_survive_encoding_and_decoding_in_order(tmp_path: Path, suffix: str) -> None:
    frames = moving_picture()
    path = tmp_path / f"clip.{suffix}"
    write_video(path, frames, fps=10)
    decoded = read_frames(path)
    assert decoded.shape == frames.shape
    assert count_frames(path) == len(frames)
    for own, original in zip(decoded, frames, strict=True):
        scores = [psnr_db(own, other) for other in frames]
        assert psnr_db(own, original) == max(scores) > 30


@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_odd_sides_grow_by_a_copy_of_the_border(tmp_path: Path, suffix: str) -> None:
    frames = moving_picture(3, 63, 81)
    path = tmp_path / f"odd.{suffix}"
    write_video(path, frames, fps=10)
    decoded = read_frames(path)
    assert decoded.shape == (3, 64, 82, 3)
    assert psnr_db(decoded[:, :63, :81], frames) > 30
    assert psnr_db(decoded[:, 63, :81], frames[:, 62]) > 25


@pytest.mark.parametrize("suffix", ["mp4", "webm", "gif"])
def test_bytes_are_the_same_in_another_process(tmp_path: Path, suffix: str) -> None:
    frames = moving_picture()
    np.save(tmp_path / "frames.npy", frames)
    here, there = tmp_path / f"here.{suffix}", tmp_path / f"there.{suffix}"
    write_video(here, frames, fps=12.5)
    program = (
        "import numpy, sys; from pathlib import Path; from dp3d_cli.core.videos import write_video; "
        "write_video(Path(sys.argv[2]), numpy.load(sys.argv[1]), fps=12.5)"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / "frames.npy", there], check=True)
    assert here.read_bytes() == there.read_bytes()


def test_mp4_has_its_index_in_front(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, moving_picture(3), fps=10)
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize(("fps", "ticks"), [(10, [100] * 7), (24, [40, 40, 50, 40, 40, 40, 50])])
def test_gif_keeps_frames_timing_and_loops(tmp_path: Path, fps: float, ticks: list[int]) -> None:
    frames = moving_picture()
    path = tmp_path / "clip.gif"
    write_video(path, frames, fps=fps)
    with Image.open(path) as image:
        assert image.n_frames == len(frames)
        assert image.info["loop"] == 0
        durations = []
        for number, original in enumerate(frames):
            image.seek(number)
            durations.append(image.info["duration"])
            assert psnr_db(np.asarray(image.convert("RGB")), original) > 27
    assert sum(durations) == pytest.approx(sum(ticks), abs=10)
    assert set(durations) <= {d for t in ticks for d in (t - 10, t, t + 10)}


def test_gif_that_plays_once_says_so(tmp_path: Path) -> None:
    write_video(tmp_path / "once.gif", moving_picture(3), fps=10, loop=False)
    with Image.open(tmp_path / "once.gif") as image:
        assert "loop" not in image.info
        assert image.n_frames == 3


def test_single_frame_is_a_video(tmp_path: Path) -> None:
    path = tmp_path / "still.mp4"
    write_video(path, moving_picture(1), fps=10)
    assert count_frames(path) == 1


def test_indices_choose_frames_in_the_given_order(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, moving_picture(40), fps=10)
    everything = read_frames(path)
    chosen = read_frames(path, [39, 0, 0, 17])
    np.testing.assert_array_equal(chosen, everything[[39, 0, 0, 17]])
    assert read_frames(path, []).shape == (0, 64, 80, 3)


def test_max_side_shrinks_by_area_and_never_enlarges(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, moving_picture(2), fps=10)
    full = read_frames(path)
    half = read_frames(path, max_side=40)
    assert half.shape == (2, 32, 40, 3)
    mean = full.reshape(2, 32, 2, 40, 2, 3).astype(float).mean(axis=(2, 4))
    assert np.abs(half - mean).max() <= 0.5
    np.testing.assert_array_equal(read_frames(path, max_side=500), full)


def test_frame_beyond_the_end_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, moving_picture(3), fps=10)
    with pytest.raises(InputError, match=r"no frame 3; the video has 3 frames") as caught:
        read_frames(path, [3])
    assert caught.value.reason == "no-such-frame"


@pytest.mark.parametrize("content", [b"", b"this is text", "half"], ids=["empty", "text", "truncated"])
def test_unreadable_files_are_input_errors(
    tmp_path: Path, content: bytes | str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, moving_picture(5), fps=10)
    data = path.read_bytes()
    path.write_bytes(content if isinstance(content, bytes) else data[: len(data) // 2])
    with pytest.raises(InputError, match=r"clip\.mp4: cannot be read as a video") as caught:
        read_frames(path)
    assert caught.value.reason == "unreadable-video"
    assert capfd.readouterr().out == ""


def test_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such video file"):
        count_frames(tmp_path / "none.mp4")


@pytest.mark.skipif(sys.platform == "darwin", reason="the file system takes only UTF-8 names")
def test_names_that_are_no_text_can_be_written_and_read(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff 'a\n.mp4"))
    write_video(path, moving_picture(2), fps=10)
    assert count_frames(path) == 2


def test_wrong_frames_rates_and_suffixes_are_refused(tmp_path: Path) -> None:
    frames = moving_picture(2)
    with pytest.raises(ValueError, match="uint8"):
        write_video(tmp_path / "a.mp4", frames.astype(np.float32), fps=10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="N >= 1"):
        write_video(tmp_path / "a.mp4", frames[:0], fps=10)
    with pytest.raises(ValueError, match="fps"):
        write_video(tmp_path / "a.mp4", frames, fps=0)
    with pytest.raises(ValueError, match="50 frames per second"):
        write_video(tmp_path / "a.gif", frames, fps=60)
    with pytest.raises(ValueError, match="unknown video suffix"):
        write_video(tmp_path / "a.avi", frames, fps=10)
    assert list(tmp_path.iterdir()) == []
