from __future__ import annotations

import numpy as np
import pytest


def smooth_noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 3] with structure at several scales."""
    total = np.zeros((height, width, 3))
    for cell in (2, 5, 11):
        coarse = rng.normal(size=(height // cell + 2, width // cell + 2, 3))
        total += cell * np.kron(coarse, np.ones((cell, cell, 1)))[:height, :width]
    return (127 + 8 * total).clip(0, 255).astype(np.uint8)


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    """A picture and a shifted, noisy, darker version of it, 40 x 48."""
    rng = np.random.default_rng(7)
    truth = smooth_noise(rng, 40, 48)
    prediction = np.roll(truth, 1, axis=1) * 0.9 + rng.normal(scale=6, size=truth.shape)
    return prediction.clip(0, 255).astype(np.uint8), truth
