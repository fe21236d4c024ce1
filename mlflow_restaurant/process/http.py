"""An HTTP server that shares its event loop and leaves signals to its owner."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import uvicorn

BACKLOG = 2048
KEEP_ALIVE_S = 75
LINGER_S = 0.5
"""Time in which callers may still ask on the connections they have, when a server stops."""
LINGER_STEP_S = 0.05


class HttpServer(uvicorn.Server):
    """A uvicorn server; `ready` is set once it accepts connections.

    Args:
        app: the ASGI application.
        grace_s: time for what is in flight when asked to stop.
        connect: makes the protocol of a connection, from what uvicorn gives it; by default uvicorn's own.
        leave: called when the server stops and accepts no more connections: the next answer on each is the last. Then
            what callers send within `LINGER_S` is answered; without it, connections with no request are closed at once,
            also those whose request has arrived and was not read yet.
    """

    def __init__(
        self,
        app: Any,
        grace_s: float,
        connect: Callable[..., asyncio.Protocol] | None = None,
        leave: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=cast(Any, connect or "httptools"),
                proxy_headers=False,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=int(grace_s) + 1,
            )
        )
        self.ready = asyncio.Event()
        self.leave = leave

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.leave is not None:
            for server in self.servers:
                server.close()
            self.leave()
            await self._linger()
        await super().shutdown(sockets=sockets)

    async def _linger(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + LINGER_S
        await asyncio.sleep(LINGER_STEP_S)  # what was accepted last becomes a connection now
        while self.server_state.connections and loop.time() < end:
            await asyncio.sleep(LINGER_STEP_S)
        for _ in range(2):  # where this process was held up, what arrived meanwhile is read now
            await asyncio.sleep(0)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def raise_descriptor_limit() -> None:
    """Allow this process as many open connections as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def bind_unix(path: Path) -> socket.socket:
    """Return a listening socket at `path`, in place of whatever an ended process left there."""
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.bind(str(path))
    bound.listen(BACKLOG)
    bound.setblocking(False)
    return bound
