"""What the connections of one server have in common: the gateway, their number, idle times, and text that is written often."""

from __future__ import annotations

import asyncio
import resource
import time
from typing import TYPE_CHECKING, Any

from mlflow_restaurant.errors import RestaurantError
from mlflow_restaurant.gateway.answers import Reply, error_reply
from mlflow_restaurant.gateway.bounded import BoundedProtocol
from mlflow_restaurant.gateway.calls import PATH, new_request_id
from mlflow_restaurant.gateway.connection import Connection
from mlflow_restaurant.gateway.router import Address, parse_path
from mlflow_restaurant.gateway.upstream import Headers
from mlflow_restaurant.process.protocol import STATUS_LINES

if TYPE_CHECKING:
    from mlflow_restaurant.gateway.app import Gateway

SWEEP_S = 5.0
KEPT_PATHS = 4096
MAX_KEPT_PATH = 512
RESERVED = 64
"""Descriptors that callers' connections leave for replicas, logs and the controller."""
NO_REASON = b"HTTP/1.1 %d \r\n"


class Lane:
    """The connections of one server.

    Args:
        gateway: answers the requests.
        keep_alive_s: time after which a connection that nothing comes from, or that takes no answer, is closed.
    """

    def __init__(self, gateway: Gateway, keep_alive_s: float) -> None:
        self.gateway, self.keep_alive_s = gateway, keep_alive_s
        self.leaving = False
        self.connections: set[Connection] = set()
        self.bounded: set[BoundedProtocol] = set()
        self.max_connections = max_connections()
        self.sweeping: asyncio.TimerHandle | None = None
        self.paths: dict[bytes, tuple[Address, str]] = {}
        self.dated: list[tuple[bytes, bytes]] | None = None
        self.date = b""
        self.headers: Headers | None = None
        self.block = b""

    def connect(self, config: Any, server_state: Any, app_state: Any, _loop: Any = None) -> Connection:
        """Make the protocol of a new connection; called by uvicorn."""

        def other() -> asyncio.Protocol:
            return BoundedProtocol(self, config, server_state, app_state, _loop)

        return Connection(self, server_state, other)

    def address(self, url: bytes) -> tuple[Address, str] | None:
        """Return what a URL addresses, and its prefix, if it is nothing but the scoring of a deployment or endpoint."""
        found = self.paths.get(url)
        if found is None:
            address = parse_path(url.decode("latin-1"))
            if address is None or address.rest != PATH:
                return None
            found = address, address.prefix
            if len(url) <= MAX_KEPT_PATH:
                if len(self.paths) >= KEPT_PATHS:
                    self.paths.clear()
                self.paths[url] = found
        return found

    # -- connections

    def leave(self) -> None:
        """Let the next answer on each connection be the last."""
        self.leaving = True
        for connection in self.bounded:
            connection.end_with_this()

    def add(self, connection: Connection) -> None:
        self.connections.add(connection)
        if self.sweeping is None:
            self.sweeping = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def is_full(self) -> bool:
        """Tell whether there are more connections than may be."""
        return len(self.connections) + len(self.bounded) > self.max_connections

    def _sweep(self) -> None:
        self.sweeping = None
        now = time.monotonic()
        swept: list[Connection | BoundedProtocol] = [*self.connections, *self.bounded]
        for connection in swept:
            if self._is_stalled(connection, now):
                connection.transport.abort()  # to close it would wait for the caller
            else:
                connection.expire(now)
        if self.connections or self.bounded:
            self.sweeping = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _is_stalled(self, connection: Connection | BoundedProtocol, now: float) -> bool:
        """Tell whether a caller has taken nothing of what was written to it for a long time."""
        unsent = connection.transport.get_write_buffer_size()
        if not unsent or unsent != connection.unsent:
            connection.unsent, connection.moved = unsent, now
        return bool(unsent) and connection.moved < now - self.keep_alive_s

    # -- answers

    def written(
        self, reply: Reply, default_headers: Headers, request_id: bytes, *, keep_alive: bool
    ) -> bytes:
        """Return an answer as it goes to a caller."""
        return b"%bcontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b" % (
            self._head(reply, default_headers),
            len(reply.body),
            request_id,
            b"" if keep_alive else b"connection: close\r\n",
            reply.body,
        )

    def refusal(self, error: RestaurantError, default_headers: Headers) -> bytes:
        """Return the last answer on a connection."""
        return self.written(error_reply(error), default_headers, new_request_id(), keep_alive=False)

    def _head(self, reply: Reply, default_headers: Headers) -> bytes:
        """Return the status line and those headers that are the same for all replies of a batch."""
        if reply.headers is not self.headers:
            self.headers, self.block = reply.headers, _written(reply.headers)
        if default_headers is not self.dated:
            self.dated, self.date = default_headers, _written(default_headers)
        status = STATUS_LINES.get(reply.status) or NO_REASON % reply.status
        return status + self.date + self.block


def max_connections() -> int:
    """Return how many connections of callers this process can hold."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(limit - RESERVED, limit // 2) if limit != resource.RLIM_INFINITY else 1 << 62


def _written(headers: Headers) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])
