"""Writing what was trained as a folder of weights, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from dp3d_cli.core.diffusion.pipeline import DiffPortraitPipeline
from dp3d_cli.core.weights.manifest import write_manifest


def write_pipeline(pipeline: DiffPortraitPipeline, folder: Path) -> None:
    """Write a pipeline folder with its manifest, free of this machine's paths."""
    pipeline.save_pretrained(folder, safe_serialization=True)
    tidy(folder)


def save_weights(network: nn.Module, path: Path) -> None:
    """Write the network as float16 safetensors."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half().contiguous() for name, value in network.state_dict().items()}, path)
    path.chmod(0o644)  # safetensors keeps them to their owner


def tidy(folder: Path) -> None:
    """Make a folder that diffusers wrote fit for others, and record its files' checksums."""
    for file in folder.rglob("config.json"):
        config = json.loads(file.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)  # where the codec lay on this machine
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors makes files that only their owner can read
    write_manifest(folder)


@contextlib.contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A draft folder beside `folder` that takes its place when the body is done, and is gone if it fails."""
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    draft.mkdir(parents=True)
    try:
        yield draft
        if folder.exists():
            shutil.rmtree(folder)
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
