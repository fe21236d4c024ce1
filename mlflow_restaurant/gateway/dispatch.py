"""Requests of one deployment waiting for its replicas.

A free slot of a replica goes to the request that waited longest. Replicas come and go with each route table; what
waits stays and is answered by whichever revision serves when its turn comes.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque

from mlflow_restaurant.entities import DeploymentRoute, ReplicaRoute
from mlflow_restaurant.errors import DoesNotExist, QueueFull, Unavailable

SLOTS_PER_REPLICA = min(32, (os.cpu_count() or 1) + 4)
"""Requests sent to one replica at a time: as many as MLflow's scoring server works on at once."""


class Slots:
    """One replica, as seen from here."""

    def __init__(self, route: ReplicaRoute, revision: int, model_version: str | None) -> None:
        self.route, self.revision, self.model_version = route, revision, model_version
        self.in_flight = 0
        self.usable = True
        self.idle = asyncio.Event()
        self.idle.set()

    def take(self) -> None:
        self.in_flight += 1
        self.idle.clear()

    def free(self) -> None:
        self.in_flight -= 1
        if self.in_flight == 0:
            self.idle.set()


class Dispatcher:
    """The queue of one deployment and the replicas that work on it."""

    def __init__(self, route: DeploymentRoute) -> None:
        self.route = route
        self.replicas: dict[str, Slots] = {}
        self.waiting: deque[asyncio.Future[Slots]] = deque()
        self.closed = False
        self.update(route)

    def update(self, route: DeploymentRoute) -> list[Slots]:
        """Take over a new route; returns the replicas that get no more requests."""
        self.route = route
        new = {r.key: r for r in route.replicas}
        gone = [self.replicas.pop(key) for key in list(self.replicas) if key not in new]
        for slots in gone:
            slots.usable = False
        for key, replica in new.items():
            if key not in self.replicas:
                self.replicas[key] = Slots(replica, route.revision, route.model_version)
        self._hand_out()
        return gone

    def close(self) -> list[Slots]:
        """End the deployment: whoever waits is told that it is gone."""
        for slots in self.replicas.values():
            slots.usable = False
        self.closed = True
        for future in self.waiting:
            if not future.done():
                future.set_exception(self._deleted())
        self.waiting.clear()
        gone, self.replicas = list(self.replicas.values()), {}
        return gone

    def _deleted(self) -> DoesNotExist:
        return DoesNotExist(f"Deployment '{self.route.name}' was deleted.")

    def bench(self, slots: Slots) -> None:
        """Give a replica no more requests until `recall`: it broke a connection or did not answer in time."""
        slots.usable = False

    def recall(self, slots: Slots) -> bool:
        """Give a benched replica requests again; False when it has left in the meantime."""
        if not self.has(slots):
            return False
        slots.usable = True
        self._hand_out()
        return True

    def has(self, slots: Slots) -> bool:
        """Tell whether a replica is still one of this deployment's."""
        return self.replicas.get(slots.route.key) is slots

    async def acquire(self, timeout_s: float) -> Slots:
        """Return a replica with a free slot, which the caller must `release`.

        Raises:
            DoesNotExist: the deployment was deleted.
            QueueFull: too many requests wait already.
            Unavailable: no replica became free within `timeout_s` seconds.
        """
        if self.closed:
            raise self._deleted()
        slots = self._free() if not self.waiting else None
        if slots is not None:
            slots.take()
            return slots
        if len(self.waiting) >= self.route.max_queue:
            raise QueueFull(
                f"{len(self.waiting)} requests wait for deployment '{self.route.name}' already (max_queue);"
                " try again later."
            )
        future: asyncio.Future[Slots] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        try:
            return await asyncio.wait_for(asyncio.shield(future), timeout_s)
        except asyncio.TimeoutError:
            self._give_up(future)
            raise Unavailable(
                f"No replica of deployment '{self.route.name}' was free within {self.route.timeout_s:g} s."
            ) from None
        except asyncio.CancelledError:
            self._give_up(future)
            raise

    def release(self, slots: Slots) -> None:
        """Give back a slot."""
        slots.free()
        self._hand_out()

    def _give_up(self, future: asyncio.Future[Slots]) -> None:
        """Leave the queue; a slot that was handed over at the same moment goes to the next one."""
        if future.done():
            if not future.cancelled() and future.exception() is None:
                self.release(future.result())
        else:
            future.cancel()
            self.waiting.remove(future)

    def _free(self) -> Slots | None:
        usable = [s for s in self.replicas.values() if s.usable and s.in_flight < SLOTS_PER_REPLICA]
        return min(usable, key=lambda s: s.in_flight, default=None)

    def _hand_out(self) -> None:
        while self.waiting:
            slots = self._free()
            if slots is None:
                return
            future = self.waiting.popleft()
            if not future.done():
                slots.take()
                future.set_result(slots)
