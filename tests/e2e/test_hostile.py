"""Whatever callers send, or don't: it costs no other caller an answer, and no process its life.

In full: ``pytest tests/e2e/test_hostile.py -s --hostile full``
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
import pandas as pd
import psutil
import pytest
from sklearn.linear_model import LinearRegression

from mlflow_restaurant.home import Home

from ..support import call, eventually, records, temporary_home
from .attacks import NAME, PATH, get, request, rows
from .conftest import BIN, own_client, run
from .hostile import PATIENCE_S, Attackers, Honest, receive_one, room_for

SEED = 20_261_124
TIMEOUT_S = 10
MEMORY = 200 << 20
SLOWEST_S = 10.0
LATE_HEAD_S = 45.0
"""Time in which a head that never ends is refused: 30 s, and what it takes to notice."""


@dataclass(frozen=True)
class Form:
    """How much is sent; `heads` that never end as well, which takes half a minute."""

    requests: int
    connections: int
    heads: bool


FORMS = {"short": Form(3000, 1000, heads=False), "full": Form(100_000, 10_000, heads=True)}


@dataclass(frozen=True)
class Site:
    """A server with one deployment, whose predictions are 2 a + 10 b."""

    home: Home
    url: str

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    @property
    def gateway(self) -> psutil.Process:
        (pid,) = records(self.home, "gateway")
        return psutil.Process(pid)

    def processes(self) -> dict[str, list[int]]:
        return {kind: sorted(records(self.home, kind)) for kind in ("controller", "gateway", "replica")}

    def logged(self) -> int:
        """Return the size of all logs, in which no error of ours may stand."""
        assert "Traceback" not in self.home.server_log.read_text()
        return sum(path.stat().st_size for path in self.home.logs.rglob("*") if path.is_file())

    def waiting(self) -> float:
        text = call(self.url.partition("/deployments")[0] + "/metrics").body.decode()
        return sum(
            map(float, re.findall(r"^mlflow_restaurant_waiting_requests{.*} (.*)$", text, re.MULTILINE))
        )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "b": [0.0, 1.0, 0.0, 1.0]})
    path = tmp_path_factory.mktemp("models") / "linear"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.sklearn.save_model(
            LinearRegression().fit(frame, 2 * frame["a"] + 10 * frame["b"]),
            path,
            pip_requirements=["mlflow", "scikit-learn"],
            signature=mlflow.models.infer_signature(frame, [1.0]),
            input_example=frame,
        )
    return path


def serve(home: Home, model: Path) -> Site:
    made = own_client(home).create_deployment(NAME, str(model), config={"timeout_s": TIMEOUT_S})
    assert made["batching"]["chosen"] == "on"
    return Site(home, made["url"])


@pytest.fixture(scope="module")
def site(model: Path) -> Iterator[Site]:
    with temporary_home() as home:
        yield serve(home, model)


@pytest.fixture(scope="module")
def form(pytestconfig: pytest.Config) -> Form:
    return FORMS[pytestconfig.getoption("hostile")]


@contextlib.contextmanager
def unharmed(site: Site) -> Iterator[None]:
    """Check that at the end of the block the server is as it was at its beginning."""
    site.waiting()
    processes, descriptors = site.processes(), site.gateway.num_fds()
    memory = site.gateway.memory_info().rss
    yield
    eventually(lambda: site.waiting() == 0, "nobody waits")
    eventually(lambda: site.gateway.num_fds() <= descriptors + 10, "descriptors are given back")
    assert site.processes() == processes
    found = own_client(site.home).get_deployment(NAME)
    assert found["state"] == "HEALTHY"
    assert [replica["restarts"] for replica in found["replicas"]] == [0]
    grown = site.gateway.memory_info().rss - memory
    print(
        f"gateway: {memory >> 20} MiB before, {grown / (1 << 20):+.1f} MiB; logs: {site.logged() >> 10} KiB"
    )
    assert grown < MEMORY


async def drippers(attackers: Attackers, form: Form) -> None:
    """Requests that never end, in small pieces; returns when the server has refused them all."""
    bodies = [
        (request(rows(1.0))[:-20], b" "),
        (request(b"", b"Transfer-Encoding: chunked", length=False), b"1\r\n \r\n"),
    ]
    heads = [
        (b"POST " + PATH + b" HTTP/1.1\r\n", b"x: y\r\n"),
        (b"GET /", b"a"),
        (b"\r\n", b"\r\n"),
        (request(b" ", b"Content-Length: 100000", path=b"/nowhere", length=False), b" "),
    ]
    drips = [*bodies, *(heads if form.heads else [])]
    await asyncio.wait_for(
        asyncio.gather(*(attackers.drip(*drip, every_s=0.25) for drip in drips for _ in range(20))),
        LATE_HEAD_S,
    )


@pytest.mark.alone
@pytest.mark.timeout(1800)
def test_hostile_requests_cost_nobody_else_an_answer(site: Site, form: Form) -> None:
    attackers, honest = Attackers(*site.address, SEED), Honest(*site.address)

    async def siege() -> None:
        async with honest.asking():
            await asyncio.gather(attackers.attack(form.requests), drippers(attackers, form))

    with unharmed(site):
        began = time.monotonic()
        asyncio.run(siege())
        took_s = time.monotonic() - began
    print(f"{sum(attackers.sent.values())} hostile requests in {took_s:.0f} s: {dict(attackers.sent)}")
    print(f"answers: {dict(attackers.statuses)}")
    print(f"honest: {honest.right} right, slowest {honest.slowest_s:.2f} s, failed: {honest.failures[:5]}")
    assert attackers.wrong == []
    assert honest.failures == []
    assert honest.right > 10 * took_s
    assert honest.slowest_s < SLOWEST_S


@pytest.mark.alone
@pytest.mark.timeout(600)
def test_open_connections_keep_nobody_out(site: Site, form: Form) -> None:
    number = form.connections
    honest = Honest(*site.address)

    async def crowd() -> None:
        writers = []
        beginnings = [b"", b"POST ", request(rows(1.0))[:-5], get(b"/ping")[:-2]]
        async with honest.asking():
            for count in range(number):
                source = (f"127.0.0.{2 + count % 8}", 0) if sys.platform == "linux" else None
                _, writer = await asyncio.open_connection(*site.address, local_addr=source)
                writer.write(beginnings[count % len(beginnings)])
                writers.append(writer)
            eventually(lambda: site.gateway.num_fds() > number, "they are all there")
            await honest.more(200)
            latecomer = Honest(*site.address)
            async with latecomer.asking((1,)):
                await latecomer.more(10)
            assert latecomer.failures == []
            for writer in writers:
                writer.close()

    with room_for(number), unharmed(site):
        asyncio.run(crowd())
    print(f"{number} connections; honest: {honest.right} right, slowest {honest.slowest_s:.2f} s")
    assert honest.failures == []
    assert honest.slowest_s < SLOWEST_S


def test_few_descriptors(model: Path) -> None:
    """Connections beyond what there are descriptors for are refused; what serves goes on serving."""
    with temporary_home() as home:
        command = [BIN / "mlflow-restaurant", "-t", f"restaurant:{home.path}", "up"]
        done = run("sh", "-c", 'ulimit -n 256 && exec "$@"', "sh", *command)
        assert done.status == 0, done.err
        site = serve(home, model)
        honest = Honest(*site.address)

        async def crowd() -> None:
            async with honest.asking((1, 100)):
                await honest.more(10)
                several = [await asyncio.open_connection(*site.address) for _ in range(400)]
                last = several[-1][0]
                status, body = await asyncio.wait_for(receive_one(last), PATIENCE_S)
                assert status == 503, body
                await honest.more(100)
                for _, writer in several:
                    writer.close()

        with unharmed(site):
            asyncio.run(crowd())
        assert honest.failures == []


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of another process can be set on Linux only")
def test_no_descriptors(site: Site) -> None:
    """Connections that can't be accepted at all keep the gateway neither from serving nor busy."""
    honest = Honest(*site.address)
    gateway = site.gateway

    async def crowd() -> None:
        soft, hard = gateway.rlimit(psutil.RLIMIT_NOFILE)
        async with honest.asking((1, 100)):
            await honest.more(10)
            gateway.rlimit(psutil.RLIMIT_NOFILE, (gateway.num_fds() + 3, hard))
            several = [socket.create_connection(site.address) for _ in range(50)]
            before = gateway.cpu_times().user + gateway.cpu_times().system
            began, right = time.monotonic(), honest.right
            await honest.more(100)
            busy = gateway.cpu_times().user + gateway.cpu_times().system - before
            print(f"busy {busy:.2f} s of {time.monotonic() - began:.2f} s, {honest.right - right} answers")
            gateway.rlimit(psutil.RLIMIT_NOFILE, (soft, hard))
            for connection in several:
                connection.close()

    with unharmed(site):
        asyncio.run(crowd())
    assert honest.failures == []
    assert call(f"{site.url}/ping").status == 200
