"""What CLIP's text encoder answers to the empty prompt, computed from its weights without a tokenizer.

CLIP ViT-L/14 (Radford et al. 2021, arXiv 2103.00020): causal transformer with pre-norms and the activation
x * sigmoid(1.702 x), last hidden state after the final norm.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from dp3d_cli.core.diffusion.attention import split_heads

HEAD_DIM = 64
"""Width of an attention head in every CLIP text encoder."""
PREFIXES = ("transformer.text_model.", "transformer.")
"""Where the weights stand below the published prefix: with transformers < 5, and since."""
_LAYER = "encoder.layers."


def empty_prompt_embedding(weights: Mapping[str, Tensor]) -> Tensor:
    """The embedding of "": start token, then end tokens up to the full length, as the tokenizer pads.

    Args:
        weights: the text encoder's tensors, named as in transformers' `CLIPTextModel`, from "embeddings" on.

    Returns:
        [1, 77, 768] for ViT-L/14.

    Raises:
        KeyError: a tensor is missing.
    """
    tokens = weights["embeddings.token_embedding.weight"]
    start, end = tokens[-2], tokens[-1]  # the last two words of the vocabulary
    positions = weights["embeddings.position_embedding.weight"].float()
    hidden = torch.cat([start[None], end.expand(positions.shape[0] - 1, -1)]).float() + positions
    hidden = hidden[None]  # [1, T, D]
    count = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith(_LAYER))
    for index in range(count):
        hidden = _layer(hidden, weights, f"{_LAYER}{index}.")
    return _norm(hidden, weights, "final_layer_norm")


def _layer(hidden: Tensor, weights: Mapping[str, Tensor], prefix: str) -> Tensor:
    normed = _norm(hidden, weights, f"{prefix}layer_norm1")
    heads = hidden.shape[-1] // HEAD_DIM
    query, key, value = (
        split_heads(_linear(normed, weights, f"{prefix}self_attn.{part}_proj"), heads) for part in "qkv"
    )
    attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    hidden = hidden + _linear(attended.transpose(1, 2).flatten(2), weights, f"{prefix}self_attn.out_proj")
    inner = _linear(_norm(hidden, weights, f"{prefix}layer_norm2"), weights, f"{prefix}mlp.fc1")
    return hidden + _linear(inner * torch.sigmoid(1.702 * inner), weights, f"{prefix}mlp.fc2")


def _linear(hidden: Tensor, weights: Mapping[str, Tensor], name: str) -> Tensor:
    return functional.linear(hidden, weights[f"{name}.weight"].float(), weights[f"{name}.bias"].float())


def _norm(hidden: Tensor, weights: Mapping[str, Tensor], name: str) -> Tensor:
    weight, bias = weights[f"{name}.weight"].float(), weights[f"{name}.bias"].float()
    return functional.layer_norm(hidden, weight.shape, weight, bias, eps=1e-5)
