"""CLIP-I against transformers' own processor and network, on a tiny random CLIP in Hugging Face's cache."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.metrics.clip_i import ClipFeatures, clip_crop, cosine
from dp3d_cli.core.weights.backbones import BACKBONES
from tests.core.metrics.conftest import smooth_noise
from tests.fakes.backbones import backbone_cache, write_clip

GOLDEN = 0.6745634

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="needs transformers (the extra 'clip')"
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    write_clip(folder)
    return folder


@pytest.fixture(scope="module")
def clip(cache: Path) -> ClipFeatures:
    with backbone_cache(cache):
        return ClipFeatures.load()


@needs_transformers
@pytest.mark.parametrize(("height", "width"), [(72, 64), (300, 300), (224, 224), (301, 455), (900, 231)])
def test_crop_and_features_equal_those_of_transformers(
    clip: ClipFeatures, cache: Path, height: int, width: int
) -> None:
    from transformers import CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    picture = smooth_noise(np.random.default_rng(height), height, width)
    processor = CLIPImageProcessorPil()
    plain = processor(picture, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
    np.testing.assert_array_equal(clip_crop(picture), plain.transpose(1, 2, 0))

    folder = next((cache / "hub").glob("models--*/snapshots/*"))
    network = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
    with torch.no_grad():
        outputs = network.vision_model(**processor(picture, return_tensors="pt"))
        expected = network.visual_projection(outputs.pooler_output)[0].numpy()
    np.testing.assert_allclose(clip.features(picture), expected, atol=1e-5)


@needs_transformers
def test_golden_values(clip: ClipFeatures, pictures: list[np.ndarray]) -> None:
    # Of the tiny random CLIP of seed 0, with transformers 5.23 and torch 2.15.
    a, b = (clip.features(picture) for picture in pictures[:2])
    assert cosine(a, b) == pytest.approx(GOLDEN, abs=1e-5)


@needs_transformers
def test_identities(clip: ClipFeatures, pictures: list[np.ndarray]) -> None:
    a, b, near_a = (clip.features(pictures[index]) for index in (0, 1, 5))
    assert cosine(a, a) == pytest.approx(1, abs=1e-12)
    assert cosine(a, b) == cosine(b, a) < cosine(a, near_a) < 1
    clip.features(pictures[2][:40])
    np.testing.assert_array_equal(clip.features(pictures[0]), a)


@needs_transformers
def test_pictures_without_a_stated_range_are_refused(clip: ClipFeatures, pictures: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"uint8 pictures with range 0\.\.255, got float64"):
        clip.features(pictures[0] / 255)


@needs_transformers
@pytest.mark.usefixtures("no_sockets")
def test_loading_opens_no_socket_and_prints_nothing(cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with backbone_cache(cache):
        clip = ClipFeatures.load()
    assert capfd.readouterr() == ("", "")
    assert clip.describe()["weights"] == "pytorch_model.bin"


@needs_transformers
def test_incomplete_weights_are_refused(cache: Path, tmp_path: Path) -> None:
    folder = write_clip(tmp_path)
    state = torch.load(folder / "pytorch_model.bin")
    del state["visual_projection.weight"]
    torch.save(state, folder / "pytorch_model.bin")
    with backbone_cache(tmp_path), pytest.raises(WeightsError, match="1 tensors are missing") as error:
        ClipFeatures.load()
    assert error.value.reason == "weights-damaged"
    assert "dp3d weights fetch clip-vit-b32" in str(error.value)


@needs_transformers
@pytest.mark.usefixtures("no_sockets")
def test_missing_weights_name_the_command_that_gets_them(tmp_path: Path) -> None:
    with backbone_cache(tmp_path), pytest.raises(WeightsError, match="weights fetch clip-vit-b32") as error:
        ClipFeatures.load()
    assert error.value.reason == "weights-missing"


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(WeightsError, match=r"pip install 'dp3d\[clip\]'") as error:
        ClipFeatures.load()
    assert error.value.reason == "package-missing"


def test_largest_file_is_the_one_with_the_tensors() -> None:
    largest = max(BACKBONES["clip-vit-b32"].files, key=lambda file: file.size)
    assert largest.name == "pytorch_model.bin"


def test_cosine_by_hand() -> None:
    assert cosine(np.array([3.0, 4]), np.array([4.0, 3])) == pytest.approx(24 / 25, rel=1e-12)
    assert cosine(np.array([1.0, 0]), np.array([-2.0, 0])) == -1
    assert cosine(np.array([1.0, 0]), np.array([0, 5.0])) == 0


def test_cosine_of_what_has_no_direction_is_refused() -> None:
    one = np.ones(3)
    for other in (np.zeros(3), np.array([1, math.nan, 1]), np.array([1, math.inf, 1])):
        with pytest.raises(ValueError, match="zero or not finite"):
            cosine(one, other)
    with pytest.raises(ValueError, match="one length"):
        cosine(one, np.ones(4))
