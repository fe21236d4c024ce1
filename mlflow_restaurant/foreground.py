"""A server in the foreground: in a home of its own, until somebody interrupts it."""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.home import Home

__all__ = ["temporary_server", "until_signalled"]


@contextlib.contextmanager
def until_signalled() -> Iterator[list[bool]]:
    """Turn SIGINT, SIGTERM and SIGHUP into ``KeyboardInterrupt``, which ends the block quietly once it serves."""
    serving: list[bool] = []

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {s: signal.signal(s, interrupt) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield serving
    except KeyboardInterrupt:
        if not serving:
            raise
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextlib.contextmanager
def temporary_server() -> Iterator[Home]:
    """Give a home of its own with a server on a free port, and end and remove both."""
    home = Home(Path(tempfile.mkdtemp(prefix="mlflow-restaurant-")))
    try:
        with ControlClient(home).running(environ={"MLFLOW_RESTAURANT_PORT": "0"}):
            yield home
    finally:
        shutil.rmtree(home.path, ignore_errors=True)
