"""What the metrics with a network share: weights that are checked before use, and arithmetic that repeats.

The networks and the code that loads them are those of the libraries. Here it is made sure that a library
finds its weights where `core.weights.backbones` found them, that they are the published ones, that nothing is
downloaded, and that a picture's result does not depend on what was computed before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.metrics.pictures import Picture, check_picture
from dp3d_cli.core.weights.backbones import BACKBONES, how_to_get, require_backbone
from dp3d_cli.core.weights.check import check_backbone


@dataclass(frozen=True)
class Weights:
    """A backbone as found on this machine.

    Attributes:
        name: its key in `BACKBONES`.
        path: its file, or its folder for Hugging Face.
        file: name of the file that holds the tensors.
        sha256: of that file, computed from its bytes.
    """

    name: str
    path: Path
    file: str
    sha256: str

    def describe(self) -> dict[str, str]:
        """File and checksum, for a report's protocol."""
        return {"weights": self.file, "weights_sha256": self.sha256}

    def damaged(self, problem: str) -> WeightsError:
        """The error that says what is wrong with these weights, and how to get them again."""
        return WeightsError(
            f"{self.path}: {problem} Get the weights again with `{how_to_get(BACKBONES[self.name])}`.",
            reason="weights-damaged",
        )


def checked_weights(name: str) -> Weights:
    """Find a backbone and compare every file with what was published.

    The libraries check a file only while they download it, and unpickle whatever they find later.

    Raises:
        WeightsError: it is missing ("weights-missing") or not the published one ("weights-damaged").
    """
    path = require_backbone(name)
    checked = check_backbone(BACKBONES[name], path)
    tensors = max(checked, key=lambda file: file.file.size)
    weights = Weights(name, path, tensors.file.name, tensors.sha256 or "")
    for file in checked:
        if file.problem:
            raise weights.damaged(f"{file.file.name} is not the published file: {file.problem}.")
    return weights


@contextmanager
def offline_torch_hub(weights: Weights) -> Iterator[None]:
    """Within, libraries that load by torch hub find these weights, and fail where they would download.

    Args:
        weights: a file in a folder "checkpoints", as torch hub has it.

    Raises:
        WeightsError: the library asked for a file that is not there, or the file does not fit its network.
    """

    def refuse(url: str, dst: str, *_: object, **__: object) -> NoReturn:
        raise weights.damaged(
            f"the installed library wants another file beside it, {Path(dst).name} ({url})."
        )

    folder = str(weights.path.parents[1])
    # Not torch.hub.set_dir: that cannot be undone, and would outlive a change of $TORCH_HOME.
    with patch.multiple(torch.hub, get_dir=lambda: folder, download_url_to_file=refuse):
        try:
            yield
        except (RuntimeError, KeyError) as error:  # of load_state_dict and of reading the archive
            raise weights.damaged(f"the weights do not fit their network ({error}).") from error


@contextmanager
def repeatable_inference() -> Iterator[None]:
    """Within, no gradients, and convolutions on CUDA in full float32 by algorithms that repeat."""
    with (
        torch.inference_mode(),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    ):
        yield


def unit_tensor(picture: Picture, device: torch.device) -> Tensor:
    """A picture as float32 [1, 3, H, W] in [0, 1], RGB.

    Raises:
        ValueError: not uint8 [H, W, 3].
    """
    check_picture(picture)
    planes = np.array(picture.transpose(2, 0, 1)[None], np.float32)
    return torch.from_numpy(planes).to(device) / 255
