"""The proxy stage with the volume backend, and the stages that build on it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dp3d_cli.app import app
from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.cameras.trajectories import gen_videos
from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.images import read_image, write_png
from dp3d_cli.core.presets import load_preset
from dp3d_cli.core.weights.manifest import write_manifest
from dp3d_cli.stages.engine.stage import Item
from dp3d_cli.stages.proxy import ProxyStage, load_network, volume_proxies
from dp3d_cli.stages.synthesize import SynthesizeStage
from dp3d_cli.stages.targets import Targets
from tests.fakes.volume import write_tiny_volume
from tests.stages.test_proxy import aligned, run, tree

TWO = gen_videos(2)


@pytest.fixture
def weights(tmp_path: Path) -> str:
    write_tiny_volume(tmp_path / "weights")
    return str(tmp_path / "weights")


def test_the_same_files_as_the_template_with_backend_and_digest(tmp_path: Path, weights: str) -> None:
    item = Item("team/anna", (aligned(tmp_path / "anna.png"),))
    stage = ProxyStage(TWO, 64, volume=weights)
    (outcome,) = run(stage, [item], tmp_path / "out")
    assert outcome.status == "done"
    (template,) = run(ProxyStage(TWO, 64), [item], tmp_path / "template")
    assert template.status == "done"
    made = tmp_path / "out/team/anna"
    assert set(tree(made)) == set(tree(tmp_path / "template/team/anna"))
    facts = json.loads((made / "proxy.json").read_text())
    assert facts["settings"]["backend"] == "volume"
    assert facts["weights"] == dict(stage.weights)
    assert len(facts["weights"][f"{weights}/proxy"]) == 64
    assert facts["reference_camera"]["from"] == "estimated"
    assert read_image(made / "000.png").shape == (64, 64, 3)
    assert stage.settings != ProxyStage(TWO, 64).settings


def test_the_camera_of_the_alignment_and_the_size_count(tmp_path: Path, weights: str) -> None:
    network = load_network(weights)
    unknown = aligned(tmp_path / "a.png")
    turned = aligned(tmp_path / "b.png", camera=Camera.look_at(0.4, 0.0))
    one, two = (volume_proxies(path, TWO.labels, 64, network) for path in (unknown, turned))
    assert not np.array_equal(one.images, two.images)
    assert turned.name == two.facts["reference"]
    assert one.facts["placement"] == two.facts["placement"] == {"scale": 1.0, "shift_u": 0.0, "shift_v": 0.0}
    larger = volume_proxies(unknown, TWO.labels, 96, network)
    assert larger.images.shape == (2, 96, 96, 3)
    assert larger.confidences.shape == larger.coverages.shape == (2, 96, 96)
    assert larger.facts["network_size"] == 64


def test_synthesize_counts_the_network_among_its_weights(tmp_path: Path, tiny_weights: Path) -> None:
    trajectory = gen_videos(2)
    targets = Targets("t", trajectory.cameras, np.zeros((2, 256, 256, 3), np.uint8), closed=False)
    preset = load_preset("nano", [f"weights={tiny_weights}"])
    made_of = {str(tiny_weights), f"{tiny_weights}/proxy", "landmarks", "foreground"}
    assert set(SynthesizeStage(preset, targets).weights) == made_of
    assert len(SynthesizeStage(preset, targets, tmp_path / "proxy").weights) == 1  # made elsewhere
    shutil.copytree(tiny_weights, tmp_path / "without")
    shutil.rmtree(tmp_path / "without" / "proxy")
    write_manifest(tmp_path / "without")
    preset = load_preset("nano", [f"weights={tmp_path / 'without'}"])
    with pytest.raises(WeightsError, match="no volume proxy"):
        _ = SynthesizeStage(preset, targets).weights


def test_dp3d_proxy_end_to_end(tmp_path: Path, weights: str) -> None:
    aligned(tmp_path / "in/anna.png")
    options = ["proxy", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--num-views", "2", "--size", "64"]
    volume = [*options, "--backend", "volume", "--weights", weights]
    result = CliRunner().invoke(app, volume)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out/anna/proxy.json").read_text())["settings"]["backend"] == "volume"

    result = CliRunner().invoke(app, [*options, "--backend", "volume", "--weights", str(tmp_path / "in")])
    assert result.exit_code == 1
    assert "no volume proxy" in " ".join(result.stderr.split())
    result = CliRunner().invoke(app, [*volume, "--images", str(tmp_path / "out")])
    assert result.exit_code == 2


def test_a_portrait_that_is_not_square_fails_alone(tmp_path: Path, weights: str) -> None:
    write_png(tmp_path / "wide.png", np.zeros((64, 80, 3), np.uint8))
    items = [Item("wide", (tmp_path / "wide.png",)), Item("good", (aligned(tmp_path / "good.png"),))]
    outcomes = {
        outcome.id: outcome for outcome in run(ProxyStage(TWO, 64, volume=weights), items, tmp_path / "out")
    }
    assert outcomes["wide"].reason == "not-aligned"
    assert outcomes["good"].status == "done"
