"""How much memory a process has for itself."""

from __future__ import annotations

import contextlib

import psutil

MB = 1e6


def private_mb(pid: int) -> float:
    """Return the private memory of a process and all below it, in megabytes; pages shared with others don't count.

    Forked replicas share what was imported before the fork; of that, only what a replica has changed is its own.
    """
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return sum(_private_mb(p) for p in (process, *process.children(recursive=True)))
    return 0.0


def _private_mb(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.Error):
        return float(process.memory_full_info().uss / MB)
    return 0.0
