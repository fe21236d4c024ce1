"""What callers do with each deployment: for the controller, which decides how many replicas there are, and wakes sleepers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

from mlflow_restaurant.entities import DeploymentRoute, RouteTable
from mlflow_restaurant.gateway.tracks import Tracks

WAKE_RETRY_S = 0.5


class Activity:
    """When each deployment was last asked, and who waits.

    Args:
        tracks: of all deployments.
        wake: asks the controller to start replicas of a deployment that sleeps; it may be down.
    """

    def __init__(self, tracks: Tracks, wake: Callable[[str], Awaitable[None]] | None) -> None:
        self.tracks, self.wake = tracks, wake
        self.table = RouteTable()
        self.asked: dict[str, float] = {}
        self.waking: dict[str, asyncio.Task[None]] = {}

    def update(self, table: RouteTable) -> None:
        """Take over a table."""
        now = time.monotonic()
        self.table = table
        self.asked = {name: self.asked.get(name, now) for name in table.deployments}
        for name, route in table.deployments.items():
            if route.asleep and self.tracks.waiting(name):
                self._wake(name)

    def note(self, route: DeploymentRoute, now: float) -> None:
        """Note that a request came; a deployment that sleeps is woken."""
        self.asked[route.name] = now
        if route.asleep:
            self._wake(route.name)

    def _wake(self, name: str) -> None:
        if self.wake is not None and name not in self.waking:
            task = self.waking[name] = asyncio.ensure_future(self._keep_waking(name, self.wake))
            task.add_done_callback(lambda _: self.waking.pop(name, None))

    async def _keep_waking(self, name: str, wake: Callable[[str], Awaitable[None]]) -> None:
        """Ask until it is awake, or nobody waits for it any more: the controller may be on its way itself."""
        while True:
            with contextlib.suppress(Exception):
                await wake(name)
            await asyncio.sleep(WAKE_RETRY_S)
            route = self.table.deployments.get(name)
            if route is None or not route.asleep or not self.tracks.waiting(name):
                return

    def to_json(self) -> dict[str, Any]:
        now = time.monotonic()
        return {name: self._of(name, now) for name in self.table.deployments}

    def _of(self, name: str, now: float) -> dict[str, Any]:
        tracks = self.tracks.of_deployment(name)
        oldest = min((call.started for track in tracks for call in track.batcher.queue), default=now)
        return {
            "idle_s": now - self.asked.get(name, now),
            "waiting": self.tracks.waiting(name),
            "oldest_s": now - oldest,
            "busy": sum(slots.in_flight for track in tracks for slots in track.dispatcher.replicas.values()),
        }
