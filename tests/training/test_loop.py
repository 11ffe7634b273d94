import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from dp3d_cli.core.errors import UsageError
from dp3d_cli.training.loop import (
    CHECKPOINT,
    LOG,
    SAMPLES,
    LoopSettings,
    load_average,
    step_generator,
    train,
)

SETTINGS = LoopSettings(
    steps=12, decay_steps=4, warmup_steps=2, learning_rate=0.05, log_every=3, save_every=4, workers=0
)


class Numbers(Dataset[Tensor]):
    def __getitem__(self, step: int) -> Tensor:
        return torch.randn(8, 3, generator=torch.Generator().manual_seed(step))


def loss_of(
    module: nn.Module, batch: Tensor, generator: torch.Generator
) -> tuple[Tensor, Mapping[str, float]]:
    noise = 0.1 * torch.randn(8, 1, generator=generator)
    error = (module(batch + noise) - batch.sum(1, keepdim=True)).square().mean()
    return error, {"size": float(len(batch))}


def fresh() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 1))


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("stop", [5, 8, 11])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path: Path, stop: int) -> None:
    whole, parts = fresh(), fresh()
    train(whole, Numbers(), loss_of, SETTINGS, tmp_path / "whole")
    calls = 0

    def dies(
        module: nn.Module, batch: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        nonlocal calls
        calls += 1
        if calls > stop:
            raise Interrupted
        return loss_of(module, batch, generator)

    with pytest.raises(Interrupted):
        train(parts, Numbers(), dies, SETTINGS, tmp_path / "parts")
    again = fresh()
    train(again, Numbers(), loss_of, SETTINGS, tmp_path / "parts")
    for expected, actual in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(expected, actual)
    logs = [(tmp_path / name / LOG).read_text().splitlines() for name in ("whole", "parts")]
    steps = [[json.loads(line)["step"] for line in lines] for lines in logs]
    assert steps[0] == steps[1]  # what was logged behind the last checkpoint is not there twice
    averages = fresh(), fresh()
    assert (
        load_average(tmp_path / "whole", averages[0]) == load_average(tmp_path / "parts", averages[1]) == 12
    )
    for expected, actual in zip(averages[0].parameters(), averages[1].parameters(), strict=True):
        assert torch.equal(expected, actual)


def test_the_log_is_json_lines_with_falling_loss(tmp_path: Path) -> None:
    train(fresh(), Numbers(), loss_of, SETTINGS, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    assert {"loss", "size", "grad_norm", "lr", "step_s"} <= set(lines[0])


def test_validation_sees_averaged_weights_and_leaves_the_trained_ones(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def validate(module: nn.Module) -> dict[str, float]:
        seen.append(next(module.parameters()).clone())
        return {"number": 1.0}

    module = fresh()
    train(
        module,
        Numbers(),
        loss_of,
        LoopSettings(**{**vars(SETTINGS), "validate_every": 12}),
        tmp_path,
        validate,
    )
    assert len(seen) == 1
    assert not torch.equal(seen[0], next(module.parameters()))
    plain = fresh()
    train(plain, Numbers(), loss_of, SETTINGS, tmp_path / "plain")
    assert torch.equal(next(plain.parameters()), next(module.parameters()))


def test_a_run_that_is_asked_to_stop_saves_and_says_how_far_it_is(tmp_path: Path) -> None:
    seen: list[int] = []
    train(
        fresh(),
        Numbers(),
        loss_of,
        SETTINGS,
        tmp_path,
        report=lambda done, numbers: seen.append(done),
        stop=lambda: len(seen) == 4,
    )
    assert seen == [1, 2, 3, 4, 5]  # asked after step 5, when four were reported
    assert load_average(tmp_path, fresh()) == 5


def test_samples_are_drawn_at_each_validation(tmp_path: Path) -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    settings = LoopSettings(**{**vars(SETTINGS), "validate_every": 6, "validate_first": True})
    train(fresh(), Numbers(), loss_of, settings, tmp_path, grid=lambda module: picture)
    names = sorted(path.name for path in (tmp_path / SAMPLES).iterdir())
    assert names == ["0000000.png", "0000006.png", "0000012.png"]


def test_frozen_parameters_stay_and_are_not_stored(tmp_path: Path) -> None:
    module, again = fresh(), fresh()
    for each in (module, again):
        each.get_submodule("0").requires_grad_(False)
    before = module.get_parameter("0.weight").clone()
    train(module, Numbers(), loss_of, SETTINGS, tmp_path)
    assert torch.equal(module.get_parameter("0.weight"), before)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)["module"]
    assert state.keys() == {"2.weight", "2.bias"}
    assert load_average(tmp_path, again) == 12
    with pytest.raises(UsageError, match="another module"):
        load_average(tmp_path, fresh())


def test_half_precision_without_a_gpu_is_refused(tmp_path: Path) -> None:
    settings = LoopSettings(**{**vars(SETTINGS), "mixed_precision": "fp16"})
    with pytest.raises(UsageError, match="needs a GPU"):
        train(fresh(), Numbers(), loss_of, settings, tmp_path)


def test_the_rate_rises_holds_and_falls() -> None:
    settings = LoopSettings(steps=100, decay_steps=20, warmup_steps=10, learning_rate=1.0)
    assert settings.rate(0) == pytest.approx(0.1)
    assert settings.rate(9) == settings.rate(50) == settings.rate(80) == 1
    assert settings.rate(90) == pytest.approx(0.5)
    assert settings.rate(99) == pytest.approx(0.05)


def test_steps_have_unrelated_generators() -> None:
    first, second = (torch.randn(100, generator=step_generator(0, step)) for step in (1, 2))
    assert abs(float((first * second).mean())) < 0.3
