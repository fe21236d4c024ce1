"""What is counted of both sides while a revision is tried beside the one that serves.

The controller asks for it, adds up what the gateways tell, and judges. A side's latencies are kept in buckets whose
bounds grow by a tenth, from 0.1 ms on, so that quantiles are right within a tenth however many requests there are.
"""

from __future__ import annotations

import math
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


@dataclass
class Trial:
    """Both sides of one step of one trial."""

    revision: int
    step: int
    old: Side = field(default_factory=Side)
    new: Side = field(default_factory=Side)
    agreement: Agreement = field(default_factory=Agreement)

    def to_json(self) -> dict[str, Any]:
        return {
            "revision": self.revision,
            "step": self.step,
            "old": vars(self.old),
            "new": vars(self.new),
            "agreement": self.agreement.to_json(),
        }


class Trials:
    """The trials that are under way, by deployment."""

    def __init__(self) -> None:
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
        return {name: trial.to_json() for name, trial in self.trials.items()}
