"""The portrait benchmark: its rule on made-up portraits, and known figures on real ones if they are here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from dp3d_cli.core.images import write_png
from dp3d_cli.core.videos import write_video
from tests.stages.view_pictures import picture

ROOT = Path(__file__).parents[2]
REAL_PORTRAITS = ROOT / "../shared/portraits"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "portraits.py", *map(str, arguments)],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )


def result_of(process: subprocess.CompletedProcess[str]) -> dict:
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def write_portrait(folder: Path, side: int = 64) -> list[np.ndarray]:
    """A subject with 16 published frames, a reference, and proxies that are the frames blurred."""
    frames = [picture(number, side) for number in range(16)]
    write_png(folder / "reference.png", picture(99, side))
    write_video_into(folder / "official_views.mp4", frames)
    for number, frame in enumerate(frames):
        write_png(folder / "proxy" / f"{number:07d}.png", cv2.GaussianBlur(frame, (0, 0), 2))
    return frames


def write_video_into(path: Path, frames: list[np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, np.stack(frames), fps=10)


def test_methods_are_ranked_and_only_turned_cameras_count(tmp_path: Path) -> None:
    frames = write_portrait(tmp_path / "portraits" / "anna")
    for number, frame in enumerate(frames):
        write_png(tmp_path / "views" / "anna" / "reference" / f"{number:03d}.png", frame)
    result = result_of(run(tmp_path / "portraits", "--method", f"views={tmp_path / 'views'}"))
    overall = result["overall"]
    assert list(overall) == ["reference-copied", "published-proxy", "views"]
    assert overall["views"]["zncc"] > 0.95 > overall["published-proxy"]["zncc"]
    assert overall["reference-copied"]["zncc"] < 0.5
    assert overall["published-proxy"]["sharpness"] < 0.3 < 0.7 < overall["views"]["sharpness"]
    assert result["protocol"]["crop"] == "56:196,62:194"
    assert result["protocol"]["min_yaw"] == 0.2


def test_wrong_input_ends_with_status_2(tmp_path: Path) -> None:
    assert run(tmp_path).returncode == 2
    write_portrait(tmp_path / "portraits" / "anna")
    (tmp_path / "empty").mkdir()
    process = run(tmp_path / "portraits", "--method", f"views={tmp_path / 'empty'}")
    assert process.returncode == 2
    assert "no views found" in process.stderr


@pytest.mark.skipif(not REAL_PORTRAITS.is_dir(), reason="the real portraits are not part of the project")
def test_known_figures_of_real_portraits() -> None:
    # Measured independently of this code: PSNR to 0.01 dB, the others to 0.01.
    known = {"0000167": (12.31, 0.54, 0.20), "0000270": (13.36, 0.29, 0.23)}
    copied = result_of(run(REAL_PORTRAITS))["by_subject"]["reference-copied"]
    for subject, (psnr, zncc, gradient_ncc) in known.items():
        assert copied["psnr"][subject] == pytest.approx(psnr, abs=0.006)
        assert copied["zncc"][subject] == pytest.approx(zncc, abs=0.006)
        assert copied["gradient_ncc"][subject] == pytest.approx(gradient_ncc, abs=0.006)
