"""A gateway's server on a port, with one replica, for tests of callers' connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mlflow_restaurant.entities import BatchRoute, DeploymentRoute, EndpointRoute, ReplicaRoute, RouteTable
from mlflow_restaurant.gateway.app import Gateway
from mlflow_restaurant.gateway.lane import Lane
from mlflow_restaurant.gateway.tracks import Track
from mlflow_restaurant.process.http import HttpServer

PATH = b"/deployments/d/invocations"
PATIENCE_S = 60.0


def body(value: float) -> bytes:
    return b'{"dataframe_split": {"columns": ["x"], "data": [[%a]]}}' % value


def post(
    content: bytes, *headers: bytes, path: bytes = PATH, method: bytes = b"POST", version: bytes = b"1.1"
) -> bytes:
    lines = [
        b"%b %b HTTP/%b" % (method, path, version),
        b"Host: x",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(content),
        *headers,
    ]
    return b"\r\n".join([*lines, b"", content])


def chunked(content: bytes, size: int, path: bytes = PATH) -> bytes:
    parts = [content[i : i + size] for i in range(0, len(content), size)]
    head = (
        b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        % path
    )
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@dataclass
class Got:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Caller:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def receive(self) -> Got:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        content = await self.reader.readexactly(int(headers["content-length"]))
        return Got(int(first.split(" ")[1]), headers, content)

    async def ask(self, data: bytes) -> Got:
        self.send(data)
        return await self.receive()

    async def ended(self) -> bool:
        return await self.reader.read() == b""


@dataclass
class Site:
    """A gateway on a port, with one replica that doubles numbers, or holds them back."""

    port: int
    server: HttpServer
    gateway: Gateway
    lane: Lane
    directory: Path
    batches: list[list[float]] = field(default_factory=list)
    callers: list[Caller] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)

    async def caller(self) -> Caller:
        caller = Caller(*await asyncio.open_connection("127.0.0.1", self.port))
        self.callers.append(caller)
        return caller

    def track(self) -> Track:
        """The track of the revision that serves deployment ``d``."""
        return self.gateway.tracks.of(self.gateway.table.deployments["d"])

    async def route(self, **changes: object) -> None:
        settings = {"timeout_s": 5.0, "max_queue": 100, "max_body_mb": 1.0, "model_version": "7", **changes}
        route = DeploymentRoute.model_validate(
            {
                "name": "d",
                "revision": 3,
                "batch": BatchRoute(max_rows=100, wait_ms=0, columns={"x": "double"}),
                "replicas": (ReplicaRoute(key="a", socket=str(self.directory / "a")),),
                **settings,
            }
        )
        table = RouteTable(
            version=self.gateway.table.version + 1,
            deployments={"d": route},
            endpoints={"e": EndpointRoute(name="e", traffic={"d": 100.0})},
        )
        await self.gateway.set_table(table)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0
                )
                content = await reader.readexactly(length)
                answer, status = b"\n", 200
                if content:
                    await self.open.wait()
                    status, answer = self.score(content)
                writer.write(
                    b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                    % (status, len(answer), answer)
                )
        writer.close()

    def score(self, content: bytes) -> tuple[int, bytes]:
        try:
            values = [row[0] for row in json.loads(content)["dataframe_split"]["data"]]
        except (ValueError, KeyError):
            return 400, b'{"error_code": "BAD_REQUEST", "message": "bad", "stack_trace": "secret"}'
        self.batches.append(values)
        return 200, json.dumps({"predictions": [2 * v for v in values]}).encode()


@contextlib.asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[Site]:
    gateway = Gateway(lambda _, text: logged.append(text), lambda *_: None, None)
    shared = Lane(gateway, 75)
    server = HttpServer(gateway, 1, shared.connect, shared.leave)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    site = Site(listener.getsockname()[1], server, gateway, shared, directory)
    replica = await asyncio.start_unix_server(site.answer, str(directory / "a"), limit=1 << 20)
    await site.route()
    site.open.set()
    task = asyncio.ensure_future(server.serve([listener]))
    await server.ready.wait()
    try:
        yield site
    finally:
        site.open.set()
        for caller in site.callers:
            caller.writer.close()
        server.should_exit = True
        await task
        await gateway.upstream.close()
        replica.close()
        for _ in range(20):
            await asyncio.sleep(0)


logged: list[str] = []
Test = Callable[[Site], Awaitable[None]]
Run = Callable[[Test], None]


@pytest.fixture
def run() -> Iterator[Run]:
    directory = Path(tempfile.mkdtemp(prefix="g"))
    logged.clear()

    async def at_a_site(test: Test) -> None:
        async with serving(directory) as site:
            await asyncio.wait_for(test(site), PATIENCE_S)

    yield lambda test: asyncio.run(at_a_site(test))
    shutil.rmtree(directory)
