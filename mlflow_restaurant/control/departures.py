"""How replicas go: out of the routes, then drained, then ended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mlflow_restaurant.control import planner
from mlflow_restaurant.control.replicas import Replica
from mlflow_restaurant.states import REPLICA_TRANSITIONS, ReplicaState, advance

if TYPE_CHECKING:
    from mlflow_restaurant.control.controller import Controller

RECYCLE_S = 10.0
"""Time for what is in flight to a replica that is replaced for its memory."""


class Departures:
    """Lets replicas of one controller go without a request that is lost.

    Attributes:
        going: the replicas that go, until their processes have ended; others may have their names by then. With each,
            the task that stops it, once it gets no more requests.
    """

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.going: dict[Replica, asyncio.Task[None] | None] = {}
        self._recycling: dict[str, asyncio.Task[None]] = {}

    def retire(self, replica: Replica) -> None:
        """Take a replica out of the routes; it is stopped once every gateway has let go of it."""
        self.going[replica] = None
        if replica.state in planner.ENDED or replica.state is ReplicaState.STARTING:
            self._stop(replica, drain=False)
        else:
            replica.state = advance(REPLICA_TRANSITIONS, replica.state, ReplicaState.DRAINING)

    def stop_drained(self) -> None:
        """Stop the replicas that no gateway sends anything to any more."""
        for replica, task in list(self.going.items()):
            if task is None:
                self._stop(replica, drain=True)

    def end_recycled(self) -> None:
        """End the processes that are to be replaced, once no gateway sends them anything."""
        for replica in list(self.controller.replicas.values()):
            if replica.recycled and replica.key not in self._recycling:
                self._recycling[replica.key] = asyncio.ensure_future(self._recycle(replica, replica.key))

    async def _recycle(self, replica: Replica, key: str) -> None:
        try:
            await self.controller.gateways.drain(key, min(RECYCLE_S, replica.revision.config.timeout_s))
            replica.end(key)
        finally:
            self._recycling.pop(key, None)

    def _stop(self, replica: Replica, *, drain: bool) -> None:
        async def stop() -> None:
            if drain:
                await self.controller.gateways.drain(replica.key, replica.revision.config.timeout_s)
            await replica.stop()

        task = asyncio.ensure_future(stop())
        if not drain:
            replica.state = ReplicaState.STOPPED
        self.going[replica] = task
        task.add_done_callback(lambda _: self._gone(replica))

    def _gone(self, replica: Replica) -> None:
        self.going.pop(replica, None)
        if self.controller.replicas.get(replica.id) is replica:
            del self.controller.replicas[replica.id]
        replica.gone.set()
        self.controller.wake.set()
        self.controller.models.clean()
