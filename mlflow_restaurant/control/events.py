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
from mlflow_restaurant.process.child import open_log

BURST = 20
"""Events of one kind of one deployment that are written one by one in each window."""
WINDOW_S = 600.0
MAX_QUEUED = 10_000
MAX_MESSAGE = 2000
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

    def admit(self, event: Event, now: float) -> list[Event]:
        """Return what is to be written as an event comes: nothing while it is only counted."""
        key = (event.deployment, event.endpoint, event.kind)
        told = []
        if (window := self.windows.get(key)) is not None and self._is_over(window, now):
            told = _summary(self.windows.pop(key))
        window = self.windows.setdefault(key, _Window(now))
        if window.written < self.burst:
            window.written += 1
            return [*told, event]
        window.left_out += 1
        window.last = event
        return told

    def ended(self, now: float) -> list[Event]:
        """Return, once for each window that is over, an event that says what was left out in it."""
        over = [key for key, window in self.windows.items() if self._is_over(window, now)]
        return [event for key in over for event in _summary(self.windows.pop(key))]

    def _is_over(self, window: _Window, now: float) -> bool:
        return now - window.began >= self.window_s

    def counts(self) -> bool:
        """Tell whether some event was left out and not yet told of."""
        return any(window.left_out for window in self.windows.values())


def _summary(window: _Window) -> list[Event]:
    if window.last is None:
        return []
    if window.left_out == 1:
        return [window.last]
    message = f"{window.left_out:,} more of these were left out; the last: {window.last.message}"
    return [window.last.model_copy(update={"message": message})]


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
            message=message[:MAX_MESSAGE],
            deployment=deployment,
            revision=revision,
            endpoint=endpoint,
            actor=actor,
        )
        if deployment is not None:
            append_log(self.home, deployment, message)
        else:
            _logger.info("%s", message)
        self.queue.extend(self.limiter.admit(event, time.monotonic()))
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
            if batch or self._is_prune_due():
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

    def _is_prune_due(self) -> bool:
        return self.written >= PRUNE_AFTER or time.monotonic() - self.pruned >= PRUNE_S

    def _write(self, batch: list[Event]) -> None:
        try:
            if batch:
                self.store.record(batch)
            self.written += len(batch)
            if self._is_prune_due():
                oldest = utcnow() - timedelta(days=self.settings.keep_events_days)
                self.store.prune_events(self.settings.keep_events, oldest)
                self.written, self.pruned = 0, time.monotonic()
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
