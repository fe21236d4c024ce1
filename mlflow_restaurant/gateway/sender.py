"""Sends requests to replicas, and sends nothing more to those that don't answer until they do again."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable

from mlflow_restaurant.errors import DeadlineExceeded
from mlflow_restaurant.gateway.dispatch import Dispatcher, Slots
from mlflow_restaurant.gateway.upstream import Answer, ConnectionBroken, Hanging, Message, Upstream

PROBE_TIMEOUT_S = 5.0
PROBE_INTERVAL_S = 0.1
SUSPECT_PAUSE_S = 5.0
WHOLE_TIMEOUT = 0.9
"""Part of `timeout_s` that a replica must have had for a request before it counts as hanging."""
PING = Message("GET", "/ping", [], b"")


class Sender:
    """Sends requests to the replicas of all deployments.

    Args:
        suspect: tells the controller of a replica that does not answer: deployment, key, reason.
    """

    def __init__(self, suspect: Callable[[str, str, str], None]) -> None:
        self.suspect = suspect
        self.upstream = Upstream()
        self.probes: set[asyncio.Task[None]] = set()

    async def send(
        self,
        dispatcher: Dispatcher,
        slots: Slots,
        message: Message,
        deadline: float,
        *,
        fresh: bool,
        patience_s: float = math.inf,
    ) -> Answer:
        """Send one request to one replica, and bench the replica when that does not go well.

        Args:
            deadline: on the clock of `time.monotonic`.
            fresh: use a new connection.
            patience_s: time after which the replica counts as hanging, also before the deadline.

        Raises:
            ConnectFailed, ConnectionBroken: see `Upstream.send`.
            Hanging: no answer within `patience_s`.
            DeadlineExceeded: no answer before the deadline.
        """
        timeout_s, sent = dispatcher.route.timeout_s, time.monotonic()
        limit_s = max(0.001, min(deadline - sent, patience_s))
        try:
            return await self.upstream.send(slots.route, message, limit_s, fresh=fresh)
        except asyncio.TimeoutError:
            if limit_s == patience_s:
                reason = f"it did not answer within {patience_s:.3g} s, many times as long as it took before"
                self._give_up_on(dispatcher, slots, reason)
                raise Hanging(reason) from None
            if time.monotonic() - sent >= WHOLE_TIMEOUT * timeout_s:
                self._give_up_on(dispatcher, slots, f"it did not answer within timeout_s={timeout_s:g} s")
            raise DeadlineExceeded(
                f"Deployment '{dispatcher.route.name}' did not answer within {timeout_s:g} s (timeout_s)."
            ) from None
        except ConnectionBroken:
            self._bench(dispatcher, slots, 0.0)
            raise

    def _give_up_on(self, dispatcher: Dispatcher, slots: Slots, reason: str) -> None:
        self.suspect(dispatcher.route.name, slots.route.key, reason)
        self._bench(dispatcher, slots, SUSPECT_PAUSE_S)

    def _bench(self, dispatcher: Dispatcher, slots: Slots, pause_s: float) -> None:
        """Send a replica nothing until it answers a ping, or the controller takes it out of the table."""
        if slots.usable:
            dispatcher.bench(slots)
            task = asyncio.ensure_future(self._probe(dispatcher, slots, pause_s))
            self.probes.add(task)
            task.add_done_callback(self.probes.discard)

    async def _probe(self, dispatcher: Dispatcher, slots: Slots, pause_s: float) -> None:
        while True:
            await asyncio.sleep(pause_s)
            if not dispatcher.has(slots):
                return
            with contextlib.suppress(ConnectionBroken, asyncio.TimeoutError):
                await self.upstream.send(slots.route, PING, PROBE_TIMEOUT_S, fresh=True)
                dispatcher.recall(slots)
                return
            pause_s = PROBE_INTERVAL_S
