"""A portrait, its face box and target cameras in; proxy pictures out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.proxies.placement import Box, Placement, place_portrait
from dp3d_cli.core.proxies.segmentation import Image, segment_head
from dp3d_cli.core.proxies.template import default_reference_label, prepare, render, to_uint8

_VIEWS_AT_A_TIME = 8  # bounds the memory; views do not depend on one another


@dataclass(frozen=True, eq=False)
class PortraitProxies:
    """Proxies of one portrait, and what they rest on.

    Attributes:
        images: uint8 [V, S, S, 3] RGB.
        confidences: uint8 [V, S, S]: 255 seen well in the portrait, 0 stretched, hidden or invented.
        coverages: uint8 [V, S, S]: 255 head, hair and torso, 0 background.
        doubt: share of the portrait of which the segmentation is not sure.
        placement: where the portrait lies in the reference camera's frame.
        reference_camera: the camera that is taken to have seen the portrait.
    """

    images: NDArray[np.uint8]
    confidences: NDArray[np.uint8]
    coverages: NDArray[np.uint8]
    doubt: float
    placement: Placement
    reference_camera: Camera


def portrait_proxies(
    image: Image,
    box: Box,
    labels: NDArray[np.float32],
    *,
    size: int = 256,
    camera: Camera | None = None,
    is_exact: bool = False,
) -> PortraitProxies:
    """See an aligned portrait from target cameras by the head template.

    Args:
        image: [H, H, 3] uint8 RGB, aligned.
        box: face box (x, y, width, height) in its pixels, in OpenCV's convention (brows to chin).
        labels: [V, 25] target cameras.
        size: side S of the proxies [px]; even, at least 32.
        camera: the camera that saw the portrait; the usual one if it is not known.
        is_exact: whether the portrait fills its frame as that camera sees it; otherwise it is placed by its
            face box.

    Raises:
        ValueError: image, box, labels or size do not fit.
    """
    height, width = image.shape[:2]
    segmentation = segment_head(image, box)
    placement = Placement() if is_exact else place_portrait(box, width, height)
    own_label = default_reference_label() if camera is None else _tensor(camera.label)
    prepared = prepare(image, box, size=size, mask=segmentation.mask, placement=placement, label=own_label)
    targets = _tensor(labels)
    parts = [render(prepared, part) for part in torch.split(targets, _VIEWS_AT_A_TIME)]
    return PortraitProxies(
        np.concatenate([to_uint8(part.images) for part in parts]),
        np.concatenate([to_uint8(part.confidence)[..., 0] for part in parts]),
        np.concatenate([to_uint8(part.coverage)[..., 0] for part in parts]),
        segmentation.doubt,
        placement,
        camera or Camera.from_label(own_label.numpy()),
    )


def _tensor(labels: NDArray[np.float32]) -> torch.Tensor:
    return torch.from_numpy(np.array(labels, np.float32))
