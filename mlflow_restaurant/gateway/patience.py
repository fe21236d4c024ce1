"""How long a replica may take for several requests before it counts as hanging, by how long it took before."""

from __future__ import annotations

import math

from mlflow_restaurant.gateway.calls import Batch

PATIENCE_S = 1.0
"""Time that a replica always has for several requests, in seconds."""
PATIENCE_OF_TIMEOUT = 0.25
"""Part of `timeout_s` that it has besides."""
PATIENCE_OF_LONGEST = 10.0
"""It has so many times what the longest call took as well."""


class Patience:
    """With the replicas of one revision."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    def saw(self, seconds: float) -> None:
        """Learn how long a call took."""
        self.longest_s = max(self.longest_s, seconds)

    def limit_s(self, batch: Batch, timeout_s: float) -> float:
        """Return how long a replica may take for a batch.

        As long as nothing was answered, nobody knows. One request alone has the time that its caller has.
        """
        if not self.longest_s or not (len(batch.calls) > 1 or batch.suspect):
            return math.inf
        return max(PATIENCE_S, PATIENCE_OF_TIMEOUT * timeout_s, PATIENCE_OF_LONGEST * self.longest_s)
