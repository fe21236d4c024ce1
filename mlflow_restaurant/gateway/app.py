"""The ASGI application of a gateway: paths and errors; bodies are in `asgi`. What decides is in `router`, `dispatch` and `answers`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from functools import partial
from urllib.parse import unquote

from mlflow_restaurant._version import __version__
from mlflow_restaurant.entities import DeploymentRoute, RouteTable
from mlflow_restaurant.errors import (
    DoesNotExist,
    InvalidRequest,
    RestaurantError,
)
from mlflow_restaurant.gateway import metrics, stock_client
from mlflow_restaurant.gateway.activity import Activity
from mlflow_restaurant.gateway.answers import Reply, error_reply, mend
from mlflow_restaurant.gateway.asgi import (
    CallerGone,
    Receive,
    Scope,
    Send,
    read_body,
    send_reply,
    too_large_for,
    unless_gone,
)
from mlflow_restaurant.gateway.batcher import MAX_TRIES, Batcher
from mlflow_restaurant.gateway.budget import Budget
from mlflow_restaurant.gateway.calls import Call, Outcome, limit_of, replicas_ended, request_id_of, stamped
from mlflow_restaurant.gateway.dispatch import Moved, Slots
from mlflow_restaurant.gateway.room import Room
from mlflow_restaurant.gateway.router import Address, Caller, Draws, parse_path, pick, pick_side, takes_part
from mlflow_restaurant.gateway.sender import Sender
from mlflow_restaurant.gateway.shadow import copied
from mlflow_restaurant.gateway.sides import Trials
from mlflow_restaurant.gateway.tracks import Tracks
from mlflow_restaurant.gateway.trust import Distrust
from mlflow_restaurant.gateway.upstream import (
    Answer,
    ConnectFailed,
    ConnectionBroken,
    Headers,
    Message,
)

LOGGED = 1 << 18
"""Bytes of errors of one deployment that are logged in a minute."""


class Gateway:
    """Answers predictions by the route table it was given last."""

    def __init__(
        self,
        log: Callable[[str, str], None],
        suspect: Callable[[str, str, str], None],
        others: Callable[[], Awaitable[list[metrics.Families]]] | None = None,
        wake: Callable[[str], Awaitable[None]] | None = None,
        max_bodies_mb: float = 0,
        distrust: Distrust | None = None,
    ) -> None:
        """
        Args:
            log: adds a text to the log of a deployment.
            suspect: tells the controller of a replica that does not answer: deployment, key, reason.
            others: asks the other gateways of the home for their metrics.
            wake: asks the controller to start replicas of a deployment that sleeps.
            max_bodies_mb: see `Room`.
            distrust: tells the controller of a revision that is merged no more: deployment, number, reason.
        """
        self.room = Room(max_bodies_mb)
        self.log, self.others = log, others
        self.table = RouteTable()
        self.leaving: dict[str, asyncio.Task[None]] = {}
        self.sender = Sender(suspect)
        self.tracks = Tracks(self.sender.send, log, distrust or _nobody_told)
        self.trials = Trials(self.tracks.under_way)
        self.upstream, self.probes = self.sender.upstream, self.sender.probes
        self.informed = asyncio.Event()
        self.recent = metrics.Recent()
        self.budget = Budget(LOGGED, 60)
        self.draws = Draws()
        self.activity = Activity(self.tracks, wake)

    # -- the controller's side

    async def set_table(self, table: RouteTable) -> None:
        """Route by `table` from now on; an older one than the present is ignored."""
        if table.version < self.table.version:
            return
        gone = self.tracks.update(table)
        for name in set(table.deployments) - set(self.table.deployments):
            metrics.WAITING.labels(name).set_function(partial(self.tracks.waiting, name))
        for name in set(self.table.deployments) - set(table.deployments):
            self.recent.forget(name)
            self.budget.forget(name)
            metrics.forget(name)
        self.trials.update(table)
        self.activity.update(table)
        self.table = table
        self.draws.keep(table)
        self.informed.set()
        for slots in gone:
            self.leaving[slots.route.key] = asyncio.ensure_future(self._let_go(slots))

    async def drain(self, key: str, timeout_s: float) -> bool:
        """Wait until nothing is in flight to a replica that left the table; True when that came in time."""
        leaving = self.leaving.get(key)
        if leaving is not None:
            await asyncio.wait([leaving], timeout=timeout_s)
        return key not in self.leaving

    async def _let_go(self, slots: Slots) -> None:
        """Close the connections to a replica that left the table, once nothing is in flight to it."""
        await slots.idle.wait()
        await self.upstream.forget(slots.route.key)
        del self.leaving[slots.route.key]

    # -- the callers' side

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers: Headers = scope["headers"]
        extra: Headers = [(b"x-request-id", request_id_of(headers))]
        try:
            reply = await self._answer(scope, receive, headers, extra)
        except CallerGone:
            return
        except RestaurantError as e:
            reply = error_reply(e)
        if reply.log and len(extra) > 1:
            self.log_reply(extra[1][1].decode(), extra[0][1], reply)
        await send_reply(send, reply, extra, head=scope["method"] == "HEAD")

    async def _answer(self, scope: Scope, receive: Receive, headers: Headers, extra: Headers) -> Reply:
        path: str = scope["raw_path"].decode("latin-1").partition("?")[0]
        address = parse_path(path)
        if address is None:
            return await self._own(scope["method"], path)
        caller = Caller(headers, (scope.get("client") or ("",))[0])
        table, route = self.table, self._deployment_of(address, caller)
        extra.append((b"x-mlflow-deployment", route.name.encode()))
        query = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
        target = address.rest + query
        if unquote(address.rest) != "/invocations" or scope["method"] != "POST":
            message = Message(scope["method"], target, headers, b"")
            answer = await unless_gone(receive, self._forward(route, message))
            return mend(answer, address.prefix)
        started = time.monotonic()
        status = 499
        try:
            with self.room.share() as share:
                body = await read_body(receive, headers, route, share)
                if self.table is not table:  # a body may take long, and revisions may have changed meanwhile
                    route = self._deployment_of(address, caller)
                    extra[1:] = [(b"x-mlflow-deployment", route.name.encode())]
                    if len(body) > limit_of(route):
                        raise too_large_for(route)
                route = self._side_of(route, caller)
                message = Message("POST", target, headers, body)
                reply = await self._score(route, receive, message, address.prefix, started)
            status = reply.status
        except RestaurantError as e:
            status = e.http_status
            raise
        finally:
            self.count(route, status, started, time.monotonic())
        return reply

    def route_of(self, address: Address, caller: Caller) -> DeploymentRoute:
        """Return the route of the revision that a request goes to, for `submit` before anything else happens.

        Raises:
            DoesNotExist, Unavailable: see `router.pick`.
        """
        return self._side_of(self._deployment_of(address, caller), caller)

    def _deployment_of(self, address: Address, caller: Caller) -> DeploymentRoute:
        return self.table.deployments[pick(address, self.table, caller, self.draws)]

    def _side_of(self, route: DeploymentRoute, caller: Caller) -> DeploymentRoute:
        return pick_side(route, caller, self.draws) if route.trial is not None else route

    def submit(self, route: DeploymentRoute, call: Call) -> Batcher:
        """Queue a scoring request; returns the batcher that has it now.

        Args:
            route: of the table of now.

        Raises:
            RestaurantError: it can't be queued.
        """
        if call.content_type is None:
            raise InvalidRequest("The request has no Content-Type; send application/json.")
        batcher = self.tracks.of(route).batcher
        batcher.submit(call)
        self.activity.note(route, call.started)
        if route.trial is not None and takes_part(route, self.draws):
            copied(call, self.trials.trials[route.name], self.tracks.of(route.trial.route).batcher)()
        return batcher

    async def _score(
        self, route: DeploymentRoute, receive: Receive, message: Message, prefix: str, arrived: float
    ) -> Reply:
        """Queue a scoring request and wait for its outcome."""
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        call = Call(message.headers, message.body, message.path, prefix, partial(_tell, outcome))
        call.arrived = arrived
        batcher = self.submit(route, call)
        try:
            reply = await unless_gone(receive, outcome)
        except (CallerGone, asyncio.CancelledError):
            batcher.give_up(call)
            raise
        if isinstance(reply, RestaurantError):
            raise reply
        return reply

    async def _forward(self, route: DeploymentRoute, message: Message) -> Answer:
        """Send a request that is no scoring to a replica; once more to another when the first breaks the connection."""
        deadline = time.monotonic() + route.timeout_s
        tries = 0
        while True:
            route = self.table.deployments.get(route.name, route)
            dispatcher = self.tracks.of(route).dispatcher
            self.activity.note(route, time.monotonic())
            try:
                slots = await dispatcher.acquire(max(0.0, deadline - time.monotonic()))
            except Moved:
                continue
            try:
                answer = await self.sender.send(dispatcher, slots, message, deadline, fresh=tries > 0)
            except ConnectFailed:
                continue
            except ConnectionBroken as e:
                tries += 1
                if tries >= MAX_TRIES:
                    raise replicas_ended(route.name, e) from None
                if route.name in self.table.deployments:
                    metrics.RETRIES.labels(route.name).inc()
                continue
            finally:
                dispatcher.release(slots)
            return Answer(answer.status, stamped(answer.headers, route.name, slots), answer.body)

    async def _own(self, method: str, path: str) -> Reply:
        """Answer what is of the gateway itself."""
        if method in ("GET", "HEAD"):
            if path in ("/ping", "/health"):
                return Reply(200, [(b"content-type", b"application/json")], b"\n")
            if path == "/version":
                return Reply(200, [(b"content-type", b"application/json")], __version__.encode())
            if path == "/metrics":
                body = metrics.exposition(await self.others() if self.others else [])
                return Reply(200, [(b"content-type", metrics.CONTENT_TYPE)], body)
            payload = stock_client.answer(path, self.table)
            if payload is not None:
                return Reply(200, [(b"content-type", b"application/json")], json.dumps(payload).encode())
        raise DoesNotExist(
            f"There is nothing at {method} {path[:200]}. Predictions: POST /deployments/NAME/invocations."
        )

    def count(self, route: DeploymentRoute, status: int, started: float, now: float) -> None:
        """Count a scoring request; times are on the clock of `time.monotonic`."""
        if route.name in self.table.deployments:  # what was forgotten must not come back
            metrics.observe(route.name, route.revision, status, now - started)
            if self.trials.trials:
                self.trials.count(route.name, route.revision, status, now - started)
            self.recent.add(route.name, metrics.Sample(now, now - started, status))

    def log_reply(self, deployment: str, request_id: bytes, reply: Reply) -> None:
        """Write what a replica said of an error, and its caller is not told, to the log of the deployment."""
        text = f"request {request_id.decode('latin-1')} got status {reply.status}\n{reply.log}"
        left_out = self.budget.spend(deployment, len(text), time.monotonic())
        if left_out is None:
            return
        if left_out:
            text = f"{left_out} errors were left out here: they came too fast\n{text}"
        self.log(deployment, text)


def _nobody_told(deployment: str, revision: int, reason: str) -> None:
    """Where there is no controller."""


def _tell(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not future.done():  # its caller may have gone in this very moment
        future.set_result(outcome)
