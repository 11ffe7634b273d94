"""The denoising backbone: a Stable Diffusion 1.5 UNet that reads reference features and mixes views.

DiffPortrait3D (arXiv 2312.13016), Sec. 3; the places of the view attention follow the released code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from dp3d_cli.core.diffusion import trunk
from dp3d_cli.core.diffusion.attention import (
    KeysValues,
    ProjectedBank,
    ReferenceBank,
    both_branches,
    project_keys_values,
    spatial_transformer,
)
from dp3d_cli.core.diffusion.control import ControlResiduals
from dp3d_cli.core.diffusion.view_attention import ViewAttention

MidViewAttention = Literal["unconditional", "always", "never"]
"""Calls in which the middle block's view attention runs; the released sampler: "unconditional"."""


class ViewUNet(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers carries no types
    """Denoising UNet over groups of views.

    View attention follows every layer and every downsample of the encoder, and every layer of the decoder;
    after a decoder level's last layer two modules run, both behind the upsample. One more sits in the middle
    block, which the released sampler runs in the unconditional call only. `view_attention_levels` switches
    them by resolution.

    Args:
        in_channels: latent channels.
        out_channels: channels of the prediction.
        block_out_channels: width of each level, highest resolution first.
        layers_per_block: residual blocks on each encoder level.
        attention_levels: levels with spatial attention; the middle block always has it.
        view_attention_levels: resolutions (level 0 first) at which views are mixed.
        num_attention_heads: heads of the spatial attention, one number or one per level.
        view_attention_heads: heads of the view attention, likewise.
        cross_attention_dim: width of the prompt embedding.
        norm_num_groups: groups of all group norms.
        view_attention_in_middle: whether the middle block has a view-attention module.
        explicit_hint_channels: channels of the explicit hint, 0 for none (the published network has none).
            The hint's first `in_channels` are the proxy's latents; see `forward`. Ours.
    """

    _supports_gradient_checkpointing = False

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 4,
        block_out_channels: Sequence[int] = (320, 640, 1280, 1280),
        layers_per_block: int = 2,
        attention_levels: Sequence[bool] = (True, True, True, False),
        view_attention_levels: Sequence[bool] = (True, True, True, True),
        num_attention_heads: int | Sequence[int] = 8,
        view_attention_heads: int | Sequence[int] = 8,
        cross_attention_dim: int = 768,
        norm_num_groups: int = 32,
        view_attention_in_middle: bool = True,
        explicit_hint_channels: int = 0,
    ) -> None:
        super().__init__()
        widths = tuple(block_out_channels)
        heads = trunk.per_level(num_attention_heads, len(widths))
        view_heads = trunk.per_level(view_attention_heads, len(widths))
        sizes = (widths, layers_per_block, attention_levels, heads, cross_attention_dim, norm_num_groups)
        self.time_proj, self.time_embedding = trunk.time_embedding(widths[0])
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.down_blocks = trunk.down_blocks(*sizes)
        self.mid_block = trunk.mid_block(
            widths[-1], 4 * widths[0], heads[-1], cross_attention_dim, norm_num_groups
        )
        self.up_blocks = trunk.up_blocks(*sizes)
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, widths[0], eps=trunk.RESNET_EPS)
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)
        trunk.zero_init(self.conv_out)
        trunk.prepare(self)

        def modules(count: int, level: int, resolution: int) -> nn.ModuleList:
            if not view_attention_levels[resolution]:
                return nn.ModuleList()
            return nn.ModuleList(
                ViewAttention(widths[level], view_heads[level], norm_num_groups) for _ in range(count)
            )

        # One list per place, empty where views are not mixed; the places are in the order in which they run.
        self.down_view_attention = nn.ModuleList()
        self.up_view_attention = nn.ModuleList()
        last = len(widths) - 1
        for level in range(len(widths)):
            self.down_view_attention.extend(modules(1, level, level) for _ in range(layers_per_block))
            if level < last:
                self.down_view_attention.append(modules(1, level, level + 1))
        for level in reversed(range(len(widths))):
            self.up_view_attention.extend(modules(1, level, level) for _ in range(layers_per_block))
            self.up_view_attention.append(
                modules(2, level, level - 1) if level > 0 else modules(1, level, level)
            )
        self.mid_view_attention = (
            ViewAttention(widths[-1], view_heads[-1], norm_num_groups) if view_attention_in_middle else None
        )

        if explicit_hint_channels:
            self.hint_conv_in = nn.Conv2d(explicit_hint_channels, widths[0], 3, padding=1)
            self.hint_gate = nn.Linear(4 * widths[0], out_channels)
            nn.init.zeros_(self.hint_gate.weight)
            nn.init.constant_(self.hint_gate.bias, -1.0)

    def reading_layers(self) -> list[nn.Module]:
        """The spatial transformers in the order in which they run: one reference entry belongs to each."""
        blocks = [*self.down_blocks, self.mid_block, *self.up_blocks]
        return [layer for block in blocks for layer in trunk.parts_of(block, "attentions")]

    def project_reference(self, bank: ReferenceBank) -> ProjectedBank:
        """Project a bank with this network's keys and values, once for all views and groups.

        Raises:
            ValueError: the bank does not have one entry per self-attention.
        """
        layers = self.reading_layers()
        if len(layers) != len(bank.features):
            raise ValueError(f"the bank has {len(bank.features)} entries, the network reads {len(layers)}")
        return ProjectedBank(
            tuple(
                project_keys_values(layer.get_submodule("transformer_blocks.0.attn1"), features)
                for layer, features in zip(layers, bank.features, strict=True)
            )
        )

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | int,
        encoder_hidden_states: Tensor,
        *,
        num_views: int,
        reference_bank: ReferenceBank | ProjectedBank | None = None,
        control_residuals: ControlResiduals | None = None,
        hint: Tensor | None = None,
        mid_view_attention: MidViewAttention = "unconditional",
        with_unconditional: bool = False,
    ) -> Tensor:
        """Predict noise or velocity for groups of views.

        A call without `reference_bank` is the unconditional one of classifier-free guidance.

        Args:
            sample: [B * V, C, h, w] noisy latents, subject by subject.
            timestep: one for all, [B] per subject, or [B * V].
            encoder_hidden_states: [1 or B or B * V, T, D] prompt embedding.
            num_views: V, the views mixed with one another, at most 32.
            reference_bank: features of B subjects' references (or of one, for all); None: plain
                self-attention.
            control_residuals: from the view control network; None: no camera.
            hint: [B * V, explicit_hint_channels, h, w], the proxy's latents first. It is added behind the
                first convolution, and the proxy's latents reach the output through a gate that the timestep
                sets: out = conv_out(...) + gate(t) * proxy. The gate starts at -1, so that a fresh network
                that predicts velocity answers "the proxy" at the noisiest timestep, where v = -x0.
            mid_view_attention: calls in which the middle module runs.
            with_unconditional: predict both with and without references and camera, in one pass. What lies
                before the first attention to the references runs once for both. Needs one timestep and one
                prompt for all.

        Returns:
            [B * V, out_channels, h, w]; with both predictions [2 * B * V, ...], the conditional ones first.

        Raises:
            ValueError: the batch is not a multiple of `num_views`, or the bank does not fit, or both
                predictions are wanted without references or with several timesteps or prompts.
        """
        batch = sample.shape[0]
        if batch % num_views:
            raise ValueError(f"{batch} latents are no whole number of groups of {num_views} views")
        temb = trunk.embed_timestep(self.time_proj, self.time_embedding, timestep, batch, sample)
        if with_unconditional and (
            reference_bank is None or temb.shape[0] > 1 or encoder_hidden_states.shape[0] > 1
        ):
            raise ValueError("both predictions need references, one timestep and one prompt for all views")
        guided = batch if with_unconditional else None
        if isinstance(reference_bank, ReferenceBank):
            reference_bank = self.project_reference(reference_bank)
        entries: Iterator[KeysValues] | None = (
            iter(reference_bank.layers) if reference_bank is not None else None
        )

        def attend(layer: nn.Module, hidden: Tensor) -> Tensor:
            reference = next(entries) if entries is not None else None
            return spatial_transformer(
                layer, hidden, encoder_hidden_states, reference=reference, guided=guided
            )

        places = iter([*self.down_view_attention, *self.up_view_attention])

        def mix_views(hidden: Tensor) -> Tensor:
            for module in next(places).children():
                hidden = module(hidden, num_views)
            return hidden

        hidden = self.conv_in(sample)
        if hint is not None:
            hidden = hidden + self.hint_conv_in(hint)
        skips = trunk.run_down_blocks(self.down_blocks, hidden, temb, attend, mix_views)

        def mix_in_middle(hidden: Tensor) -> Tensor:
            module = self.mid_view_attention
            if module is None or mid_view_attention == "never":
                return hidden
            if mid_view_attention == "always" or reference_bank is None:
                mixed: Tensor = module(hidden, num_views)
                return mixed
            return torch.cat([hidden[:batch], module(hidden[batch:], num_views)]) if guided else hidden

        hidden = trunk.run_mid_block(self.mid_block, skips[-1], temb, attend, mix_in_middle)

        if control_residuals is not None:
            branches = hidden.shape[0]
            residuals = (*control_residuals.down, control_residuals.mid)
            *skips, hidden = (
                _add_to_first(both_branches(each, branches), residual)
                for each, residual in zip((*skips, hidden), residuals, strict=True)
            )

        for block in self.up_blocks:
            layers = trunk.layers_of(block)
            for index, (resnet, attention) in enumerate(layers):
                skip = both_branches(skips.pop(), hidden.shape[0])
                hidden = resnet(torch.cat([hidden, skip], dim=1), temb)
                if attention is not None:
                    hidden = attend(attention, hidden)
                if index + 1 == len(layers):
                    for upsample in trunk.parts_of(block, "upsamplers"):
                        hidden = upsample(hidden)
                hidden = mix_views(hidden)

        out: Tensor = self.conv_out(functional.silu(self.conv_norm_out(hidden)))
        if hint is not None:
            gate = self.hint_gate(functional.silu(temb))
            proxy = both_branches(hint[:, : self.config.in_channels], out.shape[0])
            out = out + gate[:, :, None, None] * proxy
        return out


def _add_to_first(hidden: Tensor, residual: Tensor) -> Tensor:
    """Add a camera's residual to the conditional entries, which come first."""
    count = residual.shape[0]
    if hidden.shape[0] == count:
        return hidden + residual
    return torch.cat([hidden[:count] + residual, hidden[count:]])
