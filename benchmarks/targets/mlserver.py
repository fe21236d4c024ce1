"""MLServer with its runtime for MLflow and adaptive batching, on either of its two protocols."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environments import environment, installed
from benchmarks.ports import free_port
from benchmarks.processes import running, tree
from benchmarks.targets.base import Served
from benchmarks.targets.batching import BATCH_WAIT_S, MAX_BATCH

VERSION = "1.7.1"
REQUIREMENTS = (f"mlserver=={VERSION}", f"mlserver-mlflow=={VERSION}", "uvloop<0.22")
"""Its workers ask for an event loop that later versions of uvloop no longer make."""
NAME = "bench"
PATHS = {"mlflow": "/invocations", "v2": f"/v2/models/{NAME}/infer"}
TITLES = {"mlflow": "/invocations", "v2": "V2"}


@dataclass(frozen=True)
class MLServer:
    """`body_format` chooses the protocol. Its `/invocations` does not batch: only V2 does."""

    body_format: str

    @property
    def title(self) -> str:
        return f"MLServer, {TITLES[self.body_format]}"

    def prepare(self) -> str:
        return installed(self._python(), "mlserver")

    def _python(self) -> Path:
        return environment("mlserver", REQUIREMENTS)

    @contextlib.contextmanager
    def serve(self, model: Path, folder: Path) -> Iterator[Served]:
        port = free_port()
        settings = {
            "host": "127.0.0.1",
            "http_port": port,
            "grpc_port": free_port(),
            "metrics_port": free_port(),
        }
        model_settings = {
            "name": NAME,
            "implementation": "mlserver_mlflow.MLflowRuntime",
            "max_batch_size": MAX_BATCH,
            "max_batch_time": BATCH_WAIT_S,
            "parameters": {"uri": str(model)},
        }
        (folder / "settings.json").write_text(json.dumps({**settings, "debug": False}), encoding="utf-8")
        (folder / "model-settings.json").write_text(json.dumps(model_settings), encoding="utf-8")
        log = folder / "serve.log"
        with running([self._python().with_name("mlserver"), "start", folder], log) as process:
            yield Served(f"http://127.0.0.1:{port}{PATHS[self.body_format]}", log, lambda: tree(process.pid))
