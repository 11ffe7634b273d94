"""Teach attention where to look in the references, and what to take from there.

Attention over references finds correspondences by itself only after very many steps. Where the geometry of a
subject is known, each view's token has a right answer, and its queries and the references' keys can be taught
like a classifier. Geometry alone would teach the reference network to tell places and to forget colours, so
what is taken is read as well: a linear layer has to tell the view's latents from it. Answers and readers are
for training only: nothing of them is needed to make views.

Axes: B subjects, V views, n references of one subject, h cells along a side, T tokens of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dp3d_cli.core.diffusion.attention import KeysValues, ProjectedBank, repeat_over_views, split_heads
from dp3d_cli.core.diffusion.trunk import parts_of
from dp3d_cli.core.diffusion.view_unet import ViewUNet
from dp3d_cli.core.proxies.geometry import camera_rays

_SAME_PLACE = 0.06  # neighbouring tokens are not further apart, what hides a place is [world units]


@dataclass(frozen=True)
class Looked:
    """What one layer of attention did.

    Attributes:
        query: [N, heads, T, c] of the views.
        own: [N, heads, T, c] keys of the views.
        key: [N, heads, n * T, c] of the references.
        taken: [N, T, C] what the layer would answer if it looked at the references only.
    """

    query: Tensor
    own: Tensor
    key: Tensor
    taken: Tensor


def world_points(depths: Tensor, labels: Tensor) -> Tensor:
    """World positions [N, 3, h, h] of what cells see; NaN beside the subject.

    Args:
        depths: [N, h, h] along the optical axis [world units], in the middle of each cell; 0 beside the
            subject.
        labels: [N, 25] cameras.
    """
    side = depths.shape[-1]
    centres = (torch.arange(side, dtype=torch.float32) + 0.5) / side
    origin, direction = camera_rays(labels, centres)
    points = origin + direction * depths.unsqueeze(1)
    return points.where(depths.unsqueeze(1) > 0, torch.nan)


def right_answers(points: Tensor, references: Tensor, labels: Tensor, side: int) -> Tensor:
    """For each token of a subject's views the tokens of its references that show the same.

    A place of the subject is shared out bilinearly among the four tokens around its projection, as far as the
    reference sees it there too. What is beside the subject does not move with the camera: the answer is the
    same token, if that is beside the subject in the reference as well.

    Args:
        points: [V, 3, h, h] of the views, from `world_points`.
        references: [n, 3, h, h] of the references.
        labels: [n, 25] cameras of the references.
        side: tokens along a side; h is a multiple.

    Returns:
        [V, side^2, n * side^2] shares that sum to 1, or to less where no reference shows the place.
    """
    step = points.shape[-1] // side
    middles = sorted({(step - 1) // 2, step // 2})  # of an even number of cells the two in the middle
    coarse = references[..., middles[0] :: step, middles[0] :: step]
    total = points.new_zeros(len(points), side**2, len(labels) * side**2)
    for first in middles:
        flat = points[..., first::step, first::step].flatten(2).transpose(1, 2)  # [V, T, 3]
        each = [_answers(flat, theirs, label, side) for theirs, label in zip(coarse, labels, strict=True)]
        shares = torch.cat(each, -1)
        total += shares / shares.sum(-1, keepdim=True).clamp_min(1) / len(middles)
    return total


def _answers(flat: Tensor, reference: Tensor, label: Tensor, side: int) -> Tensor:
    """[V, T, T] shares of one reference's tokens for places [V, T, 3]; rows sum to at most 1."""
    beside = flat[..., 0].isnan()  # [V, T]
    cam2world, intrinsics = label[:16].view(4, 4), label[16:].view(3, 3)
    seen = (flat.nan_to_num() - cam2world[:3, 3]) @ cam2world[:3, :3]
    projected = seen @ intrinsics.T
    place = projected[..., :2] / projected[..., 2:].clamp_min(0.1) * side - 0.5  # [V, T, 2], in tokens
    theirs = reference.flatten(1).T  # [T, 3]
    out = flat.new_zeros(*beside.shape, side * side)
    low = place.floor()
    for down in (0, 1):
        for across in (0, 1):
            token = low + torch.tensor([across, down])
            weight = (1 - (place - token).abs()).clamp_min(0).prod(-1)
            inside = ((token >= 0) & (token < side)).all(-1)
            index = (token[..., 1] * side + token[..., 0]).clamp(0, side * side - 1).long()
            near = (theirs[index] - flat).norm(dim=-1) < _SAME_PLACE  # False for NaN
            share = weight * (inside & near)
            out.scatter_add_(-1, index.unsqueeze(-1), share.unsqueeze(-1))
    total = out.sum(-1, keepdim=True)
    out = out / total.clamp_min(1e-6) * (total > 0)
    stays = beside & theirs[:, 0].isnan()
    return out + torch.diag_embed(stays.float())


@contextmanager
def watch_decoder(unet: ViewUNet, bank: ProjectedBank | None, looked: list[Looked]) -> Iterator[None]:
    """Collect what the attention to the references does while the backbone runs.

    Of the decoder only: what the camera conditions say reaches no layer before it.
    """
    if bank is None:
        yield
        return
    decoder = [layer for block in unet.up_blocks for layer in parts_of(block, "attentions")]
    entries = bank.layers[len(bank.layers) - len(decoder) :]
    handles = []
    for layer, entry in zip(decoder, entries, strict=True):
        attention = layer.get_submodule("transformer_blocks.0.attn1")

        def keep(module: nn.Module, inputs: tuple[Tensor], output: Tensor, entry: KeysValues = entry) -> None:
            key, value = (repeat_over_views(each, len(inputs[0])) for each in entry)
            queries, own = (module.get_submodule(name)(inputs[0]) for name in ("to_q", "to_k"))
            query, own = split_heads(queries, key.shape[1]), split_heads(own, key.shape[1])
            attended = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
            looked.append(Looked(query, own, key, module.get_submodule("to_out.0")(attended)))

        handles.append(attention.register_forward_hook(keep))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def attention_error(looked: Looked, answers: Tensor) -> Tensor:
    """Cross-entropy between answers [N, T, n * T] and attention, a mean over tokens with an answer.

    The attention is that of all heads together, over own tokens and references: it is right where one head
    looks at the right places of the references, and what the other heads look at does not matter much.
    """
    keys = torch.cat([looked.own, looked.key], 2)
    logits = looked.query @ keys.transpose(-1, -2) / keys.shape[-1] ** 0.5
    own = looked.own.shape[2]
    shares = functional.softmax(logits, -1).mean(1)[..., own:].clamp_min(1e-8).log()
    return -(answers * shares).sum() / answers.sum().clamp_min(1)


def taken_error(looked: Looked, reader: nn.Module, images: Tensor, answers: Tensor) -> Tensor:
    """How badly a linear reader tells from what a layer takes what the views show there.

    Args:
        looked: of a layer with T = t * t tokens.
        reader: [N, T, C] to [N, T, D] with D numbers for all the latents under a token.
        images: [N, c, h, w] clean latents of the views.
        answers: [N, T, n * T]; tokens without an answer do not count.
    """
    side = round(looked.taken.shape[1] ** 0.5)
    target = functional.pixel_unshuffle(images, images.shape[-1] // side).flatten(2).transpose(1, 2)
    known = answers.sum(-1)
    read: Tensor = reader(looked.taken)
    error = (read - target).square().mean(-1)
    return (known * error).sum() / known.sum().clamp_min(1)
