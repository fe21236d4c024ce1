"""Connections to the replicas: one pool a replica, on its unix socket.

The HTTP client is used here and nowhere else in the gateway.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from mlflow_restaurant.entities import ReplicaRoute

ORIGIN = "http://replica"
KEEP_ALIVE_S = 3600.0
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
NOT_FORWARDED = HOP_BY_HOP | {b"host", b"content-length", b"expect", b"accept-encoding"}
NOT_RETURNED = HOP_BY_HOP | {b"content-length", b"server", b"date"}

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Message:
    """A request as it goes to a replica; `path` with its query, percent-encoded as the caller sent it."""

    method: str
    path: str
    headers: Headers
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What a replica answered."""

    status: int
    headers: Headers
    body: bytes


class ConnectionBroken(Exception):
    """The replica ended the connection before it answered; the request may be sent to another."""


class ConnectFailed(ConnectionBroken):
    """There is nobody at the replica's socket; nothing was sent."""


class Upstream:
    """The connection pools of all replicas; of each one that keeps connections, and one that does not."""

    def __init__(self) -> None:
        self.pools: dict[tuple[str, bool], aiohttp.ClientSession] = {}

    def _pool(self, replica: ReplicaRoute, fresh: bool) -> aiohttp.ClientSession:
        pool = self.pools.get((replica.key, fresh))
        if pool is None:
            connector = (
                aiohttp.UnixConnector(path=replica.socket, limit=0, force_close=True)
                if fresh
                else aiohttp.UnixConnector(path=replica.socket, limit=0, keepalive_timeout=KEEP_ALIVE_S)
            )
            pool = self.pools[replica.key, fresh] = aiohttp.ClientSession(
                connector=connector,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                timeout=aiohttp.ClientTimeout(total=None),
                read_bufsize=1 << 18,
                max_line_size=1 << 16,
                max_field_size=1 << 16,
            )
        return pool

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
        dropped = NOT_RETURNED - {b"content-length"} if message.method == "HEAD" else NOT_RETURNED
        try:
            async with self._pool(replica, fresh).request(
                message.method,
                URL(f"{ORIGIN}{message.path}", encoded=True),
                headers=_forwarded(message.headers),
                data=message.body if message.body or message.method == "POST" else None,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as response:
                content = await response.read()
                returned = [(n.lower(), v) for n, v in response.raw_headers if n.lower() not in dropped]
                return Answer(response.status, returned, content)
        except asyncio.TimeoutError:
            raise
        except aiohttp.ClientConnectorError as e:
            raise ConnectFailed(str(e)) from e
        except (aiohttp.ClientError, OSError) as e:
            raise ConnectionBroken(str(e) or type(e).__name__) from e

    async def forget(self, key: str) -> None:
        """Close the connections to a replica that gets no more requests."""
        for pool in (self.pools.pop((key, False), None), self.pools.pop((key, True), None)):
            if pool is not None:
                await pool.close()

    async def close(self) -> None:
        """Close all connections."""
        for key, _ in list(self.pools):
            await self.forget(key)


def _forwarded(headers: Headers) -> CIMultiDict[str]:
    forwarded: CIMultiDict[str] = CIMultiDict()
    for name, value in headers:
        if name not in NOT_FORWARDED:
            forwarded.add(name.decode("latin-1"), value.decode("latin-1"))
    return forwarded
