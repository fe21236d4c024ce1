"""The route table: made from what runs and what is wanted, and told to every gateway."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from mlflow_restaurant.entities import ReplicaRoute, RouteTable
from mlflow_restaurant.errors import HomeError

if TYPE_CHECKING:
    from mlflow_restaurant.control.controller import Controller

TELL_TIMEOUT_S = 10.0


class Routes:
    """The route table of one controller.

    Attributes:
        published: whether every gateway has the newest one.
    """

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.published = False
        self._table = RouteTable(version=0)
        self._serving = asyncio.Event()
        self._untold: list[asyncio.Future[None]] = []

    async def tell(self) -> bool:
        """Tell the gateways of what is to be routed now, and those who wait for that; whether every gateway knows."""
        count = len(self._untold)
        await self.publish()
        if not self.published:
            return False
        told, self._untold = self._untold[:count], self._untold[count:]
        for future in told:
            if not future.done():
                future.set_result(None)
        self._serving.set()
        return True

    async def publish(self) -> None:
        """Tell the gateways of what is to be routed now."""
        gateways = self.controller.gateways
        self._renew()
        self.published = await gateways.publish(self._table)
        if gateways.newest > self._table.version:
            self._renew()
            self.published = await gateways.publish(self._table)

    async def told(self) -> None:
        """Wait until every gateway routes by what is wanted now; give up after a while, it will come."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._untold.append(future)
        self.controller.wake.set()
        await asyncio.wait([future], timeout=TELL_TIMEOUT_S)

    async def wait_until_serving(self, timeout_s: float) -> None:
        """Wait until every gateway has a route table, and so answers callers.

        Raises:
            HomeError: that does not come within `timeout_s` seconds.
        """
        try:
            await asyncio.wait_for(self._serving.wait(), timeout_s)
        except asyncio.TimeoutError:
            log = self.controller.home.server_log
            raise HomeError(f"No gateway was ready within {timeout_s:g} s; see {log}.") from None

    def _renew(self) -> None:
        controller, table = self.controller, self._table
        running = self._running()
        for name, rollout in controller.rollouts.items():
            if rollout.gradual and running.get((name, rollout.target)):
                controller.outcomes.with_batching(name, rollout.target)
        world = controller.world
        deployments = world.deployment_routes(running, controller.rollouts, controller.scaler.is_asleep)
        endpoints = world.endpoint_routes(deployments)
        newest = max(table.version, controller.gateways.newest)
        if (deployments, endpoints) != (table.deployments, table.endpoints) or newest != table.version:
            # Later than every table of an earlier controller, too: a gateway that was adopted ignores older ones. By the
            # clock that is so at once; where the clock was set back, once the gateway has said which it has.
            version = max(newest + 1, time.time_ns() // 1_000_000)
            self._table = RouteTable(version=version, deployments=deployments, endpoints=endpoints)

    def _running(self) -> dict[tuple[str, int], list[ReplicaRoute]]:
        """Return the replicas that may get requests, by deployment and revision."""
        running: dict[tuple[str, int], list[ReplicaRoute]] = {}
        for replica in self.controller.replicas.values():
            if replica.takes_requests():
                key = (replica.revision.deployment, replica.revision.number)
                running.setdefault(key, []).append(replica.route())
        return running
