"""How many requests a call may have, by how many failed lately. Pure: batches in.

A call that fails is halved until the bad requests are found. That costs few calls where few are bad; where many are, it
costs more than to send each alone. The bad ones are found with the fewest calls where every other call fails.
"""

from __future__ import annotations

import math

from mlflow_restaurant.gateway.calls import Batch

GOOD_BEFORE = 8.0
"""Requests that count as answered before the first one was, so that one that fails first does not say much."""
KEPT = 0.98
"""What each call leaves of the weight of those before it."""
FEW = 0.1
"""Share of bad requests up to which batches are as large as they may: whoever failed asks again at once, and would be in
each of the smaller ones."""
TOO_MANY = 0.35
"""Share of bad requests from which each goes alone: no size of a batch finds them with fewer calls."""


class Failures:
    """The share of requests to one revision that fail, by the calls of lately."""

    def __init__(self) -> None:
        self.bad, self.good = 0.0, GOOD_BEFORE

    @property
    def share(self) -> float:
        return self.bad / (self.bad + self.good)

    def saw(self, batch: Batch, *, failed: bool = False) -> None:
        """Learn what became of requests that can be merged: those of a call that was answered, or one that failed alone."""
        if batch.calls[0].part is None:
            return
        self.bad, self.good = KEPT * self.bad, KEPT * self.good
        if failed:
            self.bad += len(batch.calls)
        else:
            self.good += len(batch.calls)

    def most_requests(self) -> float:
        """Return how many requests a call may have."""
        if self.share < FEW:
            return math.inf
        return 1 if self.share >= TOO_MANY else max(1.0, math.log(2) / self.share)
