"""Copies of requests for a revision that is tried in the shadow: its answers are compared and thrown away.

A caller gets the answer of the revision that serves, and never waits for the other. A copy is only sent when a replica
is free to score it: the shadow shall show what it predicts and how long that takes, not how long a queue can get.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from mlflow_restaurant.errors import RestaurantError
from mlflow_restaurant.gateway.batcher import Batcher
from mlflow_restaurant.gateway.calls import Call, Outcome
from mlflow_restaurant.gateway.sides import Trial

MAX_COMPARED = 1 << 18
"""Length of a request, in bytes, up to which its answers are compared."""


def copied(call: Call, trial: Trial, shadow: Batcher) -> Callable[[], None]:
    """Prepare a copy of a call; returns what sends it, once the call itself is on its way.

    The outcome of the call is told to its caller as before, then compared with that of the copy.
    """
    outcomes: dict[str, tuple[int, bytes]] = {}
    tell = call.done
    body = call.body

    def arrived(side: str, outcome: Outcome) -> None:
        outcomes[side] = _answer(outcome)
        if len(outcomes) == 2:
            trial.agreement.compare(body, outcomes["old"], outcomes["new"])

    def answered(outcome: Outcome) -> None:
        if tell is not None:
            tell(outcome)
        arrived("old", outcome)

    copy = Call(call.headers, body, call.path, call.prefix, lambda _: None, call.content_type)

    def shadowed(outcome: Outcome) -> None:
        trial.new.add(_answer(outcome)[0], time.monotonic() - copy.started)
        arrived("new", outcome)

    copy.done = shadowed

    def send() -> None:
        if len(body) > MAX_COMPARED or shadow.queue or not shadow.dispatcher.is_free():
            trial.agreement.skipped += 1
            return
        call.done = answered if call.done is not None else None
        try:
            shadow.submit(copy)
        except RestaurantError:
            trial.agreement.skipped += 1

    return send


def _answer(outcome: Outcome) -> tuple[int, bytes]:
    if isinstance(outcome, RestaurantError):
        return outcome.http_status, b""
    return outcome.status, outcome.body
