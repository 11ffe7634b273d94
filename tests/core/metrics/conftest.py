from __future__ import annotations

import socket
from pathlib import Path

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


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with random AlexNet, VGG-16 and FID Inception, for `tests.fakes.backbones.backbone_cache`."""
    from tests.fakes.backbones import TORCH_HUB, write_torch_backbone

    folder = tmp_path_factory.mktemp("backbones")
    for name in TORCH_HUB:
        write_torch_backbone(folder, name)
    return folder


@pytest.fixture(scope="session")
def pictures() -> list[np.ndarray]:
    """Six pictures of 72 x 64 pixels with one motif each, from different to nearly equal."""
    rng = np.random.default_rng(11)
    first = smooth_noise(rng, 72, 64)
    others = [smooth_noise(rng, 72, 64) for _ in range(4)]
    noise = rng.normal(scale=8, size=first.shape)
    return [first, *others, (first + noise).clip(0, 255).astype(np.uint8)]


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to go online fails the test."""

    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
