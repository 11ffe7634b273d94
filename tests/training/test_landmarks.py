import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.faces.landmarks import (
    CROP_PX,
    FEATURE_NAMES,
    FEATURE_POINTS,
    FEATURE_SPREAD,
    MIRRORED,
    LandmarkNet,
    LandmarkNetwork,
)
from dp3d_cli.core.presets import read_yaml_mapping
from dp3d_cli.core.renderers.procedural import ProceduralHead
from dp3d_cli.training.data import SPLITS
from dp3d_cli.training.landmarks import (
    CropBatches,
    CropSettings,
    RenderSettings,
    Views,
    draw_cameras,
    draw_crop,
    feature_points,
    landmark_loss,
    main,
    project,
    render_shard,
    write_shard,
)
from dp3d_cli.training.loop import LoopSettings, train
from dp3d_cli.training.settings import build

SMALL = RenderSettings(size=64, views=2, heads=2, shard=2)
CLEAN = CropSettings(
    turn=0, shift=0, scale=0, stretch=0, warp=0, background=0, occluder=0, blur=0, noise=0, jpeg=0, shade=0,
    texture=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("views")
    write_shard(folder / "00000.npz", render_shard(SPLITS["train"][:2], SMALL))
    return folder


@pytest.fixture(scope="module")
def views(folder: Path) -> Views:
    return Views(folder)


def test_points_are_those_that_the_head_names() -> None:
    head = ProceduralHead(12_345, detail=0.5)
    points = dict(zip(FEATURE_NAMES, feature_points(head), strict=True))
    for name in ("nose_tip", "left_eye_outer", "right_mouth_corner", "chin", "left_ear"):
        np.testing.assert_allclose(points[name], head.landmarks[name].numpy(), atol=1e-6)


def test_points_lie_as_in_a_face() -> None:
    points = dict(zip(FEATURE_NAMES, feature_points(ProceduralHead(10_007, detail=0.5)), strict=True))
    heights = [points[name][1] for name in ("left_brow_inner", "left_eye_inner", "nose_tip", "subnasale")]
    heights += [points[name][1] for name in ("upper_lip", "lower_lip", "chin")]
    assert heights == sorted(heights, reverse=True)
    assert points["nose_tip"][2] == max(point[2] for point in points.values())
    assert points["left_brow_outer"][0] < points["left_brow_inner"][0] < points["right_brow_inner"][0]


def test_mean_shape_is_that_of_the_heads() -> None:
    shapes = np.stack([feature_points(ProceduralHead(seed, detail=0.1)) for seed in range(10_000, 10_005)])
    off = np.abs(shapes.mean(0) - np.array(list(FEATURE_POINTS.values())))
    assert (off < 4 * FEATURE_SPREAD[:, None] / math.sqrt(5) + 0.004).all()


def test_projection_is_that_of_the_renderer() -> None:
    """A single bright sample at a feature shows up where `project` says."""
    camera = Camera.look_at(0.3, -0.2)
    head = ProceduralHead(10_001, detail=0.25)
    point = feature_points(head)[FEATURE_NAMES.index("nose_tip")]
    rendering = head.render(torch.from_numpy(camera.label)[None], 64)
    x, y = project(point[None], camera, 64)[0]
    depth = float((camera.world2cam @ [*point, 1])[2])
    assert float(rendering.depth[0, 0, round(y), round(x)]) == pytest.approx(depth, abs=0.02)


def test_cameras_stay_in_range() -> None:
    settings = RenderSettings(views=40)
    cameras = draw_cameras(settings, np.random.default_rng(0))
    elevations = [math.asin(-2 * camera.pitch / math.pi) for camera in cameras]
    assert max(abs(camera.yaw) for camera in cameras) <= settings.yaw + 1e-9
    assert max(map(abs, elevations)) <= settings.elevation + 1e-9
    assert max(abs(camera.yaw) for camera in cameras) > 0.6
    assert np.std([np.linalg.norm(camera.centre) for camera in cameras]) > 0.2


def test_shards_are_functions_of_their_seeds(views: Views) -> None:
    again = render_shard(SPLITS["train"][1:2], SMALL)
    np.testing.assert_array_equal(again["images"], views.images[2:])
    np.testing.assert_array_equal(again["labels"], views.labels[2:])


def test_clean_crop_shows_the_points_where_they_are(views: Views) -> None:
    """Without any disturbance a crop is the standard one, mirrored or not."""
    standard = []
    for seed in range(12):
        _, points = draw_crop(views, 0, [], CLEAN, np.random.default_rng(seed))
        standard.append(points)
        assert ((points > 0) & (points < 1)).all()
    kinds = {tuple(np.round(points.ravel(), 9)) for points in standard}
    assert len(kinds) == 2
    one, other = (np.array(kind).reshape(-1, 2) for kind in kinds)
    np.testing.assert_allclose(one[list(MIRRORED)] * [-1, 1] + [1, 0], other, atol=1e-6)


def test_warped_points_follow_the_picture(views: Views) -> None:
    """A white dot painted on a feature is found where the crop says the feature is."""
    index, name = 0, FEATURE_NAMES.index("nose_tip")
    dotted = Views.__new__(Views)
    dotted.images = np.zeros_like(views.images[:1])
    dotted.masks, dotted.labels = views.masks[:1], views.labels[:1]
    x, y = np.round(views.points[index, name]).astype(int)
    dotted.images[0, y - 1 : y + 2, x - 1 : x + 2] = 255
    dotted.points = views.points[:1].copy()
    dotted.points[0, name] = x, y
    settings = build(CropSettings, {**vars(CLEAN), "warp": 0.02, "turn": 0.3, "stretch": 0.1, "shift": 0.03})
    for seed in range(8):
        inputs, points = draw_crop(dotted, 0, [], settings, np.random.default_rng(seed))
        bright = np.clip(inputs[0] - inputs[0].min() - 0.3 * np.ptp(inputs[0]), 0, None)
        axis = (np.arange(CROP_PX) + 0.5) / CROP_PX
        centre = [(bright.sum(0) * axis).sum(), (bright.sum(1) * axis).sum()] / bright.sum()
        np.testing.assert_allclose(points[name], centre, atol=0.6 / CROP_PX)


def test_batches_are_functions_of_seed_and_step(views: Views) -> None:
    settings = CropSettings(batch=3, pictures=4)
    inputs, points = CropBatches(views, settings, seed=1, steps=4)[2]
    again, _ = CropBatches(views, settings, seed=1, steps=4)[2]
    other, _ = CropBatches(views, settings, seed=2, steps=4)[2]
    assert inputs.shape == (3, 2, CROP_PX, CROP_PX)
    assert points.shape == (3, len(FEATURE_NAMES), 2)
    assert torch.equal(inputs, again)
    assert not torch.equal(inputs, other)
    assert inputs.isfinite().all()


def test_loss_leaves_out_what_is_outside_the_crop() -> None:
    torch.manual_seed(0)
    network = LandmarkNetwork()
    inputs = torch.randn(1, 2, CROP_PX, CROP_PX)
    truth = torch.full((1, len(FEATURE_NAMES), 2), 0.4)
    inside, _ = landmark_loss(network, (inputs, truth), torch.Generator())
    truth[0, 3:] = 1.7
    partly, numbers = landmark_loss(network, (inputs, truth), torch.Generator())
    assert float((partly - inside).detach().abs()) < 0.5 * float(inside.detach().abs())
    assert numbers["miss"] < 1


def test_a_few_steps_lower_the_loss(views: Views, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = LandmarkNetwork()
    batches = CropBatches(views, CropSettings(batch=4, pictures=4), seed=0, steps=12)
    settings = LoopSettings(
        steps=12, decay_steps=1, warmup_steps=1, learning_rate=2e-3, log_every=4, workers=0
    )
    train(network, batches, landmark_loss, settings, tmp_path)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] - 0.5


def test_command_renders_trains_and_exports(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = tmp_path / "tiny.yaml"
    preset.write_text(
        "render: {size: 64, views: 1, heads: 2, shard: 1}\ncrops: {batch: 2, pictures: 2}\n"
        "loop: {steps: 1, decay_steps: 1, warmup_steps: 1, validate_every: 9, workers: 0}\n"
    )
    data = tmp_path / "data"

    def command(*arguments: object) -> None:
        monkeypatch.setattr("sys.argv", ["landmarks", *map(str, arguments)])
        main()

    for split in ("train", "val"):
        command("render", "--preset", preset, "--split", split, "--output", data, "--shards", "0:1")
    with np.load(data / "val" / "00000.npz") as shard:
        assert shard["seeds"].tolist() == [SPLITS["val"][0]]
    command("train", "--preset", preset, "--data", data, "--run", tmp_path / "run")
    command("export", "--run", tmp_path / "run", "--output", tmp_path / "out.safetensors")
    LandmarkNet.load(tmp_path / "out.safetensors")


def test_missing_views_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no shards"):
        Views(tmp_path)


def test_shipped_preset_is_readable() -> None:
    preset = read_yaml_mapping(Path(__file__).parents[2] / "presets/train/landmarks.yaml")
    assert build(RenderSettings, preset["render"]).heads <= len(SPLITS["train"])
    build(CropSettings, preset["crops"])
    build(LoopSettings, preset["loop"])
