from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_one_head_gets_all_figures() -> None:
    command = [sys.executable, ROOT / "benchmarks" / "foreground_accuracy.py", "--heads", "1"]
    process = subprocess.run(
        command, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr
    printed = json.loads(process.stdout)
    assert printed["heads"] == 1
    assert 0.8 < printed["iou"]["mean"] <= 1
    assert printed["camera_deg"]["mean"] < 10
