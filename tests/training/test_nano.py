from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.diffusion.codec import encode_images
from dp3d_cli.core.diffusion.configs import Sizes, nano
from dp3d_cli.core.diffusion.pipeline import DiffPortraitPipeline
from dp3d_cli.core.diffusion.sampler import ddim_scheduler
from dp3d_cli.core.renderers.procedural import ProceduralHead
from dp3d_cli.core.weights.manifest import problems
from dp3d_cli.core.weights.registry import resolve
from dp3d_cli.training.augment import AugmentSettings, randomise
from dp3d_cli.training.cache import CacheSettings, Shard, make_shard, read_shard, write_shard
from dp3d_cli.training.codec import principal_start, to_tensor
from dp3d_cli.training.data import SPLITS, SubjectViews
from dp3d_cli.training.latents import LatentShard, encode_shard, write_latents
from dp3d_cli.training.loop import LoopSettings, load_average, train
from dp3d_cli.training.nano import NanoLoss, NanoNetworks, export, mean_pass, pixel_worth
from dp3d_cli.training.nano_batches import NanoBatch, NanoBatches, NanoSettings
from tests.core.diffusion.tiny import tiny_sizes
from tests.fakes.volume import tiny_volume
from tests.training.subjects import Ellipsoids
from tests.training.test_codec import CODEC

CACHE = CacheSettings(size=32, subjects=3, views=4)
SETTINGS = NanoSettings(groups=((2, 2), (1, 4)))
VOLUME = tiny_volume()


def sizes() -> Sizes:
    tiny = tiny_sizes(explicit_hint_channels=10)
    return replace(
        tiny,
        trunk={**tiny.trunk, "in_channels": 8},
        unet={**tiny.unet, "out_channels": 8},
        vae=CODEC,
    )


@pytest.fixture(scope="module")
def shard() -> Shard:
    return make_shard(Ellipsoids(), 1, CACHE)


@pytest.fixture(scope="module")
def vae(shard: Shard) -> AutoencoderKL:
    torch.manual_seed(0)
    codec = AutoencoderKL(**CODEC).eval()
    principal_start(codec, to_tensor(shard.images.reshape(-1, 32, 32, 3)))
    return codec


@pytest.fixture(scope="module")
def data(shard: Shard, vae: AutoencoderKL, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("data")
    for number in range(2):
        path = write_shard(folder / "shards", number, make_shard(Ellipsoids(), number, CACHE))
        latents = encode_shard(vae, VOLUME, read_shard(path), np.random.default_rng(number))
        write_latents(folder / "latents", path.name, latents)
    return folder / "shards", folder / "latents"


def test_a_shard_is_a_function_of_its_number(shard: Shard) -> None:
    again = make_shard(Ellipsoids(), 1, CACHE)
    for field in Shard.FIELDS:
        np.testing.assert_array_equal(getattr(again, field), getattr(shard, field))
    assert shard.images.shape == (3, 4, 32, 32, 3)
    assert shard.masks.shape == (3, 32, 32, 1)
    assert shard.masks.min() == 0
    assert shard.masks.max() == 255


def test_shards_of_one_split_do_not_share_subjects(shard: Shard) -> None:
    other = make_shard(Ellipsoids(), 2, CACHE)
    assert not np.array_equal(shard.references[0], other.references[0])


def test_variation_is_a_function_of_the_seed_and_can_be_left_out(shard: Shard, vae: AutoencoderKL) -> None:
    one, two = (encode_shard(vae, VOLUME, shard, np.random.default_rng(3)) for _ in range(2))
    for field in LatentShard.FIELDS:
        np.testing.assert_array_equal(getattr(one, field), getattr(two, field))
    plain = encode_shard(vae, VOLUME, shard, np.random.default_rng(3), augment=False)
    assert not plain.mirrored.any()
    assert not np.array_equal(plain.images, one.images)
    with torch.inference_mode():
        truth = encode_images(vae, to_tensor(shard.images[1])).half()
    np.testing.assert_allclose(plain.images[1], truth.numpy(), atol=1e-3)
    assert plain.maps.shape == (3, 4, 2, 8, 8)


def test_a_mirrored_subject_is_seen_by_mirrored_cameras(shard: Shard, vae: AutoencoderKL) -> None:
    """Turned back, its proxies are those of the subject as it was: nothing but the flip has changed."""
    only = AugmentSettings(mirror=1, recolour=0, tone=0, palette=0, degrade=0, crop=0, occlude=0)
    own = torch.from_numpy(np.concatenate([shard.reference_labels[:1], shard.labels]))
    pictures = torch.from_numpy(np.concatenate([shard.references[:1], shard.images[0]])).permute(0, 3, 1, 2)
    shown = SubjectViews(pictures / 255, own, torch.from_numpy(shard.masks[:1]).permute(0, 3, 1, 2) / 255)
    turned = randomise(shown, np.random.default_rng(0), only)
    assert torch.equal(turned.images.flip(-1), shown.images)
    found = {
        bool(flag)
        for seed in range(4)
        for flag in encode_shard(vae, VOLUME, shard, np.random.default_rng(seed)).mirrored
    }
    assert found == {True, False}


def test_batches_depend_on_seed_and_step_alone(data: tuple[Path, Path]) -> None:
    first, second = (NanoBatches(*data, SETTINGS, seed=0, steps=10) for _ in range(2))
    assert torch.equal(first[3].images, second[3].images)
    assert torch.equal(first[3].cameras, second[3].cameras)
    assert first[2].images.shape == (4, 8, 8, 8)
    assert first[2].num_views == 2
    assert first[3].num_views == 4
    assert first[3].cameras.shape == (4, 3, 32, 32)


def test_views_may_be_without_a_hint(data: tuple[Path, Path]) -> None:
    settings = replace(SETTINGS, drop_view_hint=0.5)
    batches = [NanoBatches(*data, settings, seed=0, steps=10)[step] for step in range(10)]
    kept = torch.cat([batch.has_hint.flatten() for batch in batches])
    assert 0.2 < float(kept.mean()) < 0.8
    for batch in batches:
        empty = batch.has_hint.flatten() == 0
        assert not batch.hint[empty].any()
        assert torch.equal(batch.hint[~empty, :-2], batch.proxies[~empty])
    assert all(NanoBatches(*data, SETTINGS, seed=0, steps=3)[step].has_hint.all() for step in range(3))


def test_steps_may_have_further_references_with_answers_for_each(data: tuple[Path, Path]) -> None:
    settings = replace(SETTINGS, references=3, look=0.1, look_side=4)
    batches = [NanoBatches(*data, settings, seed=0, steps=12)[step] for step in range(12)]
    assert {batch.num_references for batch in batches if batch.num_views == 2} == {1, 2, 3}
    assert {batch.num_references for batch in batches if batch.num_views == 4} == {1}  # no view is left
    for batch in batches:
        views, references = len(batch.images), len(batch.images) // batch.num_views * batch.num_references
        assert len(batch.references) == references
        assert batch.answers is not None
        assert batch.answers.shape == (views, 16, 16 * batch.num_references)
        assert float(batch.answers.sum(-1).max()) <= 1 + 1e-5
        assert float(batch.answers.sum()) > views  # most places are seen
        for extra in batch.references[1 :: batch.num_references] if batch.num_references > 1 else []:
            assert not any(torch.equal(extra, image) for image in batch.images)
    assert NanoBatches(*data, SETTINGS, seed=0, steps=1)[0].answers is None


def test_what_attention_looks_at_and_takes_is_part_of_the_loss(data: tuple[Path, Path]) -> None:
    settings = replace(SETTINGS, references=2, look=0.1, take=0.2, look_side=4, drop_reference=0, drop_both=0)
    batch = NanoBatches(*data, settings, seed=0, steps=2)[0]
    torch.manual_seed(0)
    module = NanoNetworks(sizes())
    for share in (0.0, 1.0):  # of mean passes
        loss = NanoLoss(replace(settings, mean_share=share), torch.ones(8))
        taught, numbers = loss(module, batch, torch.Generator().manual_seed(0))
        plain, _ = loss(module, replace(batch, answers=None), torch.Generator().manual_seed(0))
        torch.testing.assert_close(
            taught - plain, torch.tensor(0.1 * numbers["look"] + 0.2 * numbers["take"]), atol=1e-5, rtol=1e-4
        )
        assert 1 < numbers["look"] < 5  # log(32) where attention knows nothing
        assert numbers["take"] > 0.01
        taught.backward()
        readers = [reader.weight.grad is not None for reader in module.readers]
        assert readers == [True, True, False, False]  # 4 x 4 tokens, then 8 x 8
        module.zero_grad()


def test_a_side_that_no_layer_has_is_refused(data: tuple[Path, Path]) -> None:
    settings = replace(SETTINGS, look=0.1, look_side=2, drop_reference=0, drop_both=0)
    batch = NanoBatches(*data, settings, seed=0, steps=1)[0]
    with pytest.raises(ValueError, match="look_side is 2"):
        NanoLoss(settings, torch.ones(8))(NanoNetworks(sizes()), batch, torch.Generator().manual_seed(0))


def test_some_steps_without_a_hint_are_at_the_noisiest_timesteps(data: tuple[Path, Path]) -> None:
    settings = replace(SETTINGS, mean_share=0, drop_hint=0.5, noisiest=0.5)
    batch = NanoBatches(*data, settings, seed=0, steps=1)[0]
    seen: dict[str, list[int]] = {}

    class Module(NanoNetworks):
        def forward(self, sample: Tensor, timesteps: Tensor, *_: object, **__: object) -> Tensor:
            self.timesteps = timesteps
            return sample

    module = Module(sizes())
    loss = NanoLoss(settings, torch.ones(8))
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        _, numbers = loss(module, batch, generator)
        (name,) = numbers
        seen.setdefault(name, []).extend(module.timesteps.tolist())
    assert min(seen["late"]) >= 900
    assert min(seen["plain"]) < 300
    assert min(seen["denoise"]) < 300
    assert all(10 < len(each) < 90 for each in seen.values())


def test_an_untrained_mean_pass_is_the_proxy(data: tuple[Path, Path], vae: AutoencoderKL) -> None:
    batches = NanoBatches(*data, SETTINGS, seed=0, steps=2)
    loss = NanoLoss(SETTINGS, pixel_worth(vae, batches.latents))
    with torch.inference_mode():
        estimate = mean_pass(NanoNetworks(sizes()), batches[0], loss.alphas)
    torch.testing.assert_close(estimate, batches[0].proxies, atol=0.02, rtol=0.02)


def test_training_lowers_the_loss_and_exports_a_pipeline(
    data: tuple[Path, Path], vae: AutoencoderKL, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module = NanoNetworks(sizes())
    # Every step a mean pass: its error is what is compared.
    only_mean = replace(SETTINGS, mean_share=1.0)
    batches = NanoBatches(*data, only_mean, seed=0, steps=24)
    loss = NanoLoss(only_mean, pixel_worth(vae, batches.latents))

    def error() -> float:
        with torch.inference_mode():
            return float(loss.mean_error(mean_pass(module, batches[1], loss.alphas), batches[1]))

    before = error()
    settings = LoopSettings(steps=24, decay_steps=8, warmup_steps=3, learning_rate=5e-3, workers=0)
    train(module, batches, loss, settings, tmp_path / "run")
    load_average(tmp_path / "run", module)
    assert error() < 0.9 * before

    vae.save_pretrained(tmp_path / "vae")
    export(module, tmp_path / "vae", tmp_path / "nano")
    again = NanoNetworks(sizes(), [tmp_path / "nano"])
    assert torch.equal(again.unet.conv_in.weight, module.unet.conv_in.weight.half().float())
    pipeline = DiffPortraitPipeline.from_pretrained(tmp_path / "nano")
    assert problems(tmp_path / "nano") == []
    texts = [path.read_text() for path in (tmp_path / "nano").rglob("*.json")]
    assert not any(str(tmp_path) in text for text in texts)
    assert pipeline.config.mid_view_attention == "always"
    assert pipeline.scheduler.config.prediction_type == "v_prediction"


def test_the_embedded_networks_take_a_persons_looks_from_the_reference() -> None:
    """From noise, without the hint, nothing else shows what a person looks like."""
    module = NanoNetworks(nano(), [resolve("nano")]).eval()
    vae = AutoencoderKL.from_pretrained(resolve("nano") / "vae").float().eval()
    labels = torch.from_numpy(np.stack([Camera.look_at(yaw, 0.0).label for yaw in (0.0, -0.3, 0.3)]))
    anna, berta, condition = (
        ProceduralHead(seed).render(labels, 256).image * 2 - 1 for seed in SPLITS["test"][:3]
    )
    with torch.inference_mode():
        views = torch.cat([encode_images(vae, each) for each in (anna, berta)])
        batch = NanoBatch(
            references=views[::3],
            images=views.unflatten(0, (2, 3))[:, 1:].flatten(0, 1),
            proxies=torch.zeros(4, *views.shape[1:]),
            maps=torch.zeros(4, 2, *views.shape[2:]),
            has_hint=torch.zeros(4, 1, 1, 1),
            cameras=condition[1:].repeat(2, 1, 1, 1),
            answers=None,
            num_views=2,
            num_references=1,
        )
        noise = torch.randn(batch.images.shape, generator=torch.Generator().manual_seed(0))
        alpha = ddim_scheduler("v_prediction").alphas_cumprod[-1]
        sample = alpha.sqrt() * batch.images + (1 - alpha).sqrt() * noise

        def error(references: Tensor, **changes: bool) -> float:
            shown = replace(batch, references=references)
            velocity = module(sample, torch.full((2,), 999), shown, **changes)
            estimate = alpha.sqrt() * sample - (1 - alpha).sqrt() * velocity
            return float((estimate - batch.images).square().mean())

        own, other = error(batch.references), error(batch.references.flip(0))
        without = error(batch.references, use_reference=False)
    assert own < 0.9 * without < other
