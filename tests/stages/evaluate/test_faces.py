"""Face, camera and reference metrics: coverage, --strict, five views. The networks are told what to see."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from dp3d_cli.core.cameras.camera import Camera, Trajectory
from dp3d_cli.core.cameras.files import write_cameras
from dp3d_cli.core.errors import UsageError
from dp3d_cli.core.images import write_png
from dp3d_cli.core.metrics.pose import HeadAngles
from dp3d_cli.stages.evaluate import networks
from dp3d_cli.stages.evaluate.plan import Request
from tests.stages.evaluate.runs import evaluate, score
from tests.stages.view_pictures import write_views


def tell(red: int, green: int = 0) -> np.ndarray:
    """A picture whose content the fakes below read off its colour; red 0 has no face."""
    return np.full((32, 32, 3), (red, green, 7), np.uint8)


class ColourFace:
    """An "embedding" at an angle of `green` degrees."""

    def features(self, pixels: np.ndarray) -> np.ndarray | None:
        red, green = (int(value) for value in pixels[0, 0, :2])
        angle = math.radians(green)
        return None if red == 0 else np.array([math.cos(angle), math.sin(angle)], np.float32)

    def describe(self) -> dict[str, object]:
        return {"implementation": "colour", "weights": {"a.onnx": "0" * 64, "b.onnx": "1" * 64}}


class ColourPose(ColourFace):
    """A head turned by `green` degrees of yaw."""

    def estimate(self, pixels: np.ndarray) -> HeadAngles | None:
        red, green = (int(value) for value in pixels[0, 0, :2])
        return None if red == 0 else HeadAngles(0.0, math.radians(green), 0.0)


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, fake in (("face", ColourFace), ("clip", ColourFace), ("pose", ColourPose)):
        monkeypatch.setitem(networks._LOADERS, name, lambda device, pose, loaded, fake=fake: fake())


def write_world(root: Path) -> Request:
    """Views 0 and 1 have faces, view 2 none in the prediction, view 3 none in the truth."""
    for view, (own, true) in enumerate(
        [((1, 60), (1, 0)), ((1, 0), (1, 0)), ((0, 0), (1, 0)), ((1, 0), (0, 0))]
    ):
        write_png(root / "views" / "anna" / f"{view:03d}.png", tell(*own))
        write_png(root / "gt" / "anna" / f"{view:03d}.png", tell(*true))
    write_png(root / "aligned" / "anna.png", tell(1, 30))
    return Request((root / "views",), root / "gt", root / "aligned", metrics="id,pose", size=32)


def test_rows_without_a_face_are_left_out_and_counted(tmp_path: Path) -> None:
    results, content = evaluate(write_world(tmp_path), tmp_path / "report")
    own = results.methods[1]
    assert own.statistics["id_gt"].mean == pytest.approx((0.5 + 1) / 2, abs=1e-6)
    assert own.statistics["pose_mse"].mean == pytest.approx(math.radians(60) ** 2 / 6)
    assert own.statistics["pose_mae_deg"].mean == pytest.approx(20 / 2)
    half = math.cos(math.radians(30))
    assert own.statistics["id_ref"].mean == pytest.approx(half, abs=1e-6)
    assert content["methods"][1]["coverage"] == {
        "id_ref": {"found": 3, "tried": 4, "without_truth": 0},
        "id_gt": {"found": 2, "tried": 4, "without_truth": 1},
        "pose_mse": {"found": 2, "tried": 4, "without_truth": 1},
        "pose_mae_deg": {"found": 2, "tried": 4, "without_truth": 1},
    }
    assert any("id_gt covers 2 of 4 rows" in text for text in results.warnings)
    assert [entry.metric for entry in results.unavailable] == ["pose_camera_deg", "pose_camera_rel_deg"]


def test_strict_scores_a_missing_face_of_the_prediction_as_the_worst(tmp_path: Path) -> None:
    request = write_world(tmp_path)
    plain = score(request, tmp_path / "report").methods[1]
    strict_request = Request(**{**vars(request), "strict": True})
    results, content = evaluate(strict_request, tmp_path / "report")
    strict = results.methods[1]
    assert strict.statistics["id_gt"].mean == pytest.approx((0.5 + 1 + 0) / 3, abs=1e-6)
    assert strict.statistics["id_gt"].n == 3  # the truth without a face is not the method's fault
    assert strict.statistics["pose_mae_deg"].mean == pytest.approx((20 + 0 + 180) / 3)
    assert strict.statistics["pose_mse"].mean == pytest.approx((math.radians(60) ** 2 / 3 + math.pi**2) / 3)
    assert strict.coverage == plain.coverage
    assert content["protocol"]["strict"] is True
    assert content["metrics"]["id_gt"]["worst"] == 0
    assert strict.subjects[0].rows[2].values["id_gt"] == 0


def test_no_face_anywhere_is_unavailable_not_a_number(tmp_path: Path) -> None:
    for name in ("views", "gt"):
        write_png(tmp_path / name / "anna" / "000.png", tell(0))
    request = Request((tmp_path / "views",), tmp_path / "gt", metrics="psnr,id_gt", size=32)
    results, content = evaluate(request, tmp_path / "report")
    assert [(entry.metric, entry.method, entry.reason) for entry in results.unavailable] == [
        ("id_gt", "views", "no-face")
    ]
    assert list(content["methods"][0]["metrics"]) == ["psnr"]


def test_camera_metric_takes_the_camera_that_was_asked_for(tmp_path: Path) -> None:
    yaws = (0.0, 0.35)
    trajectory = Trajectory("two", tuple(Camera.look_at(yaw, 0.0, pivot=(0, 0, 0)) for yaw in yaws))
    for view, _ in enumerate(yaws):
        write_png(tmp_path / "views" / "anna" / f"{view:03d}.png", tell(1, 20))
        write_png(tmp_path / "gt" / "anna" / f"{view:03d}.png", tell(1, 20))
    request = Request((tmp_path / "views",), tmp_path / "gt", metrics="pose_camera_deg", size=32)
    assert score(request, tmp_path / "report").unavailable[0].reason == "no-cameras"
    write_cameras(tmp_path / "views" / "anna" / "cameras.json", trajectory)
    rows = score(request, tmp_path / "report").methods[0].subjects[0].rows
    assert rows[0].values["pose_camera_deg"] == pytest.approx(20, abs=1e-6)
    assert rows[1].values["pose_camera_deg"] == pytest.approx(abs(20 - math.degrees(0.35)), abs=1e-4)
    assert [row.yaw for row in rows] == pytest.approx(yaws, abs=1e-6)


def test_turns_against_one_another_do_not_depend_on_what_the_estimator_calls_straight(tmp_path: Path) -> None:
    yaws = (0.0, 0.2, 0.4, 0.6)
    trajectory = Trajectory("four", tuple(Camera.look_at(yaw, 0.0, pivot=(0, 0, 0)) for yaw in yaws))
    for method, shift in (("exact", 25), ("half", 0)):
        for view, yaw in enumerate(yaws):
            turned = math.degrees(yaw) * (0.5 if method == "half" else 1)
            write_png(tmp_path / method / "anna" / f"{view:03d}.png", tell(1, round(turned) + shift))
            write_png(tmp_path / "gt" / "anna" / f"{view:03d}.png", tell(0))
        write_cameras(tmp_path / method / "anna" / "cameras.json", trajectory)
    folders = (tmp_path / "exact", tmp_path / "half")
    request = Request(folders, tmp_path / "gt", metrics="pose_camera_deg,pose_camera_rel_deg", size=32)
    exact, half = score(request, tmp_path / "report").methods
    assert exact.statistics["pose_camera_deg"].mean == pytest.approx(25, abs=0.5)
    assert exact.statistics["pose_camera_rel_deg"].mean == pytest.approx(
        0, abs=0.5
    )  # colours are whole degrees
    assert half.statistics["pose_camera_rel_deg"].mean == pytest.approx(math.degrees(0.1), abs=0.5)
    assert half.statistics["pose_camera_rel_deg"].n == 1


def write_ring(root: Path, degrees: tuple[int, ...]) -> Request:
    trajectory = Trajectory("ring", tuple(Camera.look_at(math.radians(yaw), 0.0) for yaw in degrees))
    for view, _ in enumerate(degrees):
        write_png(root / "views" / "anna" / f"{view:03d}.png", tell(1, view))
    write_cameras(root / "views" / "anna" / "cameras.json", trajectory)
    write_png(root / "aligned" / "anna.png", tell(1, 0))
    return Request((root / "views",), None, root / "aligned", protocol="portrait-diffusion", size=32)


def test_portrait_diffusion_compares_five_views_with_the_reference(tmp_path: Path) -> None:
    request = write_ring(tmp_path, (170, -93, -60, -40, 2, 30, 49, 88, 120))
    results, content = evaluate(request, tmp_path / "report")
    rows = results.methods[0].subjects[0].rows
    assert [row.view for row in rows] == [1, 3, 4, 6, 7]
    angles = np.radians([1, 3, 4, 6, 7])
    assert results.methods[0].statistics["clip_i"].mean == pytest.approx(np.cos(angles).mean(), abs=1e-6)
    assert results.methods[0].statistics["id_ref"].n == 5
    assert content["protocol"]["outside_five"] == 4
    assert content["protocol"]["name"] == "portrait-diffusion"
    assert content["protocol"]["deviations"] == ["size: 32 instead of 512.", "lpips_ref5 is unavailable."]


def test_five_views_that_are_not_there_are_a_usage_error(tmp_path: Path) -> None:
    request = write_ring(tmp_path, (-20, -10, 0, 10, 15, 20))
    with pytest.raises(UsageError, match="--views all"):
        score(request, tmp_path / "report")


def test_exactly_five_views_need_no_angles(tmp_path: Path) -> None:
    write_views(tmp_path / "views" / "anna", 5)
    write_png(tmp_path / "aligned" / "anna.png", tell(1, 0))
    request = Request((tmp_path / "views",), None, tmp_path / "aligned", protocol="portrait-diffusion")
    assert len(score(request, tmp_path / "report").methods[0].rows) == 5


def test_an_unreadable_reference_costs_only_what_needs_it(tmp_path: Path) -> None:
    request = write_world(tmp_path)
    (tmp_path / "aligned" / "anna.png").write_text("no picture")
    results = score(Request(**{**vars(request), "metrics": "psnr,id"}), tmp_path / "report")
    own = results.methods[-1]
    assert len(own.rows) == 4
    assert own.statistics["id_gt"].n == 2
    assert [(entry.metric, entry.method) for entry in results.unavailable] == [("id_ref", "views")]
    assert any("anna: the reference: anna.png" in text for text in results.warnings)
