"""Evaluations without the engine: plan, score every subject, sum up, write the report."""

from __future__ import annotations

import json
from pathlib import Path

from dp3d_cli.stages.evaluate.availability import Availability, find_available
from dp3d_cli.stages.evaluate.collect import collect
from dp3d_cli.stages.evaluate.networks import Networks
from dp3d_cli.stages.evaluate.pairing import Pairing
from dp3d_cli.stages.evaluate.plan import Request, plan
from dp3d_cli.stages.evaluate.protocol import Protocol
from dp3d_cli.stages.evaluate.report import write_report
from dp3d_cli.stages.evaluate.results import Results
from dp3d_cli.stages.evaluate.score import EvaluateStage, cache_folder


class NoProgress:
    def step(self, done: int, total: int, label: str = "") -> None:
        assert 0 < done <= total


def prepare(request: Request, output: Path) -> tuple[EvaluateStage, Pairing]:
    protocol, pairing = plan(request)
    networks = Networks(protocol.device, protocol.pose, cache_folder(output))
    available = find_available(protocol, pairing, networks)
    return EvaluateStage.of(protocol, pairing.matches, available, networks), pairing


def score(request: Request, output: Path) -> Results:
    """The results, whose files but the report's lie below `output`."""
    stage, pairing = prepare(request, output)
    for item in stage.items:
        stage.process(item, output, NoProgress())
    return collect(output, stage.protocol, pairing, stage.available, {})


def evaluate(request: Request, output: Path) -> tuple[Results, dict]:
    """The results and the content of metrics.json."""
    results = score(request, output)
    write_report(output, results)
    return results, json.loads((output / "metrics.json").read_text())


def plain(protocol: Protocol) -> Availability:
    """All metrics of a protocol that needs no network."""
    return Availability(protocol.metrics)
