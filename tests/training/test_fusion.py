"""The fusion network learns on what the networks made, and is exported into their folder."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from diffusers import AutoencoderKL

from dp3d_cli.core.diffusion.codec import decode_latents
from dp3d_cli.core.diffusion.fusion import Fusion
from dp3d_cli.core.diffusion.pipeline import DiffPortraitPipeline, to_uint8
from dp3d_cli.core.weights.manifest import problems
from dp3d_cli.core.weights.registry import resolve
from dp3d_cli.training.augment import soften
from dp3d_cli.training.export import write_pipeline
from dp3d_cli.training.fusion import (
    FusionBatches,
    FusionLoss,
    FusionSettings,
    export,
    load_fusion,
    local_sharpness,
    make_views,
    validate,
)
from dp3d_cli.training.latents import LatentShard, write_latents
from dp3d_cli.training.loop import LoopSettings, load_average, train
from dp3d_cli.training.nano import NanoNetworks
from tests.core.diffusion.tiny import shake, tiny_sizes
from tests.training.test_codec import CODEC
from tests.training.test_nano import sizes

SIZE, SIDE = 32, 8
SETTINGS = FusionSettings(pictures=4)


def shard(seed: int) -> LatentShard:
    """Two subjects, three views; proxies are the truth, one tenth too dark."""
    rng = np.random.default_rng(seed)
    truths = rng.integers(60, 200, (2, 3, SIDE, SIDE, 3)).repeat(4, 2).repeat(4, 3)
    pictures = np.concatenate([truths, truths - 25, np.full_like(truths[..., :2], 255)], -1)

    def latents(*count: int) -> np.ndarray:
        return rng.normal(size=(*count, 8, SIDE, SIDE)).astype(np.float16)

    return LatentShard(
        references=latents(2),
        images=latents(2, 3),
        proxies=latents(2, 3),
        maps=np.full((2, 3, 2, SIDE, SIDE), 255, np.uint8),
        mirrored=np.array([False, True]),
        points=np.zeros((2, 4, 3, SIDE, SIDE), np.float16),
        labels=np.zeros((2, 4, 25), np.float32),
        pictures=pictures.astype(np.uint8),
    )


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latents")
    for number in range(2):
        write_latents(folder, f"{number:05d}", shard(number))
    return folder


@pytest.fixture(scope="module")
def views(latents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Views that are all black, with detail and without."""
    folder = tmp_path_factory.mktemp("views")
    for number in range(2):
        np.save(folder / f"{number:05d}.npy", np.zeros((2, 3, SIZE, SIZE, 6), np.uint8))
    return folder


def test_batches_depend_on_seed_and_step_alone(latents: Path, views: Path) -> None:
    one, two = (FusionBatches(latents, views, SETTINGS, 3, 5) for _ in range(2))
    assert torch.equal(one[2].truths, two[2].truths)
    assert not torch.equal(one[2].truths, one[3].truths)
    batch = one[0]
    assert batch.truths.shape == (4, 3, SIZE, SIZE)
    torch.testing.assert_close(batch.truths - batch.proxies, torch.full_like(batch.truths, 2 * 25 / 255))
    assert batch.confidences.shape == (4, 1, SIZE, SIZE)
    assert batch.coverages.min() == 1
    assert batch.images.max() == batch.views.max() == -1


def test_views_may_be_the_proxies_themselves(latents: Path, views: Path) -> None:
    batch = FusionBatches(latents, None, SETTINGS, 0, 1)[0]
    assert torch.equal(batch.images, batch.proxies)
    assert torch.equal(batch.views, batch.proxies)
    some = FusionBatches(latents, views, replace(SETTINGS, unchanged=0.5), 0, 8)
    same = torch.cat([(some[step].views == some[step].proxies).flatten(1).all(1) for step in range(8)])
    assert 4 < int(same.sum()) < 28


def test_pictures_may_be_bent_all_layers_alike(latents: Path, views: Path) -> None:
    plain, bent = (FusionBatches(latents, views, replace(SETTINGS, bent=share), 0, 8) for share in (0, 1))
    batch = bent[0]
    assert not any(torch.equal(truth, other) for truth in batch.truths for other in plain[0].truths)
    inside = (batch.proxies > -0.95) & (batch.truths < 0.95)  # cubic interpolation overshoots
    difference = (batch.truths - batch.proxies)[inside]
    torch.testing.assert_close(difference, torch.full_like(difference, 2 * 25 / 255), atol=0.02, rtol=0)
    assert batch.coverages.min() == 1
    rows = [(1, 0, 2), (0, 1, 1)]
    assert torch.equal(bent.batch(rows).truths, plain.batch(rows).truths)  # as validation sees them


def test_pictures_may_have_other_colours_all_layers_alike(latents: Path) -> None:
    batches = FusionBatches(latents, None, replace(SETTINGS, recoloured=1.0), 0, 8)
    rows, changes = [(0, 0, 0), (1, 1, 2)], []
    plain = batches.batch(rows)
    for seed in range(12):
        varied = batches.batch(rows, np.random.default_rng(seed))
        assert torch.equal(varied.confidences, plain.confidences)
        assert torch.equal(varied.images, varied.proxies)
        assert torch.equal(varied.views, varied.proxies)
        darker = (varied.truths - varied.proxies).abs().amax((1, 2, 3))
        assert (darker > 0.5 * 2 * 25 / 255).all()
        assert (darker < 1.5 * 2 * 25 / 255).all()
        changes.append(float((varied.truths - plain.truths).abs().mean()))
    assert min(changes) > 0
    assert max(changes) > 0.2


def test_training_learns_what_is_wrong_with_the_pictures(latents: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Fusion((8, 16))
    batches = FusionBatches(latents, None, SETTINGS, 0, 60)
    before = validate(network, batches)
    assert before["psnr"] == pytest.approx(before["psnr_before"])
    assert before["psnr"] == pytest.approx(20 * np.log10(255 / 25), abs=0.01)
    settings = LoopSettings(
        steps=60, decay_steps=20, warmup_steps=5, learning_rate=3e-3, ema_decay=0.9, workers=0
    )
    train(network, batches, FusionLoss(SETTINGS), settings, tmp_path)
    assert validate(network.eval(), batches)["psnr"] > before["psnr"] + 3


def test_local_sharpness_knows_how_much_and_where() -> None:
    checks = torch.zeros(1, 3, 64, 64)
    checks[..., ::2, ::2] = 1
    checks[..., 1::2, 1::2] = 1
    flat, fine = torch.full_like(checks, 0.5), checks.clone()
    fine[..., 32:] = 0.5  # sharp on the left only
    found = local_sharpness(fine)
    assert float(local_sharpness(flat).max()) < 0.01
    torch.testing.assert_close(found[..., :5], torch.full_like(found[..., :5], 4.0))  # of a chequerboard
    assert float(found[..., -5:].max()) < 0.01
    torch.testing.assert_close(local_sharpness(0.5 * checks), 0.5 * local_sharpness(checks))


def test_a_blurred_picture_costs_more_with_a_weight_on_sharpness(latents: Path) -> None:
    batch = FusionBatches(latents, None, SETTINGS, 0, 1)[0]
    without, numbers = FusionLoss(SETTINGS)(Fusion((8, 16)), batch, torch.Generator())
    with_weight, _ = FusionLoss(replace(SETTINGS, sharpness=0.5))(Fusion((8, 16)), batch, torch.Generator())
    torch.testing.assert_close(with_weight - without, torch.tensor(0.5 * numbers["sharpness"]))
    blurred = replace(batch, images=soften(batch.truths, 2.0))
    _, worse = FusionLoss(SETTINGS)(Fusion((8, 16)), blurred, torch.Generator())
    assert worse["sharpness"] > 10 * numbers["sharpness"]


def test_views_are_the_networks_own_and_with_the_proxies_detail() -> None:
    torch.manual_seed(0)
    vae, subject = AutoencoderKL(**CODEC).eval(), shard(0)
    made = make_views(NanoNetworks(sizes()), vae, subject, np.zeros((2, 3, SIZE, SIZE, 3), np.uint8))
    assert made.shape == (2, 3, SIZE, SIZE, 6)
    with torch.inference_mode():
        decoded = decode_latents(vae, torch.from_numpy(subject.proxies[0].astype(np.float32)))
    # Untrained networks make the proxy, and views that are the decoded proxy become the proxy.
    difference = made[0, ..., 3:].astype(float) - to_uint8(decoded)
    assert np.abs(difference).mean() < 2
    assert np.abs(made[..., :3].astype(float) - subject.pictures[..., 3:6]).mean() < 2
    assert np.abs(made[..., :3].astype(float) - made[..., 3:]).mean() > 20


def test_the_export_is_part_of_the_pipelines_folder(latents: Path, tmp_path: Path) -> None:
    weights = tmp_path / "nano"
    write_pipeline(shake(DiffPortraitPipeline.from_sizes(tiny_sizes())), weights)
    settings = LoopSettings(steps=2, decay_steps=1, warmup_steps=1, workers=0)
    torch.manual_seed(0)
    network = Fusion()
    train(
        network,
        FusionBatches(latents, None, SETTINGS, 0, 2),
        FusionLoss(SETTINGS),
        settings,
        tmp_path / "run",
    )
    export([tmp_path / "run"], weights)
    assert problems(weights) == []
    loaded = DiffPortraitPipeline.from_pretrained(weights).fusion
    load_average(tmp_path / "run", network)
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.half().float()), name
    assert str(tmp_path) not in (weights / "fusion" / "config.json").read_text()
    other = tmp_path / "other"
    write_pipeline(shake(DiffPortraitPipeline.from_sizes(tiny_sizes())), other)
    export([weights], other)
    assert (other / "model_index.json").read_text() == (weights / "model_index.json").read_text()
    assert problems(other) == []
    copied = DiffPortraitPipeline.from_pretrained(other).fusion
    for name, value in copied.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    for start, expected in ((weights, loaded), (tmp_path / "run", network)):  # what training can go on from
        again = Fusion()
        load_fusion(start, again)
        for name, value in expected.state_dict().items():
            assert torch.equal(again.state_dict()[name], value), name


@torch.inference_mode()
def test_the_shipped_network_leaves_the_features_of_a_photograph() -> None:
    """A proxy that is right already: one trained on unbent heads alone changed it by 0.19."""
    network = Fusion()
    load_fusion(resolve("nano"), network)
    face = cv2.resize(skimage.data.astronaut()[:220, 110:330], (256, 256), interpolation=cv2.INTER_AREA)
    picture = torch.from_numpy(face).permute(2, 0, 1)[None] / 127.5 - 1
    shown = torch.ones_like(picture[:, :1])
    change = network.eval()(picture, picture, picture, shown, shown) - picture
    assert 0 < float(change[..., 70:200, 60:196].square().mean().sqrt()) < 0.08
