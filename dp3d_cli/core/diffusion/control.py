"""The view control network: it tells the backbone the camera by an image of another subject seen from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from dp3d_cli.core.diffusion import trunk
from dp3d_cli.core.diffusion.attention import spatial_transformer


@dataclass(frozen=True)
class ControlResiduals:
    """What the control network adds to the backbone.

    Attributes:
        down: one [B * V, C, h, w] per kept encoder output, first convolution included.
        mid: [B * V, C, h, w] for the middle block's output.
    """

    down: tuple[Tensor, ...]
    mid: Tensor


class ViewControlNet(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers carries no types
    """A ControlNet (Zhang et al. 2023, arXiv 2302.05543) over camera-condition images in [-1, 1].

    Args:
        in_channels: latent channels.
        block_out_channels: width of each level, highest resolution first.
        layers_per_block: residual blocks on each level.
        attention_levels: levels with spatial attention.
        num_attention_heads: one number or one per level.
        cross_attention_dim: width of the prompt embedding.
        norm_num_groups: groups of all group norms.
        hint_channels: widths of the image encoder; each step from one to the next halves the resolution.
        hint_patch_size: patches of this many pixels become channels before the encoder (1: none, as
            published).
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
        hint_channels: Sequence[int] = (16, 32, 96, 256),
        hint_patch_size: int = 1,
    ) -> None:
        super().__init__()
        widths = tuple(block_out_channels)
        heads = trunk.per_level(num_attention_heads, len(widths))
        self.time_proj, self.time_embedding = trunk.time_embedding(widths[0])
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.controlnet_cond_embedding = ControlNetConditioningEmbedding(
            widths[0], 3 * hint_patch_size**2, tuple(hint_channels)
        )
        self.down_blocks = trunk.down_blocks(
            widths, layers_per_block, attention_levels, heads, cross_attention_dim, norm_num_groups
        )
        self.mid_block = trunk.mid_block(
            widths[-1], 4 * widths[0], heads[-1], cross_attention_dim, norm_num_groups
        )
        trunk.prepare(self)
        kept = [widths[0]]
        for level, width in enumerate(widths):
            kept += [width] * (layers_per_block + (level + 1 < len(widths)))
        self.controlnet_down_blocks = nn.ModuleList(nn.Conv2d(width, width, 1) for width in kept)
        self.controlnet_mid_block = nn.Conv2d(widths[-1], widths[-1], 1)
        for conv in (*self.controlnet_down_blocks, self.controlnet_mid_block):
            trunk.zero_init(conv)

    def embed_hint(self, camera_conditions: Tensor) -> Tensor:
        """Encode camera conditions [V, 3, H, W] in [-1, 1] to [V, C0, h, w], the same for all timesteps."""
        hint: Tensor = self.controlnet_cond_embedding(
            functional.pixel_unshuffle(camera_conditions, self.config.hint_patch_size)
        )
        return hint

    def forward(
        self, sample: Tensor, timestep: Tensor | int, encoder_hidden_states: Tensor, *, hint_embedding: Tensor
    ) -> ControlResiduals:
        """Compute the residuals.

        Args:
            sample: [B * V, C, h, w] noisy latents.
            timestep: one for all, [B] per subject, or [B * V].
            encoder_hidden_states: [1 or B or B * V, T, D] prompt embedding.
            hint_embedding: [B * V, C0, h, w] from `embed_hint`.

        Returns:
            Residuals for each kept encoder output and for the middle block.
        """
        temb = trunk.embed_timestep(self.time_proj, self.time_embedding, timestep, sample.shape[0], sample)

        def attend(layer: nn.Module, hidden: Tensor) -> Tensor:
            return spatial_transformer(layer, hidden, encoder_hidden_states)

        kept = trunk.run_down_blocks(self.down_blocks, self.conv_in(sample) + hint_embedding, temb, attend)
        hidden = trunk.run_mid_block(self.mid_block, kept[-1], temb, attend)
        return ControlResiduals(
            tuple(conv(skip) for conv, skip in zip(self.controlnet_down_blocks, kept, strict=True)),
            self.controlnet_mid_block(hidden),
        )
