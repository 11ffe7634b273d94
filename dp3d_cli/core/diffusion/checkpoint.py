"""Reading checkpoints that somebody else made, without ever executing what they contain."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dp3d_cli.core.errors import WeightsError

ANCHOR = "model.diffusion_model.time_embed.0.weight"
"""A key of every published checkpoint: what stands before it in a file is a wrapper's prefix."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint on the CPU, under their published names.

    A pickle is read by torch's restricted unpickler, which knows tensors and plain containers and nothing
    else. Wrappers are taken off: an entry "state_dict" or "model" around the tensors, a prefix like "module."
    before each name.

    Args:
        path: a safetensors file or one written by `torch.save`.

    Returns:
        Tensors by name; memory-mapped where the format allows it.

    Raises:
        WeightsError: the file is missing, damaged, would execute code, or holds no DiffPortrait3D checkpoint.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such checkpoint file.", reason="missing-checkpoint")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    return _without_prefix(path, _unwrapped(path, content))


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path}: not a complete safetensors file ({error}). Fetch it again.", reason="damaged-checkpoint"
        ) from error


def _read_pickle(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            content: object = torch.load(
                path, map_location="cpu", weights_only=True, mmap=True if zipfile.is_zipfile(path) else None
            )
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: refused, it holds more than tensors and reading it could run foreign code. "
            "Ask for a safetensors file or a plain state dict.",
            reason="unsafe-checkpoint",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise WeightsError(
            f"{path}: damaged or no checkpoint ({error}). Fetch it again.", reason="damaged-checkpoint"
        ) from error
    return content


def _unwrapped(path: Path, content: object) -> dict[str, Tensor]:
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path}: holds no state dict.", reason="foreign-checkpoint")
    strays = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strays:
        raise WeightsError(
            f"{path}: not a state dict, these entries are no tensors: {', '.join(strays[:5])}",
            reason="foreign-checkpoint",
        )
    return {str(name): value for name, value in content.items()}


def _without_prefix(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    prefixes = sorted((name[: -len(ANCHOR)] for name in tensors if name.endswith(ANCHOR)), key=len)
    if not prefixes:
        raise WeightsError(
            f"{path}: not a DiffPortrait3D checkpoint, it has no {ANCHOR}.", reason="foreign-checkpoint"
        )
    return {name.removeprefix(prefixes[0]): tensor for name, tensor in tensors.items()}
