"""What is counted of both sides while a revision is tried beside the one that serves.

The controller asks for it, adds up what the gateways tell, and judges. A side's latencies are kept in buckets whose
bounds grow by a tenth, from 0.1 ms on, so that quantiles are right within a tenth however many requests there are. So is
the time for which those without an answer have been under way, as of the moment of asking: a revision that answers
nothing shall not look like one that is asked nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from mlflow_restaurant.entities import RouteTable
from mlflow_restaurant.gateway.agreement import Agreement

FIRST_S = 0.0001
GROWTH = 1.1
BUCKETS = 160


def bucket_of(took_s: float) -> int:
    """Return the number of the bucket of a latency: that of bounds up to ``FIRST_S * 1.1 ** number``."""
    if took_s <= FIRST_S:
        return 0
    return min(BUCKETS - 1, math.ceil(math.log(took_s / FIRST_S) / math.log(GROWTH)))


def is_error(status: int) -> bool:
    """Tell whether a status speaks against a revision: MLflow's server answers 400 too when a model fails."""
    return status == 400 or status >= 500


@dataclass
class Side:
    """The answered requests of one side."""

    requests: int = 0
    errors: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    def add(self, status: int, took_s: float) -> None:
        self.requests += 1
        self.errors += is_error(status)
        self.buckets[bucket_of(took_s)] += 1

    def to_json(self, under_way_s: Iterable[float]) -> dict[str, Any]:
        """Return what was counted, and the buckets of requests that have been under way for so many seconds."""
        under_way = [0] * BUCKETS
        for spent_s in under_way_s:
            under_way[bucket_of(spent_s)] += 1
        return {**vars(self), "under_way": under_way}


@dataclass
class Trial:
    """Both sides of one step of one trial."""

    revision: int
    step: int
    old: Side = field(default_factory=Side)
    new: Side = field(default_factory=Side)
    agreement: Agreement = field(default_factory=Agreement)

    def to_json(self, under_way: Iterable[tuple[int, float]] = ()) -> dict[str, Any]:
        """Return what was counted.

        Args:
            under_way: revision of each request without an answer, and for how many seconds it has been under way.
        """
        spent = list(under_way)
        return {
            "revision": self.revision,
            "step": self.step,
            "old": self.old.to_json(s for revision, s in spent if revision != self.revision),
            "new": self.new.to_json(s for revision, s in spent if revision == self.revision),
            "agreement": self.agreement.to_json(),
        }


class Trials:
    """The trials that are under way, by deployment.

    Args:
        under_way: returns revision and beginning, by `time.monotonic`, of the requests to a deployment without an answer.
    """

    def __init__(self, under_way: Callable[[str], Iterable[tuple[int, float]]]) -> None:
        self.under_way = under_way
        self.trials: dict[str, Trial] = {}

    def update(self, table: RouteTable) -> None:
        """Take over a table; a step that is not the one before begins with nothing."""
        trials = {}
        for name, route in table.deployments.items():
            if route.trial is not None:
                revision, step = route.trial.route.revision, route.trial.step
                trial = self.trials.get(name)
                same = trial is not None and (trial.revision, trial.step) == (revision, step)
                trials[name] = trial if trial is not None and same else Trial(revision, step)
        self.trials = trials

    def count(self, name: str, revision: int, status: int, took_s: float) -> None:
        trial = self.trials.get(name)
        if trial is not None:
            (trial.new if revision == trial.revision else trial.old).add(status, took_s)

    def to_json(self) -> dict[str, Any]:
        now = time.monotonic()
        return {
            name: trial.to_json((revision, now - began) for revision, began in self.under_way(name))
            for name, trial in self.trials.items()
        }
