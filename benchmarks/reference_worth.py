"""Does the reference network of nano weights show what it sees, and do the networks use it?

    python benchmarks/reference_worth.py SHARDS LATENTS WEIGHTS...

SHARDS and LATENTS: held-out heads; those of `results/reference_worth.json` are val-heads and val-latents of
`train_nano.sh` as of commit 6fb5033. Prints as JSON, for each folder of weights and the noisiest timestep,

- forgotten: the share of the variance of the references' latents that no linear map finds in the features
  that the reference network hands to the decoder's last attention: of these weights, of the backbone's
  weights in its place, and of a fresh network's;
- the mean squared error of the estimated clean views, made from noise without the explicit hint, with the
  subject's reference, without one, and with another subject's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from dp3d_cli.core.diffusion.configs import nano
from dp3d_cli.core.diffusion.sampler import ddim_scheduler
from dp3d_cli.training.nano import NanoNetworks
from dp3d_cli.training.nano_batches import NanoBatch, NanoBatches, NanoSettings
from dp3d_cli.training.start import copy_backbone

BATCHES = 8  # of two subjects with 8 views each


def batches(shards: Path, latents: Path) -> Iterator[NanoBatch]:
    data = NanoBatches(shards, latents, NanoSettings(groups=((2, 8),)), seed=0, steps=BATCHES)
    return (data[step] for step in range(BATCHES))


@torch.inference_mode()
def forgotten(networks: NanoNetworks, references: Tensor, timestep: int) -> float:
    """Share of the references' latents [N, C, h, w] that the features of the last layer do not tell."""
    bank = networks.reference_unet(references, timestep, networks.empty_prompt())
    features = bank.features[-1]  # [N, T, C']
    cells = references.shape[-1] // round(features.shape[1] ** 0.5)
    target = functional.pixel_unshuffle(references, cells).flatten(2).transpose(1, 2).flatten(0, 1)
    known = functional.pad(features.flatten(0, 1), (0, 1), value=1.0)
    rest = target - known @ torch.linalg.lstsq(known, target).solution
    return float(rest.square().mean() / target.var(0).mean())


@torch.inference_mode()
def error(networks: NanoNetworks, batch: NanoBatch, timestep: int, *, use_reference: bool = True) -> float:
    """Of the clean views' estimate from noise, without the hint."""
    alpha = ddim_scheduler("v_prediction").alphas_cumprod[timestep]
    noise = torch.randn(batch.images.shape, generator=torch.Generator().manual_seed(0))
    sample = alpha.sqrt() * batch.images + (1 - alpha).sqrt() * noise
    steps = torch.full((batch.subjects,), timestep)
    velocity = networks(sample, steps, batch, use_reference=use_reference, hint=torch.zeros_like(batch.hint))
    estimate = alpha.sqrt() * sample - (1 - alpha).sqrt() * velocity
    return float((estimate - batch.images).square().mean())


def worth(networks: NanoNetworks, seen: list[NanoBatch]) -> dict[str, dict[str, float]]:
    """What the module docstring lists; F_ref and F_cam are copies of the backbone afterwards."""
    last = len(ddim_scheduler("v_prediction").alphas_cumprod) - 1
    strangers = [replace(batch, references=batch.references.flip(0)) for batch in seen]
    errors = {
        "own reference": [error(networks, batch, last) for batch in seen],
        "no reference": [error(networks, batch, last, use_reference=False) for batch in seen],
        "another subject's": [error(networks, batch, last) for batch in strangers],
    }
    references = torch.cat([batch.references for batch in seen])
    shares = {"own weights": forgotten(networks, references, last)}
    copy_backbone(networks)
    shares["the backbone's"] = forgotten(networks, references, last)
    torch.manual_seed(0)
    shares["fresh"] = forgotten(NanoNetworks(nano()).eval(), references, last)
    return {
        "error": {name: round(sum(each) / len(each), 3) for name, each in errors.items()},
        "forgotten": {name: round(share, 3) for name, share in shares.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("latents", type=Path)
    parser.add_argument("weights", type=Path, nargs="+")
    options = parser.parse_args()
    seen = list(batches(options.shards, options.latents))
    found = {str(path): worth(NanoNetworks(nano(), [path]).eval(), seen) for path in options.weights}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
