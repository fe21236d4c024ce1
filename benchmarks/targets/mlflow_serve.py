"""`mlflow models serve`, what everything is compared with."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.ports import free_port
from benchmarks.processes import running, tree
from benchmarks.targets.base import Served


@dataclass(frozen=True)
class MlflowServe:
    workers: int = 1

    body_format = "mlflow"

    @property
    def title(self) -> str:
        return f"mlflow models serve -w {self.workers}"

    def prepare(self) -> str:
        return version("mlflow")

    @contextlib.contextmanager
    def serve(self, model: Path, folder: Path) -> Iterator[Served]:
        port = free_port()
        command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local"]
        log = folder / "serve.log"
        with running([*command, "-w", str(self.workers), "-p", str(port)], log) as process:
            url = f"http://127.0.0.1:{port}/invocations"
            yield Served(url, log, lambda: tree(process.pid))
