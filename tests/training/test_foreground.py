from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dp3d_cli.core.proxies.foreground import SIDE, ForegroundNetwork, load_foreground
from dp3d_cli.training.data import ProceduralSubjects
from dp3d_cli.training.foreground import (
    ForegroundBatches,
    ForegroundSettings,
    foreground_loss,
    wide_hair,
)

FEW = ForegroundSettings(subjects=1, views=2, pictures=4)


@pytest.fixture(scope="module")
def batches() -> ForegroundBatches:
    return ForegroundBatches(ProceduralSubjects("train", 2), FEW, seed=5, steps=4)


def test_a_batch_is_a_function_of_its_step(batches: ForegroundBatches) -> None:
    one, again, other = batches[1], batches[1], batches[2]
    assert torch.equal(one.pictures, again.pictures)
    assert torch.equal(one.boxes, again.boxes)
    assert torch.equal(one.masks, again.masks)
    assert not torch.equal(one.pictures, other.pictures)
    assert one.pictures.shape == (2, 3, SIDE, SIDE)
    assert one.masks.shape == (2, 1, SIDE, SIDE)
    assert 0.2 < float(one.masks.mean()) < 1
    with pytest.raises(IndexError):
        batches[4]


def test_without_changes_heads_and_masks_are_the_subjects_own() -> None:
    plain = replace(FEW, background=0.0, hair=0.0, light=0.0)
    subjects = ProceduralSubjects("train", 1)
    every = ForegroundBatches(subjects, plain, 5, 1)[0]
    hairy = ForegroundBatches(subjects, replace(plain, hair=1.0), 5, 1)[0]
    truth = subjects.sample(0, 1, np.random.default_rng(0), SIDE).mask
    assert truth is not None
    assert abs(float(every.masks.mean()) - float(truth.mean())) < 0.15
    assert float(hairy.masks.mean()) > float(every.masks.mean()) + 0.02


def test_hair_grows_behind_the_head_in_the_crowns_colours() -> None:
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, 20:, 40:90] = 1
    picture = torch.zeros(3, SIDE, SIDE)
    picture[0, 20:, 40:90] = 0.8
    covers, reds = [], []
    for seed in range(12):
        colours, cover = wide_hair(picture, mask, np.random.default_rng(seed))
        assert colours.shape == (3, SIDE, SIDE)
        assert cover.shape == (1, SIDE, SIDE)
        assert 0 <= float(cover.min()) <= float(cover.max()) <= 1
        covers.append(float(cover.mean()))
        reds.append(bool(colours[0].mean() > 2 * colours[1].mean()))
    assert max(covers) > 2 * min(covers) > 0.1
    assert sum(reds) >= 8  # the others are hats


def test_the_loss_falls_on_one_batch(batches: ForegroundBatches) -> None:
    torch.manual_seed(0)
    network = ForegroundNetwork((16, 16, 32, 32, 32))
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    batch, losses = batches[0], []
    for _ in range(30):
        optimizer.zero_grad()
        loss, numbers = foreground_loss(network, batch, torch.Generator())
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert 0 <= numbers["iou"] <= 1


@pytest.mark.slow
def test_the_commands_train_and_export(tmp_path: Path) -> None:
    preset = tmp_path / "preset.yaml"
    preset.write_text(
        "step: {subjects: 1, views: 1, pictures: 2}\n"
        "loop: {steps: 2, decay_steps: 0, warmup_steps: 1, learning_rate: 0.001, ema_decay: 0.5,\n"
        "       validate_every: 2, log_every: 1, workers: 0}\n"
    )
    module = [sys.executable, "-m", "dp3d_cli.training.foreground"]
    data = ["--data", "procedural:1", "--held-out", "procedural:1", "--run", str(tmp_path / "run")]
    subprocess.run([*module, "train", "--preset", str(preset), *data], check=True)
    weights = tmp_path / "weights" / "foreground.safetensors"
    subprocess.run([*module, "export", "--run", str(tmp_path / "run"), "--output", str(weights)], check=True)
    assert (
        load_foreground(weights)(torch.rand(1, 3, 64, 64), torch.tensor([[0.2, 0.2, 0.6, 0.6]])).shape[1] == 1
    )
