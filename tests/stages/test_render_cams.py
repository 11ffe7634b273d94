"""The render-cams stage, with a stand-in for the procedural head where only the plumbing matters."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dp3d_cli.core.cameras.camera import Trajectory
from dp3d_cli.core.cameras.files import read_camera_list, read_cameras
from dp3d_cli.core.cameras.trajectories import gen_videos, ring
from dp3d_cli.core.errors import InputError, UsageError
from dp3d_cli.core.images import read_image, write_png
from dp3d_cli.core.renderers.images import find_condition_images
from dp3d_cli.stages.engine.stage import Product
from dp3d_cli.stages.render_cams import ImageCameras, ProceduralCameras, RenderCamsStage


@dataclass
class Steps:
    """Progress that remembers."""

    seen: list[tuple[int, int]] = field(default_factory=list)

    def step(self, done: int, total: int, label: str = "") -> None:
        self.seen.append((done, total))


@dataclass
class FakeRendering:
    image: torch.Tensor


class FakeHead:
    """Paints red with the seed, green with the camera's x, blue with its y."""

    def __init__(self, seed: int, *, device: str = "cpu", detail: float = 1.0) -> None:
        self.seed = seed

    def render(self, labels: torch.Tensor, size: int) -> FakeRendering:
        assert labels.dtype == torch.float32
        red = torch.full((len(labels),), self.seed / 255)
        colour = torch.stack([red, labels[:, 3] / 2.7 + 0.5, labels[:, 7] / 2.7 + 0.5], dim=1)
        return FakeRendering(colour[:, :, None, None].expand(-1, 3, size, size) * 1.0)


@pytest.fixture
def fake_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dp3d_cli.core.renderers.conditions.ProceduralHead", FakeHead)


def process(stage: RenderCamsStage, draft: Path) -> Product:
    draft.mkdir(exist_ok=True)
    return stage.process(stage.item, draft, Steps())


def image_folder(folder: Path, count: int, size: int = 8) -> ImageCameras:
    for index in range(count):
        write_png(folder / f"{index}.png", np.full((size, size, 3), index, np.uint8))
    return ImageCameras(find_condition_images(folder))


@pytest.mark.usefixtures("fake_head")
def test_each_view_is_rendered_from_its_camera(tmp_path: Path) -> None:
    trajectory = ring(11)  # more than one batch
    stage = RenderCamsStage(trajectory, 16, ProceduralCameras(seed=7))
    steps = Steps()
    product = stage.process(stage.item, tmp_path, steps)
    names = [f"ring/{view}.png" for view in trajectory.view_names]
    assert product.outputs == ("ring/cameras.json", *names, "ring/transforms.json")
    assert sorted(path.name for path in (tmp_path / "ring").iterdir()) == sorted(
        output.split("/")[1] for output in product.outputs
    )
    assert steps.seen == [(index, 11) for index in range(1, 12)]
    for name, camera in zip(names, trajectory.cameras, strict=True):
        image = read_image(tmp_path / name)
        assert image.shape == (16, 16, 3)
        expected = [7, 255 * (camera.centre[0] / 2.7 + 0.5), 255 * (camera.centre[1] / 2.7 + 0.5)]
        np.testing.assert_allclose(image[3, 5], expected, atol=0.51)


@pytest.mark.usefixtures("fake_head")
def test_both_camera_files_hold_the_trajectory(tmp_path: Path) -> None:
    trajectory = gen_videos(5)
    process(RenderCamsStage(trajectory, 32), tmp_path)
    again = read_cameras(tmp_path / "gen-videos/cameras.json")
    np.testing.assert_array_equal(again.labels, trajectory.labels)
    assert (again.name, again.closed) == ("gen-videos", True)
    transforms = tmp_path / "gen-videos/transforms.json"
    np.testing.assert_allclose(read_cameras(transforms).labels, trajectory.labels, rtol=0, atol=1e-6)
    data = json.loads(transforms.read_text())
    assert data["w"] == 32
    assert [frame["file_path"] for frame in data["frames"]] == [f"00{index}.png" for index in range(5)]


@pytest.mark.usefixtures("fake_head")
def test_the_same_settings_give_the_same_bytes(tmp_path: Path) -> None:
    stage = RenderCamsStage(gen_videos(3), 16)
    process(stage, tmp_path / "a")
    for output in process(stage, tmp_path / "b").outputs:
        assert (tmp_path / "a" / output).read_bytes() == (tmp_path / "b" / output).read_bytes()


def test_settings_change_with_what_decides_the_result_and_with_nothing_else() -> None:
    stage = RenderCamsStage(gen_videos(8), 256, ProceduralCameras(seed=1, device="cpu"))
    others = [
        replace(stage, trajectory=gen_videos(9)),
        replace(stage, trajectory=ring(8)),
        replace(stage, trajectory=replace(gen_videos(8), closed=False)),
        replace(stage, size=512),
        replace(stage, backend=ProceduralCameras(seed=2)),
    ]
    for other in others:
        assert other.settings != stage.settings
    assert replace(stage, backend=ProceduralCameras(seed=1, device="cuda")).settings == stage.settings
    json.dumps(stage.settings)
    assert stage.weights == {}
    assert (stage.item.id, stage.item.inputs) == ("gen-videos", ())


def test_images_become_views_in_order(tmp_path: Path) -> None:
    backend = image_folder(tmp_path / "in", 3)
    stage = RenderCamsStage(gen_videos(3), 8, backend)
    assert stage.item.inputs == tuple(tmp_path / "in" / f"{index}.png" for index in range(3))
    product = process(stage, tmp_path / "out")
    assert product.info == {"num_views": 3, "size": 8, "cameras_known": True}
    values = [int(read_image(tmp_path / f"out/gen-videos/00{index}.png")[0, 0, 0]) for index in range(3)]
    assert values == [0, 1, 2]


def test_another_number_of_images_than_views_is_refused_before_any_work(tmp_path: Path) -> None:
    backend = image_folder(tmp_path, 5)
    with pytest.raises(UsageError, match="5 images for 3 views"):
        RenderCamsStage(gen_videos(3), 8, backend)
    thinned = RenderCamsStage(gen_videos(3), 8, replace(backend, resample=True))
    assert thinned.settings["num_views"] == 3


def test_images_without_cameras_are_listed_as_such(tmp_path: Path) -> None:
    stage = RenderCamsStage(None, 8, image_folder(tmp_path / "in", 2), name_without_cameras="clip")
    product = process(stage, tmp_path / "out")
    assert product.outputs == ("clip/cameras.json", "clip/000.png", "clip/001.png")
    assert product.info["cameras_known"] is False
    listed = read_camera_list(tmp_path / "out/clip/cameras.json")
    assert listed.cameras == (None, None)
    assert listed.file_names == ("000.png", "001.png")
    with pytest.raises(InputError, match="unknown"):
        read_cameras(tmp_path / "out/clip/cameras.json")


def test_the_procedural_head_needs_cameras() -> None:
    with pytest.raises(UsageError, match="needs a trajectory"):
        RenderCamsStage(None, 8)


def test_a_name_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot name a trajectory"):
        RenderCamsStage(None, 8, image_folder(tmp_path, 1), name_without_cameras="../up")


def test_the_real_head_is_another_picture_from_another_camera_and_seed(tmp_path: Path) -> None:
    trajectory = Trajectory.from_angles("pair", [-0.3, 0.3], [0, 0])
    process(RenderCamsStage(trajectory, 64, ProceduralCameras(seed=1)), tmp_path / "a")
    process(RenderCamsStage(trajectory, 64, ProceduralCameras(seed=2)), tmp_path / "b")
    left, right = (read_image(tmp_path / f"a/pair/00{view}.png").astype(int) for view in (0, 1))
    other = read_image(tmp_path / "b/pair/000.png").astype(int)
    assert left.std() > 10
    assert np.abs(left - right).mean() > 3
    assert np.abs(left - other).mean() > 3


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:x", "cpu "])
def test_an_unknown_device_is_refused_at_once(device: str) -> None:
    with pytest.raises(UsageError, match="is not a device"):
        ProceduralCameras(device=device)
