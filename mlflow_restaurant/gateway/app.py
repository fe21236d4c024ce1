"""The ASGI application of a gateway: paths, bodies, errors. What decides is in `router`, `dispatch` and `answers`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any
from urllib.parse import unquote

from mlflow_restaurant._version import __version__
from mlflow_restaurant.entities import DeploymentRoute, RouteTable
from mlflow_restaurant.errors import (
    BodyTooLarge,
    DeadlineExceeded,
    DoesNotExist,
    InvalidRequest,
    RequestTimeout,
    RestaurantError,
    Unavailable,
)
from mlflow_restaurant.gateway import metrics, stock_client
from mlflow_restaurant.gateway.answers import Reply, error_reply, mend
from mlflow_restaurant.gateway.dispatch import Dispatcher, Slots
from mlflow_restaurant.gateway.router import Address, parse_path, pick
from mlflow_restaurant.gateway.upstream import (
    Answer,
    ConnectFailed,
    ConnectionBroken,
    Headers,
    Message,
    Upstream,
)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MEGABYTE = 1 << 20
MAX_TRIES = 2
PROBE_TIMEOUT_S = 5.0
PROBE_INTERVAL_S = 0.1
SUSPECT_PAUSE_S = 5.0
WHOLE_TIMEOUT = 0.9
"""Part of `timeout_s` that a replica must have had for a request before it counts as hanging."""
PING = Message("GET", "/ping", [], b"")
REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}\Z")


class CallerGone(Exception):
    """The caller closed the connection before its request was complete."""


class Gateway:
    """Answers predictions by the route table it was given last."""

    def __init__(
        self,
        log: Callable[[str, str], None],
        suspect: Callable[[str, str, str], None],
        others: Callable[[], Awaitable[list[metrics.Families]]] | None = None,
    ) -> None:
        """
        Args:
            log: adds a text to the log of a deployment.
            suspect: tells the controller of a replica that does not answer: deployment, key, reason.
            others: asks the other gateways of the home for their metrics.
        """
        self.log, self.suspect, self.others = log, suspect, others
        self.table = RouteTable()
        self.dispatchers: dict[str, Dispatcher] = {}
        self.leaving: dict[str, asyncio.Task[None]] = {}
        self.upstream = Upstream()
        self.probes: set[asyncio.Task[None]] = set()
        self.informed = asyncio.Event()
        self.recent = metrics.Recent()

    # -- the controller's side

    async def set_table(self, table: RouteTable) -> None:
        """Route by `table` from now on; an older one than the present is ignored."""
        if table.version < self.table.version:
            return
        gone: list[Slots] = []
        for name, route in table.deployments.items():
            if name in self.dispatchers:
                gone += self.dispatchers[name].update(route)
            else:
                dispatcher = self.dispatchers[name] = Dispatcher(route)
                metrics.WAITING.labels(name).set_function(partial(len, dispatcher.waiting))
        for name in set(self.dispatchers) - set(table.deployments):
            gone += self.dispatchers.pop(name).close()
            self.recent.forget(name)
            metrics.WAITING.remove(name)
        self.table = table
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
        request_id = _request_id(headers)
        extra: Headers = [(b"x-request-id", request_id)]
        try:
            reply = await self._answer(scope, receive, headers, extra)
        except CallerGone:
            return
        except RestaurantError as e:
            reply = error_reply(e)
        if reply.log:
            self._log_reply(extra, reply)
        await _send(send, reply, extra, head=scope["method"] == "HEAD")

    async def _answer(self, scope: Scope, receive: Receive, headers: Headers, extra: Headers) -> Reply:
        path: str = scope["raw_path"].decode("latin-1").partition("?")[0]
        address = parse_path(path)
        if address is None:
            return await self._own(scope["method"], path)
        route = self.table.deployments[pick(address, self.table, random.random())]
        extra.append((b"x-mlflow-deployment", route.name.encode()))
        if unquote(address.rest) != "/invocations" or scope["method"] != "POST":
            answer = await self._forward(scope, route, address, headers, b"", extra)
            return mend(answer, address.prefix)
        started = time.monotonic()
        status = 499
        try:
            body = await _read_body(receive, headers, route)
            if not any(name == b"content-type" for name, _ in headers):
                raise InvalidRequest("The request has no Content-Type; send application/json.")
            reply = mend(await self._forward(scope, route, address, headers, body, extra), address.prefix)
            status = reply.status
        except RestaurantError as e:
            status = e.http_status
            raise
        finally:
            self._count(route, status, time.monotonic() - started)
        return reply

    async def _forward(
        self,
        scope: Scope,
        route: DeploymentRoute,
        address: Address,
        headers: Headers,
        body: bytes,
        extra: Headers,
    ) -> Answer:
        """Send the request to a replica; once more to another when the first breaks the connection."""
        dispatcher = self.dispatchers.get(route.name)
        if dispatcher is None:
            raise DoesNotExist(f"Deployment '{route.name}' was deleted.")
        query = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
        message = Message(scope["method"], address.rest + query, headers, body)
        deadline = time.monotonic() + route.timeout_s
        tries = 0
        while True:
            slots = await dispatcher.acquire(max(0.0, deadline - time.monotonic()))
            try:
                answer = await self._send_to(dispatcher, slots, message, deadline, fresh=tries > 0)
            except ConnectFailed:
                continue
            except ConnectionBroken as e:
                tries += 1
                if tries >= MAX_TRIES:
                    raise Unavailable(
                        f"Two replicas of deployment '{route.name}' ended while they worked on this request"
                        f" ({e}); the request may be what ends them."
                    ) from None
                metrics.RETRIES.labels(route.name).inc()
                continue
            finally:
                dispatcher.release(slots)
            extra.append((b"x-mlflow-revision", b"%d" % slots.revision))
            if slots.model_version is not None:
                extra.append((b"x-mlflow-model-version", slots.model_version.encode()))
            return answer

    async def _send_to(
        self, dispatcher: Dispatcher, slots: Slots, message: Message, deadline: float, *, fresh: bool
    ) -> Answer:
        """Send one request to one replica, and bench the replica when that does not go well."""
        timeout_s, sent = dispatcher.route.timeout_s, time.monotonic()
        try:
            return await self.upstream.send(slots.route, message, max(0.001, deadline - sent), fresh=fresh)
        except asyncio.TimeoutError:
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

    def _count(self, route: DeploymentRoute, status: int, took_s: float) -> None:
        metrics.observe(route.name, route.revision, status, took_s)
        self.recent.add(route.name, metrics.Sample(time.monotonic(), took_s, status))

    def _log_reply(self, extra: Headers, reply: Reply) -> None:
        known = {name: value.decode("latin-1") for name, value in extra}
        deployment = known.get(b"x-mlflow-deployment")
        if deployment is not None:
            self.log(deployment, f"request {known[b'x-request-id']} got status {reply.status}\n{reply.log}")


def _request_id(headers: Headers) -> bytes:
    for name, value in headers:
        if name == b"x-request-id" and REQUEST_ID.match(value):
            return value
    return uuid.uuid4().hex.encode()


async def _read_body(receive: Receive, headers: Headers, route: DeploymentRoute) -> bytes:
    limit = int(route.max_body_mb * MEGABYTE)
    too_large = BodyTooLarge(
        f"The body is larger than {route.max_body_mb:g} MB, the max_body_mb of deployment '{route.name}'."
    )
    for name, value in headers:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise too_large
    try:
        return await asyncio.wait_for(_gather(receive, limit, too_large), route.timeout_s)
    except asyncio.TimeoutError:
        raise RequestTimeout(f"The body did not arrive within {route.timeout_s:g} s.") from None


async def _gather(receive: Receive, limit: int, too_large: BodyTooLarge) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.disconnect":
        raise CallerGone
    if len(body) > limit:
        raise too_large
    if not message.get("more_body", False):
        return body
    parts, size = [body], len(body)
    while message.get("more_body", False):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CallerGone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise too_large
    return b"".join(parts)


async def _send(send: Send, reply: Reply, extra: Headers, *, head: bool) -> None:
    replaced = {name for name, _ in extra}
    headers = [(n, v) for n, v in reply.headers if n not in replaced]
    if not any(name == b"content-length" for name, _ in headers):
        headers.append((b"content-length", b"%d" % len(reply.body)))
    await send({"type": "http.response.start", "status": reply.status, "headers": [*headers, *extra]})
    await send({"type": "http.response.body", "body": b"" if head else reply.body})
