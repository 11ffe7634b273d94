"""What `ablations.py` compares: variants of the pipeline's inputs and of its networks, by name.

A variant is `<base>` or `<base>/<change>`. Bases: "default" is the preset as it is; "full" is generation from
fully noised 3D-aware latents, without refinement and without anything of the proxy in the finished view;
"plain" is "full" with an empty explicit hint, so that the proxy enters through the noise alone, as in the
paper. A network that takes no hint has no "plain": its "full" is that already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dp3d_cli.core.diffusion import pipeline as pipeline_module
from dp3d_cli.core.diffusion.attention import ReferenceBank
from dp3d_cli.core.diffusion.control import ControlResiduals
from dp3d_cli.core.diffusion.grouping import ViewGroup
from dp3d_cli.core.diffusion.pipeline import DiffPortraitPipeline
from dp3d_cli.training.start import copy_backbone

Pictures = NDArray[np.uint8]
Switch = Literal["reference", "copied", "camera", "hint", "noise"]

WITHOUT_PROXY: Mapping[str, Any] = {"refine_proxy": False, "proxy_detail": 0.0}
"""Sampler arguments under which the proxy is a start and a condition only, and no part of the view."""


@dataclass(frozen=True)
class Inputs:
    """What the pipeline can be given for one subject; pictures are uint8 RGB of S x S pixels.

    Attributes:
        subject_id: decides the noise.
        view_names: V names.
        closed: the trajectory is a ring.
        references: [S, S, 3] each: "own", the aligned portrait; "stranger", another subject's; "unaligned",
            the same moment photographed smaller and off-centre; "second" and "third", true views from beside.
        conditions: [V, S, S, 3] each: "own", the preset's; "wrong-camera", the same pictures dealt out to
            other views; "other-identity", another head from the same cameras.
        proxies: [V, S, S, 3].
        confidences: [V, S, S], 255 is seen well in the portrait.
        coverages: [V, S, S], 255 is the subject.
    """

    subject_id: str
    view_names: tuple[str, ...]
    closed: bool
    references: Mapping[str, Pictures]
    conditions: Mapping[str, Pictures]
    proxies: Pictures
    confidences: Pictures
    coverages: Pictures


@dataclass(frozen=True)
class Variant:
    """One way to make the views.

    Attributes:
        name: `<base>` or `<base>/<change>`.
        what: for readers.
        sampler: arguments of the pipeline that differ from the preset's.
        off: what is taken out of the networks, or replaced in them; see `taken_out`.
        references: names in `Inputs.references`.
        condition: name in `Inputs.conditions`.
        apart: each view is a group of its own: view attention sees only the view itself.
    """

    name: str
    what: str
    sampler: Mapping[str, Any] = field(default_factory=dict)
    off: frozenset[Switch] = frozenset()
    references: tuple[str, ...] = ("own",)
    condition: str = "own"
    apart: bool = False

    @property
    def base(self) -> str:
        """The variant that this one is compared with; of a base, itself."""
        return self.name.partition("/")[0]

    @property
    def change(self) -> str:
        """What follows the base in the name; empty for a base."""
        return self.name.partition("/")[2]


CHANGES: Mapping[str, tuple[str, Callable[[Variant], Variant]]] = {
    "no-reference": (
        "no reference attention (an empty bank)",
        lambda v: replace(v, off=v.off | {"reference"}),
    ),
    "stranger": (
        "another person's portrait as the reference",
        lambda v: replace(v, references=("stranger",)),
    ),
    "copied-reference": (
        "F_ref with the backbone's weights instead of its own",
        lambda v: replace(v, off=v.off | {"copied"}),
    ),
    "unaligned": (
        "the reference photographed smaller and off-centre",
        lambda v: replace(v, references=("unaligned",)),
    ),
    "two-references": (
        "a second reference, from one side",
        lambda v: replace(v, references=("own", "second")),
    ),
    "three-references": (
        "two more references, from both sides",
        lambda v: replace(v, references=("own", "second", "third")),
    ),
    "views-apart": ("view attention off: each view alone", lambda v: replace(v, apart=True)),
    "no-camera": ("no residuals of the control network", lambda v: replace(v, off=v.off | {"camera"})),
    "wrong-camera": ("I_cam from the far side's camera", lambda v: replace(v, condition="wrong-camera")),
    "other-identity": (
        "I_cam of another head, same camera",
        lambda v: replace(v, condition="other-identity"),
    ),
    "no-hint": ("an empty explicit hint", lambda v: replace(v, off=v.off | {"hint"})),
    "no-fusion": (
        "the proxy's detail by rule alone",
        lambda v: replace(v, sampler={**v.sampler, "fusion": 0.0}),
    ),
    "random-noise": (
        "Gaussian noise instead of 3D-aware noise",
        lambda v: replace(v, off=v.off | {"noise"}),
    ),
}
"""What is changed in a base, each on its own."""


def variants(
    bases: Sequence[str],
    *,
    steps: int,
    guidance: float,
    has_hint: bool,
    has_fusion: bool,
    default_strength: float,
) -> list[Variant]:
    """All variants of some bases, each base before its changes.

    Args:
        bases: of "default", "full" and "plain".
        steps: of full generation.
        guidance: scale in full generation.
        has_hint: whether the backbone takes an explicit hint.
        has_fusion: whether the pipeline has a fusion network; it has no part in what is without the proxy.
        default_strength: the preset's `noise_strength`; where nothing is noised, no noise can be exchanged.
    """
    generation = {**WITHOUT_PROXY, "noise_strength": 1.0, "num_inference_steps": steps}
    guided = {**generation, "guidance_scale": guidance}
    known = {
        "default": Variant("default", "the preset as it is"),
        "full": Variant("full", f"full generation, {steps} steps, guidance {guidance:g}", guided),
        "plain": Variant("plain", "the same, its hint empty", guided, frozenset({"hint"})),
    }
    made = []
    for name in bases:
        if name == "plain" and not has_hint:
            continue
        base = known[name]
        made.append(base)
        if name == "default":
            alone = {"proxy_detail": 0.0}
            made.append(Variant("default/alone", "the networks' view, nothing of the proxy mixed in", alone))
            made += [
                Variant(
                    f"default/strength-{strength:g}",
                    f"noise strength {strength:g} of {steps} steps",
                    {"noise_strength": strength, "num_inference_steps": steps},
                )
                for strength in (0.25, 0.5, 0.75)
            ]
        else:
            made += [
                replace(base, name=f"{name}/guidance-{scale:g}", what=f"guidance {scale:g}",
                        sampler={**generation, "guidance_scale": scale})
                for scale in (1.0, 2.0, 3.0) if scale != guidance
            ]  # fmt: skip
        for change, (what, apply) in CHANGES.items():
            pointless = (
                (change == "no-hint" and (not has_hint or name != "default"))  # full without a hint: "plain"
                or (change == "no-fusion" and (not has_fusion or name != "default"))
                or (change == "random-noise" and name == "default" and default_strength == 0)
            )  # fmt: skip
            if not pointless:
                made.append(replace(apply(base), name=f"{name}/{change}", what=what))
    return made


@dataclass(frozen=True)
class _Copies:
    """What `copy_backbone` fills."""

    unet: nn.Module
    reference_unet: nn.Module
    controlnet: nn.Module


class Synthesizer:
    """Makes the views of variants; the networks are loaded once.

    Args:
        pipeline: from `DiffPortraitPipeline.from_preset`.
    """

    def __init__(self, pipeline: DiffPortraitPipeline) -> None:
        self.pipeline = pipeline
        copies = _Copies(pipeline.unet, deepcopy(pipeline.reference_unet), deepcopy(pipeline.controlnet))
        copy_backbone(copies)
        self._copied = copies.reference_unet

    @property
    def has_hint(self) -> bool:
        """Whether the backbone takes an explicit hint."""
        return bool(self.pipeline.unet.config.explicit_hint_channels)

    @property
    def has_fusion(self) -> bool:
        """Whether the pipeline has a fusion network."""
        return self.pipeline.fusion is not None

    def views(self, variant: Variant, inputs: Inputs) -> Pictures:
        """The views [V, S, S, 3] of one subject."""
        options = dict(variant.sampler)
        if variant.apart:
            options["view_group"] = ViewGroup(size=1)
        with self.taken_out(variant.off):
            output = self.pipeline(
                np.stack([inputs.references[name] for name in variant.references]),
                inputs.conditions[variant.condition],
                inputs.proxies,
                confidences=_unit_maps(inputs.confidences),
                coverages=_unit_maps(inputs.coverages),
                subject_id=inputs.subject_id,
                view_names=inputs.view_names,
                closed=inputs.closed,
                output_type="np",
                **options,
            )
        return np.asarray(output.images, np.uint8)

    @contextmanager
    def taken_out(self, off: frozenset[Switch]) -> Iterator[None]:
        """Take parts out of the networks while the context lasts.

        "reference": the bank has no tokens, so that each view attends to itself alone; "copied": the
        backbone's weights in F_ref; "camera": residuals of zero; "hint": a hint of zeros; "noise": the start
        is unit Gaussian noise, whatever the proxy is.

        Raises:
            RuntimeError: a part was never asked for: taking it out tested nothing.
        """
        used: set[str] = set()
        pipeline = self.pipeline

        def empty_bank(_module: nn.Module, _inputs: object, bank: ReferenceBank) -> ReferenceBank:
            used.add("reference")
            return ReferenceBank(tuple(features[:, :0] for features in bank.features))

        def no_residuals(_module: nn.Module, _inputs: object, out: ControlResiduals) -> ControlResiduals:
            used.add("camera")
            return ControlResiduals(tuple(map(torch.zeros_like, out.down)), torch.zeros_like(out.mid))

        def empty_hint(
            _module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            used.add("hint")
            return inputs, {**named, "hint": torch.zeros_like(named["hint"])}

        def noise_alone(_proxy: Tensor, noise: Tensor, _alpha: object) -> Tensor:
            used.add("noise")
            return noise

        def note_copied(*_: object) -> None:
            used.add("copied")

        with ExitStack() as stack:
            if "copied" in off:
                trained = pipeline.reference_unet
                pipeline.register_modules(reference_unet=self._copied)
                stack.callback(pipeline.register_modules, reference_unet=trained)
                stack.callback(self._copied.register_forward_hook(note_copied).remove)
            if "reference" in off:
                stack.callback(pipeline.reference_unet.register_forward_hook(empty_bank).remove)
            if "camera" in off:
                stack.callback(pipeline.controlnet.register_forward_hook(no_residuals).remove)
            if "hint" in off:
                handle = pipeline.unet.register_forward_pre_hook(empty_hint, with_kwargs=True)
                stack.callback(handle.remove)
            if "noise" in off:
                stack.enter_context(mock.patch.object(pipeline_module, "three_d_aware_noise", noise_alone))
            yield
        if missed := off - used:
            raise RuntimeError(f"the pipeline did not use {', '.join(sorted(missed))}: nothing was taken out")


def _unit_maps(maps: Pictures) -> Tensor:
    """uint8 [V, S, S] to float32 [V, 1, S, S] in [0, 1]."""
    return torch.from_numpy(maps).float().div(255).unsqueeze(1)
