"""When a replica that takes more memory than it may is replaced. Pure: megabytes and a clock in, a decision out.

One that has grown is replaced at once. One that is too large soon after its start is no better for being replaced: that
counts as a quick death, and it goes on serving for as long as others would wait for their restart, unless it goes on
growing.
"""

from __future__ import annotations

import math

from mlflow_restaurant.control.planner import FIRST_BACKOFF_S

SOON_S = 60.0
TOO_SMALL_AFTER = 2
"""So many replicas in a row that were too large soon say that the model needs more than it may have."""
GROWTH = 1.1
"""A replica that has grown so much since it was found too large is replaced at once."""
MOST_DOUBLINGS = 7
"""Of the time for which one serves on, which ends as a minute."""


class Weight:
    """The memory of one replica over all its processes.

    Args:
        limit_mb: what each may have for itself, in megabytes.

    Attributes:
        soon: how many in a row were too large within `SOON_S` of their start, the present one included.
        complaint: that the model needs more than it may have; empty where nothing says so.
    """

    def __init__(self, limit_mb: float) -> None:
        self.limit_mb = limit_mb
        self.soon = 0
        self.complaint = ""
        self._running_since = -math.inf
        self._found_mb = 0.0
        self._replace_at = 0.0

    def runs(self, now: float) -> None:
        """Begin anew with another process."""
        self._running_since, self._found_mb = now, 0.0

    def is_too_much(self, used_mb: float, now: float) -> bool:
        """Tell whether the process is to be replaced now."""
        soon = now - self._running_since < SOON_S
        if used_mb <= self.limit_mb:
            if not soon:
                self._found_mb, self.soon, self.complaint = 0.0, 0, ""
            return False
        if not self._found_mb:
            self._found_mb = used_mb
            self.soon = self.soon + 1 if soon else 0
            self._replace_at = now + self._wait_s()
        if self.soon >= TOO_SMALL_AFTER and not self.complaint:
            self.complaint = (
                f"its model needs {used_mb:.0f} MB of memory, and max_memory_mb is {self.limit_mb:g}"
            )
        return now >= self._replace_at or used_mb > GROWTH * self._found_mb

    def _wait_s(self) -> float:
        if self.soon < TOO_SMALL_AFTER:
            return 0.0
        return FIRST_BACKOFF_S * 2.0 ** min(self.soon - TOO_SMALL_AFTER, MOST_DOUBLINGS)
