"""Connections to the replicas: for each replica one pool for JSON to score and one for all else, on its unix socket.

A small client of its own: for one request at a time on a unix socket to a known server, a general HTTP client takes
longer than all else that a gateway does for a request (0.2 of 0.3 ms). The parsing is httptools', as on the callers' side.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import cast

import httptools

from mlflow_restaurant.entities import ReplicaRoute
from mlflow_restaurant.process.merging import COUNTS, TURN

ORIGIN = "http://replica"
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
NOT_FORWARDED = HOP_BY_HOP | {b"host", b"content-length", b"expect", b"accept-encoding", TURN, COUNTS}
NOT_RETURNED = HOP_BY_HOP | {b"content-length", b"server", b"date"}
IN_TURN = TURN + b": 1"
SMALL = 1 << 16
"""Length of a body, in bytes, up to which it is copied to be written together with what comes before it."""

Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Message:
    """A request as it goes to a replica; `path` with its query, percent-encoded as the caller sent it.

    `plain` says that it is JSON to score: a replica takes other paths with connections on which anything else came.
    `in_turn` asks the replica for one prediction at a time, whatever other gateways send it. `counts` are the rows of each
    of the requests that were put together, where the replica must tell them apart.
    """

    method: str
    path: str
    headers: Headers
    body: bytes
    plain: bool = False
    in_turn: bool = False
    counts: bytes = b""


@dataclass(slots=True)
class Answer:
    """What a replica answered."""

    status: int
    headers: Headers
    body: bytes


class ConnectionBroken(Exception):
    """The replica ended the connection before it answered; the request may be sent to another."""


class ConnectFailed(ConnectionBroken):
    """There is nobody at the replica's socket; nothing was sent."""


class Hanging(ConnectionBroken):
    """The replica takes so much longer than it ever did that it was given up, though there is time left."""


class Connection(asyncio.Protocol):
    """One connection to a replica, for one request after another.

    Args:
        pool: where it waits between requests; None when it is closed after the first.
    """

    transport: asyncio.Transport

    def __init__(self, pool: list[Connection] | None) -> None:
        self.pool = pool
        self.parser = httptools.HttpResponseParser(self)
        self.answer: asyncio.Future[Answer] | None = None
        self.head_only = False
        self.headers: Headers = []
        self.parts: list[bytes] = []
        self.length: bytes | None = None
        self.headed = False

    async def ask(self, message: Message, timeout_s: float) -> Answer:
        """Send a request and return the answer; see `Upstream.send`."""
        if self.transport.is_closing():  # the replica just ended; to write would be an error of uvloop's own
            raise ConnectFailed("the replica closed the connection")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        self.answer = answer
        self.head_only = message.method == "HEAD"
        head = _head(message, keep=self.pool is not None)
        if len(message.body) <= SMALL:
            self.transport.write(head + message.body)
        else:
            self.transport.writelines([head, message.body])
        timer = loop.call_later(timeout_s, self._end, asyncio.TimeoutError())
        try:
            return await answer
        finally:
            timer.cancel()
            # Not so when the answer has come and the connection is in use for the next request already.
            if self.answer is answer:  # the caller was cancelled
                self._end(ConnectionBroken("given up"))

    def _end(self, error: BaseException | None = None) -> None:
        """Close the connection; an error is told to whoever waits for an answer."""
        answer, self.answer = self.answer, None
        if error is not None and answer is not None and not answer.done():
            answer.set_exception(error)
        if self.pool is not None:
            with contextlib.suppress(ValueError):
                self.pool.remove(self)
        self.transport.abort()

    # -- from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.answer is None:
            self._end()
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as e:
            self._end(ConnectionBroken(f"the replica's answer is no HTTP: {e}"))
        except httptools.HttpParserUpgrade:
            self._end(ConnectionBroken("the replica's answer changes the protocol"))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.answer is not None and self.headed and self.length is None and exc is None:
            self.on_message_complete()  # an answer without a length ends with the connection
        self._end(ConnectionBroken(str(exc) if exc else "the replica closed the connection"))

    # -- from the parser

    def on_message_begin(self) -> None:
        self.headers, self.parts, self.length, self.headed = [], [], None, False

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self.length = value
        self.headers.append((name, value.strip()))

    def on_headers_complete(self) -> None:
        self.headed = True
        if self.head_only:
            self._complete(keep=False)

    def on_body(self, body: bytes) -> None:
        self.parts.append(body)

    def on_message_complete(self) -> None:
        if self.parser.get_status_code() >= 200:
            self._complete(keep=self.pool is not None and self.parser.should_keep_alive())

    def _complete(self, *, keep: bool) -> None:
        answer, self.answer = self.answer, None
        if answer is None:  # nobody asked for this one
            self._end()
            return
        if not answer.done():
            dropped = NOT_RETURNED - {b"content-length"} if self.head_only else NOT_RETURNED
            headers = [header for header in self.headers if header[0] not in dropped]
            body = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
            answer.set_result(Answer(self.parser.get_status_code(), headers, body))
        if keep and self.pool is not None and not self.transport.is_closing():
            self.pool.append(self)
        else:
            self.transport.close()


class Upstream:
    """The connections to all replicas."""

    def __init__(self) -> None:
        self.pools: dict[tuple[str, bool], list[Connection]] = {}

    async def send(
        self, replica: ReplicaRoute, message: Message, timeout_s: float, *, fresh: bool = False
    ) -> Answer:
        """Send one request and return the whole answer.

        Args:
            fresh: use a new connection; MLflow's server may have closed any of the kept ones.

        Raises:
            ConnectFailed: the replica is not there.
            ConnectionBroken: the connection broke before the answer was complete.
            asyncio.TimeoutError: no complete answer within `timeout_s` seconds.
        """
        pool = self.pools.setdefault((replica.key, message.plain), [])
        while pool and not fresh:
            connection = pool.pop()
            if not connection.transport.is_closing():
                return await connection.ask(message, timeout_s)
        began = asyncio.get_running_loop().time()
        connection = await asyncio.wait_for(_connect(replica.socket, None if fresh else pool), timeout_s)
        left = timeout_s - (asyncio.get_running_loop().time() - began)
        return await connection.ask(message, max(0.001, left))

    async def forget(self, key: str) -> None:
        """Close the connections to a replica that gets no more requests."""
        for plain in (True, False):
            for connection in self.pools.pop((key, plain), []):
                connection.transport.close()

    async def close(self) -> None:
        """Close all connections that nothing is in flight on."""
        for key, _ in list(self.pools):
            await self.forget(key)


async def _connect(path: str, pool: list[Connection] | None) -> Connection:
    loop = asyncio.get_running_loop()
    try:
        _, connection = await loop.create_unix_connection(lambda: Connection(pool), path)
    except OSError as e:
        raise ConnectFailed(str(e) or type(e).__name__) from e
    return connection


def _head(message: Message, *, keep: bool) -> bytes:
    """Return the request line and headers; values that are not ASCII as UTF-8, which replicas undo."""
    lines = [f"{message.method} {message.path} HTTP/1.1".encode("latin-1"), b"host: replica"]
    for name, value in message.headers:
        if name not in NOT_FORWARDED:
            text = value if value.isascii() else value.decode("latin-1").encode()
            lines.append(b"%b: %b" % (name, text))
    if message.body or message.method == "POST":
        lines.append(b"content-length: %d" % len(message.body))
    if message.in_turn:
        lines.append(IN_TURN)
    if message.counts:
        lines.append(b"%b: %b" % (COUNTS, message.counts))
    if not keep:
        lines.append(b"connection: close")
    lines += [b"", b""]
    return b"\r\n".join(lines)
