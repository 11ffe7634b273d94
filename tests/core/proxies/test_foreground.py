from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.proxies.foreground import (
    SIDE,
    WEIGHTS,
    ForegroundNetwork,
    foreground_log_odds,
    load_foreground,
)
from tests.core.proxies.portraits import BOX, drawn_portrait


def test_every_pixel_gets_its_odds_at_any_multiple_of_64() -> None:
    network = ForegroundNetwork((8, 16, 16, 16, 16)).eval()
    boxes = torch.tensor([[0.2, 0.2, 0.6, 0.6], [0.0, 0.1, 0.5, 0.5]])
    for side in (64, 192):
        assert network(torch.rand(2, 3, side, side), boxes).shape == (2, 1, side, side)


def test_the_box_says_whose_head_is_asked_for() -> None:
    network = ForegroundNetwork((8, 16, 16, 16, 16)).eval()
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    one, other = (network(picture, torch.tensor([[x, 0.2, 0.4, 0.4]])) for x in (0.1, 0.5))
    assert not torch.allclose(one, other)


def test_a_wider_picture_gets_odds_too() -> None:
    image = np.concatenate([drawn_portrait(), drawn_portrait()[:, :64]], 1)
    odds = foreground_log_odds(image, BOX)
    assert odds.shape == (SIDE, SIDE)
    assert odds[SIDE // 2, round(SIDE * 0.4)] > 0  # the face
    assert odds[3, -3] < 0


def test_weights_that_are_missing_or_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file") as caught:
        load_foreground(tmp_path / "none.safetensors")
    assert caught.value.reason == "weights-missing"
    tensors = load_file(WEIGHTS)
    tensors.popitem()
    save_file(tensors, tmp_path / "part.safetensors")
    (tmp_path / "text.safetensors").write_text("not weights")
    for name in ("part", "text"):
        with pytest.raises(WeightsError, match=name) as caught:
            load_foreground(tmp_path / f"{name}.safetensors")
        assert caught.value.reason == "weights-damaged"
