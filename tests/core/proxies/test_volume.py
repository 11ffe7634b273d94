"""The volume proxy: its geometry on hand-made volumes, its shapes, its files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.cameras.trajectories import gen_videos
from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.proxies.layers import separate
from dp3d_cli.core.proxies.template import default_reference_label
from dp3d_cli.core.proxies.volume import FULL, VolumeProxy, see
from dp3d_cli.core.proxies.volume_weights import find_volume, load_volume, volume_digest
from tests.fakes.volume import tiny_volume, write_tiny_volume

LABELS = torch.from_numpy(gen_videos(4).labels)
MASK = torch.zeros(1, 64, 64)
MASK[:, 12:, 16:48] = 1
CENTRE, RADIUS = (0.12, -0.06, 0.1), 0.08  # of the sphere [world units]


def label(yaw: float, pitch: float) -> torch.Tensor:
    return torch.from_numpy(Camera.look_at(yaw, pitch).label)


def sphere(network: VolumeProxy) -> torch.Tensor:
    """[1, 1, R, R, R] raw density: high within the sphere, falling evenly across its surface."""
    distance = (network._voxels() - torch.tensor(CENTRE)).norm(dim=-1)
    return ((RADIUS - distance) * 400 + 3).clamp(-20, 40).unsqueeze(1)


@pytest.mark.parametrize(("yaw", "pitch"), [(0.0, 0.0), (0.5, -0.2), (-0.6, 0.25), (1.5, 0.0)])
def test_a_sphere_appears_where_the_camera_projects_it(yaw: float, pitch: float) -> None:
    network = tiny_volume(volume_side=48, samples=96)
    camera, side = Camera.look_at(yaw, pitch), 64
    density = sphere(network)
    seen = network.march(density, density, label(yaw, pitch).view(1, 1, 25), side)
    opacity = seen.opacity[0, 0, 0]
    centres = (torch.arange(side) + 0.5) / side
    found = [float((opacity.sum(axis) * centres).sum() / opacity.sum()) for axis in (0, 1)]
    x, y, z = camera.world2cam[:3, :3] @ np.array(CENTRE) + camera.world2cam[:3, 3]
    focal = camera.intrinsics[0, 0]
    assert found == pytest.approx([focal * x / z + 0.5, focal * y / z + 0.5], abs=0.006)
    assert float(opacity.sum()) / side**2 == pytest.approx(np.pi * (focal * RADIUS / z) ** 2, rel=0.1)

    # What the middle ray sees first is the point of the sphere nearest to the camera.
    column, row = (int(value * side) for value in found)
    point = seen.points[0, 0, :, row, column].double().numpy()
    towards = (camera.centre - CENTRE) / np.linalg.norm(camera.centre - CENTRE)
    assert point == pytest.approx(np.array(CENTRE) + RADIUS * towards, abs=0.012)


def test_opacity_follows_the_law_of_absorption() -> None:
    """A cube of even density d: 1 - exp(-d l) along the axis, l the cube's side."""
    network = tiny_volume(samples=8)
    raw = 1.0
    even = torch.full((1, 1, 16, 16, 16), raw)
    seen = network.march(even, even, label(0.0, 0.0).view(1, 1, 25), 64)
    density = 60 * np.log1p(np.exp(raw - 3))  # softplus
    expected = 1 - np.exp(-density * 2 * network.config.cube_half)
    assert float(seen.opacity[0, 0, 0, 32, 32]) == pytest.approx(expected, rel=1e-3)
    assert float(seen.features[0, 0, 0, 32, 32]) == pytest.approx(raw * expected, rel=1e-3)


def test_rays_beside_the_cube_see_nothing() -> None:
    network = tiny_volume(cube_half=0.1)
    density = torch.full((1, 1, 16, 16, 16), 30.0)
    seen = network.march(density, density, label(0.0, 0.0).view(1, 1, 25), 64)
    assert float(seen.opacity[0, 0, 0, 32, 32]) > 0.999
    assert float(seen.opacity[0, 0, 0, 2, 2]) == 0


def test_the_portrait_seen_from_its_own_camera_stays_in_place() -> None:
    """What is moved to where the volume says that it is, seen from the same camera, is the portrait."""
    network = tiny_volume()
    reference = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8), size=(64, 64), mode="bilinear")
    own = label(0.2, -0.1).unsqueeze(0)
    with torch.inference_mode():
        views = network(reference, torch.ones(1, 1, 64, 64), own.unsqueeze(1), own)
    assert views.warped[0, 0].sub(reference[0]).abs().max() < 1e-3
    assert views.visible.min() > 0.9


@pytest.mark.parametrize("borrows", [True, False])
def test_shapes_ranges_and_gradients(borrows: bool) -> None:
    network = tiny_volume(borrows=borrows)
    views = network(torch.rand(2, 3, 64, 64), MASK.expand(2, 1, 64, 64), LABELS[:3].expand(2, 3, 25))
    assert views.images.shape == views.warped.shape == (2, 3, 3, 64, 64)
    for maps in (views.coverage, views.confidence, views.visible):
        assert maps.shape == (2, 3, 1, 64, 64)
        assert maps.min() >= 0
        assert maps.max() <= 1
    (views.images.square().mean() + views.coverage.mean()).backward()
    without = [
        name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()
    ]
    assert without == []


def test_no_result_depends_on_the_others_in_the_batch() -> None:
    network = tiny_volume()
    references, masks = torch.rand(2, 3, 64, 64), torch.stack([MASK, MASK.flip(-1).roll(5, -1)])
    with torch.inference_mode():
        both = network(references, masks, LABELS[:3].expand(2, 3, 25)).images
        one = network(references[1:], masks[1:], LABELS[None, 2:3]).images
    assert torch.allclose(both[1, 2], one[0, 0], atol=1e-5)
    assert torch.equal(
        see(network, references[1], MASK, LABELS[2:3]).images,
        see(network, references[1], MASK, LABELS).images[2:3],
    )


def test_the_layers_of_a_portrait() -> None:
    """Red head before green: neither colour is left in the other's layer, and nothing known is changed."""
    mask = torch.nn.functional.pad(torch.ones(1, 1, 40, 32), (16, 16, 24, 0))
    red, green = (torch.tensor(colour).view(1, 3, 1, 1) for colour in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]))
    portrait = torch.where(mask > 0, red, green)
    layers = separate(portrait, mask)
    assert torch.allclose(layers.head, red.expand_as(portrait), atol=1e-5)
    assert torch.allclose(layers.behind, green.expand_as(portrait), atol=1e-5)
    assert float(layers.clear[0, 0, 4, 4]) == pytest.approx(1)
    assert float((layers.clear * mask).max()) < 0.05
    for empty in (torch.zeros_like(mask), torch.ones_like(mask)):
        parts = separate(portrait, empty)
        assert torch.allclose(parts.clear, 1 - empty, atol=1e-6)
        assert torch.allclose(parts.behind if empty.max() == 0 else parts.head, portrait, atol=1e-5)


def test_the_background_stands_still_and_the_head_does_not_stay_in_it() -> None:
    """Where the volume is empty, every camera sees the background layer, whatever the head looks like."""
    network = tiny_volume()
    head, others = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
    mask = MASK.unsqueeze(0)
    known = network.encode(torch.where(mask > 0, head, others), mask, LABELS[:1])
    stranger = network.encode(torch.where(mask > 0, head.flip(2), others), mask, LABELS[:1])
    assert torch.equal(known.still, stranger.still)
    assert torch.equal(known.background, stranger.background)
    assert not torch.equal(known.appearance, stranger.appearance)


def test_a_reference_without_camera_is_taken_as_frontal() -> None:
    network = tiny_volume()
    reference = torch.rand(3, 64, 64)
    unknown, frontal, turned = (
        see(network, reference, MASK, LABELS, own).images
        for own in (None, default_reference_label(), label(0.5, 0.0))
    )
    assert torch.equal(unknown, frontal)
    assert not torch.allclose(unknown, turned, atol=1e-3)


def test_what_does_not_fit_is_refused() -> None:
    network = tiny_volume()
    with pytest.raises(ValueError, match=r"labels \[B, V, 25\], got \[3, 25\]"):
        network(torch.rand(1, 3, 64, 64), MASK[None], LABELS[:3])
    with pytest.raises(ValueError, match="S a multiple of 8"):
        network(torch.rand(1, 3, 64, 60), MASK[None], LABELS[None])
    with pytest.raises(ValueError, match=r"masks \[B, 1, S, S\]"):
        network(torch.rand(1, 3, 64, 64), MASK[None, :, :32], LABELS[None])
    with pytest.raises(ValueError, match="volume_side 10 of 4"):
        tiny_volume(volume_side=10)


def test_the_embedded_size_fits_its_budget_and_the_full_size_can_be_built() -> None:
    with torch.device("meta"):
        nano, full = VolumeProxy(), VolumeProxy(**FULL)
    assert sum(value.numel() for value in nano.parameters()) * 2 <= 3_000_000  # bytes in float16
    assert full.config.size == 512
    assert sum(value.numel() for value in full.parameters()) > 10_000_000


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    folder = write_tiny_volume(tmp_path)
    assert find_volume(str(tmp_path)) == find_volume(str(folder)) == folder
    loaded, made = load_volume(folder), tiny_volume()
    for parameter in made.parameters():
        parameter.data = parameter.half().float()
    reference = torch.rand(3, 64, 64)
    assert torch.equal(see(loaded, reference, MASK, LABELS).images, see(made, reference, MASK, LABELS).images)
    assert volume_digest(folder) == volume_digest(folder)
    assert volume_digest(folder) != volume_digest(write_tiny_volume(tmp_path / "other", seed=1))


@pytest.mark.parametrize("damage", ["missing", "left over", "shape", "cut", "config"])
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, damage: str) -> None:
    folder = write_tiny_volume(tmp_path)
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    first = next(iter(tensors))
    if damage == "missing":
        del tensors[first]
    elif damage == "left over":
        tensors["stranger"] = torch.zeros(1)
    elif damage == "shape":
        tensors[first] = torch.zeros(1, 2, 3)
    save_file(tensors, path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "config":
        (folder / "config.json").write_text(json.dumps({"_class_name": "ViewUNet"}))
    with pytest.raises(WeightsError, match="not a volume proxy that can be loaded") as caught:
        load_volume(folder)
    assert caught.value.reason == "weights-damaged"


def test_weights_without_the_network_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match="dp3d train proxy") as caught:
        find_volume(str(tmp_path))
    assert caught.value.reason == "weights-missing"
    monkeypatch.setenv("DP3D_WEIGHTS", str(tmp_path / "mine"))
    folder = write_tiny_volume(tmp_path / "mine" / "diffportrait3d")
    assert find_volume("diffportrait3d") == folder
