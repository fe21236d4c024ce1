"""What several test modules need: temporary homes with a server, models to serve, and callers."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from prometheus_client.parser import text_string_to_metric_families

from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.home import Home
from mlflow_restaurant.process.records import read_records

PATIENCE_S = 180.0


@contextlib.contextmanager
def temporary_home() -> Iterator[Home]:
    """A home with a short path; at the end everything that runs in it is stopped, and must then be gone."""
    path = Path(tempfile.mkdtemp(prefix="mr-"))
    home = Home(path)
    try:
        yield home
    finally:
        ControlClient(home).down()
        left = processes_of(home)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        shutil.rmtree(path, ignore_errors=True)
        assert not left, f"processes left behind: {left}"


def processes_of(home: Home) -> list[psutil.Process]:
    """All processes that this home's server started, found by their command lines and their records."""
    found = {r.pid: r.process() for r in (read_records(home.run) if home.run.is_dir() else [])}
    mark = str(home.path)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            arguments = process.cmdline()
            if any(mark in a for a in arguments) and any("mlflow_restaurant" in a for a in arguments):
                found[process.pid] = process
    return [p for p in found.values() if p is not None and p.is_running()]


def run_python(
    *arguments: str, folder: Path, timeout_s: float = 240.0, env: dict[str, str] | None = None
) -> str:
    """Return what a fresh interpreter prints; when it fails, say what it wrote to stderr."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, f"it ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def records(home: Home, kind: str) -> list[int]:
    """Process ids of the living processes of a kind: controller, gateway, replica, forkserver."""
    return [r.pid for r in read_records(home.run) if r.kind == kind and r.alive()]


def eventually(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Return the first true value of `condition`; fail when there is none in time."""
    deadline = time.monotonic() + patience_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {patience_s:g} s: {what}"
        time.sleep(0.02)


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def predictions(self) -> Any:
        return self.json["predictions"]


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def merged_calls(url: str) -> tuple[int, int]:
    """Requests to a deployment that could be merged, and the calls in which they went to a replica."""
    origin, _, name = url.partition("/deployments/")
    families = text_string_to_metric_families(call(f"{origin}/metrics").body.decode())
    found = {
        sample.name: int(sample.value)
        for family in families
        for sample in family.samples
        if sample.labels.get("deployment") == name
    }
    requests = "mlflow_restaurant_batch_requests"
    return found.get(f"{requests}_sum", 0), found.get(f"{requests}_count", 0)


def call(
    url: str,
    payload: Any = None,
    *,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    method: str | None = None,
    timeout_s: float = PATIENCE_S,
) -> Answer:
    """Send one request on a connection of its own, JSON by default; every status is an answer."""
    data = body if body is not None else None if payload is None else json.dumps(payload).encode()
    sent = (
        {"Content-Type": "application/json", **(headers or {})} if data is not None else dict(headers or {})
    )
    request = urllib.request.Request(url, data=data, headers=sent, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout_s) as response:
            return Answer(response.status, _lower(response.headers), response.read())
    except urllib.error.HTTPError as e:
        with e:
            return Answer(e.code, _lower(e.headers), e.read())


def do(url: str, *actions: str, **options: Any) -> Answer:
    """Ask the actor model behind `url` to do something, one action a row."""
    return call(
        f"{url}/invocations",
        {"dataframe_split": {"columns": ["do"], "data": [[a] for a in actions]}},
        **options,
    )


class Slow:
    """A request to the actor model of which half has been sent."""

    def __init__(self, url: str, *actions: str, kind: str = "plain") -> None:
        """
        Args:
            kind: ``plain`` or ``chunked``, how the body is sent.
        """
        parts = urlsplit(url)
        payload = {"dataframe_split": {"columns": ["do"], "data": [[a] for a in actions]}}
        body = json.dumps(payload).encode()
        self.kind, self.rest = kind, body[len(body) // 2 :]
        self.connection = http.client.HTTPConnection(parts.netloc, timeout=PATIENCE_S)
        self.connection.putrequest("POST", f"{parts.path}/invocations")
        self.connection.putheader("Content-Type", "application/json")
        if kind == "chunked":
            self.connection.putheader("Transfer-Encoding", "chunked")
        else:
            self.connection.putheader("Content-Length", str(len(body)))
        self.connection.endheaders()
        self._send(body[: len(body) // 2])

    def _send(self, part: bytes) -> None:
        self.connection.send(b"%x\r\n%b\r\n" % (len(part), part) if self.kind == "chunked" else part)

    def answer(self) -> Answer:
        """Send the other half, and return what comes."""
        with contextlib.closing(self.connection):
            self._send(self.rest)
            if self.kind == "chunked":
                self.connection.send(b"0\r\n\r\n")
            got = self.connection.getresponse()
            return Answer(got.status, _lower(got.headers), got.read())


@dataclass
class Load:
    """Callers that ask again and again, and what they got."""

    url: str
    callers: int = 4
    action: str = "pid"
    pause_s: float = 0.0
    statuses: Counter[Any] = field(default_factory=Counter)
    seen: Counter[Any] = field(default_factory=Counter)

    @contextlib.contextmanager
    def running(self) -> Iterator[Load]:
        ended = threading.Event()
        threads = [threading.Thread(target=self._ask, args=(ended,)) for _ in range(self.callers)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            ended.set()
            for thread in threads:
                thread.join()

    def _ask(self, ended: threading.Event) -> None:
        while not ended.is_set():
            try:
                answer = do(self.url, self.action)
                self.statuses[answer.status] += 1
                self.seen[answer.headers.get("x-mlflow-revision")] += 1
            except (OSError, http.client.HTTPException) as e:
                self.statuses[repr(e)] += 1
            time.sleep(self.pause_s)

    def failures(self) -> dict[Any, int]:
        return {status: count for status, count in self.statuses.items() if status != 200}

    def wait_for(self, requests: int) -> None:
        """Wait until that many more requests were answered."""
        goal = sum(self.statuses.values()) + requests
        eventually(lambda: sum(self.statuses.values()) >= goal, f"{requests} more answers")
