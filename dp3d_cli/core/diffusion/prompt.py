"""The embedding of the empty prompt, stored instead of a text encoder."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class EmptyPrompt(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers carries no types
    """A constant [1, T, D] tensor: what CLIP answers to "". A small network may train it instead.

    Args:
        tokens: T, 77 for CLIP.
        dim: D, the cross-attention width.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, tokens: int = 77, dim: int = 768) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(1, tokens, dim))

    def forward(self) -> Tensor:
        """The embedding, [1, T, D]."""
        return self.embedding
