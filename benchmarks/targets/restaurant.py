"""This package: a deployment in a home of its own."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from mlflow.deployments import get_deploy_client

from benchmarks.processes import QUIET, cpu_between, cpu_times, tree
from benchmarks.targets.base import Served
from mlflow_restaurant import __version__
from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.home import Home
from mlflow_restaurant.process.records import read_records

NAME = "bench"
IDLE_DEPLOYMENTS = 50
SETTLING_S = 5.0
IDLE_S = 20.0


@dataclass(frozen=True)
class Restaurant:
    replicas: int = 1
    gateways: int = 1

    body_format = "mlflow"

    @property
    def title(self) -> str:
        parts = [_count(self.replicas, "replica"), _count(self.gateways, "gateway")]
        return f"mlflow-restaurant, {', '.join(parts)}"

    def prepare(self) -> str:
        return __version__

    @contextlib.contextmanager
    def serve(self, model: Path, folder: Path) -> Iterator[Served]:
        with temporary_home(self.gateways) as home:
            client = get_deploy_client(f"restaurant:{home.path}")
            made = client.create_deployment(NAME, str(model), config={"replicas": self.replicas})
            yield Served(
                f"{made['url']}/invocations",
                home.logs,
                lambda: processes_of(home),
                {"create_s": create_another(client, model)},
            )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


@contextlib.contextmanager
def temporary_home(gateways: int = 1) -> Iterator[Home]:
    """A home with a short path; at the end its server is stopped and it is gone."""
    home = Home(Path(tempfile.mkdtemp(prefix="mr-bench-")))
    settings = {"MLFLOW_RESTAURANT_PORT": "0", "MLFLOW_RESTAURANT_GATEWAYS": str(gateways)}
    kept = dict(os.environ)
    os.environ.update({**QUIET, **settings})
    try:
        yield home
    finally:
        os.environ.clear()
        os.environ.update(kept)
        ControlClient(home).down()
        shutil.rmtree(home.path, ignore_errors=True)


def processes_of(home: Home) -> list[psutil.Process]:
    """Return every process of a home: those it has records of, and what is below them."""
    records = read_records(home.run) if home.run.is_dir() else []
    return list({p.pid: p for r in records if r.alive() for p in tree(r.pid)}.values())


def create_another(client: Any, model: Path) -> Callable[[], float]:
    """Return what measures the seconds from `create` to the first prediction, with the server running."""
    numbers = itertools.count()

    def measure() -> float:
        name = f"another-{next(numbers)}"
        example = _example(model)
        started = time.perf_counter()
        client.create_deployment(name, str(model))
        client.predict(name, example)
        took = time.perf_counter() - started
        client.delete_deployment(name)
        return took

    return measure


def _example(model: Path) -> Any:
    import mlflow

    loaded = mlflow.models.Model.load(str(model))
    return loaded.load_input_example(str(model)).head(1)


def idle_cpu(model: Path) -> float:
    """Return the part of one core that a server with 50 deployments uses while nobody asks."""
    with temporary_home() as home:
        client = get_deploy_client(f"restaurant:{home.path}")
        for number in range(IDLE_DEPLOYMENTS):
            client.create_deployment(f"idle-{number}", str(model))
        time.sleep(SETTLING_S)
        before = cpu_times(processes_of(home))
        started = time.perf_counter()
        time.sleep(IDLE_S)
        used = cpu_between(before, cpu_times(processes_of(home)))
        return used / (time.perf_counter() - started)
