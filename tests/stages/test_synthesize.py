"""The synthesize stage on real portraits with tiny random networks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data

from dp3d_cli.core.cameras.camera import Trajectory
from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.faces.opencv import OpenCVDetector
from dp3d_cli.core.images import read_image, write_png
from dp3d_cli.core.presets import Preset, load_preset
from dp3d_cli.stages.align import AlignStage
from dp3d_cli.stages.engine.progress import Summary
from dp3d_cli.stages.engine.run import RunOptions, run_stage
from dp3d_cli.stages.engine.stage import Item
from dp3d_cli.stages.proxy import ProxyStage
from dp3d_cli.stages.synthesize import SynthesizeStage
from dp3d_cli.stages.targets import Targets
from tests.fakes.progress import Recorder
from tests.fakes.trees import snapshot

VIEWS = 3


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two aligned portraits: the astronaut, and her mirror image."""
    folder = tmp_path_factory.mktemp("portraits")
    picture = skimage.data.astronaut()
    write_png(folder / "photos" / "a.png", picture)
    write_png(folder / "photos" / "b.png", np.ascontiguousarray(picture[:, ::-1]))
    items = [Item(name, (folder / "photos" / f"{name}.png",)) for name in ("a", "b")]
    summary = run_stage(AlignStage(OpenCVDetector()), items, folder / "aligned", RunOptions(), Recorder())
    assert summary.exit_status == 0
    return folder / "aligned"


@pytest.fixture
def preset(tiny_weights: Path) -> Preset:
    return load_preset("nano", [f"weights={tiny_weights}", "noise_strength=0.5", "num_inference_steps=2"])


@pytest.fixture(scope="module")
def targets() -> Targets:
    trajectory = Trajectory.from_angles("test", np.array([-0.3, 0.0, 0.3]), np.zeros(VIEWS))
    conditions = np.random.default_rng(0).integers(0, 256, (VIEWS, 256, 256, 3), np.uint8)
    return Targets("test", trajectory.cameras, conditions, closed=False)


def subject(aligned: Path, *names: str) -> Item:
    return Item("-".join(names), tuple(aligned / f"{name}.png" for name in names))


def run(stage: SynthesizeStage, items: list[Item], output: Path) -> Summary:
    return run_stage(stage, stage.items_of(items), output, RunOptions(), Recorder())


def test_each_camera_gets_a_view_and_the_result_says_how_it_was_made(
    aligned: Path, preset: Preset, targets: Targets, tmp_path: Path
) -> None:
    summary = run(SynthesizeStage(preset, targets), [subject(aligned, "a")], tmp_path)
    assert summary.exit_status == 0
    folder = tmp_path / "a"
    described = json.loads((folder / "views.json").read_bytes())
    assert [view["file"] for view in described["views"]] == ["000.png", "001.png", "002.png"]
    assert [view["yaw_deg"] for view in described["views"]] == pytest.approx([-17.1887, 0, 17.1887], abs=1e-3)
    assert described["preset"]["sampler"]["noise_strength"] == 0.5
    assert described["references"][0]["file"] == "a.png"
    assert len(described["weights"][preset.weights]) == 64
    for view in described["views"]:
        assert read_image(folder / view["file"]).shape == (256, 256, 3)
    assert len(json.loads((folder / "transforms.json").read_bytes())["frames"]) == VIEWS
    assert read_image(folder / "contact_sheet.png").shape[1] > 3 * 128


def test_proxies_from_files_and_proxies_made_here_are_the_same(
    aligned: Path, preset: Preset, targets: Targets, tmp_path: Path
) -> None:
    item = subject(aligned, "a")
    assert targets.trajectory is not None
    proxy = ProxyStage(targets.trajectory, preset.size, volume=preset.weights)
    run_stage(proxy, proxy.items_of([item]), tmp_path / "proxy", RunOptions(), Recorder())
    run(SynthesizeStage(preset, targets), [item], tmp_path / "here")
    run(SynthesizeStage(preset, targets, tmp_path / "proxy"), [item], tmp_path / "files")
    for view in targets.view_names:
        assert (tmp_path / f"here/a/{view}.png").read_bytes() == (
            tmp_path / f"files/a/{view}.png"
        ).read_bytes()


def test_a_subject_does_not_depend_on_the_others(
    aligned: Path, preset: Preset, targets: Targets, tmp_path: Path
) -> None:
    a, b = subject(aligned, "a"), subject(aligned, "b")
    run(SynthesizeStage(preset, targets), [b, a], tmp_path / "together")
    run(SynthesizeStage(preset, targets), [a], tmp_path / "alone")
    run(SynthesizeStage(preset, targets), [b], tmp_path / "alone")
    assert snapshot(tmp_path / "together") == snapshot(tmp_path / "alone")
    assert (tmp_path / "alone/a/000.png").read_bytes() != (tmp_path / "alone/b/000.png").read_bytes()


def test_a_second_reference_changes_the_views(
    aligned: Path, preset: Preset, targets: Targets, tmp_path: Path
) -> None:
    one = subject(aligned, "a")
    two = replace(subject(aligned, "a", "b"), id="a")
    run(SynthesizeStage(preset, targets), [one], tmp_path / "one")
    run(SynthesizeStage(preset, targets), [two], tmp_path / "two")
    described = json.loads((tmp_path / "two/a/views.json").read_bytes())
    assert [reference["file"] for reference in described["references"]] == ["a.png", "b.png"]
    assert (tmp_path / "one/a/000.png").read_bytes() != (tmp_path / "two/a/000.png").read_bytes()


def test_a_portrait_that_is_not_square_fails_with_advice(
    preset: Preset, targets: Targets, tmp_path: Path
) -> None:
    write_png(tmp_path / "wide.png", np.zeros((64, 96, 3), np.uint8))
    summary = run(
        SynthesizeStage(preset, targets), [Item("wide", (tmp_path / "wide.png",))], tmp_path / "views"
    )
    assert [outcome.reason for outcome in summary.outcomes] == ["not-aligned"]
    assert "dp3d align" in summary.outcomes[0].message


def test_missing_proxies_fail_their_subject_only(
    aligned: Path, preset: Preset, targets: Targets, tmp_path: Path
) -> None:
    (tmp_path / "proxy").mkdir()
    summary = run(
        SynthesizeStage(preset, targets, tmp_path / "proxy"), [subject(aligned, "a")], tmp_path / "views"
    )
    assert [outcome.reason for outcome in summary.outcomes] == ["no-proxies"]


def test_missing_weights_stop_before_anything_is_touched(
    aligned: Path, preset: Preset, targets: Targets, tmp_path: Path
) -> None:
    stage = SynthesizeStage(preset.model_copy(update={"weights": str(tmp_path / "none")}), targets)
    with pytest.raises(WeightsError, match="No weights"):
        run(stage, [subject(aligned, "a")], tmp_path / "views")
    assert not (tmp_path / "views").exists()
