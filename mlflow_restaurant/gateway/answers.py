"""What goes back to callers: errors in MLflow's form, and replicas' answers with what MLflow's server does badly mended.

Pure: bytes in, bytes out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from mlflow_restaurant.errors import RestaurantError, Unavailable
from mlflow_restaurant.gateway.upstream import ORIGIN, Answer, Headers

JSON_TYPE = b"application/json"
MODEL_EXITED = b"ModelExited"
"""In the stack trace of an answer whose model ended its replica (`ModelExited` of `replica.model_guard`)."""
MAX_LOGGED = 2000
"""Bytes of an error that has no stack trace which go to the log: MLflow may quote the whole input."""
UNEXPLAINED = (
    "The model's server failed on this request, without saying why: the input or the prediction may be something"
    " that it can't read or write as JSON. The log of the deployment has the details."
)


@dataclass(slots=True)
class Reply:
    """A complete answer to a caller; `log` is for the deployment's log and never sent."""

    status: int
    headers: Headers
    body: bytes
    log: str = ""


def error_reply(error: RestaurantError) -> Reply:
    """Return the answer for an error of our own."""
    headers: Headers = [(b"content-type", JSON_TYPE)]
    if isinstance(error, Unavailable):
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    return Reply(error.http_status, headers, json.dumps(error.to_json()).encode())


def mend(answer: Answer, prefix: str) -> Reply:
    """Return a replica's answer as callers get it.

    A success goes through byte for byte. Of an error, the stack trace goes to the log, and a bare-text 500 becomes
    JSON with ``error_code`` and ``message``. A redirection leads below `prefix`, the path the caller knows.
    """
    if answer.status < 400:
        return Reply(answer.status, _redirected(answer.headers, prefix), answer.body)
    content_type = next((v for n, v in answer.headers if n == b"content-type"), b"")
    if answer.status >= 500 and not content_type.startswith(JSON_TYPE):
        payload = {"error_code": "INTERNAL_ERROR", "message": UNEXPLAINED}
        headers: Headers = [(b"content-type", JSON_TYPE)]
        return Reply(
            answer.status, headers, json.dumps(payload).encode(), answer.body.decode("utf-8", "replace")
        )
    return _without_stack_trace(answer)


def _redirected(headers: Headers, prefix: str) -> Headers:
    origin = ORIGIN.encode()
    return [
        (
            name,
            prefix.encode() + value[len(origin) :]
            if name == b"location" and value.startswith(origin)
            else value,
        )
        for name, value in headers
    ]


def _without_stack_trace(answer: Answer) -> Reply:
    text = answer.body[:MAX_LOGGED].decode("utf-8", "replace")
    untouched = Reply(answer.status, answer.headers, answer.body, text)
    if b'"stack_trace"' not in answer.body:
        return untouched
    try:
        payload = json.loads(answer.body)
        trace = payload.pop("stack_trace")
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return untouched
    return Reply(answer.status, answer.headers, json.dumps(payload).encode(), str(trace))
