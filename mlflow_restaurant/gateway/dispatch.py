"""The replicas of one deployment, and who waits for a free one.

A free slot of a replica goes to the one that waited longest. Replicas come and go with each route table; what waits
stays and is answered by whichever revision serves when its turn comes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from mlflow_restaurant.entities import DeploymentRoute, ReplicaRoute
from mlflow_restaurant.errors import DoesNotExist, QueueFull, Unavailable
from mlflow_restaurant.process.protocol import AT_ONCE


class Moved(Exception):
    """The revision whose replica was waited for left the table; another one serves the deployment."""


class Slots:
    """One replica, as seen from here."""

    def __init__(self, route: ReplicaRoute, revision: int, model_version: str | None) -> None:
        self.route, self.revision, self.model_version = route, revision, model_version
        self.in_flight = 0
        self.scoring = 0
        self.usable = True
        self.idle = asyncio.Event()
        self.idle.set()

    def take(self, scoring: int = 0) -> None:
        self.in_flight += 1
        self.scoring += scoring
        self.idle.clear()

    def free(self, scoring: int = 0) -> None:
        self.in_flight -= 1
        self.scoring -= scoring
        if self.in_flight == 0:
            self.idle.set()


class Dispatcher:
    """The queue of one deployment and the replicas that work on it."""

    def __init__(self, route: DeploymentRoute) -> None:
        self.route = route
        self.replicas: dict[str, Slots] = {}
        self.waiting: deque[asyncio.Future[Slots]] = deque()
        self.closed = self.moved = False
        self.one_at_a_time = False
        self.on_free: Callable[[], None] = _nothing
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

    def close(self, *, moved: bool = False) -> list[Slots]:
        """End this revision's service: whoever waits is told that the deployment is gone, or has `moved`."""
        for slots in self.replicas.values():
            slots.usable = False
        self.closed, self.moved = True, moved
        for future in self.waiting:
            if not future.done():
                future.set_exception(Moved() if moved else self.deleted())
        self.waiting.clear()
        gone, self.replicas = list(self.replicas.values()), {}
        return gone

    def deleted(self) -> DoesNotExist:
        """Return the error for requests to a deployment that is closed."""
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

    def is_free(self) -> bool:
        """Tell whether `take` would return a replica."""
        return self._free_to_score() is not None

    def take(self) -> Slots | None:
        """Return a replica that is free to score, which the caller must `release`, or None when there is none now.

        `on_free` is called when there may be one again.
        """
        slots = self._free_to_score()
        if slots is not None:
            slots.take(scoring=1)
        return slots

    async def acquire(self, timeout_s: float) -> Slots:
        """Return a replica with a free slot, which the caller must `release`; for anything but predictions.

        Raises:
            DoesNotExist: the deployment was deleted.
            Moved: another revision serves it now.
            QueueFull: too many requests wait already.
            Unavailable: no replica became free within `timeout_s` seconds.
        """
        if self.closed:
            raise Moved if self.moved else self.deleted()
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

    def release(self, slots: Slots, *, scoring: bool = False) -> None:
        """Give back a slot, from `acquire` or, with `scoring`, from `take`."""
        slots.free(int(scoring))
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
        """Return the least busy of the replicas with a free slot."""
        best, limit = None, AT_ONCE
        for slots in self.replicas.values():
            if slots.usable and slots.in_flight < limit:
                best, limit = slots, slots.in_flight
        return best

    def _free_to_score(self) -> Slots | None:
        """Return a replica for a scoring request: one that scores nothing, where they score one at a time.

        Pings and the like never keep it from that; they are answered beside a prediction.
        """
        if not self.one_at_a_time:
            return None if self.waiting else self._free()
        idle = (slots for slots in self.replicas.values() if slots.usable and not slots.scoring)
        return min(idle, key=lambda slots: slots.in_flight, default=None)

    def _hand_out(self) -> None:
        while self.waiting:
            slots = self._free()
            if slots is None:
                return
            future = self.waiting.popleft()
            if not future.done():
                slots.take()
                future.set_result(slots)
        self.on_free()


def _nothing() -> None:
    """Until a batcher says what to do when a replica is free."""
