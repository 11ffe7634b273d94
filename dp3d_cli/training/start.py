"""Where a stage starts: Stable Diffusion 1.5 in diffusers' layout, or what an earlier stage exported.

Every tensor is accounted for. What a folder has not, and what follows from it, is said plainly: F_ref and the
trunk of F_cam start as copies of the backbone (DiffPortrait3D, arXiv 2312.13016, Sec. 3.2, 3.3), the zero
convolutions and the view attention at zero.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import torch
from diffusers import AutoencoderKL
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dp3d_cli.core.diffusion.clip_text import empty_prompt_embedding
from dp3d_cli.core.diffusion.configs import Networks
from dp3d_cli.core.errors import UsageError, WeightsError

Component = Literal["vae", "unet", "reference_unet", "controlnet", "empty_prompt"]
EXPORT = "export"
"""Folder within a run that holds what it exported."""

_SD_CLASS = "UNet2DConditionModel"
_STAGE_OF: Mapping[Component, str] = {
    "vae": "vae",
    "unet": "backbone",
    "empty_prompt": "backbone",
    "reference_unet": "reference",
    "controlnet": "camera",
}


def load_start(networks: Networks, folders: Sequence[Path], needed: Iterable[Component]) -> Networks:
    """Fill networks from folders; where several have a network, the last one counts.

    F_ref and F_cam become copies of the backbone unless a folder has them.

    Args:
        networks: fresh ones of the preset's sizes; filled in place, except for the codec, which is replaced.
        folders: runs, exports, or Stable Diffusion 1.5 (`unet/`, `vae/`, and `text_encoder/` or
            `empty_prompt/`).
        needed: networks that must be found.

    Returns:
        The same networks, with the codec that was found.

    Raises:
        UsageError: a folder is none of these, or a needed network is in none of them.
        WeightsError: tensors are missing, left over, or of another shape.
    """
    places: dict[Component, Path] = {}
    for folder in folders:
        places.update(_components(folder))
    lacking = [name for name in needed if name not in places]
    if lacking:
        stage = _STAGE_OF[lacking[0]]
        raise UsageError(
            f"This stage starts from networks that are trained already, and --start gives no '{lacking[0]}'. "
            f"Give the run of the stage '{stage}', or a folder that has it."
        )
    if "unet" in places:
        _load_backbone(networks, places)
    if "reference_unet" in places:
        _fill(networks.reference_unet, _tensors(places["reference_unet"]), places["reference_unet"])
    if "controlnet" in places:
        _fill(networks.controlnet, _tensors(places["controlnet"]), places["controlnet"])
    if "empty_prompt" in places:
        _load_prompt(networks, places["empty_prompt"])
    if "vae" not in places:
        return networks
    return Networks(
        networks.unet,
        networks.reference_unet,
        networks.controlnet,
        _load_vae(places["vae"], networks),
        networks.empty_prompt,
    )


class HasNetworks(Protocol):
    """`Networks`, or a module that has them."""

    @property
    def unet(self) -> nn.Module:
        """The backbone."""
        ...

    @property
    def reference_unet(self) -> nn.Module:
        """F_ref."""
        ...

    @property
    def controlnet(self) -> nn.Module:
        """F_cam."""
        ...


def copy_backbone(networks: HasNetworks) -> None:
    """Make F_ref and the trunk of F_cam copies of the backbone."""
    tensors = networks.unet.state_dict()
    _copy(networks.reference_unet, tensors, lambda name: False)
    _copy(networks.controlnet, tensors, _is_control)


def _components(folder: Path) -> dict[Component, Path]:
    """The networks' folders within a folder, or within its export."""
    root = folder / EXPORT if (folder / EXPORT).is_dir() else folder
    names: tuple[Component, ...] = ("vae", "unet", "reference_unet", "controlnet", "empty_prompt")
    found = {name: root / name for name in names if (root / name).is_dir()}
    if not found:
        raise UsageError(
            f"{folder}: no networks here to start from. Expected a finished run of `dp3d train`, what it "
            "exported, or Stable Diffusion 1.5 as diffusers stores it (unet/, vae/, text_encoder/)."
        )
    if "empty_prompt" not in found and (root / "text_encoder").is_dir():
        found["empty_prompt"] = root / "text_encoder"
    return found


def _load_backbone(networks: Networks, places: Mapping[Component, Path]) -> None:
    place = places["unet"]
    foreign = _config(place).get("_class_name") == _SD_CLASS
    # Stable Diffusion has neither view attention nor an explicit hint; ours must be there to the last tensor.
    _fill(networks.unet, _tensors(place), place, _is_ours if foreign else lambda name: False)
    copy_backbone(networks)


def _is_ours(name: str) -> bool:
    return "view_attention" in name or name.startswith(("hint_conv_in.", "hint_gate."))


def _is_control(name: str) -> bool:
    return name.startswith("controlnet_")


def _fill(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    place: Path,
    may_lack: Callable[[str], bool] = lambda name: False,
) -> None:
    """Load tensors so that each one is used and each parameter is filled, or may stay as it is."""
    parameters = dict(network.named_parameters())
    buffers = {name for name, _ in network.named_buffers()}
    faults = [f"missing {name}" for name in parameters if name not in tensors and not may_lack(name)]
    faults += [f"unexpected {name}" for name in tensors if name not in parameters and name not in buffers]
    faults += [
        f"{name} is {list(tensors[name].shape)}, expected {list(parameter.shape)}"
        for name, parameter in parameters.items()
        if name in tensors and tensors[name].shape != parameter.shape
    ]
    if faults:
        shown = "\n  ".join(faults[:5]) + (f"\n  and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise WeightsError(
            f"{place}: does not fit the preset's network, {len(faults)} faults:\n  {shown}\nTake the preset "
            "that it was trained with.",
            reason="start-mismatch",
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            if name in tensors:
                parameter.copy_(tensors[name])


def _copy(network: nn.Module, tensors: Mapping[str, Tensor], is_new: Callable[[str], bool]) -> None:
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not is_new(name):
                parameter.copy_(tensors[name])


def _load_vae(place: Path, networks: Networks) -> AutoencoderKL:
    try:
        vae, report = AutoencoderKL.from_pretrained(
            place, output_loading_info=True, local_files_only=True, low_cpu_mem_usage=False
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"{place}: cannot be read ({error}).", reason="start-unreadable") from error
    faults = [f"{kind} {name}" for kind in ("missing", "unexpected") for name in report[f"{kind}_keys"]]
    if faults:
        raise WeightsError(f"{place}: incomplete or foreign, {faults[0]}.", reason="start-mismatch")
    channels, wanted = int(vae.config.latent_channels), int(networks.unet.config.in_channels)
    if channels != wanted:
        raise WeightsError(
            f"{place}: its latents have {channels} channels, the preset's backbone takes {wanted}.",
            reason="start-mismatch",
        )
    return vae.float()


def _load_prompt(networks: Networks, place: Path) -> None:
    if place.name != "text_encoder":
        _fill(networks.empty_prompt, _tensors(place), place)
        return
    prefixes = ("text_model.", "")
    tensors = _tensors(place)
    prefix = next(each for each in prefixes if not each or any(name.startswith(each) for name in tensors))
    try:
        prompt = empty_prompt_embedding({name.removeprefix(prefix): each for name, each in tensors.items()})
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{place}: incomplete, {error} is missing.", reason="start-mismatch") from error
    _fill(networks.empty_prompt, {"embedding": prompt}, place)


def _config(place: Path) -> Mapping[str, object]:
    try:
        content = json.loads((place / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{place}: no readable config.json ({error}).", reason="start-unreadable"
        ) from error
    return content if isinstance(content, dict) else {}


def _tensors(place: Path) -> dict[str, Tensor]:
    """All tensors of one network: a safetensors file, several with an index, or a restricted pickle."""
    stem = "model" if place.name == "text_encoder" else "diffusion_pytorch_model"
    try:
        index = place / f"{stem}.safetensors.index.json"
        if index.is_file():
            files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            return {name: each for file in files for name, each in load_file(place / file).items()}
        for file in (f"{stem}.safetensors", f"{stem}.fp16.safetensors"):
            if (place / file).is_file():
                return load_file(place / file)
        pickled = place / ("pytorch_model.bin" if stem == "model" else f"{stem}.bin")
        if pickled.is_file():
            content: dict[str, Tensor] = torch.load(pickled, map_location="cpu", weights_only=True)
            return content
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
        raise WeightsError(f"{place}: cannot be read ({error}).", reason="start-unreadable") from error
    raise WeightsError(f"{place}: no {stem}.safetensors here.", reason="start-unreadable")
