"""The appearance reference network: it looks at the clean reference and writes one bank entry per layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from dp3d_cli.core.diffusion import trunk
from dp3d_cli.core.diffusion.attention import ReferenceBank, self_attention_input, spatial_transformer


class ReferenceUNet(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers carries no types
    """The trunk of `ViewUNet` without view attention and without an output head.

    Its product is the input of each self-attention (DiffPortrait3D, arXiv 2312.13016, Sec. 3.2). What comes
    behind the last of these inputs has no effect and is neither built nor run.

    Args:
        in_channels: latent channels.
        block_out_channels: width of each level, highest resolution first.
        layers_per_block: residual blocks on each encoder level.
        attention_levels: levels with spatial attention.
        num_attention_heads: one number or one per level.
        cross_attention_dim: width of the prompt embedding.
        norm_num_groups: groups of all group norms.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        in_channels: int = 4,
        block_out_channels: Sequence[int] = (320, 640, 1280, 1280),
        layers_per_block: int = 2,
        attention_levels: Sequence[bool] = (True, True, True, False),
        num_attention_heads: int | Sequence[int] = 8,
        cross_attention_dim: int = 768,
        norm_num_groups: int = 32,
    ) -> None:
        super().__init__()
        widths = tuple(block_out_channels)
        heads = trunk.per_level(num_attention_heads, len(widths))
        sizes = (widths, layers_per_block, attention_levels, heads, cross_attention_dim, norm_num_groups)
        self.time_proj, self.time_embedding = trunk.time_embedding(widths[0])
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.down_blocks = trunk.down_blocks(*sizes)
        self.mid_block = trunk.mid_block(
            widths[-1], 4 * widths[0], heads[-1], cross_attention_dim, norm_num_groups
        )
        self.up_blocks = trunk.up_blocks(*sizes)
        trunk.prepare(self)
        self._drop_unused_end()

    def _drop_unused_end(self) -> None:
        while len(self.up_blocks) and not trunk.parts_of(self.up_blocks[-1], "attentions"):
            del self.up_blocks[-1]
        if not len(self.up_blocks):
            raise ValueError("at least one level must have attention: there would be nothing to exchange")
        end = self.up_blocks[-1]
        layer = trunk.parts_of(end, "attentions")[-1]
        (block,) = trunk.parts_of(layer, "transformer_blocks")
        for owner, names in (
            (end, ("upsamplers",)),
            (layer, ("proj_out",)),
            (block, ("attn1", "attn2", "norm2", "norm3", "ff")),
        ):
            for name in names:
                setattr(owner, name, None)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | int,
        encoder_hidden_states: Tensor,
        *,
        num_references: int = 1,
    ) -> ReferenceBank:
        """Write the bank.

        Args:
            sample: [B * n, C, h, w] clean latents of the references, subject by subject; never noised.
            timestep: the denoising timestep: one for all, [B], or [B * n].
            encoder_hidden_states: [1 or B or B * n, T, D] prompt embedding.
            num_references: n, references per subject.

        Returns:
            One entry [B, n * T, C] per self-attention.
        """
        batch = sample.shape[0]
        if batch % num_references:
            raise ValueError(f"{batch} references are no whole number of subjects with {num_references} each")
        temb = trunk.embed_timestep(self.time_proj, self.time_embedding, timestep, batch, sample)
        features: list[Tensor] = []

        def record(tokens: Tensor) -> None:
            features.append(tokens.reshape(batch // num_references, -1, tokens.shape[-1]))

        def attend(layer: nn.Module, hidden: Tensor) -> Tensor:
            return spatial_transformer(layer, hidden, encoder_hidden_states, record=record)

        skips = trunk.run_down_blocks(self.down_blocks, self.conv_in(sample), temb, attend)
        hidden = trunk.run_mid_block(self.mid_block, skips[-1], temb, attend)
        last = trunk.parts_of(self.up_blocks[-1], "attentions")[-1]
        for block in self.up_blocks:
            for resnet, attention in trunk.layers_of(block):
                hidden = resnet(torch.cat([hidden, skips.pop()], dim=1), temb)
                if attention is last:
                    record(self_attention_input(last, hidden)[1])
                elif attention is not None:
                    hidden = attend(attention, hidden)
            for upsample in trunk.parts_of(block, "upsamplers"):
                hidden = upsample(hidden)
        return ReferenceBank(tuple(features))
