"""The ASGI application of a replica with shortcuts: scores JSON itself and leaves the rest to MLflow's application.

MLflow's application spends more on its way through FastAPI, a middleware and a second task than on parsing the
request. None of these changes what comes out of ``POST /invocations``: the body goes to MLflow's `invocations` in a
thread, and its result, or the `MlflowException` it raises, becomes the answer. So does it here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from mlflow.exceptions import MlflowException

from mlflow_restaurant.process.merging import APART, COUNTS, NEVER
from mlflow_restaurant.replica.fast import Shortcuts
from mlflow_restaurant.replica.inputs import NotCovered

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

JSON_TYPE = b"application/json"


class Scoring:
    """Answers JSON posted to ``/invocations``; `app`, MLflow's own application, answers everything else."""

    def __init__(self, app: App, shortcuts: Shortcuts) -> None:
        self.app, self.shortcuts = app, shortcuts

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if not is_json_to_score(scope):
            await self.app(scope, receive, send)
            return
        body = await read_body(receive)
        if body is None:  # nobody waits for an answer
            return
        # In a thread and in a context of its own, as in MLflow's application: `/ping` answers meanwhile, as do
        # other predictions. This costs some 40 microseconds of a request.
        status, content = await asyncio.to_thread(self.answer, body, counts_of(scope))
        headers = [(b"content-type", JSON_TYPE), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def answer(self, body: bytes, counts: bytes | None = None) -> tuple[int, bytes]:
        """Score one body; what MLflow's server answers with a bare 500 is raised, and uvicorn answers so.

        Args:
            body: of one request, or of several that were put together.
            counts: rows of each of these, as in the header `COUNTS`.
        """
        if counts is not None and not self.shortcuts.tells_requests_apart:
            return NEVER, b""
        try:
            result = self.shortcuts.score(
                body, None if counts is None else [int(c) for c in counts.split(b",")]
            )
        except NotCovered:
            return APART, b""
        except MlflowException as e:
            return e.get_http_status_code(), e.serialize_as_json().encode()
        return result.status, result.response.encode()


def counts_of(scope: Message) -> bytes | None:
    """Return how many rows each of several requests has that were put together; None for one that is itself."""
    return next((value for name, value in scope["headers"] if name == COUNTS), None)


def is_json_to_score(scope: Message) -> bool:
    """Tell whether a request is a JSON body to score, its type written the plain way."""
    if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] != "/invocations":
        return False
    content_type = next((value for name, value in scope["headers"] if name == b"content-type"), None)
    return content_type == JSON_TYPE


async def read_body(receive: Receive) -> bytes | None:
    """Return the whole body, or None when the caller went away before it was complete."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)
