"""A tiny random volume proxy, in the layout of trained ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dp3d_cli.core.proxies.volume import FOLDER, VolumeProxy

TINY: dict[str, Any] = {
    "size": 64,
    "encoder_side": 32,
    "encoder_channels": (8, 8, 16, 16),
    "depth_bins": 4,
    "volume_channels": (4, 8, 8),
    "volume_side": 16,
    "feature_channels": 4,
    "samples": 16,
    "decoder_channels": (8, 8),
}


def tiny_volume(seed: int = 0, **changes: Any) -> VolumeProxy:
    """A network that sees a view in milliseconds."""
    torch.manual_seed(seed)
    return VolumeProxy(**{**TINY, **changes}).eval()


def write_tiny_volume(weights: Path, seed: int = 0) -> Path:
    """Write one into the folder `proxy` of some weights, and return that folder."""
    tiny_volume(seed).half().save_pretrained(weights / FOLDER, safe_serialization=True)
    return weights / FOLDER
