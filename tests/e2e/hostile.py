"""Callers who send what no server wants, honest callers beside them, and what both got."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import resource
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from .attacks import COMMON, COSTLY, COSTLY_SHARE, Ending, Weapon, request, rows

DOCUMENTED = frozenset({200, 400, 404, 405, 408, 413, 415, 431, 503, 504})
PATIENCE_S = 30.0
QUIET_S = 0.02
"""How long an attacker waits who expects no answer."""


class Malformed(Exception):
    """The server sent what is no HTTP answer."""


def read_answer(data: bytes) -> tuple[int, bytes, bytes] | None:
    """Return the status, the body and the rest after the first answer in `data`; None when it is not whole yet."""
    head, found, rest = data.partition(b"\r\n\r\n")
    if not found:
        return None
    first, *lines = head.split(b"\r\n")
    version, _, status = first.partition(b" ")
    if version != b"HTTP/1.1" or not status[:3].isdigit():
        raise Malformed(data[:200])
    headers = {n.lower(): v for n, _, v in (line.partition(b": ") for line in lines)}
    length = 0 if status.startswith(b"1") else int(headers[b"content-length"])
    return None if len(rest) < length else (int(status[:3]), rest[:length], rest[length:])


def check_answer(status: int, body: bytes) -> None:
    """Raise `Malformed` when an answer is none that the documentation names."""
    if status == 100:
        return
    if status not in DOCUMENTED and not (status == 500 and b"without saying why" in body):
        raise Malformed(status, body[:200])
    if status >= 400 and status not in (405, 415) and "message" not in json.loads(body):
        payload = json.loads(body)
        if payload != {"detail": "Not Found"}:  # MLflow's own, for a path of a deployment
            raise Malformed(status, body[:200])


@dataclass
class Attackers:
    """Sends attacks, and counts what came back.

    Args:
        host, port: of the server.
        seed: the same one, the same attacks.
    """

    host: str
    port: int
    seed: int
    sent: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    async def attack(self, requests: int, at_once: int = 48) -> None:
        """Send so many requests, each on a connection of its own."""
        numbers = iter(range(requests))

        async def one_after_another() -> None:
            for number in numbers:
                draw = random.Random(self.seed * 1_000_003 + number)
                weapon = draw.choice(COSTLY if draw.random() < COSTLY_SHARE else COMMON)
                await self._one(weapon, draw, number)

        await asyncio.gather(*(one_after_another() for _ in range(at_once)))

    async def _one(self, weapon: Weapon, draw: random.Random, number: int) -> None:
        attack = weapon(draw)
        self.sent[weapon.__name__] += 1
        try:
            async with connected(self.host, self.port) as (reader, writer):
                writer.write(attack.sent)
                await self._end(attack.ending, reader, writer)
        except ConnectionError:
            pass  # a server may hang up on who sends such things
        except (Malformed, ValueError, KeyError, asyncio.TimeoutError) as e:
            self.wrong.append(f"{weapon.__name__} {number} of seed {self.seed}: {e!r}")

    async def _end(self, ending: Ending, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if ending is Ending.DEAF:
            await asyncio.sleep(QUIET_S)
        elif ending is Ending.QUIET:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._receive(reader), QUIET_S)
        else:
            if ending is Ending.HALF_CLOSED:
                writer.write_eof()
            await asyncio.wait_for(self._receive(reader), PATIENCE_S)

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        data = b""
        while chunk := await reader.read(1 << 16):
            data += chunk
            while (answer := read_answer(data)) is not None:
                status, body, data = answer
                self.statuses[status] += 1
                check_answer(status, body)
                if status != 100 and not data:
                    return
        if data:
            raise Malformed("an answer that is not whole", data[:200])

    async def drip(self, head: bytes, drop: bytes, every_s: float) -> None:
        """Send a request a drop at a time, until the server has enough of it."""
        try:
            async with connected(self.host, self.port) as (reader, writer):
                writer.write(head)
                received = asyncio.ensure_future(self._receive(reader))
                while not received.done():
                    await asyncio.wait([received], timeout=every_s)
                    writer.write(drop)
                received.result()
        except ConnectionError:
            pass
        self.sent["drip"] += 1


@contextlib.asynccontextmanager
async def connected(host: str, port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that is reset at its end."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


@dataclass
class Honest:
    """Callers who ask again and again on connections of their own, and check every answer."""

    host: str
    port: int
    right: int = 0
    slowest_s: float = 0.0
    failures: list[str] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def asking(self, sizes: tuple[int, ...] = (1, 1, 1, 1, 100, 100)) -> AsyncIterator[None]:
        ended = asyncio.Event()
        tasks = [asyncio.ensure_future(self._ask(size, ended)) for size in sizes]
        try:
            yield
        finally:
            ended.set()
            await asyncio.gather(*tasks)

    async def more(self, answers: int) -> None:
        """Wait until so many more right answers came, or anything failed."""
        goal = self.right + answers
        while self.right < goal and not self.failures:
            await asyncio.sleep(0.01)

    async def _ask(self, size: int, ended: asyncio.Event) -> None:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        number = 0
        while not ended.is_set():
            number += 1
            await self._once(reader, writer, number, size)
            await asyncio.sleep(0.005)  # so that they leave the processors to the others
        writer.close()
        await writer.wait_closed()

    async def _once(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int, size: int
    ) -> None:
        began = time.perf_counter()
        try:
            writer.write(request(rows(float(number), size)))
            status, body = await asyncio.wait_for(receive_one(reader), PATIENCE_S)
            predictions: list[Any] = json.loads(body)["predictions"]
            right = status == 200 and len(predictions) == size
            if not right or any(abs(p - (2.0 * number + 10.0)) > 1e-6 for p in predictions):
                self.failures.append(f"{number}: {status} {body[:200]!r}")
        except (OSError, EOFError, ValueError, KeyError, asyncio.TimeoutError) as e:
            self.failures.append(f"{number}: {e!r}")
        else:
            self.right += 1
            self.slowest_s = max(self.slowest_s, time.perf_counter() - began)


async def receive_one(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    return int(head[9:12]), await reader.readexactly(length)


@contextlib.contextmanager
def room_for(connections: int) -> Iterator[None]:
    """Let this process hold so many connections for the time of the block."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(connections + 500, before[1]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
