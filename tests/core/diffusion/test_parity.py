"""Against numbers recorded from the published code."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dp3d_cli.core.diffusion.parity import compare, main, replay_fixture
from dp3d_cli.core.presets import ExecutionSettings

SHARED = Path(__file__).parents[3] / "../shared/diffportrait3d"


def folder(name: str) -> Path:
    path = SHARED / name
    if not path.is_dir():
        pytest.skip(f"{path} is absent")
    return path


def assert_parity(result: dict[str, Any], recorded: int) -> None:
    failed = {name: errors for name, errors in result["quantities"].items() if not errors["passed"]}
    assert not failed
    assert result["passed"]
    assert result["not_replayed"] == []
    assert len(result["quantities"]) == recorded


@pytest.mark.slow
@pytest.mark.parametrize(("quirk_free", "share_batch"), [(False, True), (True, False)])
def test_every_recorded_quantity_is_reproduced(quirk_free: bool, share_batch: bool) -> None:
    """Whether quirks that change nothing are followed or not, and however the networks are run."""
    execution = ExecutionSettings(share_batch=share_batch)
    assert_parity(replay_fixture(folder("fixture"), quirk_free=quirk_free, execution=execution), 51)


@pytest.mark.slow
def test_the_complete_topology_is_reproduced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder("fixture_full")
    weights = tmp_path / "weights.safetensors"
    monkeypatch.setattr(sys, "argv", ["make_weights.py", str(weights)])
    runpy.run_path(str(path / "make_weights.py"), run_name="__main__")
    assert_parity(replay_fixture(path, weights), 77)


def test_errors_are_measured_in_units_of_the_expected_values() -> None:
    errors = compare(
        torch.tensor([3.0, -4.0, 3.0, -4.0]) * 2**0.5, torch.tensor([3.0, -4.0, 3.0, -5.0]) * 2**0.5
    )
    assert errors["max_abs"] == pytest.approx(2**0.5)
    assert errors["relative"] == pytest.approx(0.2 * 2**0.5)
    assert errors["relative_rms"] == pytest.approx(0.1 * 2**0.5)
    with pytest.raises(ValueError, match="expected"):
        compare(torch.zeros(2), torch.zeros(3))


@pytest.mark.parametrize("passed", [True, False])
def test_the_exit_status_tells_the_outcome(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], passed: bool
) -> None:
    result = {"quantities": {}, "not_replayed": [], "passed": passed}
    monkeypatch.setattr("dp3d_cli.core.diffusion.parity.replay_fixture", lambda *_, **__: result)
    assert main(["somewhere"]) == (0 if passed else 1)
    assert json.loads(capsys.readouterr().out) == result
