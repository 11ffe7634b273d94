from __future__ import annotations

import re
import resource
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from dp3d_cli import __version__
from dp3d_cli.app import app
from tests.fakes.processes import ROOT, environment

HEAVY = {
    "torch",
    "diffusers",
    "transformers",
    "cv2",
    "decord",
    "av",
    "numpy",
    "scipy",
    "skimage",
    "insightface",
    "PIL",
}


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["align", "--help"], ["weights", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    done = python(
        "import sys\n"
        f"sys.argv = ['dp3d', *{arguments}]\n"
        "from dp3d_cli.app import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "sys.stderr.write(' '.join({name.partition('.')[0] for name in sys.modules}))"
    )
    assert done.returncode == 0, done.stderr
    assert not HEAVY & set(done.stderr.split())


def test_help_takes_less_than_half_a_second() -> None:
    took = []
    for _ in range(3):
        # Processor time, since other processes may be at work on this machine.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "dp3d_cli", "--help"],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.DEVNULL,
            check=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(took) < 0.5


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"dp3d {__version__}\n")


def test_help_lists_the_commands_in_the_order_of_the_work() -> None:
    shown = CliRunner(env={"COLUMNS": "100", "NO_COLOR": "1"}).invoke(app, ["-h"]).stdout
    listed = re.findall(r"^│ ([a-z-]+) ", shown.partition("Commands")[2], re.MULTILINE)
    assert listed == [
        "align",
        "render-cams",
        "proxy",
        "synthesize",
        "video",
        "evaluate",
        "run",
        "train",
        "weights",
    ]


@pytest.mark.parametrize("arguments", [["nonsense"], ["align", "--nonsense"], ["align"]])
def test_a_wrong_line_is_a_usage_error(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr


def test_python_dash_m_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dp3d_cli", "--version"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        check=True,
    )
    assert done.stdout == f"dp3d {__version__}\n".encode()
