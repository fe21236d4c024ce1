"""One gateway process: how it is started, told to begin, and talked to."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from mlflow_restaurant.home import Home
from mlflow_restaurant.process.child import Child
from mlflow_restaurant.process.records import record_path
from mlflow_restaurant.process.spawn_launcher import SpawnLauncher

CALL_TIMEOUT_S = 5.0
GRACE_S = 5.0
"""Time for what is in flight when a gateway is asked to stop."""
END_S = GRACE_S + 3
"""Time until a gateway that was asked to stop is killed: it takes leave of its callers first (`process.http`)."""
UNREACHABLE = (aiohttp.ClientError, OSError, asyncio.TimeoutError)
"""What a call of a gateway that does not answer as it should raises."""


class Gateway:
    """One gateway process, started or adopted."""

    def __init__(self, home: Home, key: str) -> None:
        self.home, self.key = home, key
        self.acknowledged = -1
        self.session: aiohttp.ClientSession | None = None

    @property
    def control(self) -> Path:
        return self.home.run / f"{self.key}.sock"

    @property
    def handover(self) -> Path:
        return self.home.run / f"{self.key}.fd"

    async def call(
        self, method: str, path: str, payload: Any = None, timeout_s: float = CALL_TIMEOUT_S
    ) -> Any:
        """Send one request to the gateway.

        Raises:
            aiohttp.ClientError, OSError, asyncio.TimeoutError: it does not answer as it should.
        """
        if self.session is None:
            self.session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(self.control)))
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        async with self.session.request(
            method, f"http://gateway{path}", json=payload, timeout=timeout, raise_for_status=True
        ) as response:
            return await response.json()

    async def close(self) -> None:
        if self.session is not None:
            await self.session.close()
            self.session = None


@dataclass
class Launched:
    """A gateway process that has been started, and does nothing until it is told to begin."""

    gateway: Gateway
    child: Child
    word: int

    def begin(self) -> None:
        """Let it serve.

        Raises:
            OSError: it has ended.
        """
        os.write(self.word, b"!")

    def close(self) -> None:
        """Say no more; one that was not told to begin ends."""
        if self.word >= 0:
            os.close(self.word)
        self.word = -1


async def launch(home: Home, listener: socket.socket, max_bodies_mb: float) -> Launched:
    """Start a gateway of a home on a port, which waits for the word to begin.

    Args:
        max_bodies_mb: see `ServerSettings`.

    Raises:
        OSError: it can't be started.
    """
    gateway, fd = Gateway(home, f"g-{secrets.token_hex(3)}"), listener.fileno()
    begin_r, begin_w = os.pipe()
    args = {
        "fd": fd,
        "begin": begin_r,
        "control": str(gateway.control),
        "handover": str(gateway.handover),
        "admin": str(home.admin_socket),
        "record": str(record_path(home.records, gateway.key)),
        "logs": str(home.logs),
        "grace_s": GRACE_S,
        "max_bodies_mb": max_bodies_mb,
    }
    try:
        child = await SpawnLauncher().launch(
            "gateway",
            args,
            log=home.server_log,
            env={},
            title="mlflow_restaurant gateway",
            pass_fds=[fd, begin_r],
        )
    except BaseException:
        os.close(begin_w)
        raise
    finally:
        os.close(begin_r)
    return Launched(gateway, child, begin_w)
