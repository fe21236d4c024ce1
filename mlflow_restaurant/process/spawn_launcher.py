"""Starting processes as fresh interpreters: seconds each, and any environment."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow_restaurant.process.child import Child, pipe_reader, start_process
from mlflow_restaurant.process.forkserver import JOBS


class SpawnLauncher:
    """Starts a replica with the Python that `activate` puts on the path, or any job with this Python."""

    def __init__(self, activate: Sequence[str] = ()) -> None:
        self.activate = activate

    async def launch(
        self,
        job: str,
        args: Mapping[str, Any],
        *,
        log: Path,
        env: Mapping[str, str],
        title: str,
        pass_fds: Sequence[int] = (),
    ) -> Child:
        status_r, status_w = os.pipe()
        try:
            process = await start_process(
                self._command(job, args, status_w), log=log, env=env, pass_fds=[status_w, *pass_fds]
            )
        except BaseException:
            os.close(status_r)
            raise
        finally:
            os.close(status_w)
        status = await pipe_reader(status_r)
        return Child(process.pid, status, asyncio.ensure_future(process.wait()))

    def _command(self, job: str, args: Mapping[str, Any], status_fd: int) -> list[str]:
        arguments = [json.dumps(dict(args)), str(status_fd)]
        if not self.activate:
            return [sys.executable, "-u", "-m", "mlflow_restaurant.process.spawn", job, *arguments]
        module = JOBS[job].partition(":")[0]
        script = Path(__file__).parents[1].joinpath(*module.split(".")[1:]).with_suffix(".py")
        run = shlex.join(["python", "-u", str(script), *arguments])
        return ["bash", "-c", " && ".join([*self.activate, f"exec {run}"])]
