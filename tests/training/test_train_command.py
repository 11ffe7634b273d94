"""dp3d train: settings, files of a run, going on, interruption, bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner, Result

from dp3d_cli.app import app
from dp3d_cli.core.diffusion.pipeline import DiffPortraitPipeline
from dp3d_cli.core.errors import UsageError
from dp3d_cli.training.preset import load_train_preset, train_preset_names
from tests.core.diffusion.tiny import shake, tiny_sizes
from tests.training.subjects import Ellipsoids

TINY = {
    "networks": {
        "base": "nano",
        "trunk": dict(tiny_sizes().trunk),
        "controlnet": {**tiny_sizes().controlnet, "hint_patch_size": 1},
        "unet": {**tiny_sizes().unet, "explicit_hint_channels": 0},
        "prompt_tokens": 3,
    },
    "size": 16,
    "loop": {"steps": 4, "decay_steps": 1, "workers": 0, "save_every": 2, "log_every": 1, "validate_every": 4,
             "validate_first": True},
    "stages": {
        "reference": {"step": {"batch": 2, "held_out_subjects": 1, "sample_steps": 1}},
        "camera": {"step": {"batch": 2, "held_out_subjects": 1, "sample_steps": 1}},
    },
}  # fmt: skip


def plain(value: object) -> object:
    """Tuples as YAML's lists."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, (list, tuple)) else value


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(plain(TINY)))
    return file


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    shake(DiffPortraitPipeline.from_sizes(tiny_sizes())).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _no_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dp3d_cli.training.groups.ProceduralSubjects", lambda split: Ellipsoids())
    monkeypatch.setattr("dp3d_cli.training.run.open_subjects", lambda text, split: Ellipsoids())
    monkeypatch.setattr("dp3d_cli.training.stages.denoising.open_subjects", lambda text, split: Ellipsoids())


Train = Callable[..., Result]


@pytest.fixture
def train(preset: Path, start: Path) -> Train:
    def call(run: Path, *more: str, stage: str = "reference") -> Result:
        arguments = [
            "train",
            stage,
            "-p",
            str(preset),
            "-o",
            str(run),
            "--start",
            str(start),
            "--device",
            "cpu",
        ]
        return CliRunner().invoke(app, [*arguments, *more])

    return call


def test_a_run_leaves_its_files_and_prints_the_export(train: Train, tmp_path: Path) -> None:
    run = tmp_path / "a run"
    result = train(run)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{run / 'export'}\n"
    assert {"checkpoint.pt", "export", "log.jsonl", "samples", "train.json"} <= {
        p.name for p in run.iterdir()
    }
    assert [path.name for path in sorted((run / "samples").iterdir())] == ["0000000.png", "0000004.png"]
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4, 4]
    assert {"val_loss", "val_psnr", "val_ssim"} <= set(lines[-1])
    assert "reference: 4 of 4 steps" in result.stderr
    pipeline = DiffPortraitPipeline.from_pretrained(run / "export", low_cpu_mem_usage=False)
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    first = saved["ema"]["shadow_params"][0]
    assert torch.equal(next(pipeline.reference_unet.parameters()), first)
    assert not {"unet.conv_in.weight", "vae.decoder.conv_in.weight"} & saved["module"].keys()  # frozen


def test_prolonging_a_run_equals_the_long_run(train: Train, tmp_path: Path) -> None:
    assert train(tmp_path / "long", "-s", "decay_steps=0").exit_code == 0
    assert train(tmp_path / "short", "--steps", "3", "-s", "decay_steps=0").exit_code == 0
    result = train(tmp_path / "short", "-s", "decay_steps=0")
    assert "3 of them done before" in result.stderr
    long, short = (torch.load(tmp_path / n / "checkpoint.pt", weights_only=True) for n in ("long", "short"))
    assert short["step"] == 4
    for name, value in long["module"].items():
        assert torch.equal(short["module"][name], value), name


def test_a_finished_run_is_left_alone(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run")
    before = (tmp_path / "run" / "checkpoint.pt").stat().st_mtime_ns
    again = train(tmp_path / "run", "--quiet")
    assert (again.exit_code, again.stderr) == (0, "")
    assert (tmp_path / "run" / "checkpoint.pt").stat().st_mtime_ns == before


def test_another_setting_is_refused_unless_the_run_begins_again(train: Train, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    train(tmp_path / "run", "--steps", "2")
    refused = train(tmp_path / "run", "-s", "learning_rate=0.5")
    assert refused.exit_code == 2
    assert "loop.learning_rate was 0.001, now 0.5" in refused.stderr
    assert train(tmp_path / "run", "-s", "learning_rate=0.5", "--overwrite").exit_code == 0
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 4
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-s", "bach=4"], "Unknown setting 'bach'"),
        (["-s", "loop.step=4"], "Unknown setting 'step'"),
        (["-s", "siez=4"], "Unknown setting 'siez'"),
        (["-s", "batch"], "not of the form key=value"),
        (["-s", "size=20"], "take multiples of 8 px"),
        (["-s", "learning_rate=fast"], "Setting 'learning_rate' is 'fast'"),
        (["-s", "networks.trunk.width=4"], "unknown size 'width' of the trunk"),
        (["-s", "networks=huge"], "names one of nano, sd15"),
        (["--start", "nowhere"], "no networks here to start from"),
        (["--quiet", "--verbose"], "exclude each other"),
    ],
)
def test_bad_settings_end_with_status_2_and_touch_nothing(
    arguments: list[str], message: str, train: Train, tmp_path: Path
) -> None:
    result = train(tmp_path / "run", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert not (tmp_path / "run").exists()


def test_a_stage_that_the_preset_lacks_is_named(train: Train, tmp_path: Path) -> None:
    result = train(tmp_path / "run", stage="views")
    assert result.exit_code == 2
    assert "no settings for the stage 'views'; it has camera, reference" in result.stderr


def test_an_unknown_preset_gets_a_suggestion(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", "reference", "-p", "nano-smok", "-o", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "Did you mean 'nano-smoke'?" in result.stderr


def test_a_stage_without_its_start_says_which(preset: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", "camera", "-p", str(preset), "-o", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "--start gives no 'vae'" in result.stderr


def test_a_loss_that_diverges_ends_the_run(train: Train, tmp_path: Path) -> None:
    result = train(tmp_path / "run", "-s", "learning_rate=1e36", "-s", "clip_norm=1e30", "--steps", "30")
    assert result.exit_code == 1
    assert "Lower learning_rate" in result.stderr


@pytest.mark.parametrize("name", train_preset_names())
def test_shipped_presets_are_valid(name: str) -> None:
    from dp3d_cli.training.preset import presets_folder, read_yaml_mapping

    for stage in read_yaml_mapping(presets_folder() / "train" / f"{name}.yaml")["stages"]:
        assert load_train_preset(name, stage).stage == stage


def test_overrides_reach_the_stage_and_the_section() -> None:
    preset = load_train_preset("nano-smoke", "views", ["batch=24", "learning_rate=0.5", "drop={both: 0.3}"])
    assert preset.loop.learning_rate == 0.5
    assert preset.step == {**preset.step, "batch": 24, "views": 8, "drop": {"both": 0.3}}
    with pytest.raises(UsageError, match="at least 8 pixels"):
        load_train_preset("nano-smoke", "views", ["size=4"])


SMOKE = """
import sys
from pathlib import Path
import dp3d_cli.training.groups as groups
import dp3d_cli.training.run as run
import dp3d_cli.training.stages.denoising as stages
from tests.training.subjects import Ellipsoids
groups.ProceduralSubjects = lambda split: Ellipsoids()
run.open_subjects = stages.open_subjects = lambda text, split: Ellipsoids()
from dp3d_cli.app import main
sys.argv = ["dp3d", *sys.argv[1:]]
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT])
def test_an_interrupted_run_goes_on_to_the_same_end(
    number: signal.Signals, preset: Path, start: Path, tmp_path: Path
) -> None:
    def command(run: str) -> list[str]:
        asked = ["-p", str(preset), "-o", str(tmp_path / run), "--start", str(start), "--device", "cpu"]
        return [
            *(sys.executable, "-c", SMOKE, "train", "reference"),
            *asked,
            *("--steps", "40", "-s", "save_every=1000"),
        ]

    where = {"cwd": Path(__file__).parents[2], "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    process = subprocess.Popen(command("cut"), stderr=subprocess.PIPE, text=True, **where)
    log = tmp_path / "cut" / "log.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (log.is_file() and len(log.read_text().splitlines()) > 5):
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert "the same command goes on" in errors
    step = torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)["step"]
    assert 0 < step < 40
    assert not (tmp_path / "cut" / "export").exists()
    for run in ("cut", "whole"):
        subprocess.run(command(run), check=True, timeout=120, **where)
    cut, whole = (torch.load(tmp_path / run / "checkpoint.pt", weights_only=True) for run in ("cut", "whole"))
    for part in ("module", "optimizer", "ema"):
        assert str(cut[part]) == str(whole[part])
    for name, value in whole["module"].items():
        assert torch.equal(cut["module"][name], value), name
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == [
        json.loads(line)["step"] for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()
    ]


@pytest.mark.slow
def test_bfloat16_recomputation_and_workers_change_no_format(
    preset: Path, start: Path, tmp_path: Path
) -> None:
    settings = ("mixed_precision=bf16", "gradient_checkpointing=true", "workers=1")
    subprocess.run(
        [
            *(sys.executable, "-c", SMOKE, "train", "camera", "-p", str(preset), "-o", str(tmp_path / "run")),
            *("--start", str(start), "--device", "cpu"),
            *(word for setting in settings for word in ("-s", setting)),
        ],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=120,
    )
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["step"] == 4
    assert {value.dtype for value in state["module"].values()} == {torch.float32}


@pytest.mark.slow
def test_the_smoke_preset_lowers_the_loss_from_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # real heads
    result = CliRunner().invoke(
        app, ["train", "reference", "-p", "nano-smoke", "-o", str(tmp_path / "run"), "--device", "cpu"]
    )
    assert result.exit_code == 0, result.stderr
    for folder in ("run", "run/backbone"):
        lines = [json.loads(line) for line in (tmp_path / folder / "log.jsonl").read_text().splitlines()]
        values = [line["val_loss"] for line in lines if "val_loss" in line]
        assert values[-1] < values[0]
