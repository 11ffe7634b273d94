"""Self-attention that also looks at reference portraits, and the spatial transformer around it.

Axes: B subjects, V views of each, N = B * V, T tokens, C channels, n references of one subject. A batch of
views is ordered subject by subject: index = b * V + v. Where the conditional and the unconditional branch of
classifier-free guidance run together, a batch has 2 N entries, the conditional ones first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor
from torch.nn import functional

KeysValues = tuple[Tensor, Tensor]
"""Projected keys and values of one layer, each [B, heads, T, C / heads]."""


@dataclass(frozen=True)
class ReferenceBank:
    """What the reference network saw: one entry per self-attention, in the order in which they run.

    Attributes:
        features: for each layer [B, n * T, C], the tokens after that layer's first norm; the references of a
            subject follow one another along the tokens (DiffPortrait3D, arXiv 2312.13016, Eq. (5)).
    """

    features: tuple[Tensor, ...]


@dataclass(frozen=True)
class ProjectedBank:
    """A reference bank after the key and value projections of the network that reads it.

    It depends on the references and the timestep only, so one projection serves every group of views.

    Attributes:
        layers: keys and values of each self-attention, in the order in which they run.
    """

    layers: tuple[KeysValues, ...]


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """[N, T, C] to [N, heads, T, C / heads]."""
    batch, length, width = tokens.shape
    return tokens.view(batch, length, heads, width // heads).transpose(1, 2)


def repeat_over_views(tensor: Tensor, batch: int) -> Tensor:
    """Repeat [B, ...] over the views of each subject to [batch, ...]; free of copies when B is 1 or `batch`.

    Raises:
        ValueError: `batch` is not a multiple of B.
    """
    subjects = tensor.shape[0]
    if subjects == batch:
        return tensor
    if batch % subjects:
        raise ValueError(f"a batch of {batch} views cannot be shared out evenly among {subjects} subjects")
    if subjects == 1:
        return tensor.expand(batch, *tensor.shape[1:])
    return tensor.repeat_interleave(batch // subjects, dim=0)


def both_branches(tensor: Tensor, batch: int) -> Tensor:
    """Entries that still serve both branches of guidance, [N, ...], repeated to a `batch` of N or 2 N."""
    return tensor if tensor.shape[0] == batch else torch.cat([tensor, tensor])


class SharedContextAttnProcessor:
    """Attention whose context may be shared by the views, with references appended to the own tokens.

    softmax((x Wq) ([x ; ref] Wk)^T / sqrt(d)) ([x ; ref] Wv), own tokens first (DiffPortrait3D, Eq. (4)). The
    context's projections are made at the context's own batch size, never once per view.

    In a batch of both branches of guidance only the first half looks at the references. As long as the
    branches have had the same input, one half serves both: [N, T, C] in, [2 N, T, C] out.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        reference: KeysValues | None = None,
        guided: int | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            attn: the layer that owns the projections.
            hidden_states: [N, T, C] tokens, already normalised.
            encoder_hidden_states: [1 or B or N, T', C'] cross-attention context; None for self-attention.
            attention_mask: not supported.
            reference: projected keys and values of the references, appended along the tokens.
            guided: N, if the result is wanted with the references for N entries and without them for N
                others; `hidden_states` are then [N, T, C] for both, or [2 N, T, C].

        Returns:
            [N, T, C], or [2 N, T, C] with `guided`.
        """
        if attention_mask is not None:
            raise ValueError("attention over views and references takes no mask")
        batch = hidden_states.shape[0]
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and context.shape[1] == 1:
            # The softmax over a single key is 1: every query receives the value, whatever it asks.
            value = repeat_over_views(attn.to_out[0](attn.to_v(context)), batch)
            return value.expand_as(hidden_states)
        query = split_heads(attn.to_q(hidden_states), attn.heads)
        key = repeat_over_views(split_heads(attn.to_k(context), attn.heads), batch)
        value = repeat_over_views(split_heads(attn.to_v(context), attn.heads), batch)
        if reference is None:
            attended = functional.scaled_dot_product_attention(query, key, value)
        elif guided is None:
            attended = _attend_references(query, key, value, reference)
        else:
            first, second = slice(guided), slice(batch - guided, batch)
            seeing = _attend_references(query[first], key[first], value[first], reference)
            alone = functional.scaled_dot_product_attention(query[second], key[second], value[second])
            attended = torch.cat([seeing, alone])
        out: Tensor = attn.to_out[0](attended.transpose(1, 2).flatten(2))
        return out


def _attend_references(query: Tensor, key: Tensor, value: Tensor, reference: KeysValues) -> Tensor:
    batch = query.shape[0]
    key = torch.cat([key, repeat_over_views(reference[0].to(key.dtype), batch)], dim=2)
    value = torch.cat([value, repeat_over_views(reference[1].to(value.dtype), batch)], dim=2)
    return functional.scaled_dot_product_attention(query, key, value)


def project_keys_values(attn: Attention, tokens: Tensor) -> KeysValues:
    """Keys and values of tokens [B, T, C] under one layer's projections."""
    tokens = tokens.to(attn.to_k.weight.dtype)
    return split_heads(attn.to_k(tokens), attn.heads), split_heads(attn.to_v(tokens), attn.heads)


def self_attention_input(module: Transformer2DModel, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens [N, H * W, C] of a spatial transformer, before and after the norm of its self-attention."""
    tokens = module.proj_in(module.norm(hidden_states)).flatten(2).transpose(1, 2)
    return tokens, module.transformer_blocks[0].norm1(tokens)


def spatial_transformer(
    module: Transformer2DModel,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor,
    *,
    reference: KeysValues | None = None,
    guided: int | None = None,
    record: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """One spatial transformer of depth 1 with its norm, 1x1 convolutions and residual.

    The module's own `forward` cannot pass references to the self-attention alone nor hand out its input, so
    its parts are run here, in the same order.

    Args:
        module: the layer.
        hidden_states: [N, C, H, W].
        encoder_hidden_states: [1 or B or N, T', C'].
        reference: keys and values of the references for the self-attention.
        guided: N, if both branches of guidance run: [N, C, H, W] or [2 N, C, H, W] in, 2 N out.
        record: receives the self-attention's input, [N, H * W, C].

    Returns:
        [N, C, H, W].
    """
    height, width = hidden_states.shape[-2:]
    block = module.transformer_blocks[0]
    tokens, normed = self_attention_input(module, hidden_states)
    if record is not None:
        record(normed)
    attended = block.attn1(normed, reference=reference, guided=guided)
    tokens = both_branches(tokens, attended.shape[0]) + attended
    tokens = tokens + block.attn2(block.norm2(tokens), encoder_hidden_states=encoder_hidden_states)
    tokens = tokens + block.ff(block.norm3(tokens))
    out: Tensor = module.proj_out(tokens.transpose(1, 2).unflatten(2, (height, width)))
    return both_branches(hidden_states, out.shape[0]) + out
