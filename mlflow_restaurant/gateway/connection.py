"""A caller's connection: plain scoring requests go straight to the queue, everything else is left to uvicorn.

An ASGI server makes a task, a scope and several messages for each request, which costs more than all else that a gateway
does for a small one. So as long as what a caller sends is one small scoring request after another, it is read here and
answered with one write. Whatever differs (another path or method, a body that is large or slow, requests sent ahead of
their answers, what is no HTTP) is handed to a protocol of uvicorn (`bounded`) from the first byte of that request on,
and so is the connection from then on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import httptools

from mlflow_restaurant.entities import DeploymentRoute
from mlflow_restaurant.errors import RestaurantError, Unavailable
from mlflow_restaurant.gateway.answers import error_reply
from mlflow_restaurant.gateway.calls import (
    PATH,
    SEVERAL,
    Call,
    Outcome,
    limit_of,
    new_request_id,
    request_id_of,
)
from mlflow_restaurant.gateway.room import SMALL, Share
from mlflow_restaurant.gateway.router import Address, Caller
from mlflow_restaurant.gateway.upstream import Headers

if TYPE_CHECKING:
    from mlflow_restaurant.gateway.batcher import Batcher
    from mlflow_restaurant.gateway.lane import Lane

MAX_REQUEST = 1 << 16
PATIENCE_S = 0.25
"""How long the rest of a request may take to arrive here."""
TOO_MANY = Unavailable("The server has as many connections as it can; close one, or try again later.")


class Connection(asyncio.Protocol):
    """One connection of a caller.

    Args:
        lane: what it has in common with others.
        state: of the uvicorn server.
        other: makes the protocol that takes over when something else than a plain scoring request comes.
    """

    transport: asyncio.Transport
    peer = ""

    def __init__(self, lane: Lane, state: Any, other: Callable[[], asyncio.Protocol]) -> None:
        self.lane, self.state, self.other = lane, state, other
        self.parser = httptools.HttpRequestParser(self)
        self.call: Call | None = None
        self.batcher: Batcher | None = None
        self.keep_alive = True
        self.has_id = False
        self.paused = False
        self.route: DeploymentRoute | None = None
        self.last = self.moved = time.monotonic()
        self.unsent = 0
        self.ahead: list[bytes] = []
        self.ahead_size = 0
        self.share: Share | None = None
        self.blocked = self.crowded = False
        self.patience: asyncio.TimerHandle | None = None
        self._next_request()

    def _next_request(self) -> None:
        self.raw: list[bytes] = []
        self.size = self.begun = 0
        self.headed = self.complete = self.last_one = False
        self.plain, self.named = True, False
        self.address: tuple[Address, str] | None = None
        self.url = self.body = b""
        self.content_type: bytes | None = None
        self.headers: Headers = []

    # -- from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else ""
        self.state.connections.add(self)
        self.lane.add(self)
        if self.lane.is_full():
            self.transport.write(self.lane.refusal(TOO_MANY, self.state.default_headers))
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        self._end_share()
        call, self.call = self.call, None
        if call is not None and self.batcher is not None and self.route is not None:
            self.batcher.give_up(call)
            self.lane.gateway.count(self.route, 499, call.started, time.monotonic())

    def data_received(self, data: bytes) -> None:
        if self.call is None and not self.blocked:
            self._read(data)
            return
        self.ahead.append(data)
        self.ahead_size += len(data)
        self.crowded = not self._has_room()
        self._pause_reading()

    def pause_writing(self) -> None:
        self.blocked = True
        self._pause_reading()

    def resume_writing(self) -> None:
        self.blocked = False
        self._pause_reading()
        if self.call is None and self.ahead and not self.transport.is_closing():
            self._go_on()

    def expire(self, now: float) -> None:
        """Close the connection when nothing comes from it any more; called by the lane."""
        if self.call is None and self.last < now - self.lane.keep_alive_s:
            self.transport.close()

    def shutdown(self) -> None:
        """Close the connection, after the answer that is on its way or whose request is; called by uvicorn."""
        self.keep_alive = False
        if self.call is None:
            if self.headed:
                self._hand_over()
            else:
                self.transport.close()

    # -- from the parser

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers.append((name, value))
        if name == b"content-type":
            self.content_type = value if self.content_type is None else SEVERAL
        elif name == b"expect":
            self.plain = False
        elif name == b"x-request-id":
            self.named = True

    def on_headers_complete(self) -> None:
        self.headed = True
        self.last_one = not self.parser.should_keep_alive()
        self.address = self.lane.address(self.url)
        if (
            self.address is None
            or self.parser.get_method() != b"POST"
            or self.parser.get_http_version() != "1.1"
        ):
            self.plain = False

    def on_body(self, body: bytes) -> None:
        self.body = self.body + body if self.body else body

    def on_message_complete(self) -> None:
        self.complete = True

    # -- one request after another

    def _read(self, data: bytes) -> None:
        self.raw.append(data)
        self.size += len(data)
        if self.size > SMALL and (self.size > MAX_REQUEST or not self._has_room()):
            self._hand_over()
            return
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._hand_over()
            return
        if self.begun > 1 or not self.plain:
            self._hand_over()
        elif self.complete:
            self._score()
        elif self.patience is None:
            self.patience = asyncio.get_running_loop().call_later(PATIENCE_S, self._hand_over)

    def _score(self) -> None:
        assert self.address is not None
        address, prefix = self.address
        gateway = self.lane.gateway
        self.call = call = Call(self.headers, self.body, PATH, prefix, self._answer, self.content_type)
        self.has_id = self.named
        self.route = None
        try:
            route = gateway.route_of(address, Caller(self.headers, self.peer))
            if len(self.body) > limit_of(route):
                self.call = None
                self._hand_over()
                return
            self.route = route
            self._begin()
            self.batcher = gateway.submit(route, call)
        except RestaurantError as e:
            self._begin()
            call.finish(e)

    def _begin(self) -> None:
        """Be ready for the next request; the answer to this one is on its way."""
        self._stop_waiting()
        if self.last_one:
            self.keep_alive = False
        self._next_request()

    def _answer(self, outcome: Outcome) -> None:
        """Write the answer to a request, and go on with the next."""
        call, self.call = self.call, None
        assert call is not None
        if self.share is not None:
            self._has_room()
        if isinstance(outcome, RestaurantError):
            reply = error_reply(outcome)
            if self.route is not None:
                reply.headers.append((b"x-mlflow-deployment", self.route.name.encode()))
        else:
            reply = outcome
        if self.lane.leaving and not self.ahead:
            self.keep_alive = False
        request_id = request_id_of(call.headers) if self.has_id else new_request_id()
        self.transport.write(
            self.lane.written(reply, self.state.default_headers, request_id, keep_alive=self.keep_alive)
        )
        self.last = now = time.monotonic()
        if self.route is not None:
            self.lane.gateway.count(self.route, reply.status, call.started, now)
            if reply.log:
                self.lane.gateway.log_reply(self.route.name, request_id, reply)
        if not self.keep_alive:
            self.transport.close()
        elif self.ahead and not self.blocked:
            self._go_on()

    def _go_on(self) -> None:
        """Read what came while the answer before it was on its way."""
        data, self.ahead, self.ahead_size = b"".join(self.ahead), [], 0
        self.crowded = False
        self._pause_reading()
        self._read(data)

    def _pause_reading(self) -> None:
        """Read no more while the caller does not read its answers, or has sent much, or more than there is room for, ahead."""
        paused = self.blocked or self.crowded or self.ahead_size > MAX_REQUEST
        if paused != self.paused and not self.transport.is_closing():
            self.paused = paused
            if paused:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def _has_room(self) -> bool:
        """Count what is held here of requests that are not answered; tells whether there is room for it.

        Where there is none, the request is handed over, and refused there.
        """
        size = self.size + self.ahead_size + (len(self.call.body) if self.call is not None else 0)
        if self.share is None:
            if size <= SMALL:
                return True
            self.share = Share(self.lane.gateway.room)
        return self.share.hold(size)

    def _end_share(self) -> None:
        if self.share is not None:
            self.share.end()
            self.share = None

    def _hand_over(self) -> None:
        """Let uvicorn read this request from its beginning, and all that follow."""
        self._forget()
        self._end_share()
        if self.paused and not self.transport.is_closing():
            self.transport.resume_reading()
        raw, self.ahead = b"".join([*self.raw, *self.ahead]), []
        self._next_request()
        del self.parser  # it and this hold each other, and what was read, until they are collected
        protocol = self.other()
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        if self.blocked:  # the transport says it once only
            protocol.pause_writing()
        protocol.data_received(raw)

    def _forget(self) -> None:
        self._stop_waiting()
        self.state.connections.discard(self)
        self.lane.connections.discard(self)

    def _stop_waiting(self) -> None:
        if self.patience is not None:
            self.patience.cancel()
            self.patience = None
