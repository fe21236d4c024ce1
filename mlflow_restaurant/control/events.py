"""The events of a home: what happened, kept for ``mlflow-restaurant events``, and in the logs of deployments.

Nothing waits for an event, and none that can't be written stops anything: they are queued, written by a thread, and
lost when the database can't take them. What repeats itself (a replica that dies again and again) is written a number of
times, then counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import deque
from dataclasses import dataclass
from datetime import timedelta

from mlflow_restaurant.config import ServerSettings
from mlflow_restaurant.control.store import Store
from mlflow_restaurant.entities import Endpoint, Event, Revision, traffic_text, utcnow
from mlflow_restaurant.errors import HomeError
from mlflow_restaurant.home import Home
from mlflow_restaurant.process.launcher import open_log

BURST = 20
"""Events of one kind of one deployment that are written one by one in each window."""
WINDOW_S = 600.0
MAX_QUEUED = 10_000
PRUNE_S = 3600.0
PRUNE_AFTER = 500
"""Events after which the old ones are removed before the hour is over."""

_logger = logging.getLogger(__name__)


@dataclass
class _Window:
    """What came of one kind since `began`: `written` one by one, then `left_out`, of which the `last` is kept."""

    began: float
    written: int = 0
    left_out: int = 0
    last: Event | None = None


class Limiter:
    """Lets so many events of each kind of each deployment through in a window of time, and counts the rest.

    Args:
        burst: events let through in one window.
        window_s: length of the windows, in seconds of the clock that the methods are given.
    """

    def __init__(self, burst: int = BURST, window_s: float = WINDOW_S) -> None:
        self.burst, self.window_s = burst, window_s
        self.windows: dict[tuple[str | None, str | None, str], _Window] = {}

    def admit(self, event: Event, now: float) -> bool:
        """Tell whether an event is to be written; otherwise it is counted."""
        window = self.windows.setdefault((event.deployment, event.endpoint, event.kind), _Window(now))
        if window.written < self.burst:
            window.written += 1
            return True
        window.left_out += 1
        window.last = event
        return False

    def ended(self, now: float) -> list[Event]:
        """Return, once for each window that is over, an event that says what was left out in it."""
        over = [key for key, window in self.windows.items() if now - window.began >= self.window_s]
        return [event for key in over if (event := _summary(self.windows.pop(key))) is not None]

    def counts(self) -> bool:
        """Tell whether some event was left out and not yet told of."""
        return any(window.left_out for window in self.windows.values())


def _summary(window: _Window) -> Event | None:
    if window.last is None or window.left_out == 1:
        return window.last
    message = f"{window.left_out:,} more of these were left out; the last: {window.last.message}"
    return window.last.model_copy(update={"message": message})


class EventLog:
    """Takes events and writes them, in the order in which they came."""

    def __init__(self, home: Home, store: Store, settings: ServerSettings) -> None:
        self.home, self.store, self.settings = home, store, settings
        self.limiter = Limiter()
        self.queue: deque[Event] = deque(maxlen=MAX_QUEUED)
        self.news = asyncio.Event()
        self.writing = asyncio.Lock()
        self.written = PRUNE_AFTER
        self.pruned = time.monotonic()

    def note(
        self,
        kind: str,
        message: str,
        *,
        deployment: str | None = None,
        revision: int | None = None,
        endpoint: str | None = None,
        actor: str = "",
    ) -> None:
        """Take an event, one of `entities.EVENT_KINDS`; that of a deployment goes to its log as well, at once."""
        event = Event(
            at=utcnow(),
            kind=kind,
            message=message,
            deployment=deployment,
            revision=revision,
            endpoint=endpoint,
            actor=actor,
        )
        if deployment is not None:
            append_log(self.home, deployment, message)
        else:
            _logger.info("%s", message)
        if self.limiter.admit(event, time.monotonic()):
            self.queue.append(event)
            self.news.set()

    async def run(self) -> None:
        """Write what comes, until cancelled."""
        while True:
            await self.flush()
            timeout = WINDOW_S if self.limiter.counts() else PRUNE_S
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.news.wait(), timeout)

    async def flush(self) -> None:
        """Write what has come so far."""
        async with self.writing:
            batch = self._take()
            await asyncio.to_thread(self._write, batch)

    def close(self) -> None:
        """Write what is left, at the end."""
        self._write(self._take())

    def _take(self) -> list[Event]:
        self.news.clear()
        self.queue.extend(self.limiter.ended(time.monotonic()))
        batch = list(self.queue)
        self.queue.clear()
        return batch

    def _write(self, batch: list[Event]) -> None:
        try:
            if batch:
                self.store.record(batch)
            self.written += len(batch)
            now = time.monotonic()
            if self.written >= PRUNE_AFTER or now - self.pruned >= PRUNE_S:
                oldest = utcnow() - timedelta(days=self.settings.keep_events_days)
                self.store.prune_events(self.settings.keep_events, oldest)
                self.written, self.pruned = 0, now
        except HomeError as e:
            _logger.warning("%d events could not be written: %s", len(batch), e)


def announcement(revision: Revision) -> tuple[str, str]:
    """Return kind and text of the event that a new revision is; only that of a rollback has a message yet."""
    kind = "created" if revision.number == 1 else "rollback" if revision.message else "revision"
    parts = [f"revision {revision.number} of {revision.artifact.model_uri}", revision.message]
    return kind, ", ".join(filter(None, parts)) + (f": {revision.reason}" if revision.reason else "")


def endpoint_text(endpoint: Endpoint, what: str = "") -> str:
    """Return what to say of an endpoint that was changed, after `what` became of it."""
    stays = f"sticky by {endpoint.sticky}" if endpoint.sticky else ""
    return ", ".join(filter(None, (what, traffic_text(endpoint.traffic), stays)))


def append_log(home: Home, deployment: str, text: str) -> None:
    """Add one line to a deployment's log; a full disk is no reason to stop."""
    with contextlib.suppress(OSError):
        fd = open_log(home.deployment_log(deployment))
        try:
            os.write(fd, f"[{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}] {text}\n".encode())
        finally:
            os.close(fd)
