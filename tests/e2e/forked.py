"""The ``mlflow`` command in a process forked from one that has imported it, which takes five seconds otherwise."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping
from pathlib import Path

PRELOADED = ["mlflow.cli", "mlflow.deployments.cli", "mlflow_restaurant.deployments"]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOADED)


def run_mlflow(arguments: list[str], env: Mapping[str, str], to: Path, timeout_s: float) -> int:
    """Run ``mlflow ARGUMENTS``; returns its exit status.

    Args:
        env: the whole environment of the command.
        to: folder in which it finds the files ``out`` and ``err`` to write to.

    Raises:
        TimeoutError: it did not end in time; it is killed.
    """
    process = CONTEXT.Process(target=_command, args=(arguments, dict(env), str(to), str(Path.cwd())))
    process.start()
    try:
        process.join(timeout_s)
        if process.exitcode is None:
            raise TimeoutError(f"mlflow {' '.join(arguments)}")
        return process.exitcode
    finally:
        process.kill()
        process.join()
        process.close()


def _command(arguments: list[str], env: dict[str, str], to: str, cwd: str) -> None:
    """Be the console script."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for name, descriptor in (("out", 1), ("err", 2)):
        file = os.open(Path(to, name), os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(file, descriptor)
        os.close(file)
    sys.argv = ["mlflow", *arguments]
    from mlflow.cli import cli

    cli()
