"""Which metrics can be computed here and now, and what is missing for the others."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass

from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.weights.backbones import BACKBONES, find_backbone, how_to_get
from dp3d_cli.stages.engine.stage import Json
from dp3d_cli.stages.evaluate.metrics import METRICS, Metric
from dp3d_cli.stages.evaluate.networks import Networks
from dp3d_cli.stages.evaluate.pairing import Pairing, choose_five
from dp3d_cli.stages.evaluate.protocol import Protocol
from dp3d_cli.stages.evaluate.results import Unavailable

log = logging.getLogger(__name__)

_FOLDERS = re.compile(r"(?<!\S)/(?:[^\s/]+/)*")  # what stands before a file name in an absolute path


@dataclass(frozen=True)
class Availability:
    """What will be computed.

    Attributes:
        metrics: names, in the protocol's order.
        unavailable: the other names, and why.
        implementations: metric → what computes it, for those with a network.
    """

    metrics: tuple[str, ...]
    unavailable: tuple[Unavailable, ...] = ()
    implementations: Mapping[str, Mapping[str, Json]] | None = None

    def implementation(self, metric: str) -> Mapping[str, Json]:
        """What computes a metric; empty for one without a network."""
        return (self.implementations or {}).get(metric, {})


def find_available(protocol: Protocol, pairing: Pairing, networks: Networks) -> Availability:
    """Which of the protocol's metrics can be computed, and why the others cannot; loads the networks."""
    metrics, unavailable, implementations = [], [], {}
    for name in protocol.metrics:
        metric = METRICS[name]
        problem = _lacking_input(metric, protocol, pairing)
        if problem is None and metric.network is not None:
            try:
                implementations[name] = networks.describe(metric.network)
            except WeightsError as error:
                log.debug("%s: %s", name, error)
                problem = Unavailable(
                    name, None, error.reason, _message(metric, error), _command(metric, error)
                )
        if problem is None:
            metrics.append(name)
        else:
            unavailable.append(problem)
    return Availability(tuple(metrics), tuple(unavailable), implementations)


def _lacking_input(metric: Metric, protocol: Protocol, pairing: Pairing) -> Unavailable | None:
    """What the pictures lack for this metric."""
    pairs = [pair for match in pairing.matches for pair in match.pairs]
    for need in metric.needs:
        if need == "truth" and not any(pair.truth for pair in pairs):
            return Unavailable(
                metric.name,
                None,
                "no-ground-truth",
                f"{metric.name} compares with the ground truth, which is not given.",
                "dp3d evaluate ... --gt FOLDER",
            )
        if need == "reference" and not any(pair.reference for pair in pairs):
            return Unavailable(
                metric.name,
                None,
                "no-references",
                f"{metric.name} compares with the reference portraits, which are not given.",
                "dp3d evaluate ... --references FOLDER",
            )
        if need == "camera" and not any(pair.camera for pair in pairs):
            return Unavailable(
                metric.name,
                None,
                "no-cameras",
                f"{metric.name} needs the cameras that were asked for, which no views.json, cameras.json or "
                "transforms.json tells.",
                "dp3d evaluate ... --cameras NAME_OR_FILE",
            )
        if need == "sequence" and not any(
            match.has_all_views and len(match.pairs) > 1 for match in pairing.matches
        ):
            return Unavailable(
                metric.name,
                None,
                "no-sequence",
                f"{metric.name} compares neighbouring views; no subject has two, or a choice of views left "
                "some out.",
            )
        if need == "five" and not any(choose_five(match) for match in pairing.matches):
            return Unavailable(
                metric.name,
                None,
                "no-five-views",
                f"{metric.name} takes five views around the head, which no subject has (or no file tells "
                "their angles).",
                "dp3d evaluate ... --cameras NAME_OR_FILE",
            )
    if protocol.scored_side(metric.name) < metric.least_side:
        return Unavailable(
            metric.name,
            None,
            "too-small",
            f"{metric.name} needs pictures of at least {metric.least_side} x {metric.least_side} pixels.",
            f"dp3d evaluate ... --size {max(metric.least_side, protocol.size)}",
        )
    return None


def _message(metric: Metric, error: WeightsError) -> str:
    """What is missing, without the paths of this machine: reports are the same everywhere."""
    for name in metric.backbones:
        if error.reason == "weights-missing" and find_backbone(name) is None:
            return f"{metric.name} needs weights that are not on this machine: {BACKBONES[name].title}."
    return _FOLDERS.sub("", str(error))


def _command(metric: Metric, error: WeightsError) -> str:
    """What to type to get the metric."""
    if error.reason in ("package-missing", "missing-package") and metric.install:
        return metric.install
    for name in metric.backbones:
        if find_backbone(name) is None:
            return how_to_get(BACKBONES[name])
    return how_to_get(BACKBONES[metric.backbones[0]]) if metric.backbones else ""
