"""Callers who ask again and again, each on a connection of its own, and check every answer.

A request counts as failed if it gets anything but the right answer with status 200: another status, another
prediction, a connection that is refused or breaks, or nothing within `PATIENCE_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

CALLERS = 32
PAUSE_S = 0.02
"""Time between an answer and the next question of a caller: the load is steady, not as much as there can be."""
PATIENCE_S = 70.0
MORE_WITHIN_S = 120.0
LOST = (OSError, EOFError, ValueError, KeyError, asyncio.TimeoutError, asyncio.LimitOverrunError)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request.

    Attributes:
        sent: when it was sent, on the clock of `time.monotonic`.
        took_s: time to its answer.
        error: what was wrong, empty for the right answer.
        revision: which one answered, empty where none says so.
        path: of the deployment.
    """

    sent: float
    took_s: float
    error: str
    revision: str
    path: str


@dataclass(frozen=True)
class Tally:
    """What came of some requests; times in seconds, `errors` by what was wrong."""

    sent: int
    errors: Counter[str]
    slowest_s: float
    p99_s: float

    @property
    def failed(self) -> int:
        return sum(self.errors.values())


def tally(answers: Iterable[Answer]) -> Tally:
    """Return what came of some requests together."""
    found = list(answers)
    times = sorted(answer.took_s for answer in found)
    return Tally(
        len(found),
        Counter(answer.error for answer in found if answer.error),
        times[-1] if times else 0.0,
        times[max(0, math.ceil(0.99 * len(times)) - 1)] if times else 0.0,
    )


@dataclass
class Callers:
    """So many callers, in a thread of their own.

    Args:
        urls: of the deployments, whose predictions must be 2 a + 10 b; each request goes to one of them at random.
        number: how many ask at the same time.
        pause_s: see `PAUSE_S`.
        body_s: time between the two halves of a body; it counts for no answer.
    """

    urls: Sequence[str]
    number: int = CALLERS
    pause_s: float = PAUSE_S
    body_s: float = 0.0
    answers: list[Answer] = field(default_factory=list)

    def __post_init__(self) -> None:
        parts = urlsplit(self.urls[0])
        self._address = (str(parts.hostname), int(parts.port or 0))
        self._paths = [urlsplit(url).path for url in self.urls]
        self._numbers = itertools.count(1)
        self._ended = threading.Event()
        self._draw = random.Random(5)

    @contextlib.contextmanager
    def asking(self) -> Iterator[Callers]:
        """Ask for the time of the block; at its end every request has got its answer, or was given up."""
        self._ended.clear()
        thread = threading.Thread(target=lambda: asyncio.run(self._ask_all()), name="callers")
        thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            thread.join()

    def more(self, right: int) -> None:
        """Wait until so many more right answers came.

        Raises:
            TimeoutError: they don't come.
        """
        begun, deadline = len(self.answers), time.monotonic() + MORE_WITHIN_S
        while sum(not answer.error for answer in self.answers[begun:]) < right:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not {right} right answers within {MORE_WITHIN_S:g} s")
            time.sleep(0.02)

    def first_after(self, moment: float) -> float:
        """Wait for the first right answer to a request that was sent after `moment`; returns the time from then on.

        Raises:
            TimeoutError: there is none.
        """
        self.more(self.number + 1)  # one caller at least has asked since
        return min(a.sent + a.took_s for a in self.answers if a.sent >= moment and not a.error) - moment

    def tally(self, where: Callable[[Answer], bool] = lambda _: True) -> Tally:
        """Return what came of the requests that fulfil a condition."""
        return tally(answer for answer in list(self.answers) if where(answer))

    async def _ask_all(self) -> None:
        await asyncio.gather(*(self._ask() for _ in range(self.number)))

    async def _ask(self) -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self._ended.is_set():
            path, number = self._draw.choice(self._paths), next(self._numbers)
            sent = time.monotonic() + self.body_s
            revision = error = ""
            try:
                if connection is None or connection[1].is_closing():
                    connection = await asyncio.open_connection(*self._address)
                revision, error = await asyncio.wait_for(
                    _once(*connection, path, number, self.body_s), PATIENCE_S
                )
            except LOST as e:
                error = f"{type(e).__name__}: {e}".rstrip(": ")
                if connection is not None:
                    connection[1].transport.abort()
                connection = None
            self.answers.append(Answer(sent, max(0.0, time.monotonic() - sent), error, revision, path))
            await asyncio.sleep(self.pause_s)
        if connection is not None:
            connection[1].close()
            with contextlib.suppress(OSError):
                await connection[1].wait_closed()


async def _once(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, number: int, body_s: float
) -> tuple[str, str]:
    """Ask once; returns the revision that answered, and what was wrong."""
    body = b'{"dataframe_split": {"columns": ["a", "b"], "data": [[%d.0, 1.0]]}}' % number
    head = f"POST {path}/invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    half = len(body) // 2 if body_s else len(body)
    writer.write(b"%bContent-Length: %d\r\n\r\n%b" % (head.encode(), len(body), body[:half]))
    if body_s:
        await asyncio.sleep(body_s)
        writer.write(body[half:])
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    content = await reader.readexactly(int(headers["content-length"]))
    revision, status = headers.get("x-mlflow-revision", ""), first.split(" ")[1]
    if headers.get("connection") == "close":
        writer.close()
    if status != "200":
        return revision, f"{status}: {json.loads(content).get('message', '')[:120]}"
    (prediction,) = json.loads(content)["predictions"]
    right = abs(prediction - (2.0 * number + 10.0)) < 1e-6 * number
    return revision, "" if right else "200 with another prediction"
