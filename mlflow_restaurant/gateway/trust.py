"""Whether a revision answers merged requests as it would answer each alone, by its answers to merged ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from mlflow_restaurant.entities import DeploymentRoute
from mlflow_restaurant.gateway import scoring

LOOKED_AT, OFTEN = 20, 5
"""When so many of so many merged calls had missing predictions, there are no more of them."""
NOT_ONE_EACH = "did not answer a merged request with one prediction for each row"
OFTEN_MISSING = "often has missing predictions, beside which others may look otherwise than alone"

Distrust = Callable[[str, int, str], None]


class Trust:
    """In the revision that a route leads to.

    Args:
        log: adds a text to the log of a deployment.
        distrust: tells the controller of a revision that is merged no more: deployment, number, reason.
    """

    def __init__(self, log: Callable[[str, str], None], distrust: Distrust) -> None:
        self.log, self.distrust = log, distrust
        self.revision: int | None = None
        self.lost: tuple[int, str] | None = None
        self.missing: deque[bool] = deque(maxlen=LOOKED_AT)

    def is_lost(self, revision: int) -> bool:
        return self.lost is not None and self.lost[0] == revision

    def follow(self, route: DeploymentRoute) -> None:
        """Take over a new route; where it says to merge what is not trusted, the controller has not heard of that."""
        if route.revision != self.revision:
            self.revision = route.revision
            self.missing.clear()
        if self.lost is not None and route.batch is not None and self.is_lost(route.revision):
            self.distrust(route.name, *self.lost)

    def parts(
        self, name: str, revision: int, answer: bytes, counts: Sequence[int], own_code: bool
    ) -> list[bytes] | None:
        """Return the answers to the requests of a merged call, or None where each must be sent alone.

        Args:
            answer: the body of the answer to all.
            counts: rows of each request.
            own_code: see `BatchRoute`.
        """
        bodies = scoring.split(answer, counts)
        if bodies is None:
            self._lose(name, revision, NOT_ONE_EACH)
            return None
        if not own_code:
            return bodies
        missing = scoring.has_missing(answer)
        self.missing.append(missing)
        if missing and sum(self.missing) >= OFTEN:
            self._lose(name, revision, OFTEN_MISSING)
        return None if missing else bodies

    def _lose(self, name: str, revision: int, reason: str) -> None:
        if self.is_lost(revision):
            return
        self.lost = revision, reason
        self.missing.clear()
        self.log(
            name,
            f"WARNING: revision {revision} {reason};"
            " its requests are merged no more (batching is off until the next revision).",
        )
        self.distrust(name, revision, reason)
