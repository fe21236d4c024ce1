"""The unit file of `up --systemd`, run by systemd itself where a user's instance of it runs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.home import Home

from ..support import Load, do, eventually, processes_of, records
from .conftest import own_client, restaurant

UNIT = f"mlflow-restaurant-test-{os.getpid()}.service"


def systemctl(*words: str) -> str:
    command = ["systemctl", "--user", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout.strip()


def is_there() -> bool:
    found = shutil.which("systemctl") is not None and os.environ.get("XDG_RUNTIME_DIR")
    return bool(found) and systemctl("is-system-running") in ("running", "degraded")


def is_another(main_process: Callable[[], int], before: int) -> bool:
    return main_process() not in (before, 0)


@pytest.fixture
def main_process(home: Home) -> Iterator[Callable[[], int]]:
    """Have systemd run the unit file that is printed; returns what tells the id of its main process."""
    printed = restaurant(home, "up", "--systemd")
    assert (printed.status, printed.err) == (0, "")
    path = Path(os.environ["XDG_RUNTIME_DIR"]) / "systemd" / "user" / UNIT
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(printed.out, encoding="utf-8")
    try:
        systemctl("daemon-reload")
        systemctl("start", UNIT)
        assert systemctl("is-active", UNIT) == "active"
        yield lambda: int(systemctl("show", "-p", "MainPID", "--value", UNIT))
    finally:
        systemctl("stop", UNIT)
        path.unlink()
        systemctl("daemon-reload")


@pytest.mark.skipif(not is_there(), reason="no user's instance of systemd runs here")
def test_it_starts_and_restarts_the_server_and_stops_all_of_it(
    home: Home, main_process: Callable[[], int], actor: Path
) -> None:
    client = own_client(home)
    eventually(lambda: ControlClient(home).is_running(), "the server runs")
    url = client.create_deployment("a", str(actor))["url"]
    with Load(url).running() as load:
        for _ in range(2):
            before = main_process()
            os.kill(before, signal.SIGKILL)
            eventually(partial(is_another, main_process, before), "it is started again")
            eventually(lambda: ControlClient(home).is_running(), "it answers")
            load.wait_for(20)
    assert not load.failures()

    systemctl("kill", "--signal=KILL", "--kill-whom=all", UNIT)  # as when the machine goes down
    eventually(lambda: records(home, "controller") == [main_process()], "systemd has started it again")
    eventually(lambda: client.get_deployment("a")["state"] == "HEALTHY", "all is back")
    assert do(url, "name").status == 200

    systemctl("stop", UNIT)
    eventually(lambda: not processes_of(home), "nothing is left")
