"""One request from the controller to a replica: pings, examples, trials of rows."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp

from mlflow_restaurant.errors import RestaurantError, one_line


async def call_replica(socket: Path, path: str, body: bytes | None, timeout_s: float) -> tuple[int, bytes]:
    """Send one request to a replica, POST with a JSON body or GET without; returns status and body.

    Raises:
        RestaurantError: it did not answer within `timeout_s` seconds, or the connection broke.
    """
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    connector = aiohttp.UnixConnector(path=str(socket))
    method, headers = ("GET", {}) if body is None else ("POST", {"Content-Type": "application/json"})
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.request(method, f"http://replica{path}", data=body, headers=headers) as response,
        ):
            return response.status, await response.read()
    except asyncio.TimeoutError:
        raise RestaurantError(f"the replica did not answer within {timeout_s:g} s") from None
    except (aiohttp.ClientError, OSError) as e:
        raise RestaurantError(f"the replica broke the connection: {e}") from e


def error_message(body: bytes) -> str:
    """Return in one line why a replica could not score, from its answer."""
    try:
        message = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        message = body.decode("utf-8", "replace") or "no answer"
    # MLflow quotes the whole input before it comes to the reason.
    return one_line(message.rpartition("\nError: ")[2])
