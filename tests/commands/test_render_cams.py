"""`dp3d render-cams` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from dp3d_cli.commands.render_cams import render_cams
from dp3d_cli.commands.runner import reporting_errors
from dp3d_cli.core.cameras.files import read_camera_list, read_cameras
from dp3d_cli.core.cameras.trajectories import gen_videos
from dp3d_cli.core.images import write_png


class _Reporting(typer.core.TyperCommand):
    def invoke(self, ctx: object) -> object:
        with reporting_errors():
            return super().invoke(ctx)  # type: ignore[arg-type]


app = typer.Typer()
app.command(cls=_Reporting)(render_cams)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    for index in range(4):
        write_png(folder / f"{index}.png", np.full((16, 16, 3), 60 * index, np.uint8))
    return folder


def test_the_official_trajectory_is_rendered_by_default(tmp_path: Path) -> None:
    output = tmp_path / "cameras"
    result = run("-o", output, "--num-views", 2, "--size", 32, "--device", "cpu")
    assert (result.exit_code, result.stdout) == (0, f"{output}/gen-videos/cameras.json\n")
    trajectory = read_cameras(output / "gen-videos/cameras.json")
    np.testing.assert_array_equal(trajectory.labels, gen_videos(2).labels)
    again = run("-o", output, "--num-views", 2, "--size", 32, "--device", "cpu", "--json")
    assert json.loads(again.stdout)["status"] == "skipped"
    other = run("-o", output, "--num-views", 2, "--size", 32, "--seed", 5)
    assert other.exit_code == 2
    assert "settings.seed: 1 -> 5" in other.stderr


def test_angles_and_images_make_a_trajectory_of_ones_own(tmp_path: Path, frames: Path) -> None:
    result = run("--yaw", "-30:30:4", "--images", frames, "--size", 16, "--name", "mine", "-o", tmp_path)
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path}/mine/cameras.json\n")
    yaws = [np.degrees(camera.yaw) for camera in read_cameras(tmp_path / "mine/cameras.json").cameras]
    assert yaws == pytest.approx([-30, -10, 10, 30], abs=1e-4)


def test_images_may_come_without_cameras(tmp_path: Path, frames: Path) -> None:
    arguments = ("--images", frames, "--no-cameras", "--size", 16, "-o", tmp_path / "out")
    assert run(*arguments).exit_code == 0
    assert read_camera_list(tmp_path / "out/frames/cameras.json").cameras == (None,) * 4
    thinned = run(*arguments, "--num-views", 2, "--resample", "--name", "two")
    assert thinned.exit_code == 0
    assert len(read_camera_list(tmp_path / "out/two/cameras.json").cameras) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gen-vids"], "Did you mean 'gen-videos'?"),
        (["ring", "--yaw", "0"], "--yaw and --pitch list the cameras"),
        (["--yaw", "0", "--num-views", "3"], "--yaw and --pitch list the cameras"),
        (["--yaw", "a"], "setting 'yaw_deg' is 'a'"),
        (["--paired"], "--paired goes with --yaw and --pitch"),
        (["--no-cameras"], "--no-cameras goes with --images"),
        (["ring", "--resample"], "go with --images"),
        (["--images", "FRAMES"], "or say --no-cameras"),
        (["--images", "FRAMES", "ring", "--no-cameras"], "with neither a trajectory nor angles"),
        (["--images", "FRAMES", "ring", "--num-views", "3"], "4 images for 3 views"),
        (["--images", "FRAMES", "ring", "--num-views", "5"], "4 images for 5 views"),
        (["ring", "--name", "a/b"], "--name: 'a/b' cannot name a trajectory"),
        (["ring", "--device", "gpu"], "'gpu' is not a device"),
    ],
)
def test_wrong_requests_end_with_status_2_and_touch_nothing(
    arguments: list[str], message: str, tmp_path: Path, frames: Path
) -> None:
    output = tmp_path / "out"
    arguments = [str(frames) if argument == "FRAMES" else argument for argument in arguments]
    result = run(*arguments, "-o", output)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert not output.exists()
