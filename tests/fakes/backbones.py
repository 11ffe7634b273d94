"""Backbones with random weights, in the layout of the libraries' caches, so that the loading code is real.

What the metrics never read (the classifiers of AlexNet and VGG-16, 400 MB) is stored as one expanded zero.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
import torchvision
from huggingface_hub import constants
from torch import Tensor

from dp3d_cli.core.weights.backbones import BACKBONES, BackboneFile, library_folder
from dp3d_cli.core.weights.manifest import sha256

TORCH_HUB = ("alexnet", "vgg16", "fid-inception")


@contextmanager
def backbone_cache(folder: Path) -> Iterator[None]:
    """Within, `folder` is the cache of torch hub and Hugging Face; what lies there counts as published."""
    hub = folder / "hub"
    with (
        patch.dict(os.environ, {"TORCH_HOME": str(folder)}),
        patch.object(constants, "HF_HUB_CACHE", str(hub)),
        patch.dict(BACKBONES),
    ):
        os.environ.pop("DP3D_WEIGHTS", None)
        for name, backbone in BACKBONES.items():
            if backbone.library in ("torch-hub", "hugging-face"):
                at = library_folder(backbone)
                files = tuple(_as_found(at / file.name, file) for file in backbone.files)
                BACKBONES[name] = replace(backbone, files=files)
        yield


def write_torch_backbone(folder: Path, name: str, seed: int = 0) -> Path:
    """Write random weights of AlexNet, VGG-16 or the FID Inception below `folder`, as in $TORCH_HOME."""
    with torch.device("meta"):
        if name == "fid-inception":
            network = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False)
        else:
            network = torchvision.models.get_model(name, weights=None)
    generator = torch.Generator().manual_seed(seed)
    state = {key: _random(key, value, generator) for key, value in network.state_dict().items()}
    target = folder / "hub" / "checkpoints" / BACKBONES[name].files[0].name
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, target)
    return target


def write_clip(folder: Path, seed: int = 0, *, full_size: bool = False) -> Path:
    """Write a random CLIP, image and text encoder, tiny or ViT-B/32, below `folder`, as in $HF_HUB_CACHE."""
    from transformers import CLIPConfig, CLIPModel

    tiny = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": 24,
    }
    config = CLIPConfig()
    if not full_size:
        config = CLIPConfig(
            vision_config={**tiny, "image_size": 224, "patch_size": 32},
            text_config={**tiny, "vocab_size": 100, "bos_token_id": 0, "eos_token_id": 1},
            projection_dim=24,
        )
    torch.manual_seed(seed)
    network = CLIPModel(config)
    for parameter in network.parameters():  # so that different pictures have clearly different embeddings
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    with patch.object(constants, "HF_HUB_CACHE", str(folder / "hub")):
        target = library_folder(BACKBONES["clip-vit-b32"])
    target.mkdir(parents=True)
    config.save_pretrained(target)
    (target / "preprocessor_config.json").write_text("{}\n", encoding="utf-8")
    torch.save(network.state_dict(), target / "pytorch_model.bin")
    return target


def _as_found(path: Path, file: BackboneFile) -> BackboneFile:
    if not path.is_file():
        return file
    return replace(file, size=path.stat().st_size, sha256=sha256(path))


def _random(key: str, like: Tensor, generator: torch.Generator) -> Tensor:
    """Weights that neither raise nor lower the activations from layer to layer (He et al. 2015)."""
    if key.startswith(("classifier.", "fc.")):
        return torch.zeros(1).expand(like.shape)
    if not like.is_floating_point() or key.endswith("running_mean"):
        return torch.zeros(like.shape, dtype=like.dtype)
    if like.ndim == 4:
        scale = (2 / like[0].numel()) ** 0.5
        return torch.randn(like.shape, generator=generator) * scale
    if key.endswith("running_var") or key.endswith("bn.weight"):
        return torch.ones(like.shape)
    return torch.randn(like.shape, generator=generator) * 0.05
