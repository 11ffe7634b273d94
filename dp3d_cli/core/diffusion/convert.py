"""The published checkpoint as a pipeline: every tensor is used or named as dropped, none may be missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from dp3d_cli.core.diffusion.checkpoint import read_checkpoint
from dp3d_cli.core.diffusion.clip_text import PREFIXES, empty_prompt_embedding
from dp3d_cli.core.diffusion.configs import Networks, build_networks
from dp3d_cli.core.diffusion.pipeline import DiffPortraitPipeline
from dp3d_cli.core.diffusion.published_names import (
    CONTROL,
    REFERENCE,
    TEXT,
    UNET,
    VAE,
    network_name,
    vae_name,
)
from dp3d_cli.core.diffusion.published_sizes import PublishedConfig, infer_sizes, read_published_config
from dp3d_cli.core.diffusion.sampler import ddim_scheduler
from dp3d_cli.core.diffusion.view_attention import MAX_VIEWS, sinusoidal_encoding
from dp3d_cli.core.errors import WeightsError

SCHEDULE_BUFFERS = frozenset(
    (
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
        "logvar",
    )
)
POSITION_IDS = f"{TEXT}transformer.text_model.embeddings.position_ids"
"""0 .. 76, stored by transformers < 4.31."""


@dataclass(frozen=True)
class Conversion:
    """What became of a checkpoint's tensors.

    Attributes:
        pipeline: filled with the weights.
        used: published names that were loaded.
        dropped: published names that were not, with the reason.
    """

    pipeline: DiffPortraitPipeline
    used: frozenset[str]
    dropped: Mapping[str, str]


def convert_checkpoint(
    source: Path,
    output: Path | None = None,
    *,
    config: Path | None = None,
    empty_prompt: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "10GB",
) -> Conversion:
    """Convert a published checkpoint file into a folder for `DiffPortraitPipeline.from_pretrained`.

    Args:
        source: safetensors or `torch.save` file in the published layout.
        output: folder to write; None: none is written.
        config: JSON file in the released configuration's layout; None: the released model's.
        empty_prompt: [1, T, D] embedding of "", for checkpoints without a text encoder.
        dtype: of the written weights.
        max_shard_size: larger weight files are split.

    Raises:
        WeightsError: the file cannot be read safely, or its tensors are not exactly the expected ones.
    """
    published = PublishedConfig()
    if config is not None:
        try:
            published = read_published_config(json.loads(config.read_text(encoding="utf-8")))
        except (OSError, ValueError, AttributeError) as error:
            raise WeightsError(f"{config}: no readable JSON configuration ({error}).") from error
    conversion = convert_tensors(read_checkpoint(source), published, empty_prompt=empty_prompt, dtype=dtype)
    if output is not None:
        conversion.pipeline.save_pretrained(output, safe_serialization=True, max_shard_size=max_shard_size)
    return conversion


def convert_tensors(
    tensors: Mapping[str, Tensor],
    config: PublishedConfig | None = None,
    *,
    empty_prompt: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Conversion:
    """Convert tensors that are already read; see `convert_checkpoint`."""
    config = config or PublishedConfig()
    ledger = _Ledger(tensors, dtype)
    prompt = _empty_prompt(ledger, empty_prompt)
    sizes = infer_sizes(tensors, config, prompt)
    with torch.device("meta"):
        networks = build_networks(sizes)

    layers = sizes.trunk["layers_per_block"]
    attention = tuple(reversed(sizes.trunk["attention_levels"]))
    hint_convs = 2 * len(networks.controlnet.config.hint_channels)

    def in_network(prefix: str) -> Callable[[str], str]:
        return lambda name: prefix + network_name(name, layers, lambda level: attention[level], hint_convs)

    ledger.fill(networks.unet, in_network(UNET))
    ledger.fill(networks.reference_unet, in_network(REFERENCE))
    ledger.fill(networks.controlnet, in_network(CONTROL))
    ledger.fill(networks.vae, lambda name: VAE + vae_name(name, len(networks.vae.config.block_out_channels)))
    _drop_what_has_no_effect(ledger, networks, in_network(REFERENCE))
    _drop_buffers(ledger, config)
    ledger.close()

    networks.empty_prompt.load_state_dict({"embedding": prompt.to(dtype)}, assign=True)
    pipeline = DiffPortraitPipeline(
        unet=networks.unet.eval(),
        reference_unet=networks.reference_unet.eval(),
        controlnet=networks.controlnet.eval(),
        vae=networks.vae.eval(),
        empty_prompt=networks.empty_prompt.eval(),
        scheduler=_scheduler(config),
    )
    return Conversion(pipeline, frozenset(ledger.used), ledger.dropped)


class _Ledger:
    """Keeps account of a checkpoint's tensors: taken, dropped for a reason, missing, of the wrong shape."""

    def __init__(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        self.tensors = tensors
        self.dtype = dtype
        self.used: set[str] = set()
        self.dropped: dict[str, str] = {}
        self.faults: list[str] = []

    def fill(self, network: nn.Module, published_name: Callable[[str], str]) -> None:
        """Load every parameter of a network; its buffers follow from formulas."""
        state: dict[str, Tensor] = {}
        for name, parameter in network.named_parameters():
            source = published_name(name)
            if source not in self.tensors:
                self.faults.append(f"missing {source}")
                continue
            tensor = self.tensors[source]
            if tensor.ndim == 4 and parameter.ndim == 2 and tensor.shape[2:] == (1, 1):
                tensor = tensor[:, :, 0, 0]  # a 1x1 convolution that is a linear layer here
            if tensor.shape != parameter.shape:
                self.faults.append(f"{source} is {tuple(tensor.shape)}, expected {tuple(parameter.shape)}")
                continue
            self.used.add(source)
            state[name] = tensor.to(self.dtype)
        for name, buffer in network.named_buffers():
            state[name] = sinusoidal_encoding(buffer.shape[-1]).to(self.dtype)
        if not self.faults:
            network.load_state_dict(state, assign=True)

    def drop(self, names: Iterable[str], reason: str) -> None:
        """Name tensors that are deliberately not used, as far as the checkpoint has them."""
        for name in names:
            if name in self.tensors and name not in self.used:
                self.dropped[name] = reason

    def close(self) -> None:
        """Report everything that is not accounted for."""
        unexpected = self.tensors.keys() - self.used - self.dropped.keys()
        faults = self.faults + [f"unexpected {name}" for name in sorted(unexpected)]
        if faults:
            raise WeightsError(
                f"the checkpoint does not fit, {len(faults)} faults:\n  " + "\n  ".join(faults),
                reason="checkpoint-mismatch",
            )


def _empty_prompt(ledger: _Ledger, given: Tensor | None) -> Tensor:
    """The stored embedding of "": the given one, or computed by the checkpoint's own text encoder."""
    names = [name for name in ledger.tensors if name.startswith(TEXT) and name != POSITION_IDS]
    ledger.drop([POSITION_IDS], "constant of the text encoder")
    if given is not None:
        ledger.drop(names, "text encoder: an empty-prompt embedding was given")
        return given
    if not names:
        raise WeightsError(
            f"the checkpoint has no text encoder ({TEXT}...) and no empty-prompt embedding was given.",
            reason="incomplete-checkpoint",
        )
    prefix = next((TEXT + p for p in PREFIXES if names[0].startswith(TEXT + p)), TEXT)
    weights = {name.removeprefix(prefix): ledger.tensors[name] for name in names}
    read: set[str] = set()
    try:
        prompt = empty_prompt_embedding(_Recorded(weights, read))
    except (KeyError, ValueError) as error:
        raise WeightsError(
            f"the checkpoint's text encoder is incomplete: {error} is missing.",
            reason="incomplete-checkpoint",
        ) from error
    ledger.used.update(prefix + name for name in read)
    return prompt


class _Recorded(dict[str, Tensor]):
    """A mapping that remembers which of its entries were read."""

    def __init__(self, tensors: Mapping[str, Tensor], read: set[str]) -> None:
        super().__init__(tensors)
        self.read = read

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return super().__getitem__(name)


def _drop_what_has_no_effect(
    ledger: _Ledger, networks: Networks, published_name: Callable[[str], str]
) -> None:
    ledger.drop(
        [name for name in ledger.tensors if name.startswith(f"{REFERENCE}input_hint_block.")],
        "image encoder of the reference network, which is never run",
    )
    trunk = [name for name, _ in networks.unet.named_parameters() if "view_attention" not in name]
    ledger.drop(
        [published_name(name) for name in trunk if not name.startswith(("conv_norm_out", "conv_out"))],
        "end of the reference network: nothing behind its last self-attention's input has an effect",
    )


def _drop_buffers(ledger: _Ledger, config: PublishedConfig) -> None:
    """Buffers follow from formulas; those in the file must agree with them."""
    expected = _scheduler(config).alphas_cumprod
    found = ledger.tensors.get("alphas_cumprod")
    if found is not None and not _agree(found, expected):
        ledger.faults.append("alphas_cumprod is not the configured noise schedule")
    ledger.drop(SCHEDULE_BUFFERS, "noise schedule: follows from its first and last beta")
    encodings = [name for name in ledger.tensors if name.startswith(UNET) and name.endswith("pos_encoder.pe")]
    for name in encodings:
        if not _agree(ledger.tensors[name], sinusoidal_encoding(ledger.tensors[name].shape[-1])):
            ledger.faults.append(f"{name} is not the sinusoidal encoding of {MAX_VIEWS} views")
    ledger.drop(encodings, "positional encoding: follows from a formula")


def _agree(found: Tensor, expected: Tensor) -> bool:
    """Whether a stored buffer is what its formula gives, half precision allowed; only shapes if meta."""
    if found.is_meta:
        return found.shape == expected.shape
    return found.shape == expected.shape and torch.allclose(found.float(), expected, rtol=1e-3, atol=1e-3)


def _scheduler(config: PublishedConfig) -> DDIMScheduler:
    return ddim_scheduler(
        beta_start=config.beta_start, beta_end=config.beta_end, train_timesteps=config.train_timesteps
    )
