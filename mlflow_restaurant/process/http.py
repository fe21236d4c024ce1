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


class HttpServer(uvicorn.Server):
    """A uvicorn server; `ready` is set once it accepts connections.

    Args:
        app: the ASGI application.
        grace_s: time for what is in flight when asked to stop.
        connect: makes the protocol of a connection, from what uvicorn gives it; by default uvicorn's own.
    """

    def __init__(
        self, app: Any, grace_s: float, connect: Callable[..., asyncio.Protocol] | None = None
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

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.ready.set()

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
