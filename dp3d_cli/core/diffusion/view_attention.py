"""Attention along the view axis: each position of the latent looks at the same position in the other views.

AnimateDiff-style (Guo et al. 2023, arXiv 2307.04725), as DiffPortrait3D uses it (arXiv 2312.13016, Sec. 3.3):
two self-attentions over the views and a GEGLU feed-forward, with a residual around all of it.
"""

from __future__ import annotations

from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from torch import Tensor, nn

from dp3d_cli.core.diffusion.attention import SharedContextAttnProcessor

MAX_VIEWS = 32
"""Length of the positional encoding: the largest group of views that can be denoised together."""


def sinusoidal_encoding(channels: int) -> Tensor:
    """The encoding of the view's place in its group, [1, 32, C]: sines at even channels, cosines at odd."""
    encoding: Tensor = SinusoidalPositionalEmbedding(channels, MAX_VIEWS).pe
    return encoding


class ViewAttention(nn.Module):
    """One view-attention module. Its last projection starts at zero, so a fresh module changes nothing.

    The group norm's statistics belong to one view, not to the whole group. The sinusoidal encoding of the
    view's place in its group is added after each norm and so enters queries, keys and values.

    Args:
        channels: width C.
        heads: attention heads; must divide `channels`.
        norm_num_groups: groups of the first norm.
    """

    def __init__(self, channels: int, heads: int, norm_num_groups: int = 32) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_num_groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.block = BasicTransformerBlock(
            channels,
            heads,
            channels // heads,
            double_self_attention=True,
            positional_embeddings="sinusoidal",
            num_positional_embeddings=MAX_VIEWS,
        )
        self.block.attn1.set_processor(SharedContextAttnProcessor())
        self.block.attn2.set_processor(SharedContextAttnProcessor())
        self.proj_out = nn.Linear(channels, channels)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, hidden_states: Tensor, num_views: int) -> Tensor:
        """Mix the views.

        Args:
            hidden_states: [B * V, C, H, W].
            num_views: V, at most `MAX_VIEWS`.

        Returns:
            [B * V, C, H, W].
        """
        batch, channels, height, width = hidden_states.shape
        tokens: Tensor = self.norm(hidden_states).view(-1, num_views, channels, height * width)
        tokens = tokens.permute(0, 3, 1, 2).reshape(-1, num_views, channels)  # [B * H * W, V, C]
        tokens = self.proj_out(self.block(self.proj_in(tokens)))
        tokens = tokens.view(-1, height * width, num_views, channels).permute(0, 2, 3, 1)
        return hidden_states + tokens.reshape(batch, channels, height, width)
