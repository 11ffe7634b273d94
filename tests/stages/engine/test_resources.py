from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest

from dp3d_cli.stages.engine.resources import available_cpus, limit_threads, peak_memory_bytes, where

MASK = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, MASK),
        ({"SLURM_CPUS_PER_TASK": "3"}, 3),
        ({"SLURM_CPUS_PER_TASK": "", "SLURM_CPUS_ON_NODE": "1"}, 1),
        ({"SLURM_CPUS_ON_NODE": "999"}, MASK),  # an allocation larger than what we may use
        ({"SLURM_CPUS_PER_TASK": "many"}, MASK),
    ],
)
def test_the_share_of_processors(environ: dict[str, str], expected: int) -> None:
    assert available_cpus(environ) == expected


def test_threads_are_limited_where_libraries_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, int] = {}
    monkeypatch.setitem(
        sys.modules, "torch", SimpleNamespace(set_num_threads=lambda n: given.update(torch=n))
    )  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(setNumThreads=lambda n: given.update(cv2=n)))  # type: ignore[arg-type]
    assert limit_threads({"SLURM_CPUS_PER_TASK": "3"}) == 3
    assert given == {"torch": 3, "cv2": 3}
    assert limit_threads({"SLURM_CPUS_PER_TASK": "3", "OMP_NUM_THREADS": "2,1"}) == 2


def test_the_place_names_job_and_restart() -> None:
    environ = {
        "SLURM_JOB_ID": "12",
        "SLURM_ARRAY_JOB_ID": "9",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_RESTART_COUNT": "2",
        "SLURM_CPUS_PER_TASK": "4",
    }
    assert where(environ).split(", ")[1:] == [
        "SLURM job 9_3",
        "restart 2",
        "CUDA_VISIBLE_DEVICES=unset",
        "4 CPUs",
    ]
    assert 1 << 20 < peak_memory_bytes() < 1 << 40
