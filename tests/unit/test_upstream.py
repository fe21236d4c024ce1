"""The client of the replicas: whole answers, and what becomes of connections that end, break or say what they should not."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mlflow_restaurant.entities import ReplicaRoute
from mlflow_restaurant.gateway.upstream import (
    Answer,
    ConnectFailed,
    Connection,
    ConnectionBroken,
    Message,
    Upstream,
)
from mlflow_restaurant.process.merging import COUNTS, TURN

LONG_S = 10.0
POST = Message("POST", "/invocations", [(b"content-type", b"application/json")], b"{}")
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclass
class Replica:
    """A server that answers each request with the next of its answers; None closes the connection."""

    path: Path
    answers: list[list[bytes | None]]
    got: list[bytes] = field(default_factory=list)
    connections: int = 0
    ended: int = 0

    @property
    def route(self) -> ReplicaRoute:
        return ReplicaRoute(key="a", socket=str(self.path))

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(x[15:]) for x in head.split(b"\r\n") if x.startswith(b"content-length:")), 0
                )
                self.got.append(head + await reader.readexactly(length))
                parts = self.answers.pop(0) if self.answers else [OK]
                for part in parts:
                    if part is None:
                        raise ConnectionError
                    writer.write(part)
                    await asyncio.sleep(0.001)
        self.ended += 1
        writer.close()


Test = Callable[[Replica, Upstream], Awaitable[None]]
Run = Callable[..., None]


@pytest.fixture
def run() -> Iterator[Run]:
    directory = Path(tempfile.mkdtemp(prefix="g"))

    @contextlib.asynccontextmanager
    async def site(answers: tuple[list[bytes | None], ...]) -> AsyncIterator[tuple[Replica, Upstream]]:
        replica, upstream = Replica(directory / "a", list(answers)), Upstream()
        server = await asyncio.start_unix_server(replica.connected, str(replica.path), limit=1 << 22)
        yield replica, upstream
        await upstream.close()
        server.close()
        while replica.ended < replica.connections:
            await asyncio.sleep(0.001)

    async def at_a_site(test: Test, answers: tuple[list[bytes | None], ...]) -> None:
        async with site(answers) as (replica, upstream):
            await asyncio.wait_for(test(replica, upstream), 10)

    yield lambda test, *answers: asyncio.run(at_a_site(test, answers))
    shutil.rmtree(directory)


@pytest.mark.parametrize(
    ("parts", "body"),
    [
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", b"lo"], b"hello"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"], b""),
        (
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n", b"2\r\nlo\r\n0\r\n\r\n"],
            b"hello",
        ),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"], b"hello"),
        ([b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo", None], b"hello"),
        ([b"HTTP/1.0 200 OK\r\n\r\nhello", None], b"hello"),
    ],
)
def test_whole_answers(run: Run, parts: list[bytes | None], body: bytes) -> None:
    async def test(replica: Replica, upstream: Upstream) -> None:
        assert await upstream.send(replica.route, POST, LONG_S) == Answer(200, [], body)
        assert (await upstream.send(replica.route, POST, LONG_S)).body == b"ok"

    run(test, parts)


def test_one_connection_for_one_request_after_another(run: Run) -> None:
    async def test(replica: Replica, upstream: Upstream) -> None:
        for _ in range(5):
            await upstream.send(replica.route, POST, LONG_S)
        assert replica.connections == 1

        await asyncio.gather(*[upstream.send(replica.route, POST, LONG_S) for _ in range(3)])
        assert replica.connections == 3

        await upstream.send(replica.route, POST, LONG_S, fresh=True)
        assert replica.connections == 4
        assert b"connection: close\r\n" in replica.got[-1]

    run(test)


def test_what_is_sent(run: Run) -> None:
    async def test(replica: Replica, upstream: Upstream) -> None:
        headers = [(b"host", b"x"), (b"content-length", b"9"), (b"te", b"y"), (b"a", b"1"), (b"a", b"\xe9")]
        headers += [(TURN, b"1"), (COUNTS, b"7")]  # those are not a caller's to give
        await upstream.send(replica.route, Message("POST", "/p?q=%20", headers, b"{}"), LONG_S)
        await upstream.send(replica.route, Message("GET", "/ping", [], b""), LONG_S)
        large = bytes(300_000)
        await upstream.send(replica.route, Message("POST", "/p", [], large), LONG_S)

        assert replica.got[0] == (
            b"POST /p?q=%20 HTTP/1.1\r\nhost: replica\r\na: 1\r\na: \xc3\xa9\r\ncontent-length: 2\r\n\r\n{}"
        )
        assert replica.got[1] == b"GET /ping HTTP/1.1\r\nhost: replica\r\n\r\n"
        assert replica.got[2].endswith(large)

        merged = Message("POST", "/p", [], b"", in_turn=True, counts=b"1,2")
        await upstream.send(replica.route, merged, LONG_S)
        assert replica.got[3] == (
            b"POST /p HTTP/1.1\r\nhost: replica\r\ncontent-length: 0\r\n"
            b"x-restaurant-turn: 1\r\nx-restaurant-counts: 1,2\r\n\r\n"
        )

    run(test)


def test_headers_come_back_in_their_order(run: Run) -> None:
    async def test(replica: Replica, upstream: Upstream) -> None:
        answer = await upstream.send(replica.route, POST, LONG_S)

        assert answer.headers == [
            (b"set-cookie", b"a=1"),
            (b"content-type", b"text/plain"),
            (b"set-cookie", b"b=2"),
        ]

    run(
        test,
        [
            b"HTTP/1.1 200 OK\r\nDate: x\r\nServer: y\r\nSet-Cookie: a=1\r\nContent-Type: text/plain \r\n"
            b"Set-Cookie: b=2\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok"
        ],
    )


def test_the_answer_to_head_has_no_body(run: Run) -> None:
    async def test(replica: Replica, upstream: Upstream) -> None:
        answer = await upstream.send(replica.route, Message("HEAD", "/ping", [], b""), LONG_S)

        assert answer == Answer(200, [(b"content-length", b"7")], b"")
        assert (await upstream.send(replica.route, POST, LONG_S)).body == b"ok"

    run(test, [b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"])


@pytest.mark.parametrize(
    "parts",
    [
        [None],
        [b"HTTP/1.1 200 OK\r\nContent-Le", None],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", None],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n", None],
        [b"nonsense\r\n\r\n"],
        [b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"],
    ],
)
def test_answers_that_break_off(run: Run, parts: list[bytes | None]) -> None:
    async def test(replica: Replica, upstream: Upstream) -> None:
        with pytest.raises(ConnectionBroken):
            await upstream.send(replica.route, POST, LONG_S)

        assert (await upstream.send(replica.route, POST, LONG_S)).body == b"ok"
        assert replica.connections == 2

    run(test, parts)


def test_a_connection_that_is_closed_after_an_answer_is_not_used_again(run: Run) -> None:
    async def test(replica: Replica, upstream: Upstream) -> None:
        for _ in range(2):
            assert (await upstream.send(replica.route, POST, LONG_S)).body == b"ok"
            while upstream.pools["a", False]:
                await asyncio.sleep(0.001)

        assert replica.connections == 2

    run(test, [OK, None], [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"])


@pytest.mark.parametrize("parts", [[OK, OK], [OK + OK], [OK + OK + OK]])
def test_what_nobody_asked_for_ends_the_connection(run: Run, parts: list[bytes | None]) -> None:
    async def test(replica: Replica, upstream: Upstream) -> None:
        assert (await upstream.send(replica.route, POST, LONG_S)).body == b"ok"
        while upstream.pools["a", False]:
            await asyncio.sleep(0.001)

        assert (await upstream.send(replica.route, POST, LONG_S)).body == b"ok"

    run(test, parts)


def test_json_to_score_has_connections_of_its_own(run: Run) -> None:
    async def test(replica: Replica, upstream: Upstream) -> None:
        score = Message("POST", "/invocations", [(b"content-type", b"application/json")], b"{}", plain=True)
        for message in (score, Message("GET", "/ping", [], b""), score, score):
            await upstream.send(replica.route, message, LONG_S)
        assert replica.connections == 2
        assert {key: len(pool) for key, pool in upstream.pools.items()} == {("a", True): 1, ("a", False): 1}

        await upstream.forget("a")
        while replica.ended < 2:
            await asyncio.sleep(0.001)
        assert upstream.pools == {}

    run(test)


def test_nobody_there(run: Run) -> None:
    async def test(replica: Replica, upstream: Upstream) -> None:
        with pytest.raises(ConnectFailed):
            await upstream.send(ReplicaRoute(key="b", socket=str(replica.path) + "b"), POST, LONG_S)

    run(test)


def test_time_is_over(run: Run) -> None:
    async def test(replica: Replica, upstream: Upstream) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await upstream.send(replica.route, POST, 0.02)

        assert (await upstream.send(replica.route, POST, LONG_S)).body == b"ok"
        assert replica.connections == 2

    run(test, [])


def test_a_caller_who_gives_up_leaves_no_connection_behind(run: Run) -> None:
    async def test(replica: Replica, upstream: Upstream) -> None:
        task = asyncio.ensure_future(upstream.send(replica.route, POST, LONG_S))
        while not replica.got:
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait([task])
        while not replica.ended:
            await asyncio.sleep(0.001)

        assert task.cancelled()

    run(test, [])


def test_a_replica_that_leaves_is_forgotten(run: Run) -> None:
    async def test(replica: Replica, upstream: Upstream) -> None:
        await upstream.send(replica.route, POST, LONG_S)
        await upstream.forget("a")
        while not replica.ended:
            await asyncio.sleep(0.001)

        assert upstream.pools == {}

    run(test)


def test_a_connection_that_is_used_again_at_once_is_left_alone() -> None:
    """The next request may have it before whoever waited for the last answer runs again."""

    class Transport(asyncio.Transport):
        def __init__(self) -> None:
            super().__init__()
            self.aborted = False

        def write(self, data: bytes | bytearray | memoryview) -> None: ...

        def is_closing(self) -> bool:
            return self.aborted

        def abort(self) -> None:
            self.aborted = True

    async def test() -> None:
        pool: list[Connection] = []
        connection, transport = Connection(pool), Transport()
        connection.connection_made(transport)
        first = asyncio.ensure_future(connection.ask(POST, LONG_S))
        await asyncio.sleep(0)

        connection.data_received(OK)
        assert pool.pop() is connection
        second = connection.ask(POST, LONG_S)
        second.send(None)  # begins at once, as in the same turn of the loop
        assert (await first).body == b"ok"

        assert not transport.aborted
        assert connection.answer is not None
        connection.data_received(OK.replace(b"ok", b"so"))
        with pytest.raises(StopIteration) as ended:
            second.send(None)
        assert ended.value.value.body == b"so"

    asyncio.run(test())


def test_a_replica_that_closes_before_anything_is_sent_is_not_there() -> None:
    class Closed(asyncio.Transport):
        """As uvloop's: to write when the other end has closed is an error of its own."""

        def is_closing(self) -> bool:
            return True

        def write(self, data: bytes | bytearray | memoryview) -> None:
            raise RuntimeError("unable to perform operation on <UnixTransport closed=True>")

    async def ask() -> None:
        connection = Connection(None)
        connection.connection_made(Closed())
        await connection.ask(Message("GET", "/ping", [], b""), 5.0)

    with pytest.raises(ConnectFailed):
        asyncio.run(ask())
