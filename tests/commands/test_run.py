"""`dp3d run` and the pipeline of stages, as a user types them, on a folder with all kinds of files."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from tests.fakes.processes import ROOT, environment
from tests.fakes.trees import snapshot

ASTRONAUT = Image.fromarray(skimage.data.astronaut())


def dp3d(*arguments: object, stdin: bytes = b"", cwd: Path = ROOT) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "dp3d_cli", *map(str, arguments)]
    return subprocess.run(
        command, input=stdin, capture_output=True, cwd=cwd, env=environment(OMP_NUM_THREADS="1"), check=False
    )


def settings(weights: Path, views: int = 2) -> list[str]:
    return ["-s", f"weights={weights}", "-s", f"cameras.num_views={views}"]


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels: what a decompression bomb looks like from outside."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of file that a folder of photos turns out to hold."""
    folder = tmp_path_factory.mktemp("input") / "photos"
    folder.mkdir()
    ASTRONAUT.save(folder / "good.png")
    ASTRONAUT.convert("CMYK").save(folder / "cmyk.jpg")
    wide = (np.asarray(ASTRONAUT.convert("L")).astype(np.uint16) * 257).astype("<u2")
    Image.fromarray(wide).save(folder / "sixteen bit.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    ASTRONAUT.rotate(90, expand=True).save(folder / "turned.jpg", exif=exif)
    ASTRONAUT.resize((256, 256)).save(
        folder / "moving.gif", save_all=True, append_images=[Image.new("RGB", (256, 256))]
    )
    three = Image.new("RGB", (900, 300))
    for column in range(3):
        three.paste(ASTRONAUT.crop((100, 0, 400, 300)), (300 * column, 0))
    three.save(folder / "three faces.png")
    ASTRONAUT.save(folder / 'it\'s "quoted"\nnäme 名.png')
    shutil.copy(folder / "good.png", folder / "truncated.png")
    ASTRONAUT.save(folder / "truncated.jpg")
    os.truncate(folder / "truncated.jpg", 9000)
    os.truncate(folder / "truncated.png", 200_000)
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("no picture\n")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    (folder / "bomb.png").write_bytes(png_header(20_000, 20_000))
    Image.fromarray(np.full((300, 300, 3), 128, np.uint8)).save(folder / "no face.png")
    (folder / "notes.txt").write_text("no picture, and not called one\n")
    return folder


def json_lines(result: subprocess.CompletedProcess[bytes]) -> list[dict[str, object]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.slow
def test_bad_files_are_answered_and_all_others_become_views(
    photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    result = dp3d("run", photos, "-o", tmp_path / "work", "--json", *settings(tiny_weights))
    assert result.returncode == 1, result.stderr.decode()
    aligned = json_lines(dp3d("align", photos, "-o", tmp_path / "work" / "aligned", "--json"))
    reasons = {str(line["id"]): line["reason"] for line in aligned if line["status"] == "failed"}
    assert reasons == {
        "truncated.jpg": "truncated-image",
        "truncated.png": "truncated-image",
        "empty": "empty-file",
        "text": "unreadable-image",
        "dot": "image-too-small",
        "bomb": "image-too-large",
        "no face": "no-face",
    }
    good = {str(line["id"]) for line in aligned if line["status"] == "skipped"}
    assert good == {
        "good", "cmyk", "sixteen bit", "turned", "moving", "three faces", 'it\'s "quoted"\nnäme 名',
    }  # fmt: skip
    work = tmp_path / "work"
    for subject in good:
        assert (work / "views" / subject / "001.png").is_file()
        assert (work / "video" / f"{subject}.mp4").is_file()
    three = next(line for line in aligned if line["id"] == "three faces")
    assert "3" in str(three["warnings"])
    before = snapshot(work)
    again = dp3d("run", photos, "-o", work, *settings(tiny_weights))
    assert again.returncode == 1  # what failed stays failed, and nothing is done again
    assert snapshot(work) == before


@pytest.fixture(scope="module")
def two_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("input") / "photos"
    (folder / "team").mkdir(parents=True)
    ASTRONAUT.save(folder / "team" / "dora.png")
    ASTRONAUT.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "bob.jpg")
    return folder


@pytest.fixture(scope="module")
def undisturbed(
    two_photos: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes | None]:
    """The tree that a run leaves which nothing disturbs."""
    work = tmp_path_factory.mktemp("undisturbed") / "work"
    result = dp3d("run", two_photos, "-o", work, *settings(tiny_weights))
    assert result.returncode == 0, result.stderr.decode()
    assert result.stdout.decode().split() == [f"{work}/video/bob.mp4", f"{work}/video/team/dora.mp4"]
    return snapshot(work)


def test_the_stages_one_by_one_make_the_same_files(
    two_photos: Path, tiny_weights: Path, undisturbed: dict[str, bytes | None], tmp_path: Path
) -> None:
    commands: Sequence[Sequence[object]] = [
        ["align", two_photos, "-o", "aligned"],
        ["render-cams", "gen-videos", "--num-views", 2, "-o", "cameras"],
        ["proxy", "aligned", "--cameras", "cameras/gen-videos", "-o", "proxy", "--weights", tiny_weights],
        ["synthesize", "aligned", "--cameras", "cameras", "--proxies", "proxy", *settings(tiny_weights)],
        ["video", "views", "--references", "aligned", "--proxy", "proxy"],
    ]
    for command in commands:
        result = dp3d(*command, cwd=tmp_path)
        assert result.returncode == 0, result.stderr.decode()
    assert snapshot(tmp_path) == undisturbed


def test_shards_together_make_the_same_files(
    two_photos: Path, tiny_weights: Path, undisturbed: dict[str, bytes | None], tmp_path: Path
) -> None:
    work = tmp_path / "work"
    for shard in ("1/2", "0/2"):
        result = dp3d("run", two_photos, "-o", work, "--shard", shard, *settings(tiny_weights))
        assert result.returncode == 0, result.stderr.decode()
        assert f"shard {shard} (--shard): 1 of 2 items" in result.stderr.decode()
    assert snapshot(work) == undisturbed


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_same_bytes(
    two_photos: Path, tiny_weights: Path, undisturbed: dict[str, bytes | None], tmp_path: Path
) -> None:
    work = tmp_path / "work"
    command = [sys.executable, "-m", "dp3d_cli", "run", str(two_photos), "-o", str(work), "--quiet"]
    chance = random.Random(0)
    for _ in range(4):
        process = subprocess.Popen(
            [*command, *settings(tiny_weights)], cwd=ROOT, env=environment(OMP_NUM_THREADS="1"),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(chance.uniform(2.0, 12.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
    result = dp3d("run", two_photos, "-o", work, *settings(tiny_weights))
    assert result.returncode == 0, result.stderr.decode()
    assert snapshot(work) == undisturbed


def test_stages_work_in_a_pipeline(two_photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    names = b"\0".join(os.fsencode(path) for path in sorted(two_photos.rglob("*.*g"))) + b"\0"
    aligned = dp3d("align", "-0", "-", "--root", two_photos, "-o", tmp_path / "aligned", stdin=names)
    assert aligned.returncode == 0, aligned.stderr.decode()
    views = dp3d(
        "synthesize", "-", "-o", tmp_path / "views", "--json", *settings(tiny_weights), stdin=aligned.stdout
    )
    assert views.returncode == 0, views.stderr.decode()
    assert [line["id"] for line in json_lines(views)] == ["bob", "team/dora"]


def test_other_settings_are_refused_with_the_difference(
    two_photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    portrait = tmp_path / "one"
    portrait.mkdir()
    shutil.copy(two_photos / "bob.jpg", portrait)
    work = tmp_path / "work"
    assert dp3d("run", portrait, "-o", work, *settings(tiny_weights)).returncode == 0
    before = snapshot(work)
    refused = dp3d("run", portrait, "-o", work, *settings(tiny_weights), "-s", "seed=5")
    assert refused.returncode == 2
    assert b"seed" in refused.stderr
    assert b"--overwrite" in refused.stderr
    assert snapshot(work) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "no/such/folder"], b"no such file or folder"),
        (["run", ROOT / "tests", "-p", "nanno"], b"Did you mean 'nano'"),
        (["run", ROOT / "tests", "--references", "all"], b"each"),
        (["synthesize", ROOT / "presets"], b"presets"),
    ],
)
def test_wrong_usage_ends_with_status_2_and_one_message(
    arguments: list[object], message: bytes, tmp_path: Path
) -> None:
    result = dp3d(*arguments, "-o", tmp_path / "out")
    assert result.returncode == 2
    assert message in result.stderr
    assert b"Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = dp3d("run", tmp_path / "empty", "-o", tmp_path / "out")
    assert result.returncode == 2
    assert str(tmp_path / "empty").encode() in result.stderr


def test_a_dry_run_says_what_would_happen_and_touches_nothing(
    two_photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    result = dp3d("run", two_photos, "-o", tmp_path / "work", "--dry-run", *settings(tiny_weights))
    assert result.returncode == 0, result.stderr.decode()
    assert result.stdout.decode().splitlines() == ["would-run\tbob", "would-run\tteam/dora"]
    assert f"weights: {tiny_weights}" in result.stderr.decode()
    assert not (tmp_path / "work").exists()
