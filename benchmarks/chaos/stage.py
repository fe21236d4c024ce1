"""A server in a home of its own, what is deployed there, and what is done to its processes."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import psutil
from mlflow.deployments import get_deploy_client
from sklearn.linear_model import LinearRegression

from benchmarks.chaos.callers import Callers
from benchmarks.targets.restaurant import processes_of, temporary_home
from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.deployments import RestaurantDeploymentClient
from mlflow_restaurant.home import Home
from mlflow_restaurant.process.records import ProcessRecord, read_records

UNRULY = Path(__file__).with_name("unruly.py")
RECOVERY_WITHIN_S = 120.0
ENDED_WITHIN_S = 10.0
LOOK_S = 0.01
FRAME = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "b": [0.0, 1.0, 0.0, 1.0]})
NEVER = 1 << 62
STEADY = {"replicas": "2"}


class Harm(Exception):
    """The server did not stand what was done to it."""


@dataclass(frozen=True)
class Models:
    """Saved models that predict 2 a + 10 b: a linear regression, and one that obeys orders (see `unruly`)."""

    linear: Path
    unruly: Path


def save_models(folder: Path) -> Models:
    """Save the models in a directory."""
    models = Models(folder / "linear", folder / "unruly")
    signature = mlflow.models.infer_signature(FRAME, [1.0])
    common: dict[str, Any] = {"signature": signature, "input_example": FRAME}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.sklearn.save_model(
            LinearRegression().fit(FRAME, 2 * FRAME["a"] + 10 * FRAME["b"]),
            models.linear,
            pip_requirements=["mlflow", "scikit-learn"],
            **common,
        )
        mlflow.pyfunc.save_model(
            models.unruly,
            python_model=str(UNRULY),
            model_config={"orders": str(folder), "fail_every": NEVER, "leak_kb": 0},
            pip_requirements=["mlflow"],
            **common,
        )
    return models


@dataclass
class Stage:
    """A server, and the models to deploy on it; `orders` is where unruly models look for theirs."""

    home: Home
    models: Models
    orders: Path

    def __post_init__(self) -> None:
        self.client: RestaurantDeploymentClient = get_deploy_client(f"restaurant:{self.home.path}")
        self.control = ControlClient(self.home)

    # -- what is deployed

    @contextlib.contextmanager
    def deployed(self, name: str, model: Path, **config: str) -> Iterator[str]:
        """Deploy a model for the time of the block; gives the deployment's URL."""
        url: str = self.client.create_deployment(name, str(model), config=config)["url"]
        try:
            yield url
        finally:
            self.client.delete_deployment(name)

    @contextlib.contextmanager
    def besieged(self, name: str, model: Path, **config: str) -> Iterator[Callers]:
        """Deploy a model, and have it asked for the time of the block."""
        with self.deployed(name, model, **config) as url, Callers([url]).asking() as callers:
            callers.more(callers.number)
            yield callers
            callers.more(callers.number)

    # -- its processes

    def records(self, kind: str) -> list[ProcessRecord]:
        """Return the living processes of a kind: controller, gateway, replica, forkserver."""
        return [r for r in read_records(self.home.run) if r.kind == kind and r.alive()]

    def pids(self, kind: str) -> set[int]:
        return {record.pid for record in self.records(kind)}

    def replicas(self, name: str) -> dict[int, str]:
        """Return the states of a deployment's replicas by process id."""
        return {r["pid"]: r["state"] for r in self.client.get_deployment(name)["replicas"]}

    def is_whole(self, name: str, without: int, count: int) -> bool:
        """Tell whether so many replicas run, none of them in process `without`."""
        found = self.replicas(name)
        return without not in found and list(found.values()) == ["RUNNING"] * count

    def one_of(self, kind: str) -> int:
        """Return a process of a kind, waiting for one."""
        self.until(lambda: self.pids(kind), f"there is a {kind}")
        return min(self.pids(kind))

    def signal(self, pid: int, signum: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)

    # -- waiting

    def until(self, condition: Callable[[], object], what: str, within_s: float = RECOVERY_WITHIN_S) -> float:
        """Wait for a condition; returns how long that took, in seconds.

        Raises:
            Harm: it does not come true.
        """
        begun = time.monotonic()
        while not condition():
            if time.monotonic() - begun > within_s:
                raise Harm(f"not within {within_s:g} s: {what}")
            time.sleep(LOOK_S)
        return time.monotonic() - begun

    def order(self, text: str) -> int:
        """Have one replica of an unruly model take an order; returns its process id."""
        self.withdraw()
        temporary = self.orders / "order.tmp"
        temporary.write_text(text)
        temporary.rename(self.orders / "order")
        self.until(self.taken, f"a replica takes the order {text!r}")
        return int(self.taken()[0].name.partition("-")[2])

    def taken(self) -> list[Path]:
        return list(self.orders.glob("taken-*"))

    def withdraw(self) -> None:
        """Take away all orders."""
        for path in (*self.taken(), self.orders / "order", self.orders / "slow"):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def staged(models: Models, environ: dict[str, str] | None = None, gateways: int = 1) -> Iterator[Stage]:
    """Give a home for a server, which starts with the first command.

    Raises:
        Harm: a process of it is left at the end.
    """
    with temporary_home(gateways) as home:
        os.environ.update(environ or {})
        stage = Stage(home, models, models.unruly.parent)
        seen: list[psutil.Process] = []
        try:
            yield stage
        finally:
            stage.withdraw()
            seen = [*processes_of(home), *named(home)]
    _, left = psutil.wait_procs(seen, timeout=ENDED_WITHIN_S)
    for process in left:
        process.kill()
    if left:
        raise Harm(f"processes left behind: {left}")


def named(home: Home) -> list[psutil.Process]:
    """Return the processes whose command line names a home: whatever has lost its record is found by it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(home.path) in argument for argument in process.cmdline()):
                found.append(process)
    return found


@contextlib.contextmanager
def workshop() -> Iterator[Models]:
    """Give the models, in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        yield save_models(Path(name))
