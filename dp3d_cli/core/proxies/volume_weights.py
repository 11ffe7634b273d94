"""Where the trained volume proxy lies, and how it is loaded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.proxies.volume import FOLDER, VolumeProxy
from dp3d_cli.core.weights.registry import REGISTRY, find, user_folder

_CONFIG, _TENSORS = "config.json", "diffusion_pytorch_model.safetensors"


def find_volume(weights: str) -> Path:
    """The folder of the volume proxy that belongs to some weights.

    Args:
        weights: as in a preset: a name in the registry, or a folder. The network is looked for in its folder
            `proxy`; for a name also in the user's folder of that name, and a folder may be the network's own.

    Raises:
        WeightsError: it is not there ("weights-missing").
    """
    if weights in REGISTRY:
        found = find(weights)
        places = [*([found / FOLDER] if found else []), user_folder() / weights / FOLDER]
    else:
        places = [Path(weights) / FOLDER, Path(weights)]
    for place in places:
        if all((place / name).is_file() for name in (_CONFIG, _TENSORS)):
            return place
    looked = " and ".join(str(place) for place in dict.fromkeys(places))
    raise WeightsError(
        f"The weights '{weights}' have no volume proxy (looked in {looked}). Train one with "
        "`dp3d train proxy` and give its export, or use the backend 'template', which needs no weights.",
        reason="weights-missing",
    )


def volume_digest(folder: Path) -> str:
    """One sha256 of the network's sizes and tensors."""
    hasher = hashlib.sha256()
    for name in (_CONFIG, _TENSORS):
        hasher.update((folder / name).read_bytes())
    return hasher.hexdigest()


def load_volume(folder: Path) -> VolumeProxy:
    """The network in float32, on the CPU, ready to see.

    Raises:
        WeightsError: the files are damaged or do not fit one another ("weights-damaged").
    """
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        if config.get("_class_name") != VolumeProxy.__name__:
            raise ValueError(
                f"{_CONFIG} describes a {config.get('_class_name')}, not a {VolumeProxy.__name__}"
            )
        network: VolumeProxy = VolumeProxy.from_config(config)
        network.load_state_dict(load_file(folder / _TENSORS))
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise WeightsError(
            f"{folder}: not a volume proxy that can be loaded ({error}). Get the weights again.",
            reason="weights-damaged",
        ) from error
    network.float().eval()
    return network
