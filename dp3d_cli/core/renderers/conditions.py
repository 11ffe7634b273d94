"""Camera conditions from the embedded renderer: a procedural head that is not the subject, from every camera.

DiffPortrait3D's view control reads the camera from an image of somebody else (arXiv 2312.13016, Sec. 3.3).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from dp3d_cli.core.cameras.camera import Trajectory
from dp3d_cli.core.devices import torch_device
from dp3d_cli.core.renderers.procedural import ProceduralHead

_BATCH = 8  # views rendered at a time; they do not influence one another


def render_conditions(
    trajectory: Trajectory, size: int, *, seed: int = 1, device: str = "cpu"
) -> Iterator[NDArray[np.uint8]]:
    """The head of this seed from each camera of a trajectory, one by one.

    Args:
        trajectory: the cameras.
        size: width and height [px].
        seed: identity of the head, >= 0.
        device: torch device that renders, or "auto"; no part of the result.

    Yields:
        uint8 [size, size, 3] RGB.
    """
    detail = min(8.0, max(0.1, size / 256))  # surface samples enough for this size
    where = torch_device(device)
    head = ProceduralHead(seed, device=where, detail=detail)
    labels = torch.from_numpy(trajectory.labels).to(where)
    for start in range(0, len(labels), _BATCH):
        images = head.render(labels[start : start + _BATCH], size).image
        pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8)
        yield from pixels.permute(0, 2, 3, 1).cpu().numpy()
