"""The ``mlflow-restaurant`` command, as its users type it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import termios
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import pandas as pd
import pytest
from mlflow import MlflowClient

import mlflow_restaurant
from mlflow_restaurant.cli import main
from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.deployments import RestaurantDeploymentClient
from mlflow_restaurant.home import Home

from ..support import Load, call, do, eventually, processes_of, records
from .conftest import BIN, own_client, restaurant, run, running

COMMAND = BIN / "mlflow-restaurant"
WIDTH = 80
INTERRUPTED = 130


@pytest.fixture
def home_of_tests(client: RestaurantDeploymentClient) -> Home:
    """The home of the shared server; what a test deploys there is deleted at its end."""
    return client.home


def test_up_and_down_twice(home: Home) -> None:
    first, second = restaurant(home, "up"), restaurant(home, "up")
    assert (first.status, second.status, first.err, second.err) == (0, 0, "", "")
    found = re.fullmatch(r"The server runs at (http://127\.0\.0\.1:\d+) \(home (.+)\)\.\n", first.out)
    assert found is not None
    assert found[2] == str(home.path)
    assert second.out == first.out.replace("runs at", "runs already at")
    assert call(f"{found[1]}/ping").status == 200
    for said in ("The server is down.\n", "No server was running.\n"):
        done = restaurant(home, "down")
        assert (done.status, done.out, done.err) == (0, said, "")
        assert processes_of(home) == []


def test_the_home_of_the_environment_is_the_default(home: Home) -> None:
    variables = {"MLFLOW_RESTAURANT_HOME": str(home.path)}
    assert str(home.path) in run(COMMAND, "up", env=variables).out
    assert ControlClient(home).is_running()
    assert run(COMMAND, "down", env=variables).out == "The server is down.\n"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_up_in_the_foreground_until_a_signal(home: Home, actor: Path, signum: int) -> None:
    with running(COMMAND, "-t", f"restaurant:{home.path}", "up", "--foreground") as server:
        url = server.line("runs at").split()[4]
        assert call(f"{url}/ping").status == 200
        deployment = own_client(home).create_deployment("a", str(actor))
        assert do(deployment["url"], "x").predictions == ["x"]
        assert f"A server of {home.path} runs already" in restaurant(home, "up", "--foreground").error
        started = processes_of(home)
        assert server.end(signum) == 0
        eventually(lambda: not any(p.is_running() for p in started), "all its processes have ended")
        assert "Traceback" not in server.said
    assert restaurant(home, "down").out == "No server was running.\n"


def test_up_in_the_foreground_takes_over_from_the_background(home: Home, actor: Path) -> None:
    client = own_client(home)
    url = client.create_deployment("a", str(actor))["url"]
    (before,), replicas = records(home, "controller"), records(home, "replica")
    with (
        Load(url).running() as load,
        running(COMMAND, "-t", f"restaurant:{home.path}", "up", "--foreground") as server,
    ):
        server.line("runs at")
        load.wait_for(20)
        assert records(home, "controller") == [server.process.pid] != [before]
        assert records(home, "replica") == replicas
        assert client.get_deployment("a")["state"] == "HEALTHY"
        assert not load.failures()
        server.end(signal.SIGTERM)
    eventually(lambda: not processes_of(home), "nothing is left")


def test_up_in_the_foreground_leaves_the_background_alone_when_it_can_not_start(home: Home) -> None:
    assert restaurant(home, "up").status == 0
    before = records(home, "controller")
    (home.path / "config.toml").write_text("gatewayz = 3\n")
    assert "gatewayz" in restaurant(home, "up", "--foreground").error
    assert records(home, "controller") == before


def test_down_ends_a_server_in_the_foreground(home: Home) -> None:
    with running(COMMAND, "-t", f"restaurant:{home.path}", "up", "--foreground") as server:
        server.line("runs at")
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(server.process.wait, 30)
            assert restaurant(home, "down").out == "The server is down.\n"
            assert ended.result() == 0


def test_status_and_lists_without_a_server_start_none_or_say_so(home: Home) -> None:
    done = restaurant(home, "status")
    assert (done.status, done.err) == (0, "")
    assert done.out == f"No server is running in {home.path}; start it with 'mlflow-restaurant up'.\n"
    assert json.loads(restaurant(home, "status", "--json").out) == {"running": False, "home": str(home.path)}
    assert processes_of(home) == []


def test_status(client: RestaurantDeploymentClient, actor: Path) -> None:
    deployment = client.create_deployment("a", str(actor), config={"replicas": 2}, endpoint="e")
    for _ in range(5):
        do(deployment["url"], "x")
    done = restaurant(client.home, "status")
    assert (done.status, done.err) == (0, "")
    row = next(line.split() for line in done.out.splitlines() if line.split()[:1] == ["a"])
    assert row[:5] == ["a", "HEALTHY", "1", "–", "2/2"]
    assert float(row[5]) > 0
    assert 0 < float(row[6]) <= float(row[7])
    assert row[8] == "0"
    found = json.loads(restaurant(client.home, "status", "--json").out)
    assert found["running"] is True
    assert found["home"] == str(client.home.path)
    assert found["url"] == deployment["url"].removesuffix("/deployments/a")
    (described,) = (d for d in found["deployments"] if d["name"] == "a")
    assert {key: described[key] for key in deployment} == client.get_deployment("a")
    assert described["last_minute"]["requests"] == 5
    assert [e["name"] for e in found["endpoints"]] == ["e"]


def test_status_of_a_server_without_deployments(home: Home) -> None:
    restaurant(home, "up")
    assert "No deployments yet" in restaurant(home, "status").out
    assert json.loads(restaurant(home, "status", "--json").out)["deployments"] == []
    assert "No endpoints yet" in restaurant(home, "endpoints", "list").out
    assert restaurant(home, "endpoints", "list", "--json").out == "[]\n"


def no_such_thing(frame: pd.DataFrame) -> pd.DataFrame:
    return frame["nothing"]


def test_logs_tell_where_a_step_failed(client: RestaurantDeploymentClient, tmp_path: Path) -> None:
    bundle = mlflow_restaurant.Bundle(no_such_thing, len)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow_restaurant.save_model(bundle, tmp_path / "failing", pip_requirements=["mlflow"])
    url = client.create_deployment("failing", str(tmp_path / "failing"))["url"]

    answer = call(
        f"{url}/invocations",
        {"dataframe_split": {"columns": ["a"], "data": [[1]]}},
        headers={"x-request-id": "the-request"},
    )

    assert answer.status == 400
    assert "preprocess step 1 of 1 'no_such_thing' failed: KeyError: 'nothing'" in answer.json["message"]
    said = restaurant(client.home, "logs", "failing").out
    assert "Traceback (most recent call last)" in said
    assert "in no_such_thing" in said
    assert "request the-request got status 400" in said


def test_logs(client: RestaurantDeploymentClient, actor: Path) -> None:
    deployment = client.create_deployment("a", str(actor))
    do(deployment["url"], "print:one", "print:two", "print:three")
    log = client.home.deployment_log("a")
    eventually(lambda: "three\n" in log.read_text(), "the replica has printed")
    assert restaurant(client.home, "logs", "a", "-n", "2").out == "two\nthree\n"
    assert restaurant(client.home, "logs", "a", "-n", "0").out == ""
    done = restaurant(client.home, "logs", "a")
    assert (done.status, done.err) == (0, "")
    assert "revision 1 serves" in done.out
    assert restaurant(client.home, "logs", "a", "-n", "-1").status == 2
    client.delete_deployment("a")
    assert "three\n" in restaurant(client.home, "logs", "a").out


def test_logs_are_followed_until_ctrl_c(client: RestaurantDeploymentClient, actor: Path) -> None:
    url = client.create_deployment("a", str(actor))["url"]
    do(url, "print:before")
    eventually(lambda: "before\n" in client.home.deployment_log("a").read_text(), "the replica has printed")
    follow = (COMMAND, "-t", f"restaurant:{client.home.path}", "logs", "a", "-f", "-n", "1")
    with running(*follow) as logs:
        logs.line("before")
        do(url, "print:after")
        logs.line("after")
        assert logs.end(signal.SIGINT) == INTERRUPTED
    assert logs.said.startswith("before\nafter\n")
    assert "Traceback" not in logs.said


@pytest.mark.parametrize(
    "name", ["nobody", "../server", "../deployments/a", "a/../a", "..", "", "n" * 300, "a\n"]
)
def test_logs_of_what_is_no_deployment(client: RestaurantDeploymentClient, name: str) -> None:
    log = client.home.deployment_log("a")
    log.write_text("of a deployment\n")
    done = restaurant(client.home, "logs", name)
    assert done.out == ""
    assert "There is no log" in done.error or "name of a deployment" in done.error


@pytest.fixture
def versions(actor: Path) -> Iterator[str]:
    """A registered model with two versions; its URI by alias, which names the first."""
    registry, name = MlflowClient(), "spam-filter"
    registry.create_registered_model(name)
    for _ in range(2):
        registry.create_model_version(name, str(actor))
    registry.set_registered_model_alias(name, "champion", "1")
    yield f"models:/{name}@champion"
    registry.delete_registered_model(name)


def test_history(client: RestaurantDeploymentClient, actor: Path, versions: str) -> None:
    client.create_deployment("a", versions)
    MlflowClient().set_registered_model_alias("spam-filter", "champion", "2")
    client.update_deployment("a", versions, config={"reason": "better\n\033[31mred"})
    with pytest.raises(Exception, match="fell ill"):
        client.update_deployment("a", str(actor), config={"model_config": '{"at_load": "raise"}'})
    revisions = json.loads(restaurant(client.home, "history", "a", "--json").out)
    assert [(r["revision"], r["state"], r["model_version"]) for r in revisions] == [
        (3, "DEPLOY_FAILED", None),
        (2, "SERVING", "2"),
        (1, "SUPERSEDED", "1"),
    ]
    done = restaurant(client.home, "history", "a")
    assert (done.status, done.err) == (0, "")
    rows = [line.split() for line in done.out.splitlines()]
    assert ["2", "SERVING", versions, "2"] in [row[:4] for row in rows]
    assert ["1", "SUPERSEDED", versions, "1"] in [row[:4] for row in rows]
    assert "the actor fell ill while loading" in done.out
    assert "revision 2: better \N{REPLACEMENT CHARACTER}[31mred\n" in done.out
    assert "'nobody'" in restaurant(client.home, "history", "nobody").error


def test_endpoints(client: RestaurantDeploymentClient, actor: Path) -> None:
    home = client.home
    for name in ("a", "b"):
        client.create_deployment(name, str(actor))
    created = restaurant(home, "endpoints", "create", "e")
    assert created.out.startswith("Endpoint e: no deployments yet, at http://127.0.0.1:")
    updated = restaurant(home, "endpoints", "update", "e", "--traffic", "a=90,b=10")
    assert updated.out.startswith("Endpoint e: a 90 %, b 10 %, at http://127.0.0.1:")
    listed = restaurant(home, "endpoints", "list")
    assert any(line.split()[:7] == ["e", "a", "90", "%,", "b", "10", "%"] for line in listed.out.splitlines())
    assert json.loads(restaurant(home, "endpoints", "list", "--json").out) == client.list_endpoints()
    assert restaurant(home, "endpoints", "create", "f", "--traffic", '{"a": 100}').error.startswith("Error: ")
    assert "'e' exists already" in restaurant(home, "endpoints", "create", "e").error
    assert "100, not 90" in restaurant(home, "endpoints", "update", "e", "--traffic", "a=90").error
    assert "--traffic a=90,b=10" in restaurant(home, "endpoints", "update", "e").error
    assert "'g'" in restaurant(home, "endpoints", "update", "g", "--traffic", "a=100").error
    assert client.get_endpoint("e")["traffic"] == {"a": 90, "b": 10}
    for _ in range(2):
        deleted = restaurant(home, "endpoints", "delete", "e")
        assert (deleted.status, deleted.out, deleted.err) == (0, "Endpoint e is deleted.\n", "")
    assert client.list_endpoints() == []


def test_an_error_is_one_line_and_debug_shows_where_it_came_from(home_of_tests: Home) -> None:
    plain = restaurant(home_of_tests, "history", "nobody")
    assert plain.status == 1
    assert plain.error.startswith("Error: There is no deployment 'nobody' here; known: ")
    told = restaurant(home_of_tests, "--debug", "history", "nobody")
    assert told.status != 0
    assert told.err.startswith("Traceback")
    assert "There is no deployment 'nobody' here" in told.err


def test_the_command_without_a_server_that_can_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    home = Home(tmp_path / "file")
    for command in (("up",), ("history", "a"), ("endpoints", "list"), ("up", "--foreground"), ("demo",)):
        assert f"The home {home.path} can't be used" in restaurant(home, *command).error
    assert "use 'restaurant'" in run(COMMAND, "-t", "sagemaker", "status").error


def test_unknown_commands_and_options_are_refused(home_of_tests: Home) -> None:
    for wrong in (("upp",), ("up", "--no"), ("logs",), ("endpoints", "make"), ("history", "a", "b")):
        done = restaurant(home_of_tests, *wrong)
        assert done.status == 2
        assert "Error: " in done.err
        assert "Traceback" not in done.err


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("path", list(_commands(main)), ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...]) -> None:
    done = run(COMMAND, *path, "-h")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"Usage: mlflow-restaurant{''.join(f' {p}' for p in path)} [OPTIONS]")
    assert done.out == run(COMMAND, *path, "--help").out


def test_version() -> None:
    assert re.fullmatch(r"mlflow-restaurant, version \d+\.\d+\.\d+\S*\n", run(COMMAND, "--version").out)


def test_a_reader_that_goes_away_is_no_error_worth_words(home: Home) -> None:
    log = home.deployment_log("a")
    log.parent.mkdir(parents=True)
    log.write_text("a line of a log\n" * 100_000)
    pipe = f"{COMMAND} -t restaurant:{home.path} logs a -n 100000 | head -1"
    done = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("a line of a log\n", "")


def on_terminal(home: Home, *arguments: str) -> list[str]:
    """Return the lines that a command shows on a terminal of 80 columns, without their colours."""
    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        command = [str(COMMAND), "-t", f"restaurant:{home.path}", *arguments]
        os.execve(COMMAND, command, {**environment, "TERM": "xterm-256color"})
    said = b""
    while True:
        try:
            said += os.read(terminal, 65536)
        except OSError:  # how a terminal says that nobody writes to it any more
            break
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode()).replace("\r", "").splitlines()


def test_tables_fit_a_terminal_of_80_columns(
    client: RestaurantDeploymentClient, actor: Path, versions: str
) -> None:
    client.create_deployment("spam-filter-canary", versions, config={"replicas": 2}, endpoint="mail")
    client.create_deployment("spam-filter", versions)
    do(client.get_deployment("spam-filter")["url"], "x")
    with pytest.raises(Exception, match="fell ill"):
        client.update_deployment("spam-filter", str(actor), config={"model_config": '{"at_load": "raise"}'})
    client.update_endpoint("mail", {"traffic": "spam-filter=90,spam-filter-canary=10"})

    status = on_terminal(client.home, "status")
    table = status[next(n for n, line in enumerate(status) if "state" in line) :]
    rows = [line.split() for line in table]
    assert rows[0] == [
        "name",
        "state",
        "rev",
        "version",
        "replicas",
        "req/s",
        "p50",
        "ms",
        "p95",
        "ms",
        "errors",
    ]
    assert ["spam-filter-canary", "HEALTHY", "1", "1", "2/2"] in [row[:5] for row in rows]
    assert ["spam-filter", "HEALTHY", "1", "1", "1/1"] in [row[:5] for row in rows]

    history = on_terminal(client.home, "history", "spam-filter")
    cells = " ".join(history).split()
    assert {"SERVING", "DEPLOY_FAILED", "1", "2"} <= set(cells)
    assert versions in cells
    assert "ill" in cells

    endpoints = on_terminal(client.home, "endpoints", "list")
    assert {"mail", "spam-filter", "90", "spam-filter-canary", "10"} <= set(" ".join(endpoints).split())

    messages = ("spam-filter: ", "revision 2: ")  # below the tables, as sentences that the terminal folds
    for line in (line for line in (*table, *history, *endpoints) if not line.startswith(messages)):
        assert len(line) <= WIDTH
        assert "…" not in line


def test_the_unit_file_starts_a_server_that_ends_with_sigterm(home: Home) -> None:
    done = run(COMMAND, "--target", f"restaurant:{home.path}", "up", "--systemd")
    assert (done.status, done.err) == (0, "")
    assert not processes_of(home)
    line = next(line for line in done.out.splitlines() if line.startswith("ExecStart="))
    process = subprocess.Popen(
        shlex.split(line.removeprefix("ExecStart=")), stdout=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        assert process.stdout is not None
        assert "The server runs at" in process.stdout.readline()
        assert ControlClient(home).is_running()
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert not processes_of(home)
