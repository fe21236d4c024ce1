"""A revision on its way into service: who waits for it, whether it must be tried first, and what users said of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from mlflow_restaurant.control.jobs import Progress
from mlflow_restaurant.control.planner import Trial
from mlflow_restaurant.control.tryout import Tryout
from mlflow_restaurant.entities import FULL_TRAFFIC
from mlflow_restaurant.errors import RestaurantError


@dataclass(frozen=True)
class Mix:
    """How the requests of a deployment are shared with the revision that is coming: see `TrialRoute`."""

    revision: int
    mode: Literal["canary", "shadow"]
    share: float
    step: int = 0
    sticky: str = ""


@dataclass
class Rollout:
    """One rollout.

    Attributes:
        target: number of the revision.
        replicas: how many it begins with.
        progress: told how it goes.
        done: resolved at the end, where somebody waits for it.
        tried: whether the revision is tried before it serves.
        tryout: its trial, once that has begun.
        gradual: whether it takes the place of the revision that serves one replica at a time.
        undone: why that goes backwards; empty while it does not.
        stopped: why it must not go on; empty while nothing speaks against it.
        ended: set at the end.
        error: why the revision does not serve then; None if it does.
    """

    target: int
    replicas: int
    progress: Progress = lambda _: None
    done: asyncio.Future[None] | None = None
    tried: bool = False
    tryout: Tryout | None = None
    gradual: bool = False
    undone: str = ""
    stopped: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    error: RestaurantError | None = None

    def trial(self) -> Trial | None:
        """Return how far its trial has come; None when there is none, or no more."""
        if not self.tried or (self.tryout is not None and self.tryout.passed):
            return None
        return Trial.DUE if self.tryout is None else Trial.UNDER_WAY

    def mix(self, old: int, new: int) -> Mix | None:
        """Return how requests are shared now.

        Args:
            old: replicas of the revision that serves which run; `new` those of the other.
        """
        tryout = self.tryout
        if tryout is not None and not self.verdict():
            return Mix(self.target, tryout.mode, tryout.share, tryout.step, tryout.sticky)
        if self.gradual and new:
            return Mix(self.target, "canary", FULL_TRAFFIC * new / (old + new))
        return None

    def verdict(self) -> str:
        """Return why it must not go on; empty while nothing speaks against it."""
        return self.stopped or (self.tryout.verdict if self.tryout is not None else "")

    def forsake(self, reason: str) -> None:
        """Give it up at once: nothing has to be brought back, as the deployment goes too."""
        self.stopped, self.gradual, self.undone = reason, False, ""

    def finish(self, error: RestaurantError | None) -> None:
        """End it; whoever waits for it is told."""
        if self.tryout is not None:
            self.tryout.stop()
        self.error = error
        self.ended.set()
        if self.done is None or self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)
