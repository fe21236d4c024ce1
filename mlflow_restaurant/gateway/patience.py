"""How many rows a call may have, and how long a replica may take for it before it counts as hanging. Pure: times in.

A call of several requests is a bet on all of them: when one of its rows hangs, the others are sent again, each alone,
and need time for that. So a call has only so many rows as take a quarter of `timeout_s`, by what rows took lately, and
it is given up after half of `timeout_s` at the latest.
"""

from __future__ import annotations

import math

from mlflow_restaurant.gateway.calls import Batch

PATIENCE_S = 1.0
"""Time that a replica always has for several requests, in seconds; half of `timeout_s` where that is less."""
PATIENCE_OF_TIMEOUT = 0.25
"""Part of `timeout_s` that it has besides, and that a call should take at most."""
PATIENCE_OF_EXPECTED = 4.0
"""It has so many times what is expected of the call as well."""
MOST_OF_TIMEOUT = 0.5
"""Part of `timeout_s` after which several requests are given up whatever is expected."""
KEPT = 0.9
"""What each call leaves of the weight of those before it."""
TOO_LONG = 2.0
"""A call that was given up counts as if it had taken so many times as long."""


class Patience:
    """With the replicas of one revision: how long rows take, by the calls of lately."""

    def __init__(self) -> None:
        self.rows = self.seconds = 0.0

    @property
    def row_s(self) -> float:
        """Seconds for a row; 0 as long as nobody knows."""
        return self.seconds / self.rows if self.rows else 0.0

    def saw(self, batch: Batch, seconds: float) -> None:
        """Learn how long a call took."""
        rows = rows_in(batch)
        if rows:
            self.rows = KEPT * self.rows + rows
            self.seconds = KEPT * self.seconds + seconds

    def gave_up(self, batch: Batch, seconds: float) -> None:
        """Learn that a call was given up after some time: so many rows are too many, unless one of them hangs."""
        rows = rows_in(batch)
        if len(batch.calls) > 1 and rows and TOO_LONG * seconds > self.row_s * rows:
            self.rows, self.seconds = float(rows), TOO_LONG * seconds

    def most_rows(self, timeout_s: float) -> float:
        """Return how many rows a call may have that is made of several requests."""
        return PATIENCE_OF_TIMEOUT * timeout_s / self.row_s if self.seconds else math.inf

    def limit_s(self, batch: Batch, timeout_s: float) -> float:
        """Return how long a replica may take for a batch.

        As long as nothing was answered, nobody knows. One request alone has the time that its caller has, unless it may
        be the one at which a replica hung: then it has less at first, so that it does not keep the others waiting.
        """
        if len(batch.calls) > 1:
            expected_s = self.row_s * rows_in(batch)
        elif batch.suspect:
            expected_s = 0.0
        else:
            return math.inf
        if not self.seconds:
            return math.inf
        patience_s = max(PATIENCE_S, PATIENCE_OF_TIMEOUT * timeout_s, PATIENCE_OF_EXPECTED * expected_s)
        return min(patience_s, MOST_OF_TIMEOUT * timeout_s)


def rows_in(batch: Batch) -> int:
    """Return how many rows a batch has; 0 when nobody has read them."""
    return sum([call.part.count for call in batch.calls if call.part is not None])
