"""What to do next, from what should run and what does. Pure: values and a clock in, actions out.

A deployment has at most two revisions that may run: the one that serves and, while it is being rolled out, its
successor. New replicas start beside the old ones; only when all of them run is the new revision promoted, and only
then are the old ones drained and stopped. Whatever runs and is not wanted is stopped, whatever is wanted and does
not run is started: a restart of the controller needs no other path than this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mlflow_restaurant.states import DeploymentState, ReplicaState

QUICK_DEATH_S = 30.0
FATAL_AFTER_QUICK_DEATHS = 5
FIRST_BACKOFF_S = 0.5
SLOW_RETRY_S = 30.0


@dataclass(frozen=True)
class Wanted:
    """What should run of one deployment: `serving` and `target` are revision numbers."""

    deployment: str
    serving: int | None
    target: int | None
    replicas: dict[int, int]

    def revisions(self) -> set[int]:
        return {number for number in (self.serving, self.target) if number is not None}


@dataclass(frozen=True)
class Seen:
    """What one replica does now. `retry_at` is when it may be started again, in seconds of the given clock."""

    id: str
    deployment: str
    revision: int
    index: int
    state: ReplicaState
    retry_at: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Start:
    """Start the replica of that index for the first time."""

    deployment: str
    revision: int
    index: int


@dataclass(frozen=True)
class Restart:
    """Start a replica again whose process ended."""

    id: str


@dataclass(frozen=True)
class Stop:
    """Let a replica finish what it has, then stop it."""

    id: str


@dataclass(frozen=True)
class Promote:
    """All replicas of the target run: let it serve."""

    deployment: str
    revision: int


@dataclass(frozen=True)
class Fail:
    """The target can't come into service."""

    deployment: str
    revision: int
    reason: str


Action = Start | Restart | Stop | Promote | Fail

ENDED = (ReplicaState.BACKOFF, ReplicaState.FATAL)
GOING = (ReplicaState.DRAINING, ReplicaState.STOPPED)


def plan(wanted: Sequence[Wanted], seen: Sequence[Seen], now: float) -> list[Action]:
    """Return the actions that bring what is seen nearer to what is wanted."""
    by_name = {w.deployment: w for w in wanted}
    actions: list[Action] = []
    for replica in seen:
        w = by_name.get(replica.deployment)
        if replica.state not in GOING and not _is_wanted(replica, w):
            actions.append(Stop(replica.id))
    for w in wanted:
        actions += _plan_deployment(w, [r for r in seen if r.deployment == w.deployment], now)
    return actions


def _is_wanted(replica: Seen, wanted: Wanted | None) -> bool:
    return (
        wanted is not None
        and replica.revision in wanted.revisions()
        and replica.index < wanted.replicas[replica.revision]
    )


def _plan_deployment(wanted: Wanted, seen: Sequence[Seen], now: float) -> Iterable[Action]:
    mine = [r for r in seen if r.state not in GOING and _is_wanted(r, wanted)]
    failed = _failure(wanted, mine)
    if failed is not None:
        yield failed
    for revision in sorted(wanted.revisions()):
        if failed is not None and revision == wanted.target:
            continue
        there = {r.index for r in mine if r.revision == revision}
        for index in range(wanted.replicas[revision]):
            if index not in there:
                yield Start(wanted.deployment, revision, index)
    for replica in mine:
        if replica.state in ENDED and replica.revision == wanted.serving and replica.retry_at <= now:
            yield Restart(replica.id)
    if failed is None and wanted.target is not None:
        running = [r for r in mine if r.revision == wanted.target and r.state is ReplicaState.RUNNING]
        if len(running) == wanted.replicas[wanted.target]:
            yield Promote(wanted.deployment, wanted.target)


def _failure(wanted: Wanted, mine: Iterable[Seen]) -> Fail | None:
    for replica in mine:
        if wanted.target is not None and replica.revision == wanted.target and replica.state in ENDED:
            return Fail(wanted.deployment, wanted.target, replica.error)
    return None


def next_deadline(seen: Iterable[Seen]) -> float | None:
    """Return when, by the same clock, a plan may differ with nothing else changed."""
    return min((r.retry_at for r in seen if r.state in ENDED), default=None)


@dataclass(frozen=True)
class Death:
    """What becomes of a replica whose process ended."""

    state: ReplicaState
    quick_deaths: int
    retry_at: float


def after_death(lived_s: float, quick_deaths: int, now: float) -> Death:
    """Return the replica's next state, and when to start it again.

    The first restart comes at once. After `FATAL_AFTER_QUICK_DEATHS` deaths in a row within `QUICK_DEATH_S` seconds
    of their start it is given up as FATAL, but still tried again slowly.
    """
    quick = quick_deaths + 1 if lived_s < QUICK_DEATH_S else 1
    if quick >= FATAL_AFTER_QUICK_DEATHS:
        return Death(ReplicaState.FATAL, quick, now + SLOW_RETRY_S)
    wait = 0.0 if quick == 1 else FIRST_BACKOFF_S * 2.0 ** (quick - 2)
    return Death(ReplicaState.BACKOFF, quick, now + wait)


def deployment_state(wanted: Wanted, seen: Iterable[Seen]) -> tuple[DeploymentState, str]:
    """Return what to tell users of a deployment: its state and, if something is wrong, what."""
    if wanted.target is not None:
        return DeploymentState.UPDATING, f"revision {wanted.target} is being rolled out"
    mine = [r for r in seen if r.deployment == wanted.deployment and r.revision == wanted.serving]
    for replica in mine:
        if replica.state is ReplicaState.FATAL:
            return DeploymentState.UNHEALTHY, f"replica {replica.id} keeps ending: {replica.error}"
    running = [r for r in mine if r.state is ReplicaState.RUNNING]
    if running:
        return DeploymentState.HEALTHY, ""
    reasons = [r.error for r in mine if r.error]
    return DeploymentState.UNHEALTHY, reasons[0] if reasons else "no replica is running yet"
