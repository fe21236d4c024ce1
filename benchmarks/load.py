"""The load generator: wrk, which posts several bodies in rotation and says how it went.

wrk keeps `callers` connections open, each with one request at a time, so a caller asks again when it has its answer.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("post.lua")
TIMEOUT_S = 60
PATIENCE_S = 120
INSTALL = (
    "wrk is missing. Install it with: apt-get install wrk (Debian, Ubuntu), or brew install wrk (macOS)."
)


class LoadError(RuntimeError):
    """The load generator could not do its work."""


@dataclass(frozen=True)
class Load:
    """What wrk measured; `requests` counts every answer, with `status_errors` among them (status above 399)."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    status_errors: int
    socket_errors: int
    generator_cpu_s: float = 0.0

    @property
    def requests_per_s(self) -> float:
        """Good answers a second."""
        return (self.requests - self.status_errors) / self.seconds

    @property
    def generator_share(self) -> float:
        """Part of one core that wrk used; close to 1, wrk is what was measured."""
        return self.generator_cpu_s / self.seconds


def wrk() -> str:
    """Return the path of wrk.

    Raises:
        LoadError: it is not installed; the message says how to.
    """
    found = shutil.which("wrk")
    if found is None:
        raise LoadError(INSTALL)
    return found


def wrk_version() -> str:
    # wrk ends with status 1 after telling its version.
    done = subprocess.run([wrk(), "-v"], capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).split(" Copyright")[0].strip()


def parse_wrk(output: str, generator_cpu_s: float = 0.0) -> Load:
    """Read the line of JSON that `post.lua` prints after wrk's own report.

    Raises:
        LoadError: there is none.
    """
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            return Load(**json.loads(line), generator_cpu_s=generator_cpu_s)
    raise LoadError(f"wrk printed no figures, but: {output.strip()[-500:] or 'nothing'}")


def write_bodies(bodies: Sequence[bytes], file: Path) -> Path:
    """Write one body a line; JSON without line breaks."""
    file.write_bytes(b"".join(body + b"\n" for body in bodies))
    return file


def post(url: str, bodies: Path, callers: int, seconds: float) -> Load:
    """Ask with that many callers for that long, rounded up to whole seconds.

    Raises:
        LoadError: wrk failed.
    """
    command = [wrk(), "-t", "1", "-c", str(callers), "-d", f"{-int(-seconds // 1)}s"]
    before = _children_cpu_s()
    done = subprocess.run(
        [*command, "--timeout", f"{TIMEOUT_S}s", "-s", str(SCRIPT), url],
        capture_output=True,
        text=True,
        env={**os.environ, "BENCH_BODIES": str(bodies)},
        timeout=seconds + PATIENCE_S,
        check=False,
    )
    used = _children_cpu_s() - before
    if done.returncode:
        raise LoadError(f"wrk failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return parse_wrk(done.stdout, used)


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
