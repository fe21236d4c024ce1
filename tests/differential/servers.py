"""The two servers that are compared, each behind the same small face, and a client that sends one case."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import psutil

from mlflow_restaurant.home import Home
from mlflow_restaurant.replica.app import SHORTCUTS_VARIABLE

from ..support import merged_calls, records
from .compare import Answer
from .formats import Case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

HOST = "127.0.0.1"
STARTUP_TIMEOUT_S = 180.0
ANSWER_TIMEOUT_S = 60.0
CALLERS = 32
NO_ANSWER = 0
"""Status of what is no answer at all: no server gives it, so it differs from all that MLflow answers."""
DEAD_CONNECTION = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)


# -- client ----------------------------------------------------------------------------------------------------------


@dataclass
class Caller:
    """One caller: keeps its connections open, as a client library does, and follows one redirect."""

    connections: dict[str, http.client.HTTPConnection] = field(default_factory=dict)

    def send(self, base_url: str, case: Case) -> Answer:
        base = urllib.parse.urlsplit(base_url)
        answer, location = self.exchange(base.netloc, base.path + case.path, case)
        if location is None:
            return answer
        target = urllib.parse.urlsplit(urllib.parse.urljoin(base_url, location))
        return self.exchange(target.netloc, target.path, case)[0]

    def try_to_send(self, base_url: str, case: Case) -> Answer:
        """As `send`; a request without an answer gets one that says why, with the status `NO_ANSWER`."""
        try:
            return self.send(base_url, case)
        except (OSError, http.client.HTTPException) as error:
            return Answer(NO_ANSWER, None, repr(error).encode())

    def finish(self, base_url: str, case: Case, *, again: bool) -> Answer:
        """The answer to what was written; `again` allows a second try where the connection is dead."""
        try:
            answer, location = self.read(urllib.parse.urlsplit(base_url).netloc)
        except (KeyError, OSError, http.client.HTTPException) as error:
            if again and isinstance(error, (KeyError, *DEAD_CONNECTION)):
                return self.try_to_send(base_url, case)
            return Answer(NO_ANSWER, None, repr(error).encode())
        return answer if location is None else self.try_to_send(base_url, case)

    def exchange(self, address: str, path: str, case: Case) -> tuple[Answer, str | None]:
        used_before = address in self.connections
        try:
            return self.exchange_once(address, path, case)
        except DEAD_CONNECTION:
            if not used_before:
                raise
            # MLflow's server closes a connection after a bare 500 without saying so in the answer.
            return self.exchange_once(address, path, case)

    def exchange_once(self, address: str, path: str, case: Case) -> tuple[Answer, str | None]:
        self.write(address, path, case)
        return self.read(address)

    def write(self, address: str, path: str, case: Case) -> None:
        """Send a request; its answer is for `read`."""
        connection = self.connections.get(address)
        if connection is None:
            connection = http.client.HTTPConnection(address, timeout=ANSWER_TIMEOUT_S)
            self.connections[address] = connection
        try:
            connection.putrequest(case.method, path, skip_accept_encoding=True)
            for name, value in case.headers:
                connection.putheader(name, value)
            if chunked := ("Transfer-Encoding", "chunked") in case.headers:
                connection.endheaders(chunks(case.body), encode_chunked=chunked)
            else:
                connection.putheader("Content-Length", str(len(case.body)))
                connection.endheaders(case.body)
        except BaseException:
            self.forget(address)
            raise

    def read(self, address: str) -> tuple[Answer, str | None]:
        """The answer to what was written last, and where it redirects to."""
        try:
            response = self.connections[address].getresponse()
            answer = Answer(response.status, response.headers.get("Content-Type"), response.read())
        except BaseException:
            self.forget(address)
            raise
        return answer, response.headers.get("Location") if response.status in (307, 308) else None

    def forget(self, address: str) -> None:
        if connection := self.connections.pop(address, None):
            connection.close()

    def close(self) -> None:
        for address in list(self.connections):
            self.forget(address)


def chunks(body: bytes, size: int = 50) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


def send_at_once(
    requests: list[tuple[str, Case]],
    callers: int = CALLERS,
    held: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> list[Answer]:
    """Send all (base URL, case) pairs, `callers` at a time, and return the answers in the order of the pairs.

    A wave is written while the server is `held`: so all of it meet there, however busy this machine is.
    """
    senders = [Caller() for _ in range(callers)]
    try:
        answers: list[Answer] = []
        for start in range(0, len(requests), callers):
            answers += send_wave(senders, requests[start : start + callers], held)
        return answers
    finally:
        for sender in senders:
            sender.close()


def send_wave(
    senders: list[Caller], requests: list[tuple[str, Case]], held: Callable[[], AbstractContextManager[None]]
) -> list[Answer]:
    """One request from each sender. Where a connection used before dies, the request is sent anew by itself."""
    wave = [
        (sender, urllib.parse.urlsplit(url), case)
        for sender, (url, case) in zip(senders, requests, strict=False)
    ]
    used_before = [base.netloc in sender.connections for sender, base, _ in wave]
    with held():
        for sender, base, case in wave:
            with contextlib.suppress(*DEAD_CONNECTION):
                sender.write(base.netloc, base.path + case.path, case)
    return [
        sender.finish(url, case, again=again)
        for sender, (url, case), again in zip(senders, requests, used_before, strict=False)
    ]


# -- mlflow models serve ---------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def answers_ping(base_url: str) -> bool:
    caller = Caller()
    try:
        return caller.send(base_url, Case("", "ping", method="GET", path="/ping")).status == 200
    except OSError:
        return False
    finally:
        caller.close()


@contextlib.contextmanager
def mlflow_serve(model: Path, log: Path) -> Iterator[str]:
    """`mlflow models serve` for `model` on a free port; yields its base URL."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model)]
    command += ["--env-manager", "local", "--host", HOST, "-p", str(port)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=log.parent,
            env={**os.environ, "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"},
            start_new_session=True,
        )
    try:
        base_url = f"http://{HOST}:{port}"
        wait_until_ready(process, base_url, log)
        yield base_url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], base_url: str, log: Path) -> None:
    deadline = time.monotonic() + STARTUP_TIMEOUT_S
    while not answers_ping(base_url):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"`mlflow models serve` did not start: {log.read_text()[-2000:]}")
        time.sleep(0.1)


# -- what is compared with it ----------------------------------------------------------------------------------------


class Subject(Protocol):
    """A server of many models. `deploy` is called once for each, and returns the URL below which it answers.

    `deploy_plain` does so for the same models, served without anything that shortens MLflow's own way. `merged` tells how
    many requests to a URL went to a replica together with others, or None where nothing is ever merged. While it is `held`,
    the server takes in requests and works on none.
    """

    def deploy(self, name: str, model: Path) -> str: ...

    def deploy_plain(self, name: str, model: Path) -> str: ...

    def merged(self, url: str) -> int | None: ...

    def held(self) -> AbstractContextManager[None]: ...

    def close(self) -> None: ...


class Restaurant:
    """mlflow-restaurant, through its deployment plugin, in a home of its own; it merges whatever may be merged."""

    def __init__(self, home: Path) -> None:
        from mlflow.deployments import get_deploy_client

        self.home = home
        self.client = get_deploy_client(f"restaurant:{home}")

    def deploy(self, name: str, model: Path, **config: str) -> str:
        config = {"env_manager": "local", "batching": "on", **config}
        url: str = self.client.create_deployment(name, str(model), config=config)["url"]
        return url

    def deploy_plain(self, name: str, model: Path) -> str:
        return self.deploy(f"{name}-plain", model, **{f"env.{SHORTCUTS_VARIABLE}": "off"})

    def merged(self, url: str) -> int:
        requests, calls = merged_calls(url)
        return requests - calls

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        gateways = [psutil.Process(pid) for pid in records(Home(self.home), "gateway")]
        for gateway in gateways:
            gateway.suspend()
        try:
            yield
        finally:
            for gateway in gateways:
                gateway.resume()

    def close(self) -> None:
        from mlflow_restaurant.control.client import ControlClient

        ControlClient(self.home).down()


class MLflowItself:
    """A second `mlflow models serve` of each model: shows what MLflow does not answer the same way twice."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.running = contextlib.ExitStack()

    def deploy(self, name: str, model: Path) -> str:
        return self.running.enter_context(mlflow_serve(model, self.home / f"{name}.log"))

    deploy_plain = deploy

    def merged(self, url: str) -> None:
        return None

    def held(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def close(self) -> None:
        self.running.close()


SUBJECTS: dict[str, type[Restaurant] | type[MLflowItself]] = {
    "restaurant": Restaurant,
    "mlflow": MLflowItself,
}
