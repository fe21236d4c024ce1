"""Servers that want a program around the model: LitServe, BentoML, Ray Serve. The programs are in `apps`."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.environments import environment, installed
from benchmarks.ports import free_port
from benchmarks.processes import running, tree
from benchmarks.targets.base import Served
from benchmarks.targets.batching import BATCH_WAIT_S, MAX_BATCH

APPS = Path(__file__).with_name("apps")
PATH = "/invocations"
SHORT_DIRECTORY = "/tmp" if Path("/tmp").is_dir() else None
"""Sockets are kept below it, and their paths must be short."""


class Scripted:
    """A server that is installed from its distribution and started with a program of ours."""

    title: str
    body_format = "mlflow"
    distribution: str
    """Its name on the package index, and that of its environment."""
    extra = ""
    """Of the distribution."""
    command: tuple[str, ...]
    """Program in the environment's `bin`, and arguments; `{port}` stands for the port."""

    def prepare(self) -> str:
        return installed(self._python(), self.distribution)

    def _python(self) -> Path:
        return environment(self.distribution, [self.distribution + self.extra])

    @contextlib.contextmanager
    def serve(self, model: Path, folder: Path) -> Iterator[Served]:
        port = free_port()
        program, *arguments = (part.replace("{port}", str(port)) for part in self.command)
        command: list[str | Path] = [self._python().with_name(program), *arguments]
        log = folder / "serve.log"
        with _scratch() as scratch:
            environ = {
                "BENCH_MODEL": str(model),
                "BENCH_PORT": str(port),
                "BENCH_SCRATCH": str(scratch),
                "BENCH_MAX_BATCH": str(MAX_BATCH),
                "BENCH_BATCH_WAIT_S": str(BATCH_WAIT_S),
                "BENTOML_HOME": str(scratch),
                "PYTHONPATH": str(APPS),
            }
            with running(command, log, environ) as process:
                yield Served(f"http://127.0.0.1:{port}{PATH}", log, lambda: tree(process.pid))


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="mr-bench-", dir=SHORT_DIRECTORY))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
