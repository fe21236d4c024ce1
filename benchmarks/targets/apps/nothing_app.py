"""Applications that read a request and answer the same to everyone: what is left is the cost of the HTTP server."""

from __future__ import annotations

from typing import Any

CONTENT = b'{"predictions": [0.123456789]}'
TYPE = ("content-type", "application/json")


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """For uvicorn and granian."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(TYPE[0].encode(), TYPE[1].encode()), (b"content-length", b"%d" % len(CONTENT))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": CONTENT})


async def rsgi(scope: Any, protocol: Any) -> None:
    """For granian's own interface."""
    await protocol()
    protocol.response_bytes(200, [TYPE], CONTENT)
