"""Starting processes from an event loop, and hearing what they say and when they end.

Two ways, one result: `fork_launcher.ForkLauncher` asks the fork server, `spawn_launcher.SpawnLauncher` starts a fresh
interpreter. Each returns a `Child` with the lines of its status pipe and its exit.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from mlflow_restaurant.process.child import Child

THREAD_PREFIXES = ("OMP_", "OPENBLAS_", "MKL_", "BLIS_", "NUMEXPR_", "VECLIB_", "GOMP_", "KMP_")
FRESH_PROCESS_PREFIXES = ("PYTHON", "LD_", "DYLD_", "MALLOC_", "GLIBC_", "LC_", "LANG", *THREAD_PREFIXES)


class Launcher(Protocol):
    """Starts a job of `forkserver.JOBS`, its output going to the file `log`."""

    async def launch(
        self, job: str, args: Mapping[str, Any], *, log: Path, env: Mapping[str, str], title: str
    ) -> Child: ...


def sets_threads(env: Mapping[str, str]) -> bool:
    """Tell whether a variable says how many threads numerical libraries may use."""
    return any(name.startswith(THREAD_PREFIXES) for name in env)


def needs_fresh_process(env: Mapping[str, str]) -> bool:
    """Tell whether a variable takes effect only when an interpreter starts, so that a fork comes too late."""
    return sys.platform == "darwin" or any(name.startswith(FRESH_PROCESS_PREFIXES) for name in env)
