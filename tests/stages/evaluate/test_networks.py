"""Metrics with networks, from the request to metrics.json, on random weights in the libraries' caches."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from dp3d_cli.core.images import write_png
from dp3d_cli.core.metrics.dists import Dists
from dp3d_cli.core.metrics.fid import FidFeatures, frechet_distance
from dp3d_cli.core.metrics.kid import kernel_distance
from dp3d_cli.core.metrics.lpips import Lpips
from dp3d_cli.stages.evaluate import networks
from dp3d_cli.stages.evaluate.networks import Networks, Sight
from dp3d_cli.stages.evaluate.plan import Request
from dp3d_cli.stages.evaluate.results import Results
from tests.fakes.backbones import TORCH_HUB, backbone_cache, write_torch_backbone
from tests.stages.evaluate.runs import evaluate, prepare, score
from tests.stages.view_pictures import picture, write_views

SIDE = 64
METRICS = "lpips,dists,fid,fid_clean,kid,clip_i"


class CoarsePicture:
    """In place of Inception where its numbers do not matter: the picture at 4 x 4."""

    digest = "a" * 64
    seen: ClassVar[list[bytes]] = []

    def features(self, pixels: np.ndarray) -> np.ndarray:
        self.seen.append(pixels.tobytes())
        step = len(pixels) // 4
        return pixels[::step, ::step].astype(np.float32).ravel() / 255

    def describe(self) -> dict[str, str]:
        return {"implementation": "coarse", "weights": "coarse.pth", "weights_sha256": self.digest}


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> type[CoarsePicture]:
    CoarsePicture.seen.clear()
    monkeypatch.setattr(CoarsePicture, "digest", "a" * 64)
    monkeypatch.setitem(networks._LOADERS, "inception", lambda device, pose, loaded: CoarsePicture())
    return CoarsePicture


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbones")
    for name in TORCH_HUB:
        write_torch_backbone(folder, name)
    return folder


@pytest.fixture
def cache(backbones: Path, no_backbones: Path) -> Iterator[Path]:
    with backbone_cache(backbones):
        yield backbones


def write_world(root: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    truth, own = [], []
    for number, name in enumerate(("anna", "bob")):
        truth += write_views(root / "gt" / name, 2, seed=10 * number, side=SIDE)
        own += write_views(root / "views" / name, 2, seed=10 * number + 5, side=SIDE)
    return own, truth


def means(results: Results) -> dict[str, dict[str, float | None]]:
    return {
        method.method: {
            **{name: numbers.mean for name, numbers in method.statistics.items()},
            **{name: value.value for name, value in method.sets.items()},
        }
        for method in results.methods
    }


def test_a_distance_is_that_of_the_metric_itself(tmp_path: Path, cache: Path) -> None:
    own, truth = write_world(tmp_path)
    request = Request((tmp_path / "views",), tmp_path / "gt", metrics="lpips_alex", size=SIDE)
    results, content = evaluate(request, tmp_path / "report")
    metric = Lpips.load("alex")
    expected = np.mean([metric(a, b) for a, b in zip(own, truth, strict=True)])
    assert means(results)["views"]["lpips_alex"] == pytest.approx(expected, abs=1e-7)
    implementation = content["metrics"]["lpips_alex"]["implementation"]
    assert implementation["weights"] == "alexnet-owt-7be5be79.pth"
    assert len(implementation["weights_sha256"]) == 64
    assert "[-1, 1]" in implementation["input"]


@pytest.mark.slow
def test_numbers_are_those_of_the_metrics_themselves(tmp_path: Path, cache: Path) -> None:
    own, truth = write_world(tmp_path)
    request = Request((tmp_path / "views",), tmp_path / "gt", metrics=METRICS, size=SIDE)
    results, content = evaluate(request, tmp_path / "report")
    found = means(results)["views"]
    pairs = list(zip(own, truth, strict=True))
    for name, metric in (
        ("lpips_alex", Lpips.load("alex")),
        ("lpips_vgg", Lpips.load("vgg")),
        ("dists@256", Dists.load("256")),
        ("dists@native", Dists.load("native")),
    ):
        assert found[name] == pytest.approx(np.mean([metric(a, b) for a, b in pairs]), abs=1e-7), name
    for name, convention in (("fid", "pytorch-fid"), ("fid_clean", "clean-fid")):
        network = FidFeatures.load(convention)  # type: ignore[arg-type]
        sets = [np.stack([network.features(p) for p in side]) for side in (own, truth)]
        assert found[name] == pytest.approx(frechet_distance(*sets), rel=1e-6), name
        if name == "fid":
            assert found["kid"] == pytest.approx(kernel_distance(*sets)[0], rel=1e-6)
    assert found["fid"] != pytest.approx(found["fid_clean"], rel=1e-3)
    sets = content["methods"][0]["sets"]
    assert (sets["fid"]["predictions"], sets["fid"]["truths"]) == (4, 4)
    assert sets["kid"]["sd"] > 0
    assert any("FID of 4 pictures" in text for text in results.warnings)
    assert [entry.metric for entry in results.unavailable] == ["clip_i"]


def test_the_stage_knows_its_weights_and_networks(tmp_path: Path, cache: Path) -> None:
    write_world(tmp_path)
    request = Request((tmp_path / "views",), tmp_path / "gt", metrics="psnr,lpips_alex,dists@256", size=SIDE)
    stage, _ = prepare(request, tmp_path / "report")
    assert {"alexnet-owt-7be5be79.pth", "vgg16-397923af.pth"} < set(stage.weights)
    assert all(len(digest) == 64 for digest in stage.weights.values())
    assert json.loads(json.dumps(stage.settings)) == stage.settings
    assert stage.settings["metrics"] == ["psnr", "lpips_alex", "dists@256"]


def test_order_of_methods_and_subjects_changes_no_number(
    tmp_path: Path, cache: Path, coarse: type[CoarsePicture]
) -> None:
    write_world(tmp_path)
    write_views(tmp_path / "other" / "bob", 2, seed=40, side=SIDE)
    write_views(tmp_path / "other" / "anna", 2, seed=50, side=SIDE)
    found = []
    for number, methods in enumerate(itertools.permutations(("views", "other"))):
        folders = tuple(tmp_path / name for name in methods)
        request = Request(folders, tmp_path / "gt", metrics="lpips_alex,fid,kid", size=SIDE)
        stage, pairing = prepare(request, tmp_path / f"report{number}")
        for item in stage.items[:: 1 if number else -1]:
            stage.process(item, tmp_path / f"report{number}", _Silent())
        from dp3d_cli.stages.evaluate.collect import collect

        found.append(
            means(collect(tmp_path / f"report{number}", stage.protocol, pairing, stage.available, {}))
        )
    assert found[0] == found[1]


def test_missing_backbones_are_unavailable_with_the_command_and_the_rest_is_computed(tmp_path: Path) -> None:
    write_world(tmp_path)
    write_png(tmp_path / "aligned" / "anna.png", picture(1, SIDE))
    request = Request(
        (tmp_path / "views",), tmp_path / "gt", tmp_path / "aligned", metrics=f"psnr,id,{METRICS}", size=SIDE
    )
    results, content = evaluate(request, tmp_path / "report")
    commands = {entry["metric"]: entry["command"] for entry in content["unavailable"]}
    assert commands == {
        "id_ref": "dp3d weights fetch buffalo_l",
        "id_gt": "dp3d weights fetch buffalo_l",
        "lpips_alex": "dp3d weights fetch alexnet",
        "lpips_vgg": "dp3d weights fetch vgg16",
        "dists@256": "dp3d weights fetch vgg16",
        "dists@native": "dp3d weights fetch vgg16",
        "fid": "dp3d weights fetch fid-inception",
        "fid_clean": "dp3d weights fetch fid-inception",
        "kid": "dp3d weights fetch fid-inception",
        "clip_i": commands["clip_i"],
    }
    assert commands["clip_i"] in ("dp3d weights fetch clip-vit-b32", "pip install 'dp3d[clip]'")
    assert {entry["reason"] for entry in content["unavailable"]} <= {"weights-missing", "package-missing"}
    for method in content["methods"]:
        assert list(method["metrics"]) == ["psnr"]
        assert method["sets"] == {}
    assert results.methods[-1].statistics["psnr"].n == 4


def test_features_of_the_truth_are_computed_once_for_all_methods_and_runs(
    tmp_path: Path, coarse: type[CoarsePicture]
) -> None:
    write_world(tmp_path)
    write_views(tmp_path / "other" / "anna", 2, seed=70, side=SIDE)
    folders = (tmp_path / "views", tmp_path / "other")
    request = Request(folders, tmp_path / "gt", metrics="fid,kid", size=SIDE)
    first = means(score(request, tmp_path / "report"))
    assert len(coarse.seen) == len(set(coarse.seen)) == 4 + 2 + 4
    coarse.seen.clear()
    assert means(score(request, tmp_path / "report")) == first
    assert len(coarse.seen) == 4 + 2


def test_a_damaged_cache_file_is_computed_again(tmp_path: Path, coarse: type[CoarsePicture]) -> None:
    sight = Sight.of(picture(3, SIDE))
    first = Networks(cache=tmp_path).features("inception", sight, "truth")
    (stored,) = tmp_path.rglob("*.npy")
    whole = stored.read_bytes()
    for content in (b"", whole[:50], whole[:-9], b"no array"):
        stored.write_bytes(content)
        again = Networks(cache=tmp_path).features("inception", sight, "truth")
        np.testing.assert_array_equal(again, first)
        assert stored.read_bytes() == whole


def test_cache_of_other_weights_is_not_taken(
    tmp_path: Path, coarse: type[CoarsePicture], monkeypatch: pytest.MonkeyPatch
) -> None:
    sight = Sight.of(picture(3, SIDE))
    Networks(cache=tmp_path).features("inception", sight, "truth")
    monkeypatch.setattr(coarse, "digest", "0" * 64)
    Networks(cache=tmp_path).features("inception", sight, "truth")
    assert len(list(tmp_path.rglob("*.npy"))) == 2


def test_one_picture_has_no_fid(tmp_path: Path, coarse: type[CoarsePicture]) -> None:
    write_views(tmp_path / "gt" / "anna", 1, side=SIDE)
    write_views(tmp_path / "views" / "anna", 1, seed=3, side=SIDE)
    request = Request((tmp_path / "views",), tmp_path / "gt", metrics="psnr,fid,kid", size=SIDE)
    results, content = evaluate(request, tmp_path / "report")
    assert [(entry.metric, entry.method, entry.reason) for entry in results.unavailable] == [
        ("fid", "views", "too-few-pictures"),
        ("kid", "views", "too-few-pictures"),
    ]
    assert content["methods"][0]["sets"] == {}
    assert content["methods"][0]["metrics"]["psnr"]["n"] == 1


def test_without_truth_the_sets_are_views_and_portraits(tmp_path: Path, coarse: type[CoarsePicture]) -> None:
    own = []
    for number, name in enumerate(("anna", "bob")):
        own += write_views(tmp_path / "views" / name, 3, seed=20 + 10 * number, side=SIDE)
        write_png(tmp_path / "aligned" / f"{name}.png", picture(number, SIDE))
    request = Request((tmp_path / "views",), None, tmp_path / "aligned", metrics="fid,lpips_alex", size=SIDE)
    results = score(request, tmp_path / "report")
    value = results.methods[0].sets["fid"]
    assert (value.predictions, value.truths) == (6, 2)
    network = CoarsePicture()
    sets = [[network.features(p) for p in side] for side in (own, [picture(0, SIDE), picture(1, SIDE)])]
    assert value.value == pytest.approx(frechet_distance(*map(np.stack, sets)), rel=1e-6)
    assert [entry.reason for entry in results.unavailable] == ["no-ground-truth"]


def test_networks_load_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    original = networks._lpips

    def counting(trunk: str, device: str) -> object:
        loads.append(trunk)
        return original(trunk, device)  # type: ignore[arg-type]

    monkeypatch.setattr(networks, "_lpips", counting)
    ours = Networks()
    for _ in range(2):
        ours.lpips("vgg", picture(1, SIDE), picture(2, SIDE))
        ours.describe("lpips-vgg")
    assert loads == ["vgg"]


class _Silent:
    def step(self, done: int, total: int, label: str = "") -> None:
        pass
