"""Logs of a server: bounded whatever models print, and read across the files that rotation leaves."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.home import Home
from mlflow_restaurant.logs import rotated_files

from ..support import do, eventually, records
from .conftest import BIN, own_client, restaurant, running

LIMIT_MB = 0.2
FILES = 2


@pytest.fixture
def bounded(home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with a server whose logs are rotated early."""
    monkeypatch.setenv("MLFLOW_RESTAURANT_MAX_LOG_MB", str(LIMIT_MB))
    monkeypatch.setenv("MLFLOW_RESTAURANT_LOG_FILES", str(FILES))
    ControlClient(home).ensure_running()
    return home


@pytest.fixture
def url(bounded: Home, actor: Path) -> str:
    """The URL of a deployment `a` of the actor."""
    found: str = own_client(bounded).create_deployment("a", str(actor))["url"]
    return found


def size_mb(log: Path) -> float:
    return sum(path.stat().st_size for path in (log, *rotated_files(log))) / 1e6


def test_a_model_that_prints_without_end_does_not_fill_the_disk(bounded: Home, url: str) -> None:
    log = bounded.deployment_log("a")
    before = records(bounded, "replica")
    for _ in range(3):
        assert do(url, "flood:20", "name").predictions[1] == "first"
    most = (1 + FILES) * 2.2 * LIMIT_MB  # of each file twice the limit, and a line of what was left out
    eventually(lambda: size_mb(log) < most, "the log is rotated")
    do(url, "print:the end")
    eventually(lambda: "the end\n" in log.read_text(), "what comes later is there")
    assert records(bounded, "replica") == before
    said = restaurant(bounded, "logs", "a", "-n", "1000000").out
    assert re.search(r"\] \d+ bytes (before|after) this were left out\n", said)
    assert said.endswith("the end\n")
    assert len(rotated_files(log)) <= FILES


def test_logs_are_followed_and_read_across_rotations(bounded: Home, url: str) -> None:
    log = bounded.deployment_log("a")
    do(url, "print:line 0")
    eventually(lambda: "line 0\n" in log.read_text(), "the replica has printed")
    follow = (BIN / "mlflow-restaurant", "-t", f"restaurant:{bounded.path}", "logs", "a", "-f", "-n", "1")
    with running(*follow) as logs:
        logs.line("line 0")
        number = 0
        while len(rotated_files(log)) < FILES:
            number += 1
            do(url, f"print:line {number} {'x' * 20_000}")
            eventually(lambda: log.stat().st_size < LIMIT_MB * 1e6, "it is rotated when it is due")
        do(url, "print:the end")
        logs.line("the end")
        logs.end(signal.SIGINT)
    lines = [line.partition(" x")[0] for line in logs.said.splitlines() if line.startswith("line ")]
    assert lines == [f"line {n}" for n in range(number + 1)]
    assert restaurant(bounded, "logs", "a", "-n", "3").out.count("line ") == 2
    told = restaurant(bounded, "logs", "a", "-n", "1000000").out
    assert [line.partition(" x")[0] for line in told.splitlines() if line.startswith("line ")] == lines


def test_the_log_of_the_server_is_rotated_too(bounded: Home) -> None:
    log = bounded.server_log
    with log.open("a") as file:  # as its processes hold it
        file.write("x" * int(LIMIT_MB * 1e6) + "\n")
        file.flush()
        eventually(lambda: log.stat().st_size == 0 and rotated_files(log), "it is rotated")
        file.write("after\n")
    assert log.read_text() == "after\n"
