"""Scores JSON in the thread that reads it, one request after another on a connection.

On the way from an event loop to a thread and back a small request waits twice until somebody wakes up, which takes
longer than to read it and to write its answer. So each connection has a thread here, which reads a request, calls the
model and writes what comes out. Anything but JSON posted to ``/invocations`` goes to the event loop, from the first
byte of that request on, and so does all that follows on that connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import socket
import threading
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mlflow_restaurant.process.merging import COUNTS, TURN
from mlflow_restaurant.process.protocol import AT_ONCE, STATUS_LINES
from mlflow_restaurant.replica.model_guard import IN_TURN
from mlflow_restaurant.replica.traces import TRACES

READ_SIZE = 1 << 18
PAUSE_S = 0.1
"""Time until the next try when no connection can be accepted, for instance for lack of descriptors."""
FAILED = (
    b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 21\r\nconnection: close\r\n\r\nInternal Server Error"
)

Answer = Callable[[bytes, bytes | None], tuple[int, bytes]]
Adopt = Callable[[socket.socket, bytes], None]


class NotPlain(Exception):
    """What was read is for the event loop."""


class Reader:
    """Reads plain scoring requests from a socket; `raw` is what was read of the present one."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.parser = httptools.HttpRequestParser(self)
        self._next_request()

    def _next_request(self) -> None:
        self.raw: list[bytes] = []
        self.parts: list[bytes] = []
        self.url = b""
        self.begun = 0
        self.content_types: list[bytes] = []
        self.plain, self.complete, self.keep_alive = True, False, True
        self.in_turn = False
        self.counts: bytes | None = None

    def next(self) -> bytes | None:
        """Return the body of the next request, or None when the caller has gone.

        Raises:
            NotPlain: it is no JSON to score.
        """
        self._next_request()
        while not self.complete:
            data = self.connection.recv(READ_SIZE)
            if not data:
                return None
            self.raw.append(data)
            try:
                self.parser.feed_data(data)
            except (httptools.HttpParserError, httptools.HttpParserUpgrade):
                raise NotPlain from None
            if self.begun > 1 or not self.plain:
                raise NotPlain
        self.raw = []
        return self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)

    # -- from the parser

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-type":
            self.content_types.append(value)
        elif name == TURN:
            self.in_turn = True
        elif name == COUNTS:
            self.counts = value
        elif name in (b"expect", b"transfer-encoding"):
            self.plain = False

    def on_headers_complete(self) -> None:
        self.keep_alive = self.parser.should_keep_alive()
        if (
            self.url != b"/invocations"
            or self.content_types != [b"application/json"]
            or self.parser.get_method() != b"POST"
            or self.parser.get_http_version() != "1.1"
        ):
            self.plain = False

    def on_body(self, body: bytes) -> None:
        self.parts.append(body)

    def on_message_complete(self) -> None:
        self.complete = True


class Connection:
    """One connection and its thread.

    Args:
        connection: a blocking socket.
        answer: returns status and content for a body, and for the value of the header `COUNTS`.
        turn: limits how many predictions are made at a time.
        adopt: takes the socket over, with what was read of a request that is not scored here.
        on_end: called, in the thread, when the connection is closed or was taken over.
    """

    def __init__(
        self,
        connection: socket.socket,
        answer: Answer,
        turn: threading.Semaphore,
        adopt: Adopt,
        on_end: Callable[[Connection], None],
    ) -> None:
        self.connection, self.answer, self.turn = connection, answer, turn
        self.adopt, self.on_end = adopt, on_end
        self.closing = False

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True, name="scoring").start()

    def shutdown(self) -> None:
        """Close the connection, after the answer that is on its way; called by uvicorn."""
        self.closing = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RD)

    def _run(self) -> None:
        reader = Reader(self.connection)
        try:
            with contextlib.suppress(OSError):  # the caller has gone
                self._serve(reader)
            self.connection.close()
        except NotPlain:
            self.adopt(self.connection, b"".join(reader.raw))
        finally:
            self.on_end(self)

    def _serve(self, reader: Reader) -> None:
        while not self.closing:
            body = reader.next()
            if body is None:
                return
            with self.turn:
                content = contextvars.copy_context().run(self._scored, body, reader.counts, reader.in_turn)
            self.connection.sendall(content)
            if not reader.keep_alive or content is FAILED:
                return

    def _scored(self, body: bytes, counts: bytes | None, in_turn: bool) -> bytes:
        IN_TURN.set(in_turn)
        try:
            status, content = self.answer(body, counts)
        except Exception as e:  # what MLflow's server answers with a bare 500
            TRACES.print(e)
            return FAILED
        return b"%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
            STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status,
            len(content),
            content,
        )


class Adopted(HttpToolsProtocol):
    """uvicorn's protocol for a connection of which something was read already."""

    def __init__(self, read: bytes, **options: Any) -> None:
        super().__init__(**options)
        self.read = read

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.loop.call_soon(self.data_received, b"")

    def data_received(self, data: bytes) -> None:
        data, self.read = self.read + data, b""
        if data:
            super().data_received(data)


class Listener:
    """Accepts connections and gives each a thread, until it is cancelled.

    Args:
        bound: a listening socket.
        answer: see `Connection`.
        server: the uvicorn server that serves what is not plain, and waits at its end for all connections.
    """

    def __init__(self, bound: socket.socket, answer: Answer, server: Any) -> None:
        self.bound, self.answer, self.server = bound, answer, server
        self.turn = threading.Semaphore(AT_ONCE)
        self.loop = asyncio.get_running_loop()
        self.adopting: set[asyncio.Task[None]] = set()

    async def accept(self) -> None:
        self.bound.setblocking(False)
        with self.bound:
            while True:
                try:
                    accepted, _ = await self.loop.sock_accept(self.bound)
                    self._serve(accepted)
                except (OSError, RuntimeError):  # no descriptor, or no thread
                    await asyncio.sleep(PAUSE_S)

    def _serve(self, accepted: socket.socket) -> None:
        accepted.setblocking(True)
        connection = Connection(accepted, self.answer, self.turn, self._hand_over, self._ended)
        try:
            connection.start()
        except RuntimeError:
            accepted.close()
            raise
        self.server.server_state.connections.add(connection)

    def _ended(self, connection: Connection) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(self.server.server_state.connections.discard, connection)

    def _hand_over(self, connection: socket.socket, read: bytes) -> None:
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._adopt, connection, read)

    def _adopt(self, connection: socket.socket, read: bytes) -> None:
        task = self.loop.create_task(self._connect(connection, read))
        self.adopting.add(task)
        task.add_done_callback(self.adopting.discard)

    async def _connect(self, connection: socket.socket, read: bytes) -> None:
        server = self.server

        def protocol() -> asyncio.Protocol:
            return Adopted(
                read, config=server.config, server_state=server.server_state, app_state=server.lifespan.state
            )

        connection.setblocking(False)
        with contextlib.suppress(OSError):
            await self.loop.connect_accepted_socket(protocol, connection)
