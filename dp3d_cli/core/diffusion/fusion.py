"""Views and proxies become pictures: what the codec loses, and a mean blurs away, comes back.

Two ways. `with_detail` is a rule without weights: coarse from the views, fine from the proxies. `Fusion` is a
network that starts from the rule's picture and corrects it, as the decoders of asymmetric autoencoders do
that see the picture beside its latents (Zhu et al. 2023, arXiv 2306.04632). The paper has neither.

Axes: N views, S image side, a multiple of 4 times 2 for every further level of the U-net (32 by default).
"""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor
from torch.nn import functional

from dp3d_cli.core.diffusion.trunk import zero_init
from dp3d_cli.core.proxies.background import blur
from dp3d_cli.core.proxies.blocks import PATCH, Encoder

DETAIL_SIGMA = 1 / 64
"""Scale below which structure counts as fine detail [sides of the picture]."""


def with_detail(images: Tensor, proxies: Tensor, decoded: Tensor, share: Tensor) -> Tensor:
    """Views with what of the proxies the codec loses, and a mean over what is unsure blurs away.

    Fine is what a Gaussian of 1/64 of the side takes away: there the views become the proxies. Of colours and
    large shapes, what the networks changed stays: views that are the decoded proxies become the proxies.

    Args:
        images: [V, 3, H, W] the views.
        proxies: [V, 3, H, W].
        decoded: [V, 3, H, W] the proxies after the codec.
        share: [V, 1, H, W] in [0, 1]; 0 leaves the views as they are.
    """
    changed = images - decoded
    return images + share * (proxies + blur(changed, DETAIL_SIGMA * images.shape[-1]) - images)


class Fusion(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers carries no types
    """Corrects what `with_detail` made; starts as the identity.

    What the portrait shows of the background stands still and is right already: there nothing is corrected.

    Args:
        channels: of the U-net at 1/4, 1/8, 1/16, ... of the side.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, channels: tuple[int, ...] = (64, 96, 128, 160)) -> None:
        super().__init__()
        self.encoder = Encoder(11, tuple(channels), 3 * PATCH**2)
        zero_init(self.encoder.slices)

    def forward(
        self, images: Tensor, views: Tensor, proxies: Tensor, confidences: Tensor, coverages: Tensor
    ) -> Tensor:
        """Corrected pictures.

        Args:
            images: [N, 3, S, S] in [-1, 1], from `with_detail`.
            views: [N, 3, S, S] in [-1, 1], of the networks alone.
            proxies: [N, 3, S, S] in [-1, 1].
            confidences: [N, 1, S, S] in [0, 1].
            coverages: [N, 1, S, S] in [0, 1].

        Returns:
            [N, 3, S, S] around [-1, 1].
        """
        pictures = (torch.cat([images, views, proxies], 1) + 1) / 2
        _, patches = self.encoder(torch.cat([pictures, confidences, coverages], 1))
        correction: Tensor = functional.pixel_shuffle(patches, PATCH)
        return images + (1 - (1 - coverages) * confidences) * correction
