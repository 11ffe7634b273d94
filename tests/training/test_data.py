from itertools import combinations

import numpy as np
import pytest
import torch

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.renderers.procedural import ProceduralHead
from dp3d_cli.training.data import SPLITS, ProceduralSubjects, mirror_labels, reference_label, target_labels


def test_no_seed_belongs_to_two_splits() -> None:
    for first, second in combinations(SPLITS.values(), 2):
        assert first.stop <= second.start or second.stop <= first.start


def test_training_leaves_the_seeds_of_demonstrations_alone() -> None:
    assert SPLITS["train"].start > 1000


@pytest.mark.parametrize("count", [0, 10_000_000])
def test_a_split_has_no_more_subjects_than_seeds(count: int) -> None:
    with pytest.raises(ValueError, match="1 to"):
        ProceduralSubjects("test", count)


def test_subjects_are_the_seeds_of_their_split() -> None:
    subjects = ProceduralSubjects("val", 3)
    assert list(subjects.seeds) == [SPLITS["val"].start + i for i in range(3)]


def test_a_sample_is_a_reference_and_targets_and_a_function_of_its_generator() -> None:
    subjects = ProceduralSubjects("train", 2)
    first, again = (subjects.sample(1, 3, np.random.default_rng(8), 24) for _ in range(2))
    assert torch.equal(first.images, again.images)
    assert first.images.shape == (3, 3, 24, 24)
    assert torch.equal(first.labels[:1], reference_label(np.random.default_rng(8)))
    assert first.mask is not None
    assert first.depth is not None
    with pytest.raises(ValueError, match="at least one view"):
        subjects.sample(0, 0, np.random.default_rng(0), 24)


def test_target_cameras_stay_in_their_range() -> None:
    for seed in range(40):
        for label in target_labels(6, np.random.default_rng(seed)):
            camera = Camera.from_label(label.numpy())
            assert abs(camera.yaw) <= 0.6
            assert -0.45 <= camera.pitch <= 0.36


def test_references_are_mostly_frontal() -> None:
    rng = np.random.default_rng(0)
    yaws = [Camera.from_label(reference_label(rng)[0].numpy()).yaw for _ in range(200)]
    assert np.median(np.abs(yaws)) < 0.08
    assert max(np.abs(yaws)) > 0.2


def test_mirrored_label_sees_mirrored_points_at_mirrored_pixels() -> None:
    rng = np.random.default_rng(1)
    labels = target_labels(5, rng)
    points = np.concatenate([rng.uniform(-0.2, 0.2, (20, 3)), np.ones((20, 1))], 1)

    def project(label: np.ndarray, where: np.ndarray) -> np.ndarray:
        camera = Camera.from_label(label)
        seen = where @ camera.world2cam.T
        return (camera.intrinsics @ (seen[:, :3] / seen[:, 2:3]).T).T[:, :2]

    for label, mirrored in zip(labels.numpy(), mirror_labels(labels).numpy(), strict=True):
        plain = project(label, points)
        flipped = project(mirrored, points * [-1, 1, 1, 1])
        np.testing.assert_allclose(flipped[:, 0], 1 - plain[:, 0], atol=1e-5)
        np.testing.assert_allclose(flipped[:, 1], plain[:, 1], atol=1e-5)


def test_a_flipped_rendering_is_seen_from_the_mirrored_camera() -> None:
    head = ProceduralHead(5, detail=0.3)
    label = torch.from_numpy(Camera.look_at(0.5, -0.1).label)[None]
    plain = head.render(label, 64).mask > 0.5
    mirrored = head.render(mirror_labels(label), 64).mask > 0.5

    def overlap(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a & b).sum() / (a | b).sum())

    assert overlap(plain.flip(-1), mirrored) > 0.93  # hair and shoulders are not quite symmetric
    assert overlap(plain, mirrored) < overlap(plain.flip(-1), mirrored) - 0.03
