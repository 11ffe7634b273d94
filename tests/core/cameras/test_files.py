"""Camera files: what is written is read back, and what cannot be meant is refused with the place."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dp3d_cli.core.cameras.camera import FOCAL, Camera, Rig, Trajectory
from dp3d_cli.core.cameras.files import (
    CameraList,
    read_camera_list,
    read_cameras,
    write_camera_list,
    write_cameras,
    write_transforms,
)
from dp3d_cli.core.cameras.trajectories import gen_videos
from dp3d_cli.core.errors import InputError

Z_UP = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
angles = st.lists(st.tuples(st.floats(-3.1, 3.1), st.floats(-1.4, 1.4)), min_size=1, max_size=6)
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)


def write_json(path: Path, data: object) -> Path:
    path.write_text(json.dumps(data))
    return path


@given(angles, st.booleans())
@same_folder
def test_cameras_json_gives_back_the_same_labels(tmp_path: Path, pairs: list, closed: bool) -> None:
    trajectory = Trajectory.from_angles("x", *zip(*pairs, strict=True), closed=closed)
    write_cameras(tmp_path / "cameras.json", trajectory)
    again = read_cameras(tmp_path / "cameras.json")
    np.testing.assert_array_equal(again.labels, trajectory.labels)
    assert (again.name, again.closed) == ("x", closed)


def test_cameras_json_has_one_readable_line_a_view_and_the_same_bytes_every_time(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    write_cameras(first, gen_videos(4))
    write_cameras(second, read_cameras(first))
    assert first.read_bytes() == second.read_bytes()
    lines = first.read_text().splitlines()
    assert len(lines) == 6 + 4 + 2
    view = json.loads(lines[7].rstrip(","))
    assert list(view) == ["view", "label", "yaw_deg", "pitch_deg", "file"]
    assert (view["view"], view["file"], len(view["label"])) == ("001", "001.png", 25)
    assert view["yaw_deg"] == pytest.approx(math.degrees(gen_videos(4).cameras[1].yaw), abs=1e-4)


@given(angles, st.booleans())
@same_folder
def test_transforms_json_gives_back_the_same_cameras_also_with_z_up(
    tmp_path: Path, pairs: list, z_up: bool
) -> None:
    trajectory = Trajectory.from_angles("x", *zip(*pairs, strict=True), rig=Rig(focal=3.21))
    path = tmp_path / "transforms.json"
    write_transforms(path, trajectory, 320, z_up=z_up)
    np.testing.assert_allclose(read_cameras(path).labels, trajectory.labels, rtol=0, atol=1e-6)


def test_transforms_json_equals_the_worked_example(tmp_path: Path) -> None:
    official = json.loads((Path(__file__).parent / "eg3d_cameras.json").read_text())["cases"]
    example = next(case for case in official if case["name"] == "worked_example")
    trajectory = Trajectory.from_angles("x", [example["yaw"]], [example["pitch"]])
    write_transforms(tmp_path / "y.json", trajectory, 512, ["views/000.png"])
    written = json.loads((tmp_path / "y.json").read_text())
    matrix = np.array(example["opengl_transform_matrix"])
    np.testing.assert_allclose(written["frames"][0]["transform_matrix"], matrix, rtol=0, atol=1e-6)
    assert written["frames"][0]["file_path"] == "views/000.png"
    assert "applied_transform" not in written
    assert (written["w"], written["cx"], written["fl_x"]) == (512, 256, pytest.approx(2183.526, abs=1e-3))
    assert math.degrees(written["camera_angle_x"]) == pytest.approx(13.374, abs=1e-3)
    assert written["orientation_override"] == "none"

    write_transforms(tmp_path / "z.json", trajectory, 512, z_up=True)
    written = json.loads((tmp_path / "z.json").read_text())
    np.testing.assert_allclose(written["frames"][0]["transform_matrix"], Z_UP @ matrix, rtol=0, atol=1e-6)
    assert written["applied_transform"] == Z_UP[:3].tolist()


def test_cameras_with_different_lenses_keep_them_in_transforms_json(tmp_path: Path) -> None:
    cameras = (Camera.look_at(0, 0, focal=2.0), Camera.look_at(0.1, 0, focal=3.0))
    write_transforms(tmp_path / "t.json", Trajectory("zoom", cameras), 100)
    again = read_cameras(tmp_path / "t.json")
    assert [camera.intrinsics[0, 0] for camera in again.cameras] == pytest.approx([2, 3])


BLENDER = {
    "camera_angle_x": 2 * math.atan(0.5 / FOCAL),
    "frames": [{"file_path": "./train/r_0", "rotation": 0.01, "transform_matrix": None}],
}
COLMAP = {
    "camera_model": "OPENCV",
    "w": 640,
    "h": 640,
    "fl_x": FOCAL * 640,
    "fl_y": FOCAL * 640,
    "cx": 320,
    "cy": 320,
    "k1": 0.0,
    "aabb_scale": 16,
    "frames": [{"file_path": "images/0001.jpg", "colmap_im_id": 1, "transform_matrix": None}],
}


def filled(data: dict, camera: Camera) -> dict:
    data = copy.deepcopy(data)
    data["frames"][0]["transform_matrix"] = camera.cam2world_opengl.tolist()
    return data


@pytest.mark.parametrize("data", [BLENDER, COLMAP], ids=["camera_angle_x", "fl_x"])
def test_both_styles_of_transforms_json_are_read(data: dict, tmp_path: Path) -> None:
    camera = Camera.look_at(0.35, -0.1)
    folder = tmp_path / "anna"
    folder.mkdir()
    path = write_json(folder / "transforms.json", filled(data, camera))
    trajectory = read_cameras(path)
    np.testing.assert_allclose(trajectory.labels[0], camera.label, rtol=0, atol=1e-6)
    assert trajectory.name == "anna"
    assert not trajectory.closed
    assert read_camera_list(path).file_names == (data["frames"][0]["file_path"],)


def test_matrices_of_three_rows_and_own_lenses_are_read(tmp_path: Path) -> None:
    camera = Camera.look_at(0.35, -0.1)
    data = filled(COLMAP, camera)
    data["frames"][0]["transform_matrix"].pop()
    data["frames"][0] |= {"fl_x": 1280, "fl_y": 1280}
    read = read_cameras(write_json(tmp_path / "transforms.json", data)).cameras[0]
    np.testing.assert_allclose(read.cam2world, camera.cam2world, atol=1e-12)
    assert read.intrinsics[0, 0] == 2


def test_an_applied_transform_is_undone(tmp_path: Path) -> None:
    camera = Camera.look_at(0.35, -0.1)
    data = filled(COLMAP, camera)
    angle = 0.7
    applied = np.eye(4)
    applied[:3, :3] = [
        [math.cos(angle), -math.sin(angle), 0],
        [math.sin(angle), math.cos(angle), 0],
        [0, 0, 1],
    ]
    applied[:3, 3] = [0.1, -0.2, 0.3]
    data["frames"][0]["transform_matrix"] = (applied @ camera.cam2world_opengl).tolist()
    data["applied_transform"] = applied[:3].tolist()
    read = read_cameras(write_json(tmp_path / "transforms.json", data)).cameras[0]
    np.testing.assert_allclose(read.cam2world, camera.cam2world, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k1": 0.1}, "frame 0 .*the lens is distorted"),
        ({"h": 480}, "640x480; square ones are needed"),
        ({"camera_model": "OPENCV_FISHEYE"}, "'OPENCV_FISHEYE' is not supported"),
        ({"fl_x": None}, "neither fl_x nor camera_angle_x"),
        ({"fl_x": -5}, "setting 'fl_x' is -5"),
        ({"w": None, "h": None}, "fl_x is in pixels, but w is missing"),
        ({"frames": []}, "setting 'frames' is \\[\\]"),
        ({"frames": [{"file_path": "a"}]}, "setting 'frames.0.transform_matrix' is missing"),
        ({"frames": [{"file_path": "a", "transform_matrix": [[1, 2, 3]] * 3}]}, "transform_matrix.0"),
        (
            {"frames": [{"file_path": "a", "transform_matrix": [[2, 0, 0, 0]] * 4}]},
            "frame 0 \\(a\\): cam2world",
        ),
        ({"applied_scale": 2.0}, "applied_scale is 2.0"),
        ({"applied_transform": [[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]]}, "applied_transform: cam2world"),
    ],
)
def test_a_transforms_json_that_cannot_be_honoured_is_refused(
    change: dict, message: str, tmp_path: Path
) -> None:
    path = write_json(tmp_path / "transforms.json", filled(COLMAP, Camera.look_at(0, 0)) | change)
    with pytest.raises(InputError, match=message) as caught:
        read_cameras(path)
    assert caught.value.reason == "bad-cameras"
    assert str(path) in str(caught.value)


def test_a_damaged_file_says_so(tmp_path: Path) -> None:
    for text in ("", "{", "\N{SNOWMAN}", "[" * 100_000):
        path = tmp_path / "cameras.json"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match="not valid JSON"):
            read_cameras(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not valid JSON"):
        read_cameras(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_cameras(tmp_path / "missing.json")
    for data in ([], {}, {"format": "other"}):
        with pytest.raises(InputError, match=r"neither a cameras\.json"):
            read_cameras(write_json(path, data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(version=2), "version 2 was written by a newer dp3d"),
        (lambda d: d.update(version=None), "setting 'version'"),
        (lambda d: d.update(name="../up"), "cannot name a folder"),
        (lambda d: d.update(extra=1), "unknown setting 'extra'"),
        (lambda d: d.update(views=[]), "setting 'views'"),
        (lambda d: d["views"][1].update(view="007"), "view '007' stands where '001' belongs"),
        (lambda d: d["views"][1]["label"].pop(), "setting 'views.1.label'"),
        (lambda d: d["views"][1]["label"].__setitem__(0, 5.0), "view '001': cam2world is not a rotation"),
        (lambda d: d["views"][1].update(yaw_deg=21.5), "view '001': yaw_deg is 21.5, but its label says"),
        (
            lambda d: d["views"][1].update(file="../../x.png"),
            "view '001': the file '../../x.png' is not below",
        ),
        (lambda d: d["views"][1].update(file="/x.png"), "is not below"),
    ],
)
def test_a_wrong_cameras_json_names_the_place(change, message: str, tmp_path: Path) -> None:
    path = tmp_path / "cameras.json"
    write_cameras(path, gen_videos(4))
    data = json.loads(path.read_text())
    change(data)
    write_json(path, data)
    with pytest.raises(InputError, match=message) as caught:
        read_cameras(path)
    assert caught.value.reason == "bad-cameras"


def test_a_hand_written_cameras_json_needs_only_labels(tmp_path: Path) -> None:
    labels = gen_videos(3).labels
    data = {
        "format": "dp3d-cameras",
        "version": 1,
        "name": "mine",
        "views": [{"label": label.tolist()} for label in labels],
    }
    path = write_json(tmp_path / "cameras.json", data)
    np.testing.assert_array_equal(read_cameras(path).labels, labels)
    assert read_camera_list(path).file_names == ("000.png", "001.png", "002.png")


def test_unknown_cameras_are_kept_as_such_and_refused_where_they_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "cameras.json"
    listed = CameraList("clip", (None, Camera.look_at(0.1, 0)), ("000.png", "001.png"))
    write_camera_list(path, listed)
    again = read_camera_list(path)
    assert again.cameras[0] is None
    assert again.cameras[1] is not None
    with pytest.raises(InputError, match="cameras of 1 of 2 views are unknown") as caught:
        read_cameras(path)
    assert caught.value.reason == "unknown-cameras"


def test_as_many_file_names_as_cameras_are_needed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 file names for 3 cameras"):
        write_cameras(tmp_path / "cameras.json", gen_videos(3), ["a.png"])
    with pytest.raises(ValueError, match="1 file names for 3 cameras"):
        write_transforms(tmp_path / "transforms.json", gen_videos(3), 64, ["a.png"])


def test_cameras_read_back_have_the_same_bytes(tmp_path: Path) -> None:
    trajectory = gen_videos(2)  # its first camera has zeros of both signs
    write_cameras(tmp_path / "cameras.json", trajectory)
    assert read_cameras(tmp_path / "cameras.json").labels.tobytes() == trajectory.labels.tobytes()
