"""Scoring requests on their way through a gateway, and the batches in which they go to replicas."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import time
from collections.abc import Callable

from mlflow_restaurant.entities import DeploymentRoute
from mlflow_restaurant.errors import RestaurantError, Unavailable
from mlflow_restaurant.gateway.answers import JSON_TYPE, Reply
from mlflow_restaurant.gateway.dispatch import Slots
from mlflow_restaurant.gateway.scoring import Part, Reader
from mlflow_restaurant.gateway.upstream import ConnectionBroken, Headers

PATH = "/invocations"
MERGEABLE_TYPES = frozenset({JSON_TYPE, JSON_TYPE + b"; charset=utf-8", JSON_TYPE + b";charset=utf-8"})

SEVERAL = b"several types"
OURS = frozenset({b"x-request-id", b"x-mlflow-deployment", b"x-mlflow-revision", b"x-mlflow-model-version"})

MEGABYTE = 1 << 20
REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}\Z")

_process = os.urandom(8).hex().encode()
_number = itertools.count(1)

Outcome = Reply | RestaurantError


class Call:
    """One scoring request and whoever waits for its outcome.

    Args:
        headers: of the request, names in lower case.
        body: of the request.
        path: the path and query that a replica gets.
        prefix: the path of the deployment or endpoint as the caller knows it.
        done: called once with the outcome, unless the call is given up.
        content_type: of the body; by default what the headers say.

    Attributes:
        started: when all of it had arrived.
        arrived: when its headers had; its deadline counts from then on.
    """

    __slots__ = (
        "arrived",
        "body",
        "content_type",
        "deadline",
        "done",
        "headers",
        "key",
        "part",
        "path",
        "prefix",
        "started",
    )

    def __init__(
        self,
        headers: Headers,
        body: bytes,
        path: str,
        prefix: str,
        done: Callable[[Outcome], None],
        content_type: bytes | None = None,
    ) -> None:
        self.headers, self.body, self.path, self.prefix = headers, body, path, prefix
        self.done: Callable[[Outcome], None] | None = done
        self.content_type = content_type or content_type_of(headers)
        self.started = self.arrived = time.monotonic()
        self.deadline = float("inf")
        self.part: Part | None = None
        self.key: object = self

    def finish(self, outcome: Outcome) -> None:
        """Tell the outcome, if anyone still waits for it; a mistake in telling it is nobody else's trouble."""
        done, self.done = self.done, None
        if done is not None:
            try:
                done(outcome)
            except Exception as e:
                context = {"message": "an answer could not be given to its caller", "exception": e}
                asyncio.get_running_loop().call_exception_handler(context)

    def is_mergeable(self) -> bool:
        """Tell whether the headers and the path let it be merged; what is in the body is for the reader."""
        return self.content_type in MERGEABLE_TYPES and self.path == PATH

    def is_plain(self) -> bool:
        """Tell whether it is JSON to score, and nothing else is said of it."""
        return self.content_type == JSON_TYPE and self.path == PATH


class Batch:
    """Calls that go to a replica together.

    Args:
        reader: what read the calls to be mergeable.
        tries: how many replicas broke the connection.
        suspect: it was in a batch at which a replica hung, and may be why.

    Attributes:
        behind: see `Queue.put_back`.
        told_apart: the replica was told how many rows each call has, see `scoring.counts_of`.
    """

    __slots__ = ("behind", "calls", "deadline", "reader", "suspect", "told_apart", "tries")

    def __init__(
        self, calls: list[Call], reader: Reader | None = None, tries: int = 0, *, suspect: bool = False
    ) -> None:
        self.calls, self.reader, self.tries, self.suspect = calls, reader, tries, suspect
        self.deadline = 0.0
        self.behind: float | None = None
        self.told_apart = False

    def waiting(self) -> list[Call]:
        return [call for call in self.calls if call.done is not None]


def replicas_ended(name: str, error: ConnectionBroken) -> Unavailable:
    """Return the error for a request that two replicas broke the connection at."""
    return Unavailable(
        f"Two replicas of deployment '{name}' ended while they worked on this request"
        f" ({error}); the request may be what ends them."
    )


def stamped(headers: Headers, name: str, slots: Slots) -> Headers:
    """Return the headers of a replica's answer, and those that tell which deployment and revision answered."""
    stamp: Headers = [(b"x-mlflow-deployment", name.encode()), (b"x-mlflow-revision", b"%d" % slots.revision)]
    if slots.model_version is not None:
        stamp.append((b"x-mlflow-model-version", slots.model_version.encode()))
    return [(n, v) for n, v in headers if n not in OURS] + stamp


def limit_of(route: DeploymentRoute) -> int:
    """Return the size of the largest body that a deployment takes, in bytes."""
    return int(route.max_body_mb * MEGABYTE)


def content_type_of(headers: Headers) -> bytes | None:
    """Return what the headers say is in the body; `SEVERAL` when they say it more than once, None when they don't."""
    types = [value for name, value in headers if name == b"content-type"]
    return types[0] if len(types) == 1 else SEVERAL if types else None


def request_id_of(headers: Headers) -> bytes:
    """Return the caller's id of a request, or a new one."""
    for name, value in headers:
        if name == b"x-request-id" and REQUEST_ID.match(value):
            return value
    return new_request_id()


def new_request_id() -> bytes:
    """Return an id that no other request has."""
    return b"%b%016x" % (_process, next(_number))
