"""Domain randomisation: what stays consistent between views, and what only the reference gets."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.renderers.procedural import ProceduralHead
from dp3d_cli.training.augment import (
    AugmentSettings,
    Recolouring,
    bent,
    degrade,
    mirrored,
    misplaced_crop,
    occlude,
    paint,
    randomise,
    tone,
)
from dp3d_cli.training.data import SubjectViews

OFF = AugmentSettings(**dict.fromkeys((field.name for field in fields(AugmentSettings)), 0.0))
SHARED = ("mirror", "recolour", "tone", "palette")
REFERENCE_ONLY = ("crop", "occlude")


@pytest.fixture(scope="module")
def shown() -> SubjectViews:
    """Three views of a head; the last two from one camera."""
    head = ProceduralHead(12, detail=0.3)
    labels = torch.from_numpy(
        np.stack([Camera.look_at(yaw, pitch).label for yaw, pitch in ((0, 0), (0.4, -0.1), (0.4, -0.1))])
    )
    rendering = head.render(labels, 48)
    return SubjectViews(rendering.image, labels, rendering.mask, rendering.depth, head.face_points)


def test_with_every_share_at_zero_nothing_changes(shown: SubjectViews) -> None:
    result = randomise(shown, np.random.default_rng(0), OFF)
    assert torch.equal(result.images, shown.images)
    assert torch.equal(result.labels, shown.labels)


def test_equal_generators_give_equal_pictures_and_the_input_stays(shown: SubjectViews) -> None:
    before = shown.images.clone()
    every = AugmentSettings(*([1.0] * len(fields(AugmentSettings))))
    first, again, other = (randomise(shown, np.random.default_rng(s), every) for s in (3, 3, 4))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert torch.equal(shown.images, before)


@pytest.mark.parametrize("change", [field.name for field in fields(AugmentSettings)])
def test_each_change_does_something_and_keeps_views_of_one_camera_equal(
    shown: SubjectViews, change: str
) -> None:
    settings = replace(OFF, **{change: 1.0})
    changed = 0
    for seed in range(16):
        result = randomise(shown, np.random.default_rng(seed), settings)
        assert torch.equal(result.images[1], result.images[2])
        assert float(result.images.min()) >= 0
        assert float(result.images.max()) <= 1
        assert result.images.shape == shown.images.shape
        changed += not torch.equal(result.images, shown.images)
        if change in REFERENCE_ONLY:
            assert torch.equal(result.images[1:], shown.images[1:])
            assert not torch.equal(result.images[0], shown.images[0])
    assert changed >= 6


@pytest.mark.parametrize("change", ["recolour", "tone", "palette"])
def test_colour_changes_depend_on_colour_alone(shown: SubjectViews, change: str) -> None:
    """So they commute with any rearrangement of the pixels, as another view nearly is."""
    order = torch.randperm(48 * 48, generator=torch.Generator().manual_seed(0))

    def shuffled(images: torch.Tensor) -> torch.Tensor:
        return images.flatten(2)[..., order].view(images.shape)

    settings = replace(OFF, **{change: 1.0})
    plain = randomise(shown, np.random.default_rng(5), settings)
    moved = randomise(replace(shown, images=shuffled(shown.images)), np.random.default_rng(5), settings)
    torch.testing.assert_close(shuffled(plain.images), moved.images, atol=1e-6, rtol=0)


def test_a_mirrored_subject_is_seen_by_its_cameras(shown: SubjectViews) -> None:
    result = mirrored(shown)
    assert shown.face_points is not None
    assert result.face_points is not None
    for before, after in zip(shown.labels, result.labels, strict=True):
        pixels = [
            _project(label, points)
            for label, points in ((before, shown.face_points), (after, result.face_points))
        ]
        swapped = pixels[0][[1, 0, 2, 4, 3]]
        np.testing.assert_allclose(pixels[1][:, 0], 1 - swapped[:, 0], atol=1e-5)
        np.testing.assert_allclose(pixels[1][:, 1], swapped[:, 1], atol=1e-5)
    twice = mirrored(result)
    assert torch.equal(twice.images, shown.images)
    torch.testing.assert_close(twice.labels, shown.labels, atol=1e-6, rtol=0)
    assert torch.equal(twice.face_points, shown.face_points)


def _project(label: torch.Tensor, points: torch.Tensor) -> np.ndarray:
    camera = Camera.from_label(label.numpy())
    seen = points.numpy() @ camera.world2cam[:3, :3].T + camera.world2cam[:3, 3]
    return ((seen / seen[:, 2:]) @ camera.intrinsics.T)[:, :2]


def test_the_references_mask_moves_with_its_crop(shown: SubjectViews) -> None:
    result = randomise(shown, np.random.default_rng(2), replace(OFF, crop=1.0))
    assert shown.mask is not None
    assert result.mask is not None
    assert torch.equal(result.mask[1:], shown.mask[1:])
    image = torch.cat([shown.mask] * 3, 1)
    together = randomise(replace(shown, images=image), np.random.default_rng(2), replace(OFF, crop=1.0))
    torch.testing.assert_close(together.images[:1, :1], result.mask[:1])


def test_crops_are_off_by_little() -> None:
    shifts = []
    for seed in range(200):
        affine = misplaced_crop(100, np.random.default_rng(seed))
        shifts.append(affine @ [49.5, 49.5, 1] - 49.5)
        assert 0.85 < np.sqrt(np.linalg.det(affine[:, :2])) < 1.15
    assert np.std(shifts) == pytest.approx(1.2, rel=0.15)


def test_a_picture_is_bent_smoothly_by_some_and_differently_each_time() -> None:
    size = 64
    rows, columns = np.meshgrid(np.arange(size) * 3, np.arange(size) * 3, indexing="ij")
    picture = np.stack([rows, columns, rows, columns, rows], -1).astype(np.uint8)  # each tells its place
    before = picture.copy()
    mirrorings, moved = [], []
    for seed in range(20):
        made = bent(picture, np.random.default_rng(seed))
        assert np.array_equal(made, bent(picture, np.random.default_rng(seed)))
        assert made.shape == picture.shape
        assert np.array_equal(made[..., 0], made[..., 4])  # layers stay on top of each other
        middle = made[16:48, 16:48].astype(float)
        mirrorings.append(np.diff(middle[..., 1], axis=1).mean() < 0)
        vertical = np.diff(middle[..., 0], axis=0) / 3  # source rows per row
        assert 0.4 < vertical.mean() < 1.6  # scaled
        moved.append(np.abs(middle[..., 0] / 3 - np.arange(16, 48)[:, None]).mean())
    assert np.array_equal(picture, before)
    assert 4 < sum(mirrorings) < 16
    assert 1 < np.mean(moved) < 10


def test_tone_keeps_the_order_of_brightness_of_greys_and_palettes_theirs() -> None:
    greys = torch.linspace(0, 1, 64).view(1, 1, 1, 64).expand(1, 3, 1, 64)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        for images in (tone(greys, rng), paint(greys, rng)):
            luma = images.mean(1).flatten()
            assert (luma.diff() >= -1e-5).all()
            assert float(luma[-1] - luma[0]) > 0.1


def test_moved_functions_draw_what_they_always_drew() -> None:
    """Of `cache._degrade`, `latents.Recolouring` and `landmarks._occlude`, before they became this module.

    Standard deviation of the reference and of the truth, mean of the recoloured and of the covered picture,
    and the next number of the generator.
    """
    ramp = torch.linspace(0, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    pictures = [np.random.default_rng(9).integers(0, 256, (16, 16, 3), np.uint8) for _ in range(3)]
    expected = [
        [0.285327, 0.288816, 0.427368, 0.184768, 0.124283],
        [0.288816, 0.288816, 0.454322, 0.183042, 0.980737],
        [0.288674, 0.288674, 0.522557, 0.192512, 0.391625],
        [0.288696, 0.288696, 0.328843, 0.177393, 0.313986],
    ]
    for seed, row in enumerate(expected):
        rng = np.random.default_rng(seed)
        reference, truth = degrade(ramp.flip(-1).contiguous(), ramp, rng)
        recoloured = Recolouring.draw(rng)(ramp)
        covered = occlude(ramp[0, 0].numpy().copy(), pictures, rng)
        numbers = [reference.std(), truth.std(), recoloured.mean(), covered.mean(), rng.random()]
        np.testing.assert_allclose([float(number) for number in numbers], row, atol=2e-4)
