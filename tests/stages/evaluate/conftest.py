from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants


@pytest.fixture(autouse=True)
def no_backbones(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Home and caches without any weights, whatever this machine has; the empty folder."""
    empty = tmp_path_factory.mktemp("home")
    monkeypatch.delenv("DP3D_WEIGHTS", raising=False)
    monkeypatch.setenv("HOME", str(empty))
    monkeypatch.setenv("TORCH_HOME", str(empty / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(empty / "hub"))
    return empty
