"""What ASGI's messages are to a gateway: the body of a request, a caller who hangs up, a reply."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

from mlflow_restaurant.entities import DeploymentRoute
from mlflow_restaurant.errors import BodyTooLarge, RequestTimeout
from mlflow_restaurant.gateway.answers import Reply
from mlflow_restaurant.gateway.calls import limit_of
from mlflow_restaurant.gateway.room import Share
from mlflow_restaurant.gateway.upstream import Headers

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
T = TypeVar("T")


class CallerGone(Exception):
    """The caller closed the connection before its request was answered."""


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """Return what `work` returns; it is cancelled when the caller hangs up first.

    Raises:
        CallerGone: the caller hung up.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise CallerGone
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.wait([working, leaving])


async def _gone(receive: Receive) -> None:
    """Wait until the caller hangs up; whatever it still sends of its request is dropped."""
    while (await receive())["type"] != "http.disconnect":
        pass


def too_large_for(route: DeploymentRoute) -> BodyTooLarge:
    """Return the error for a body that is larger than a deployment takes."""
    return BodyTooLarge(
        f"The body is larger than {route.max_body_mb:g} MB, the max_body_mb of deployment '{route.name}'."
    )


async def read_body(receive: Receive, headers: Headers, route: DeploymentRoute, share: Share) -> bytes:
    """Return the whole body of a request.

    Args:
        route: of the deployment, whose limits hold.
        share: of the room for bodies; grows by what has come.

    Raises:
        CallerGone: the caller hung up.
        BodyTooLarge, RequestTimeout: it is larger, or takes longer, than the deployment allows.
        RestaurantError: there is no room.
    """
    limit, too_large = limit_of(route), too_large_for(route)
    for name, value in headers:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise too_large
    try:
        return await asyncio.wait_for(_gather(receive, limit, too_large, share), route.timeout_s)
    except asyncio.TimeoutError:
        raise RequestTimeout(f"The body did not arrive within {route.timeout_s:g} s.") from None


async def _gather(receive: Receive, limit: int, too_large: BodyTooLarge, share: Share) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.disconnect":
        raise CallerGone
    if len(body) > limit:
        raise too_large
    share.grow(len(body))
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
        share.grow(len(parts[-1]))
    return b"".join(parts)


async def send_reply(send: Send, reply: Reply, extra: Headers, *, head: bool) -> None:
    """Send a reply; headers in `extra` take the place of its own, and with `head` only headers go."""
    replaced = {name for name, _ in extra}
    headers = [(n, v) for n, v in reply.headers if n not in replaced]
    if not any(name == b"content-length" for name, _ in headers):
        headers.append((b"content-length", b"%d" % len(reply.body)))
    await send({"type": "http.response.start", "status": reply.status, "headers": [*headers, *extra]})
    await send({"type": "http.response.body", "body": b"" if head else reply.body})
