from __future__ import annotations

import numpy as np
import pytest
import torch

from dp3d_cli.core.proxies.background import blur, distance_inside, fill_smoothly


def test_known_pixels_stay_and_a_constant_is_continued() -> None:
    weight = torch.zeros(1, 1, 37, 50)
    weight[..., 3:20, 5:9] = 1
    image = torch.rand(1, 3, 37, 50, generator=torch.Generator().manual_seed(0))
    filled = fill_smoothly(image, weight)
    assert torch.equal(filled[..., 3:20, 5:9], image[..., 3:20, 5:9])
    assert torch.allclose(fill_smoothly(torch.full_like(image, 0.3), weight), torch.tensor(0.3), atol=1e-5)


def test_filling_stays_between_the_known_values_and_is_smooth() -> None:
    weight = torch.zeros(1, 1, 64, 64)
    weight[..., :8], weight[..., -8:] = 1, 1
    image = torch.zeros(1, 1, 64, 64)
    image[..., -8:] = 1
    filled = fill_smoothly(image, weight)
    assert filled.min() >= 0
    assert filled.max() <= 1
    assert (filled[..., 1:] - filled[..., :-1]).abs().max() < 0.3


def test_filling_does_not_depend_on_what_is_unknown() -> None:
    weight = (torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1)) > 0.7).float()
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(
        fill_smoothly(image, weight), fill_smoothly(image * weight + (1 - weight) * 9, weight)
    )


def test_fill_refuses_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        fill_smoothly(torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 9))


def test_distance_equals_the_plain_search() -> None:
    mask = torch.rand(2, 1, 13, 17, generator=torch.Generator().manual_seed(3)) > 0.25
    found = distance_inside(mask).numpy()
    for index, plane in enumerate(mask[:, 0].numpy()):
        outside = np.argwhere(~plane)
        for y, x in np.ndindex(*plane.shape):
            nearest = np.sqrt(((outside - (y, x)) ** 2).sum(1).min())
            assert found[index, 0, y, x] == pytest.approx(nearest if plane[y, x] else 0, abs=1e-4)


def test_distance_is_finite_where_nothing_is_outside() -> None:
    assert torch.isfinite(distance_inside(torch.ones(1, 1, 9, 9, dtype=torch.bool))).all()


@pytest.mark.parametrize("sigma", [0.0, 1.5, 9.0])
def test_blur_keeps_a_constant_and_the_shape(sigma: float) -> None:
    image = torch.full((1, 2, 40, 33), 0.25)
    assert torch.allclose(blur(image, sigma), image, atol=1e-5)
