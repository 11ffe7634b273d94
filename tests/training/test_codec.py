from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from dp3d_cli.core.diffusion.codec import encode_images
from dp3d_cli.core.errors import UsageError
from dp3d_cli.training.codec import (
    CodecBatches,
    CodecData,
    codec_loss,
    principal_start,
    psnr_db,
    reconstruct,
    scaling_factor,
    whiten,
)
from dp3d_cli.training.loop import LoopSettings, train
from dp3d_cli.training.settings import build
from dp3d_cli.training.textures import dead_leaves, installed_photos, photo_crop, read_photos

DATA = CodecData(crop_px=32, batch=4, leaves=0.5)
CODEC = {
    "in_channels": 48,
    "out_channels": 48,
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
    "block_out_channels": (48,),
    "layers_per_block": 1,
    "latent_channels": 8,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


@pytest.fixture(scope="module")
def crops() -> torch.Tensor:
    batches = CodecBatches(DATA, seed=5, steps=12)
    return torch.cat([batches[step] for step in range(12)])


def test_crops_depend_on_seed_and_step_alone() -> None:
    first, second = CodecBatches(DATA, 1, 10), CodecBatches(DATA, 1, 10)
    assert torch.equal(first[7], second[7])
    assert not torch.equal(first[7], first[6])
    assert first[0].shape == (4, 3, 32, 32)
    assert -1 <= first[0].min() < first[0].max() <= 1


def test_textures_are_uint8_of_the_asked_size() -> None:
    rng = np.random.default_rng(0)
    photos = read_photos(installed_photos())
    assert len(photos) >= 10
    for image in (dead_leaves(48, rng), photo_crop(photos, 48, rng)):
        assert image.shape == (48, 48, 3)
        assert image.dtype == np.uint8
        assert image.std() > 1


def test_a_photo_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.png"):
        read_photos([broken])


def test_whitened_latents_have_unit_deviation_and_decode_to_the_same(crops: torch.Tensor) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(**CODEC, scaling_factor=0.7)
    principal_start(vae, crops)
    with torch.inference_mode():
        before = reconstruct(vae, crops)
        latents = encode_images(vae, crops)
        deviation = whiten(vae, crops)
        torch.testing.assert_close(deviation, latents.std((0, 2, 3)))
        assert float(deviation.max() / deviation.min()) > 2  # there was something to do
        torch.testing.assert_close(encode_images(vae, crops).std((0, 2, 3)), torch.ones(8))
        torch.testing.assert_close(reconstruct(vae, crops), before, atol=1e-5, rtol=1e-5)
        posterior = vae.encode(torch.nn.functional.pixel_unshuffle(crops, 4)).latent_dist
    assert vae.config.scaling_factor == 1
    assert posterior.std.shape == latents.shape


def test_the_principal_start_reconstructs_as_well_as_principal_components(crops: torch.Tensor) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(**CODEC)
    principal_start(vae, crops)
    patches = torch.nn.functional.pixel_unshuffle(crops, 4).permute(0, 2, 3, 1).flatten(0, 2)
    centred = patches - patches.mean(0)
    _, _, basis = torch.linalg.svd(centred, full_matrices=False)
    projected = centred @ basis[:8].T @ basis[:8]
    with torch.inference_mode():
        error = float((reconstruct(vae, crops) - crops).square().mean())
    assert psnr_db(error) > psnr_db(float((projected - centred).square().mean())) - 1


def test_scaled_latents_have_unit_deviation(crops: torch.Tensor) -> None:
    vae = AutoencoderKL(**CODEC)
    principal_start(vae, crops)
    vae.register_to_config(scaling_factor=scaling_factor(vae, crops))
    with torch.inference_mode():
        latents = vae.encode(torch.nn.functional.pixel_unshuffle(crops, 4)).latent_dist.mean
    assert float(latents.std() * vae.config.scaling_factor) == pytest.approx(1, abs=1e-3)


def test_the_principal_start_needs_enough_channels(crops: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="needs one block"):
        principal_start(AutoencoderKL(**{**CODEC, "block_out_channels": (16,)}), crops)


def test_training_lowers_the_loss(tmp_path: Path, crops: torch.Tensor) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(**CODEC)  # a random start: the principal one has little to lose in a few steps

    def loss() -> float:
        with torch.inference_mode():
            return float(codec_loss(vae, crops, torch.Generator().manual_seed(0))[0])

    before = loss()
    settings = LoopSettings(steps=30, decay_steps=10, warmup_steps=5, learning_rate=3e-3, workers=0)
    train(vae, CodecBatches(DATA, 1, 30), codec_loss, settings, tmp_path)
    assert loss() < 0.6 * before


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(UsageError, match="crop_size"):
        build(CodecData, {"crop_size": 3})
    with pytest.raises(UsageError, match="batch"):
        build(CodecData, {"batch": "many"})
