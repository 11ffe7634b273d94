"""The stage that trains the volume proxy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dp3d_cli.core.diffusion.configs import nano
from dp3d_cli.core.errors import UsageError
from dp3d_cli.core.faces.face import Face, FaceBox
from dp3d_cli.core.faces.opencv import OpenCVDetector
from dp3d_cli.core.proxies.segmentation import segment_head
from dp3d_cli.core.proxies.template import to_uint8
from dp3d_cli.core.proxies.volume_weights import find_volume, load_volume
from dp3d_cli.training.augment import AugmentSettings
from dp3d_cli.training.data import ProceduralSubjects, open_subjects
from dp3d_cli.training.loop import LoopSettings, train
from dp3d_cli.training.preset import TrainPreset, load_train_preset
from dp3d_cli.training.rendered import write_head, write_splits
from dp3d_cli.training.stages.proxy import Perceptual, ProxyBatches, ProxySettings, ProxyStage
from tests.fakes.volume import TINY
from tests.training.subjects import Ellipsoids

LOOP = LoopSettings(
    steps=40, decay_steps=10, warmup_steps=4, learning_rate=5e-3, log_every=10, save_every=40, workers=0,
    validate_every=1000,
)  # fmt: skip
PRESET = TrainPreset(
    name="tiny",
    stage="proxy",
    sizes=nano(),
    size=64,
    loop=LOOP,
    step={"network": TINY, "held_out": 1},
    held_out="procedural:1",
)


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    settings = ProxySettings(small_steps=2)
    one, two = (ProxyBatches(Ellipsoids(), settings, 64, 3, 10) for _ in range(2))
    for name in ("references", "reference_masks", "reference_labels", "labels", "images", "masks"):
        assert torch.equal(getattr(one[5], name), getattr(two[5], name))
    assert not torch.equal(one[5].images, one[6].images)
    assert one[1].images.shape == (2, 3, 3, 32, 32)
    assert one[2].images.shape == (2, 3, 3, 64, 64)
    assert one[2].masks is not None
    assert one[2].masks.shape == (2, 3, 1, 64, 64)


def test_gradients_reach_every_parameter_and_the_log_names_the_distance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dp3d_cli.training.stages.proxy.find_backbone", lambda name: None)
    stage = ProxyStage()
    module = stage.build(PRESET)
    batch = stage.batches(PRESET, Ellipsoids(), 0, 1)[0]
    loss, numbers = stage.loss(module, batch, torch.Generator())
    loss.backward()
    assert set(numbers) == {"squared", "pyramid", "opacity", "warp"}
    assert all(value.grad is not None and value.grad.any() for value in module.parameters())
    loss, numbers = stage.loss(module, replace(batch, masks=None), torch.Generator())
    assert "opacity" not in numbers
    assert loss.isfinite()


def test_vgg_takes_the_place_of_the_pyramid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import vgg16

    with torch.device("meta"):
        shapes = {name: value.shape for name, value in vgg16(weights=None).state_dict().items()}
    torch.manual_seed(0)
    some = [name for name in shapes if name.startswith("features.") and int(name.split(".")[1]) < 16]
    torch.save({name: 0.1 * torch.randn(shapes[name]) for name in some}, tmp_path / "vgg.pth")
    monkeypatch.setattr("dp3d_cli.training.stages.proxy.find_backbone", lambda name: tmp_path / "vgg.pth")
    perceptual = Perceptual()
    assert perceptual.name == "vgg16"
    images, others = torch.rand(1, 3, 32, 32, requires_grad=True), torch.rand(1, 3, 32, 32)
    assert float(perceptual(others, others)) == 0
    perceptual(images, others).backward()
    assert images.grad is not None
    assert images.grad.any()


def test_the_pyramid_sees_a_shift_of_colour_and_detail() -> None:
    perceptual = Perceptual.__new__(Perceptual)
    perceptual.name, perceptual._layers = "pyramid", []
    flat = torch.full((1, 3, 32, 32), 0.5)
    assert float(perceptual(flat, flat)) == 0
    assert float(perceptual(flat + 0.1, flat)) == pytest.approx(0.1 / 5, abs=1e-6)  # the coarsest level alone
    checks = flat + 0.1 * (torch.arange(32) % 2 * 2 - 1)
    assert float(perceptual(checks, flat)) > 0.015


def test_exported_weights_are_found_and_loaded(tmp_path: Path) -> None:
    stage = ProxyStage()
    module = stage.build(PRESET)
    stage.export(module, tmp_path)
    loaded = load_volume(find_volume(str(tmp_path)))
    for name, value in module.network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.half().float()), name
    again = stage.build(replace(PRESET, start=(tmp_path,)))
    assert torch.equal(again.network.position, loaded.position)
    with pytest.raises(UsageError, match="no 'proxy' here"):
        stage.build(replace(PRESET, start=(tmp_path / "proxy",)))


def test_sizes_that_make_no_network_are_refused() -> None:
    for network in ({"volume_side": 10}, {"width": 3}):
        with pytest.raises(UsageError, match=r"step\.network"):
            ProxyStage().build(replace(PRESET, step={"network": network}))


def test_the_shipped_preset_is_valid() -> None:
    for name in ("nano-proxy", "nano-proxy-masks"):
        preset = load_train_preset(name, "proxy")
        module = ProxyStage().build(preset)
        assert module.network.config.size == preset.size == 256
    assert module.settings.segmented == 0.7


def test_rendered_heads_are_read_back_as_subjects(tmp_path: Path) -> None:
    heads = ProceduralSubjects("val", 2)
    for index in range(2):
        write_head(heads, index, 3, 64, tmp_path)
    write_splits(tmp_path, "val")
    read = open_subjects(str(tmp_path), "val")
    assert len(read) == 2
    made = heads.sample(1, 3, np.random.default_rng((0, heads.seeds[1])), 64)
    shown = read.views(1, made.labels, 64)
    assert (shown.images - made.images).abs().max() < 0.003
    assert shown.mask is not None
    assert made.mask is not None
    assert (shown.mask - made.mask).abs().max() < 0.003


@pytest.mark.slow
def test_training_lowers_the_loss_on_two_heads(tmp_path: Path) -> None:
    stage, heads = ProxyStage(), ProceduralSubjects("train", 2)
    for index in range(2):
        write_head(heads, index, 5, 64, tmp_path / "heads")
    write_splits(tmp_path / "heads", "train")
    subjects = open_subjects(str(tmp_path / "heads"), "train")
    torch.manual_seed(0)
    module = stage.build(PRESET)
    before = stage.validate(module)
    batches = stage.batches(PRESET, subjects, 0, LOOP.steps)
    train(module, batches, stage.loss, LOOP, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.6 * losses[0]
    assert stage.validate(module)["psnr"] > before["psnr"] + 2
    assert stage.grid(module).shape == (64, 64 * 9, 3)


def test_a_turned_view_may_be_the_portrait() -> None:
    subjects = Ellipsoids()
    plain = AugmentSettings(mirror=0, recolour=0, tone=0, palette=0, degrade=0, crop=0, occlude=0)
    settings = ProxySettings(subjects=1, views=2, estimated=0, augment=plain)
    one, other = (
        ProxyBatches(subjects, replace(settings, turned=share), 64, 0, 1)[0] for share in (0.0, 1.0)
    )
    assert torch.equal(other.references[0], one.images[0, -1])
    assert torch.equal(other.images[0, -1], one.references[0])
    assert torch.equal(other.reference_labels[0], one.labels[0, -1])
    assert one.masks is not None
    assert other.masks is not None
    assert torch.equal(other.masks[0, 0], one.masks[0, 0])


def test_masks_may_be_those_that_the_tool_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    subjects, box = Ellipsoids(), FaceBox(16, 16, 32, 32)
    found = ProxySettings(subjects=1, segmented=1.0)
    true = ProxyBatches(subjects, ProxySettings(subjects=1), 64, 0, 1, augment=False)[0]
    without_face = ProxyBatches(subjects, found, 64, 0, 1, augment=False)[0]
    assert torch.equal(without_face.reference_masks, true.reference_masks)

    monkeypatch.setattr(OpenCVDetector, "detect", lambda self, image: [Face(box, "opencv")])
    batch = ProxyBatches(subjects, found, 64, 0, 1, augment=False)[0]
    assert torch.equal(batch.references, true.references)
    expected = segment_head(to_uint8(batch.references)[0], (16, 16, 32, 32)).mask
    np.testing.assert_array_equal(batch.reference_masks[0, 0].numpy(), expected)
    assert not torch.equal(batch.reference_masks, true.reference_masks)
