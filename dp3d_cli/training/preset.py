"""Training presets: the sizes of the networks, and for each stage what a step is and how long it goes on.

    networks: nano                 # or sd15, or {base: nano, unet: {…}, …} with what differs from the base
    size: 256                      # pixels along a side
    loop: {…}                      # `LoopSettings`
    stages:
      reference: {loop: {…}, step: {…}, …}   # merged over what stands above; `step` is the stage's own

`reference.step.batch` is written `batch` in an override, as any key that only one section can have.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast, get_args

from dp3d_cli.core.diffusion.configs import Sizes, TrunkSizes, nano, sd15
from dp3d_cli.core.diffusion.sampler import PredictionType
from dp3d_cli.core.diffusion.view_unet import MidViewAttention
from dp3d_cli.core.errors import UsageError
from dp3d_cli.core.presets import apply_override, presets_folder, read_yaml_mapping
from dp3d_cli.training.loop import LoopSettings
from dp3d_cli.training.settings import build

StageName = Literal["vae", "backbone", "reference", "camera", "views", "proxy"]
STAGES: tuple[StageName, ...] = get_args(StageName)
"""In the order of the work; the last stands for itself."""

_BASES = {"nano": nano, "sd15": sd15}
_SECTIONS = ("loop", "step", "networks")


@dataclass(frozen=True, kw_only=True)
class CommonSettings:
    """What every stage has besides sizes, step and loop.

    Attributes:
        name: how the preset is called.
        stage: the stage that these settings are for.
        size: width and height of training pictures [px].
        prediction_type: what the backbone predicts.
        mid_view_attention: calls in which the backbone's middle view attention runs.
        data: the subjects to learn from, see `open_subjects`.
        held_out: the subjects to validate on; empty: the val split of `data`.
        train_earlier: without a start, train the earlier stages first.
        start: folders that networks are taken from, see `dp3d_cli.training.start`.
        description: one sentence for people.
    """

    name: str
    stage: StageName
    size: int
    prediction_type: PredictionType = "epsilon"
    mid_view_attention: MidViewAttention = "unconditional"
    data: str = "procedural"
    held_out: str = ""
    train_earlier: bool = False
    start: tuple[Path, ...] = ()
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class TrainPreset(CommonSettings):
    """Everything that decides what a stage learns, besides the pictures.

    Attributes:
        sizes: of all networks.
        loop: see `LoopSettings`.
        step: the stage's own settings, not checked yet.
    """

    sizes: Sizes
    loop: LoopSettings
    step: Mapping[str, object]


def load_train_preset(
    name_or_path: str | Path,
    stage: StageName,
    overrides: Iterable[str] = (),
    *,
    changes: Mapping[str, object] | None = None,
) -> TrainPreset:
    """Read one stage of a training preset.

    Args:
        name_or_path: a file's path, or its name in the shipped presets/train without suffix.
        stage: which one.
        overrides: `key=value` or `section.key=value`, the value in YAML.
        changes: further settings by name, as from options: `data`, `held_out`, `start`.

    Raises:
        UsageError: no such preset or stage, an unknown setting, or a wrong value.
    """
    path = _find(str(name_or_path))
    content = read_yaml_mapping(path)
    stages = content.pop("stages", {})
    if not isinstance(stages, dict) or not stages:
        raise UsageError(f"{path}: not a preset of `dp3d train`: it has no section 'stages'.")
    if stage not in stages:
        raise UsageError(f"{path}: no settings for the stage '{stage}'; it has {', '.join(stages)}.")
    content = _merged(content, stages[stage] or {})
    for override in overrides:
        apply_override(content, override, _resolved, "batch=4")
    try:
        return _checked(path, stage, {**content, **(changes or {})})
    except UsageError as error:
        raise UsageError(f"{path}, stage {stage}: {error}") from error


def train_preset_names() -> list[str]:
    """Names of the shipped presets that `dp3d train` takes, sorted."""
    files = (presets_folder() / "train").glob("*.yaml")
    return sorted(path.stem for path in files if "stages" in read_yaml_mapping(path))


def _checked(path: Path, stage: StageName, content: Mapping[str, Any]) -> TrainPreset:
    common = {key: value for key, value in content.items() if key not in _SECTIONS}
    known = {field.name for field in fields(CommonSettings)} - {"stage"}
    for key in common.keys() - known:
        near = difflib.get_close_matches(key, [*known, *_SECTIONS], n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted({*known, *_SECTIONS}))}."
        raise UsageError(f"unknown setting '{key}'; {hint}")
    if "size" not in common:
        raise UsageError("setting 'size' is missing: the side of the pictures in pixels.")
    preset = TrainPreset(
        **vars(build(CommonSettings, {"name": path.stem, **common, "stage": stage})),
        sizes=_sizes(content.get("networks", "nano")),
        loop=build(LoopSettings, _mapping(content, "loop")),
        step=_mapping(content, "step"),
    )
    if preset.size < 8 or preset.loop.steps < 1:
        raise UsageError(f"size {preset.size} and {preset.loop.steps} steps; at least 8 pixels and 1 step.")
    return preset


def _mapping(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key, {})
    if not isinstance(value, dict):
        raise UsageError(f"'{key}' is a section of settings, not {value!r}.")
    return value


def _sizes(value: object) -> Sizes:
    """The sizes of a base, with what differs from it."""
    changes = {"base": value} if isinstance(value, str) else value
    if not isinstance(changes, dict) or changes.get("base") not in _BASES:
        raise UsageError(
            f"'networks' names one of {', '.join(_BASES)}, alone or as its 'base'; not {value!r}."
        )
    base = _BASES[changes["base"]]()
    parts: dict[str, Any] = {field.name: getattr(base, field.name) for field in fields(Sizes)}
    for name, part in changes.items():
        if name == "base":
            continue
        if name not in parts:
            raise UsageError(f"unknown part '{name}' of networks; known: {', '.join(parts)}.")
        if not isinstance(parts[name], Mapping):
            parts[name] = part
            continue
        unknown = [key for key in part if name == "trunk" and key not in parts[name]]
        if unknown:
            raise UsageError(f"unknown size '{unknown[0]}' of the trunk; known: {', '.join(parts[name])}.")
        parts[name] = {**parts[name], **{key: _tuples(entry) for key, entry in part.items()}}
    return Sizes(**{**parts, "trunk": cast(TrunkSizes, parts["trunk"])})


def _tuples(value: object) -> object:
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value


def _find(name_or_path: str) -> Path:
    shipped = presets_folder() / "train" / f"{name_or_path}.yaml"
    if "/" not in name_or_path and shipped.is_file():
        return shipped
    path = Path(name_or_path)
    if path.is_file():
        return path
    names = train_preset_names()
    near = difflib.get_close_matches(name_or_path, names, n=1)
    hint = f"Did you mean '{near[0]}'?" if near else f"Shipped: {', '.join(names)}."
    raise UsageError(f"No training preset '{name_or_path}', neither by name nor as a file. {hint}")


def _merged(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The common settings with a stage's own over them, section by section."""
    result = dict(common)
    for key, value in own.items():
        below = result.get(key)
        result[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def _resolved(key: str) -> str:
    """The full key: "batch" is a step's own, "steps" the loop's; what a section has not, its check names."""
    if "." in key or key in {field.name for field in fields(TrainPreset)} | {"networks"}:
        return key
    return f"loop.{key}" if key in {field.name for field in fields(LoopSettings)} else f"step.{key}"
