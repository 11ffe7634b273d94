"""Small networks whose weights lie in the package as one safetensors file each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dp3d_cli.core.errors import WeightsError

if TYPE_CHECKING:
    from torch import nn


def load_embedded(network: nn.Module, path: Path, name: str) -> None:
    """Fill a network from a safetensors file, in float32, strictly.

    Args:
        network: of the sizes that were trained.
        path: the file.
        name: of the network, for messages.

    Raises:
        WeightsError: the file is missing ("weights-missing"), or cannot be read or does not fit the network
            ("weights-damaged").
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise WeightsError(
            f"{path}: no such file, expected the {name} network's weights. Reinstall dp3d.",
            reason="weights-missing",
        )
    try:
        network.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    except (SafetensorError, OSError, RuntimeError) as error:
        raise WeightsError(
            f"{path}: not the {name} network's weights ({error}). Reinstall dp3d.",
            reason="weights-damaged",
        ) from error
