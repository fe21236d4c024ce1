"""Virtual environments of the other servers: made once, kept in the user's cache, outside the checkout."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from uv import find_uv_bin

from benchmarks.models import requirements as model_requirements
from benchmarks.targets.base import Absent

BUILD_TIMEOUT_S = 1800
READY = "ready"


def cache() -> Path:
    """Return where environments are kept: `$XDG_CACHE_HOME` or `~/.cache`, in a folder of ours."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mlflow-restaurant-benchmarks"


def environment(name: str, requirements: Sequence[str]) -> Path:
    """Return the Python of an environment with a server and the libraries of our models, in the versions used here.

    Raises:
        Absent: it can't be built; the message has the reason.
    """
    wanted = [*model_requirements(), *requirements]
    key = hashlib.sha256(repr((sys.version, wanted)).encode()).hexdigest()[:10]
    folder = cache() / f"{name}-{key}"
    python = folder / "bin" / "python"
    if not (folder / READY).is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _uv("venv", "--quiet", "--python", sys.executable, folder)
        _uv("pip", "install", "--quiet", "--python", python, *wanted)
        (folder / READY).touch()
    return python


def installed(python: Path, distribution: str) -> str:
    """Return the version of a distribution in that Python's environment."""
    code = f"from importlib.metadata import version; print(version({distribution!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _uv(*arguments: str | Path) -> None:
    try:
        done = subprocess.run(
            [find_uv_bin(), *arguments], capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise Absent(f"its environment can't be built: {e}") from None
    if done.returncode:
        reason = " ".join(done.stderr.split())[-400:]
        raise Absent(f"its environment can't be built: {reason}")
