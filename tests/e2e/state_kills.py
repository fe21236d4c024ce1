"""Changes of a deployment during which the controller is killed, and what must hold when another one has taken over."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow.exceptions import MlflowException

from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.errors import RestaurantError
from mlflow_restaurant.home import Home
from mlflow_restaurant.process.faults import VARIABLE
from mlflow_restaurant.process.records import read_records

from ..support import Load, do, eventually, processes_of, records, temporary_home
from .conftest import own_client

NAME, BESIDE, ENDPOINT = "a", "beside", "door"
PASSAGES = 2
"""A point is tried at its first passages of a change, up to so many."""
QUICK = {"bake_s": "0.4", "min_requests": "1000"}
LONG = {"bake_s": "3000"}
SETTLE_S = 60.0
AFTERMATH_S = 0.5
PAUSE_S = 0.01


class Server:
    """A home whose controller obeys a file of faults, with one deployment that no change touches."""

    def __init__(self, home: Home, model: Path) -> None:
        self.home, self.model = home, str(model)
        self.faults = home.path / "faults"
        self.client, self.control = own_client(home), ControlClient(home)

    def start(self) -> None:
        self.client.create_deployment(BESIDE, self.model)

    def url(self, name: str) -> str:
        return f"{self.control.status()['url']}/deployments/{name}"

    def create(self, **config: str) -> None:
        self.client.create_deployment(NAME, self.model, config=config)

    def update(self, **config: str) -> None:
        self.client.update_deployment(NAME, config={"timeout_s": "50", **config})

    def order(self, text: str) -> None:
        """Say what happens at fault points from now on."""
        temporary = self.faults.with_suffix(".tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.faults)

    def clean(self) -> None:
        """Take away what a change worked on."""
        self.control.ensure_running()
        for endpoint in self.client.list_endpoints():
            self.client.delete_endpoint(endpoint["name"])
        self.client.delete_deployment(NAME)


@contextlib.contextmanager
def serving(model: Path) -> Iterator[Server]:
    """Give a server that can be killed at fault points."""
    with temporary_home() as home, pytest.MonkeyPatch.context() as patch:
        server = Server(home, model)
        patch.setenv(VARIABLE, str(server.faults))
        server.start()
        yield server


@dataclass(frozen=True)
class Kind:
    """One kind of change.

    Attributes:
        prepare: brings about what is there before it.
        change: makes it; a controller that dies makes it raise an error.
        lasts: whether the deployment is there before, and must be there, and answer, all the time.
    """

    name: str
    prepare: Callable[[Server], Any]
    change: Callable[[Server], Any]
    lasts: bool = True


def two(server: Server) -> None:
    server.create(replicas="2")


def updated(server: Server) -> None:
    two(server)
    server.update()


def asleep(server: Server) -> None:
    server.create(idle_timeout_s="0.3")
    eventually(lambda: not server.client.get_deployment(NAME)["replicas"], "it sleeps")


def fall_asleep(server: Server) -> None:
    server.update(idle_timeout_s="0.3")
    first = records(server.home, "controller")
    # The next controller would die at the same point, and so would those after it.
    eventually(
        lambda: (
            records(server.home, "controller") != first or not server.client.get_deployment(NAME)["replicas"]
        ),
        "it sleeps, or the controller is dead",
    )


def wake(server: Server) -> None:
    """Ask; should the controller die, another is started, as the next command would, while the caller waits."""
    url, first = server.url(NAME), records(server.home, "controller")
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(do, url, "x")
        while not asking.done():
            if records(server.home, "controller") != first:
                server.order("")
                server.control.ensure_running()
                break
            time.sleep(PAUSE_S)
        assert asking.result().status == 200


def on_trial(server: Server) -> None:
    """Have a canary that goes on for long, and whose command is given up by a kill of the controller."""
    two(server)
    with ThreadPoolExecutor(1) as pool:
        update = pool.submit(server.update, strategy="canary", **LONG)
        eventually(lambda: (server.client.get_deployment(NAME)["rollout"] or {}).get("step"), "it is tried")
        kill(server)
        with contextlib.suppress(MlflowException, RestaurantError):
            update.result()
    server.control.ensure_running()
    eventually(lambda: (server.client.get_deployment(NAME)["rollout"] or {}).get("step"), "it is tried again")


def abort_half_way(server: Server) -> None:
    """Give a rolling update up when a replica of the new revision has taken the place of an old one."""
    with ThreadPoolExecutor(1) as pool:
        update = pool.submit(server.update, model_config='{"load_s": 0.5}')
        while not update.done() and not _is_half_way(server):
            time.sleep(PAUSE_S)
        server.control.abort(NAME, lambda _: None)
        update.result()


def _is_half_way(server: Server) -> bool:
    found = server.client.get_deployment(NAME)
    return any(r["state"] == "RUNNING" and r["revision"] > found["revision"] for r in found["replicas"])


def endpoint_life(server: Server) -> None:
    split = {"traffic": f"{BESIDE}=50,{NAME}=50"}
    server.client.create_endpoint(ENDPOINT, split)
    server.client.update_endpoint(ENDPOINT, {"traffic": f"{BESIDE}=90,{NAME}=10"})
    server.client.delete_endpoint(ENDPOINT)


def down_and_up(server: Server) -> None:
    server.control.down()
    server.control.ensure_running()


KINDS = (
    Kind("create", lambda s: None, two, lasts=False),
    Kind("rolling update", two, lambda s: s.update()),
    Kind("joining an endpoint", two, lambda s: s.client.update_deployment(NAME, endpoint=ENDPOINT)),
    Kind("update that fails", two, lambda s: s.update(model_config='{"at_load": "raise"}')),
    Kind("canary", two, lambda s: s.update(strategy="canary", canary_steps="25,75", **QUICK)),
    Kind("shadow", two, lambda s: s.update(strategy="shadow", **QUICK)),
    Kind("promote", on_trial, lambda s: s.control.promote(NAME, lambda _: None)),
    Kind("abort", on_trial, lambda s: s.control.abort(NAME, lambda _: None)),
    Kind("abort of a rolling update", two, abort_half_way),
    Kind("canary over one that sleeps", asleep, lambda s: s.update(strategy="canary", **QUICK)),
    Kind("rollback", updated, lambda s: s.control.rollback(NAME, None, lambda _: None)),
    Kind("more replicas", lambda s: s.create(), lambda s: s.update(replicas="3")),
    Kind("sleep", lambda s: s.create(), fall_asleep),
    Kind("waking", asleep, wake),
    Kind("endpoint", two, endpoint_life),
    Kind("delete", two, lambda s: s.client.delete_deployment(NAME), lasts=False),
    Kind("down and up", two, down_and_up, lasts=False),
)


def kill(server: Server) -> None:
    """Kill the controller, if one runs."""
    for pid in records(server.home, "controller"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def points(server: Server, kind: Kind) -> list[tuple[str, int]]:
    """Return the fault points that a change passes, each with the numbers of its first passages."""
    passed = Path(f"{server.faults}.passed")
    kind.prepare(server)
    passed.unlink(missing_ok=True)
    server.order("record")
    with contextlib.suppress(MlflowException, RestaurantError):
        kind.change(server)
    time.sleep(AFTERMATH_S)  # what is stopped goes after the change has been told of
    server.order("")
    counts = Counter(passed.read_text(encoding="utf-8").splitlines())
    server.clean()
    return [
        (name, passage) for name, count in counts.items() for passage in range(1, min(count, PASSAGES) + 1)
    ]


@dataclass
class Outcome:
    """What came of one kill: whether the controller died by it, what was told, and what was wrong afterwards."""

    died: bool
    told: str
    violations: list[str]


def try_point(server: Server, kind: Kind, point: str, passage: int) -> Outcome:
    """Make a change whose controller dies at the given passage of a point."""

    def end(controller: int) -> None:
        with contextlib.suppress(psutil.TimeoutExpired, psutil.NoSuchProcess):
            psutil.Process(controller).wait(
                AFTERMATH_S
            )  # what is stopped goes after the change has been told of

    return _try(server, kind, lambda: server.order(f"kill {point} {passage}"), end)


def try_moment(server: Server, kind: Kind, draw: random.Random) -> Outcome:
    """Make a change and kill its controller some time after it has begun."""
    timer = threading.Timer(draw.uniform(0, 1.2), kill, [server])
    return _try(server, kind, timer.start, lambda _: timer.join())


def _try(server: Server, kind: Kind, begin: Callable[[], None], end: Callable[[int], None]) -> Outcome:
    kind.prepare(server)
    before = _numbers(server) if kind.name != "create" else []
    url = server.url(NAME)
    watched = [Load(server.url(BESIDE), callers=1, pause_s=PAUSE_S)]
    if kind.lasts and kind.name not in ("sleep", "waking"):
        watched.append(Load(url, callers=2, pause_s=PAUSE_S))
    (first,) = records(server.home, "controller")
    with contextlib.ExitStack() as stack:
        for load in watched if kind.name != "down and up" else []:
            stack.enter_context(load.running())
        begin()
        try:
            kind.change(server)
            told = ""
        except (MlflowException, RestaurantError) as e:
            told = e.message
        end(first)
        server.order("")
        server.control.ensure_running()
        died = records(server.home, "controller") != [first]
        violations = _settled(server, kind, before)
    violations += [f"failed requests: {load.failures()}" for load in watched if load.failures()]
    server.clean()
    return Outcome(died, told, violations)


def _numbers(server: Server) -> list[int]:
    return [r["revision"] for r in server.control.history(NAME)]


def _settled(server: Server, kind: Kind, before: list[int]) -> list[str]:
    """Wait until nothing is under way any more; returns what is not as it must be then."""
    found: list[str] = []
    try:
        eventually(lambda: _is_at_rest(server), "it is at rest", SETTLE_S)
    except AssertionError:
        found.append(f"it does not come to rest: {server.client.list_deployments()}")
    there = [d for d in server.client.list_deployments() if d["name"] == NAME]
    if kind.name in ("create", "delete") and not there:
        return found + _left_over(server)
    if not there:
        return [*found, "the deployment is gone"]
    return found + _history(server, there[0], before) + _answers(server, there[0]) + _left_over(server)


def _is_at_rest(server: Server) -> bool:
    deployments = {d["name"]: d for d in server.client.list_deployments()}
    deployment = deployments.get(NAME)
    if deployment is not None and (deployment["rollout"] or {}).get("step") and _bakes_long(deployment):
        server.control.abort(NAME, lambda _: None)
        return False
    return all(d["rollout"] is None and d["state"] == "HEALTHY" for d in deployments.values()) and all(
        r["state"] == "RUNNING" and r["revision"] == d["revision"]
        for d in deployments.values()
        for r in d["replicas"]
    )


def _bakes_long(deployment: dict[str, Any]) -> bool:
    return deployment["rollout"]["strategy"] == "canary" and not deployment["rollout"].get("passed")


def _history(server: Server, deployment: dict[str, Any], before: list[int]) -> list[str]:
    history = server.control.history(NAME)
    numbers = [r["revision"] for r in history]
    states = Counter(r["state"] for r in history)
    serving = [r["revision"] for r in history if r["state"] == "SERVING"]
    found = []
    if numbers != list(range(max(numbers), 0, -1)) or not set(before) <= set(numbers):
        found.append(f"revisions {numbers} after {before}")
    if serving != [deployment["revision"]] or states["PENDING"]:
        found.append(f"states of revisions: {dict(states)}, serving {serving}, told {deployment['revision']}")
    with contextlib.closing(sqlite3.connect(server.home.database)) as database:
        if (integrity := database.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
            found.append(f"the database: {integrity}")
    return found


def _answers(server: Server, deployment: dict[str, Any]) -> list[str]:
    """Ask some times: only the revision that is said to serve answers."""
    answers = [do(deployment["url"], "x") for _ in range(10)]
    found = Counter((a.status, a.headers.get("x-mlflow-revision")) for a in answers)
    return [] if set(found) == {(200, str(deployment["revision"]))} else [f"answers: {dict(found)}"]


def _left_over(server: Server) -> list[str]:
    """Return what processes are there, unless they are those that are wanted."""

    def surplus() -> list[str]:
        known = {r.pid for r in read_records(server.home.run) if r.alive()}
        wanted = {
            r["pid"] for d in server.client.list_deployments() for r in d["replicas"] if r["pid"] is not None
        }
        replicas = set(records(server.home, "replica"))
        jobs = set(records(server.home, "job"))
        unknown = [p for p in processes_of(server.home) if p.pid not in known]
        told = [text for process in unknown if (text := _described(process))]
        return told + [str(pid) for pid in (replicas - wanted) | jobs]

    try:
        eventually(lambda: not surplus(), "nothing is left over", SETTLE_S)
    except AssertionError:
        return [f"left over: {surplus()}"]
    return []


def _described(process: psutil.Process) -> str:
    """Return a process and its command; empty for one that has just ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return f"{process} ({process.cmdline()})"
    return ""
