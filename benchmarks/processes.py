"""The processes of a server under test: started, watched, weighed and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

END_TIMEOUT_S = 10.0
MB = 1e6

CpuTimes = dict[tuple[int, float], float]
"""CPU seconds by process, as process id and time of creation."""

QUIET = {
    "BENTOML_DO_NOT_TRACK": "True",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Variables for every server: none of them calls home while it is measured."""


@dataclass(frozen=True)
class Memory:
    """Memory of a process tree in MB: resident (shared pages counted often), proportional, and private."""

    rss_mb: float
    pss_mb: float
    uss_mb: float


def tree(pid: int) -> list[psutil.Process]:
    """Return the living process of that id and everything below it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        found = [root, *root.children(recursive=True)]
        return [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    return []


def cpu_times(processes: Sequence[psutil.Process]) -> CpuTimes:
    found: CpuTimes = {}
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            found[process.pid, process.create_time()] = times.user + times.system
    return found


def cpu_between(before: CpuTimes, after: CpuTimes) -> float:
    """Return the CPU seconds used by the processes of `after` since `before`; new ones count in full."""
    return sum(seconds - before.get(process, 0.0) for process, seconds in after.items())


def memory(processes: Sequence[psutil.Process]) -> Memory:
    rss = pss = uss = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            info = process.memory_full_info()
            rss += info.rss
            uss += info.uss
            pss += getattr(info, "pss", info.rss)
    return Memory(rss / MB, pss / MB, uss / MB)


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], log: Path, environ: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server for the time of the block; at its end, everything below the process is ended too.

    Args:
        command: program and arguments; the program's folder comes first on the server's PATH.
        log: where its output goes; its folder is the server's working directory.
        environ: variables over those of this process.
    """
    argv = [str(part) for part in command]
    path = f"{Path(argv[0]).parent}{os.pathsep}{os.environ['PATH']}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=log.parent,
            env={**os.environ, **QUIET, "PATH": path, **(environ or {})},
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a server to end, then end what is left of the processes it started."""
    started = tree(process.pid)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    _, left = psutil.wait_procs(started, timeout=END_TIMEOUT_S)
    for straggler in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            straggler.kill()
    psutil.wait_procs(left, timeout=END_TIMEOUT_S)
    process.wait()
