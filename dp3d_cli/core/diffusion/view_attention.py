"""Attention along the view axis: each position of the latent looks at the same position in the other views.

AnimateDiff-style (Guo et al. 2023, arXiv 2307.04725), as DiffPortrait3D uses it (arXiv 2312.13016, Sec. 3.3):
two self-attentions over the views and a GEGLU feed-forward, with a residual around all of it.
"""

from __future__ import annotations

from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from torch import Tensor, nn
from torch.nn import functional

MAX_VIEWS = 32
"""Length of the positional encoding: the largest group of views that can be denoised together."""


def sinusoidal_encoding(channels: int) -> Tensor:
    """The encoding of the view's place in its group, [1, 32, C]: sines at even channels, cosines at odd."""
    encoding: Tensor = SinusoidalPositionalEmbedding(channels, MAX_VIEWS).pe
    return encoding


class ViewAxisAttnProcessor:
    """Self-attention along the view axis of tokens that stay in the order of the spatial layers.

    Positions take the place of heads, so the views are gathered by strides inside the attention kernel:
    nothing is copied, and no dimension of the kernel's launch grows with views times positions.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend: tokens [B, V, T, C] of V views at T positions, to [B * V, T, C]."""
        if encoder_hidden_states is not None or attention_mask is not None:
            raise ValueError("attention along the view axis takes neither context nor mask")
        width = hidden_states.shape[-1] // attn.heads
        query, key, value = (
            projection(hidden_states).unflatten(3, (attn.heads, width)).flatten(2, 3).transpose(1, 2)
            for projection in (attn.to_q, attn.to_k, attn.to_v)
        )  # each [B, T * heads, V, C / heads]
        attended = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        out: Tensor = attn.to_out[0](attended.reshape(-1, *hidden_states.shape[2:]))
        return out


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
        self.block.attn1.set_processor(ViewAxisAttnProcessor())
        self.block.attn2.set_processor(ViewAxisAttnProcessor())
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
        tokens: Tensor = self.proj_in(
            self.norm(hidden_states).flatten(2).transpose(1, 2)
        )  # [B * V, H * W, C]
        block = self.block
        place: Tensor = block.pos_embed.pe[0, :num_views, None].to(tokens.dtype)

        def placed(tokens: Tensor) -> Tensor:
            return tokens.view(-1, num_views, *tokens.shape[1:]) + place  # [B, V, H * W, C]

        tokens = tokens + block.attn1(placed(block.norm1(tokens)))
        tokens = tokens + block.attn2(placed(block.norm2(tokens)))
        tokens = tokens + block.ff(block.norm3(tokens))
        out: Tensor = hidden_states + self.proj_out(tokens).transpose(1, 2).view_as(hidden_states)
        return out
