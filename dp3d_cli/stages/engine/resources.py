"""Processors, memory and place of this process, as a batch system hands them out."""

from __future__ import annotations

import os
import resource
import socket
import sys
from collections.abc import Mapping


def available_cpus(environ: Mapping[str, str] = os.environ) -> int:
    """Processors this process may use: SLURM's share for a task if it names one, else the affinity mask.

    SLURM without core binding leaves the mask at the whole node, so the job's own size bounds it too.
    """
    if (share := _positive(environ.get("SLURM_CPUS_PER_TASK"))) is not None:
        return share
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cpus, _positive(environ.get("SLURM_CPUS_ON_NODE")) or cpus)


def limit_threads(environ: Mapping[str, str] = os.environ) -> int:
    """Hold torch and OpenCV, where loaded, to the processors this process has.

    OMP_NUM_THREADS, if the user set it, decides instead.

    Returns:
        The number of threads.
    """
    chosen = environ.get("OMP_NUM_THREADS", "").split(",")[0]  # "4,2": one number per nesting level
    threads = _positive(chosen) or available_cpus(environ)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)
    if cv2 := sys.modules.get("cv2"):
        cv2.setNumThreads(threads)
    return threads


def peak_memory_bytes() -> int:
    """Largest resident set of this process so far [bytes]."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def where(environ: Mapping[str, str] = os.environ) -> str:
    """One line for the log: host, and under SLURM the job, restart and device."""
    parts = [socket.gethostname()]
    if job := environ.get("SLURM_ARRAY_JOB_ID"):
        parts.append(f"SLURM job {job}_{environ.get('SLURM_ARRAY_TASK_ID', '?')}")
    elif job := environ.get("SLURM_JOB_ID"):
        parts.append(f"SLURM job {job}")
    if restarts := environ.get("SLURM_RESTART_COUNT"):
        parts.append(f"restart {restarts}")
    if "SLURM_JOB_ID" in environ:
        parts.append(f"CUDA_VISIBLE_DEVICES={environ.get('CUDA_VISIBLE_DEVICES', 'unset')}")
    parts.append(f"{available_cpus(environ)} CPUs")
    return ", ".join(parts)


def _positive(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and int(text) > 0 else None
