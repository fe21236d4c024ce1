"""uvicorn's protocol for requests of every shape, with the limits that it lacks.

uvicorn reads a head of any size for any time, and makes an object of every request that was sent ahead of its answer.
Here a head, what stands between requests, and what a body has beside its content may have so many bytes and take so
long; the rest of a body that nobody reads any more may take that long as well (a body that is read has the time of its
deployment). What is sent ahead is read piece by piece, as answers go out. What is refused gets one answer in MLflow's
form, after those to the requests before it, and the connection is closed.
"""

from __future__ import annotations

import asyncio
import math
import time
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mlflow_restaurant.errors import HeadersTooLarge, InvalidRequest, RequestTimeout, RestaurantError

if TYPE_CHECKING:
    from mlflow_restaurant.gateway.lane import Lane

PIECE = 1 << 14
MAX_HEAD = 1 << 16
"""Bytes of a request's head that are always read; `PIECE` bytes more may be."""
HEAD_S = 30.0
"""Time for a head to arrive."""
LINGER_S = 2.0
"""Time after a refusal in which what still comes is dropped: to close at once could destroy the answer on its way."""
MAX_AHEAD = 64
"""Requests waiting for the answers before theirs from which nothing more is read."""


class _Part(Enum):
    """What of a request is read next."""

    NOTHING = auto()
    HEAD = auto()
    BODY = auto()


class _Flow(FlowControl):
    """Reads on only when nothing is left that was sent ahead."""

    def __init__(self, protocol: BoundedProtocol) -> None:
        super().__init__(protocol.transport)
        self.protocol = protocol

    def resume_reading(self) -> None:
        if not self.protocol.pipeline and not self.protocol.held:
            super().resume_reading()


class BoundedProtocol(HttpToolsProtocol):
    """One connection of a caller, from the first request on that is no plain scoring.

    Args:
        lane: what it has in common with others.
        args: see `HttpToolsProtocol`.
    """

    def __init__(self, lane: Lane, *args: Any) -> None:
        super().__init__(*args)
        self.lane = lane
        self.part = _Part.NOTHING
        self.due = math.inf
        self.useless = 0
        self.held = b""
        self.refused: RestaurantError | None = None
        self.unsent = 0
        self.moved = time.monotonic()

    # -- from the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(self)
        self.lane.bounded.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lane.bounded.discard(self)
        self.held = b""
        self._unset_keepalive_if_required()  # uvicorn leaves it running after a reset, and all of this in memory
        super().connection_lost(exc)
        self.url, self.headers = b"", []

    def data_received(self, data: bytes) -> None:
        data, self.held = self.held + data, b""
        for start in range(0, len(data), PIECE):
            if self.refused is not None or self.transport.is_closing():
                return
            if len(self.pipeline) >= MAX_AHEAD:
                self.held = data[start:]
                self.flow.pause_reading()
                return
            self._read(data[start : start + PIECE])
        self.flow.resume_reading()

    def _read(self, piece: bytes) -> None:
        if self.part is _Part.NOTHING and self.due == math.inf:
            self.due = time.monotonic() + HEAD_S
        super().data_received(piece)
        self.useless += len(piece)
        if self.useless > MAX_HEAD + PIECE:
            self._refuse(HeadersTooLarge(f"The headers of the request are larger than {MAX_HEAD >> 10} KiB."))

    # -- from the parser

    def on_message_begin(self) -> None:
        self.part, self.useless = _Part.HEAD, 0
        self.due = time.monotonic() + HEAD_S
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.part, self.due = _Part.BODY, math.inf
        if self.parser.should_upgrade() or self.lane.leaving:  # after an upgrade, the parser reads nothing
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self.useless = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.part, self.useless, self.due = _Part.NOTHING, 0, math.inf
        super().on_message_complete()

    # -- answers

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._is_answered():
            if self.refused is not None:
                self._send_refusal(self.refused)
                return
            self.due = math.inf if self.part is _Part.NOTHING else time.monotonic() + HEAD_S
        if self.held:
            self.loop.call_soon(self.data_received, b"")

    def send_400_response(self, msg: str) -> None:
        """Answer what uvicorn can't read; called by it."""
        self._refuse(InvalidRequest("This is no request of HTTP/1.1 that can be read."))

    def expire(self, now: float) -> None:
        """Give up a request that arrives too slowly; called by the lane."""
        if self.due >= now or self.transport.is_closing():
            return
        if self.refused is not None:
            self.transport.close()
        elif self._is_answered():
            self._refuse(RequestTimeout(f"The headers of the request did not arrive within {HEAD_S:g} s."))

    def end_with_this(self) -> None:
        """Let the answer that is on its way be the last, if no other request waits for its own; called by the lane."""
        if not self._is_answered() and not self.pipeline:
            self.cycle.keep_alive = False

    def _is_answered(self) -> bool:
        """Tell whether there is an answer to every request whose head was read."""
        return self.cycle is None or self.cycle.response_complete

    def _refuse(self, error: RestaurantError) -> None:
        """Read no more, and say why after the answers that are due before."""
        if self.refused is not None:
            return
        self.refused, self.due = error, math.inf
        broken = self.part is _Part.BODY and not self.pipeline and not self.cycle.response_started
        if self._is_answered() or broken:
            self._send_refusal(error)

    def _send_refusal(self, error: RestaurantError) -> None:
        cycle = self.cycle
        if self.part is _Part.BODY and cycle.response_complete:  # it was answered
            self.transport.close()
            return
        if not self._is_answered():  # nobody is to wait for the rest of it
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.write(self.lane.refusal(error, self.server_state.default_headers))
        self.transport.write_eof()
        self.due = time.monotonic() + LINGER_S
