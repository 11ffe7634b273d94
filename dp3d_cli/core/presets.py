"""Presets: everything that decides a result, as one checked, immutable value read from YAML.

A preset is found by name among those shipped with dp3d, or by path; a user's own file works the same way.
Overrides have the form `section.key=value`, the value being YAML. Unknown keys and wrong values are errors
that name the key, what was given and what was expected.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from dp3d_cli.core.errors import UsageError

_PACKAGE = Path(__file__).resolve().parents[1]


UnitFloat = Annotated[float, Field(ge=0.0, le=1.0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CameraSettings(_Section):
    """Where the target cameras and the camera-condition images come from.

    Attributes:
        trajectory: name of a shipped trajectory, or the path of a trajectory YAML, cameras.json or
            transforms.json.
        num_views: cameras on it; None keeps the trajectory's own number.
        seed: identity of the procedural head seen in the camera conditions.
    """

    trajectory: str = "gen-videos"
    num_views: int | None = Field(default=16, ge=1, le=1000)
    seed: int = Field(default=1, ge=0)


class ProxySettings(_Section):
    """How the blurry, 3D-consistent proxy of each view is made (DiffPortrait3D, Sec. 3.4).

    Attributes:
        backend: "template", a head-shaped template without weights, or "volume", the trained network in the
            folder `proxy` of the preset's weights.
    """

    backend: Literal["template", "volume"] = "template"


class ViewGroupSettings(_Section):
    """How views are split into groups that attend to one another.

    Attributes:
        size: views per group; 8 in the paper.
        kind: consecutive groups, every n-th view, or overlapping windows whose predictions are averaged.
        overlap: views shared by neighbouring windows when `kind` is "overlap".
    """

    size: int = Field(default=8, ge=1, le=32)
    kind: Literal["contiguous", "strided", "overlap"] = "contiguous"
    overlap: int = Field(default=4, ge=0)

    @model_validator(mode="after")
    def _overlaps_less_than_all(self) -> ViewGroupSettings:
        if self.kind == "overlap" and self.overlap >= self.size:
            raise ValueError(f"groups of {self.size} views overlap by less than that, not by {self.overlap}")
        return self


class SamplerSettings(_Section):
    """The denoising run. Names are those of diffusers.

    Attributes:
        scheduler: "ddim", "dpm-solver++" or "unipc".
        num_inference_steps: network evaluations per view.
        guidance_scale: weight of classifier-free guidance; 1 skips the unconditional branch.
        guidance_interval: guide only at timesteps in this part of the noise schedule; 0 is clean, 1 pure
            noise (Kynkaanniemi et al. 2024, arXiv 2404.07724).
        eta: DDIM noise added back at each step, in [0, 1].
        noise_strength: 1 starts from fully noised 3D-aware latents; less starts later and keeps more of
            the proxy; 0 takes no denoising step.
        refine_proxy: replace the proxy by the network's one-pass estimate before `noise_strength` applies.
        proxy_detail: share of the proxy's fine detail in the views where it shows what the reference saw.
        fusion: share of what a fusion network, if the weights have one, then corrects; counts times
            `proxy_detail`.
        published_quirks: follow the released sampler in all of `core.diffusion.sampler.Quirks`; else in none.
        view_group: how views are grouped.
    """

    scheduler: Literal["ddim", "dpm-solver++", "unipc"] = "ddim"
    num_inference_steps: int = Field(default=50, ge=1, le=1000)
    guidance_scale: float = Field(default=3.0, ge=1.0, le=30.0)
    guidance_interval: tuple[UnitFloat, UnitFloat] = (0.0, 1.0)
    eta: float = Field(default=0.0, ge=0.0, le=1.0)
    noise_strength: float = Field(default=1.0, ge=0.0, le=1.0)
    refine_proxy: bool = False
    proxy_detail: float = Field(default=0.0, ge=0.0, le=1.0)
    fusion: float = Field(default=1.0, ge=0.0, le=1.0)
    published_quirks: bool = False
    view_group: ViewGroupSettings = ViewGroupSettings()

    @field_validator("guidance_interval")
    @classmethod
    def _ordered(cls, interval: tuple[float, float]) -> tuple[float, float]:
        if interval[0] > interval[1]:
            raise ValueError("the lower end comes first")
        return interval


class ExecutionSettings(_Section):
    """How the networks are run. Nothing here changes a view by more than rounding.

    Attributes:
        max_views_per_call: views in one forward call, whole groups only; it halves by itself when a CUDA
            device runs out of memory.
        share_batch: the conditional and the unconditional branch of guidance as one batch, which also
            computes their common first layers once.
        channels_last: convolutions work on channels-last memory.
        compile: `torch.compile` the networks. The first views take minutes longer; CPUs need a C++ compiler.
    """

    max_views_per_call: int = Field(default=16, ge=1, le=1000)
    share_batch: bool = True
    channels_last: bool = False
    compile: bool = False


class Preset(_Section):
    """All that decides a result besides the portraits.

    Attributes:
        name: how the preset is called in records and reports.
        description: one sentence for people.
        weights: name in the weights registry, or a folder.
        size: width and height of views, proxies and camera conditions [px].
        cameras: the target cameras and what is seen from them.
        proxy: how proxies are made.
        sampler: the denoising run.
        dtype: number format of the networks; 16 bits take half of the memory.
        execution: how the networks are run.
        seed: base seed; each view derives its own from (seed, subject id, view).
    """

    name: str
    description: str = ""
    weights: str
    size: Literal[256, 512]
    cameras: CameraSettings = CameraSettings()
    proxy: ProxySettings = ProxySettings()
    sampler: SamplerSettings = SamplerSettings()
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    execution: ExecutionSettings = ExecutionSettings()
    seed: int = Field(default=0, ge=0)


def presets_folder() -> Path:
    """The shipped presets: inside the installed package, or at the top of a source tree."""
    installed = _PACKAGE / "presets"
    return installed if installed.is_dir() else _PACKAGE.parent / "presets"


def preset_names() -> list[str]:
    """Names of the shipped presets, sorted."""
    return sorted(path.stem for path in presets_folder().glob("*.yaml"))


def load_preset(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Preset:
    """Read a preset by name or path and apply overrides.

    Args:
        name_or_path: a shipped name ("nano"), or the path of a YAML file.
        overrides: `key=value` or `section.key=value`, the value in YAML ("sampler.eta=0.5").

    Raises:
        UsageError: no such preset, invalid YAML, an unknown key, or a value outside its range.
    """
    path = _find(str(name_or_path))
    data = read_yaml_mapping(path)
    data.setdefault("name", path.stem)
    for override in overrides:
        apply_override(data, override, resolve_key, "sampler.eta=0.5")
    try:
        return Preset.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"{path}: {explain(error, Preset)}") from error


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """A YAML file whose top is a mapping.

    Raises:
        UsageError: unreadable, not YAML, or not a mapping.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error}).") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(data, dict):
        raise UsageError(f"{path}: expected a mapping of settings at the top, found {type(data).__name__}.")
    return data


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The problems of a validation, one clause each, with the nearest known key for an unknown one."""
    clauses = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = _keys(model)
            near = difflib.get_close_matches(where, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
            clauses.append(f"unknown setting '{where}' ({hint})")
        elif problem["type"] == "missing":
            clauses.append(f"setting '{where}' is missing")
        else:
            clauses.append(f"setting '{where}' is {problem['input']!r}: {problem['msg'].lower()}")
    return "; ".join(clauses) + "."


def _find(name_or_path: str) -> Path:
    shipped = presets_folder() / f"{name_or_path}.yaml"
    if "/" not in name_or_path and shipped.is_file():
        return shipped
    path = Path(name_or_path)
    if path.is_file():
        return path
    names = preset_names()
    near = difflib.get_close_matches(name_or_path, names, n=1)
    hint = f"Did you mean '{near[0]}'?" if near else f"Shipped presets: {', '.join(names)}."
    raise UsageError(f"No preset '{name_or_path}', neither by name nor as a file. {hint}")


def apply_override(data: dict[str, Any], override: str, resolve: Callable[[str], str], example: str) -> None:
    """Set the value that a `key=value` names in nested mappings, which are made where they are missing.

    Args:
        data: changed in place.
        override: the key as a user wrote it, and a value in YAML.
        resolve: gives the full dotted key.
        example: an override that works, for the message.

    Raises:
        UsageError: not of this form, not YAML, or a key below something that is no section.
    """
    key, sign, text = override.partition("=")
    if not sign or not key.strip():
        raise UsageError(f"Override '{override}' is not of the form key=value, as in {example}.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"Override '{override}': the value is not valid YAML.") from error
    section = data
    *parents, last = resolve(key.strip()).split(".")
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise UsageError(f"Override '{override}': '{parent}' is not a section.")
    section[last] = value


def resolve_key(key: str) -> str:
    """The full dotted key for the unique ending of one ("eta" → "sampler.eta"); else the key itself."""
    known = _keys(Preset)
    matches = [full for full in known if full.endswith(f".{key}")]
    return matches[0] if key not in known and len(matches) == 1 else key


def _keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, info in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            keys += _keys(info.annotation, f"{prefix}{name}.")
    return keys


def as_settings(preset: Preset) -> Mapping[str, Any]:
    """The preset as plain JSON values, for records and output files."""
    return preset.model_dump(mode="json")
