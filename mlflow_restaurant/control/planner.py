"""What to do next, from what should run and what does. Pure: values and a clock in, actions out.

A deployment has at most two revisions that may run: the one that serves and, while it is being rolled out, its
successor. New replicas start beside the old ones, all at once or one at a time; in the latter case each that runs takes
its share of the requests, and one old one is drained and stopped for it. Only when all of them run is the new revision
promoted, and only then does the last of the old ones go. A rollout that fails half-way is undone in the same manner: an
old replica comes back before a new one goes. Whatever runs and is not wanted is stopped, whatever is wanted and does
not run is started: a restart of the controller needs no other path than this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from mlflow_restaurant.states import DeploymentState, ReplicaState

QUICK_DEATH_S = 30.0
FATAL_AFTER_QUICK_DEATHS = 5
ASLEEP = "asleep until the next request"
KEEPS_DYING = 2
"""Quick deaths of a replica that end the trial of its revision."""
FIRST_BACKOFF_S = 0.5
SLOW_RETRY_S = 30.0
SOON_RETRY_S = 1.0
START_SHARE = 0.25
"""Part of the time that a replica may spend on starts that keeps ending after them."""


class Trial(Enum):
    """How far the trial of a target has come."""

    DUE = auto()
    UNDER_WAY = auto()


@dataclass(frozen=True)
class Wanted:
    """What should run of one deployment: `serving` and `target` are revision numbers.

    Attributes:
        trial: whether the target must be tried before it serves: not, not begun, or under way.
        gradual: whether the target takes the place of the serving revision one replica at a time.
        undone: whether that goes backwards.
    """

    deployment: str
    serving: int | None
    target: int | None
    replicas: dict[int, int]
    trial: Trial | None = None
    gradual: bool = False
    undone: bool = False

    def revisions(self) -> set[int]:
        return {number for number in (self.serving, self.target) if number is not None}


@dataclass(frozen=True)
class Seen:
    """What one replica does now.

    Attributes:
        retry_at: when it may be started again, in seconds of the given clock.
        stray: how its answer to the model's input example differs from the golden one.
    """

    id: str
    deployment: str
    revision: int
    index: int
    state: ReplicaState
    retry_at: float = 0.0
    error: str = ""
    quick_deaths: int = 0
    stray: str = ""


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
class Try:
    """All replicas of the target run: begin its trial."""

    deployment: str
    revision: int


@dataclass(frozen=True)
class Promote:
    """All replicas of the target run, and its trial is over where it had one: let it serve."""

    deployment: str
    revision: int


@dataclass(frozen=True)
class Fail:
    """The target can't come into service."""

    deployment: str
    revision: int
    reason: str


Action = Start | Restart | Stop | Try | Promote | Fail

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
    failed = None if wanted.undone else _failure(wanted, mine)
    if failed is not None:
        yield failed
    if wanted.gradual and wanted.serving is not None and wanted.target is not None:
        if failed is None:
            draining = [r for r in seen if r.state is ReplicaState.DRAINING]
            yield from _exchange(wanted, wanted.serving, wanted.target, mine, draining)
    else:
        for revision in sorted(wanted.revisions()):
            if failed is None or revision != wanted.target:
                yield from _missing(wanted, revision, mine, wanted.replicas[revision])
    for replica in mine:
        tried = wanted.trial is Trial.UNDER_WAY and failed is None and replica.revision == wanted.target
        if (
            replica.state in ENDED
            and (replica.revision == wanted.serving or tried)
            and replica.retry_at <= now
        ):
            yield Restart(replica.id)
    if failed is None and wanted.target is not None and _is_complete(wanted, mine):
        yield (Promote if wanted.trial is None else Try)(wanted.deployment, wanted.target)


def _is_complete(wanted: Wanted, mine: Sequence[Seen]) -> bool:
    """Tell whether all replicas of the target run, and nothing else is to come before it serves."""
    return (
        wanted.target is not None
        and not wanted.undone
        and wanted.trial is not Trial.UNDER_WAY
        and len(_running(mine, wanted.target)) == wanted.replicas[wanted.target]
    )


def _missing(wanted: Wanted, revision: int, mine: Sequence[Seen], count: int) -> Iterable[Action]:
    """Start replicas of a revision until `count` are there."""
    there = {r.index for r in mine if r.revision == revision}
    free = [index for index in range(wanted.replicas[revision]) if index not in there]
    for index in free[: max(0, count - len(there))]:
        yield Start(wanted.deployment, revision, index)


def _exchange(
    wanted: Wanted, serving: int, target: int, mine: Sequence[Seen], draining: Sequence[Seen]
) -> Iterable[Action]:
    """Bring replicas of one revision, and let as many of the other go; never fewer run than before, nor two more."""
    coming, going = (serving, target) if wanted.undone else (target, serving)
    full = max(wanted.replicas[serving], 0 if wanted.undone else wanted.replicas[target])
    come, go = _running(mine, coming), _running(mine, going)
    hopeless = any(r.state is ReplicaState.FATAL for r in mine if r.revision == serving)
    if wanted.undone and (hopeless or len(come) == wanted.replicas[coming]):
        yield Fail(wanted.deployment, target, "")
        return
    if len(come) == wanted.replicas[coming]:
        return
    there = sum(r.revision == going and r.state not in ENDED for r in (*mine, *draining))
    if wanted.undone:
        for replica in mine:
            if replica.revision == going and replica.state is not ReplicaState.RUNNING:
                yield Stop(replica.id)
    yield from _missing(wanted, coming, mine, max(1, full + 1 - there))
    spare = len(come) + len(go) - full
    for replica in sorted(go, key=lambda r: -r.index)[: max(0, spare)]:
        yield Stop(replica.id)
    if not wanted.undone:
        short = full - len(come) - sum(r.revision == serving for r in mine)
        if short > 0:  # one of the old ones is gone altogether
            yield from _missing(wanted, serving, mine, sum(r.revision == serving for r in mine) + short)


def _running(mine: Iterable[Seen], revision: int) -> list[Seen]:
    return [r for r in mine if r.revision == revision and r.state is ReplicaState.RUNNING]


def _failure(wanted: Wanted, mine: Iterable[Seen]) -> Fail | None:
    for replica in mine:
        if wanted.target is None or replica.revision != wanted.target or replica.state not in ENDED:
            continue
        # On trial, one death may be bad luck: the replica is started again, and callers were served by another.
        if wanted.trial is not Trial.UNDER_WAY or replica.quick_deaths >= KEEPS_DYING:
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


def after_death(lived_s: float, quick_deaths: int, now: float, start_s: float | None = None) -> Death:
    """Return the replica's next state, and when to start it again.

    The first restart comes at once. After `FATAL_AFTER_QUICK_DEATHS` deaths in a row within `QUICK_DEATH_S` seconds
    of their start it is given up as FATAL, but still tried again: slowly where it did not come to run, and else as soon
    as its starts leave the machine to others most of the time, since between two deaths it answers callers.

    Args:
        start_s: time that its start took until it ran, None when it did not come to run.
    """
    quick = quick_deaths + 1 if lived_s < QUICK_DEATH_S else 1
    wait = 0.0 if quick == 1 else FIRST_BACKOFF_S * 2.0 ** min(quick - 2, FATAL_AFTER_QUICK_DEATHS)
    if start_s is not None:
        wait = min(wait, max(SOON_RETRY_S, start_s * (1 / START_SHARE - 1)))
    if quick < FATAL_AFTER_QUICK_DEATHS:
        return Death(ReplicaState.BACKOFF, quick, now + wait)
    return Death(
        ReplicaState.FATAL, quick, now + (SLOW_RETRY_S if start_s is None else min(wait, SLOW_RETRY_S))
    )


def deployment_state(wanted: Wanted, seen: Iterable[Seen]) -> tuple[DeploymentState, str]:
    """Return what to tell users of a deployment: its state and, if something is wrong, what."""
    if wanted.target is not None:
        return DeploymentState.UPDATING, f"revision {wanted.target} is being rolled out"
    mine = [r for r in seen if r.deployment == wanted.deployment and r.revision == wanted.serving]
    for replica in mine:
        if replica.state is ReplicaState.FATAL:
            return DeploymentState.UNHEALTHY, f"replica {replica.id} keeps ending: {replica.error}"
    if wanted.serving is not None and wanted.replicas[wanted.serving] == 0:
        return DeploymentState.HEALTHY, ASLEEP
    running = [r for r in mine if r.state is ReplicaState.RUNNING]
    for replica in running:
        if replica.stray:
            return DeploymentState.UNHEALTHY, f"replica {replica.id}: {replica.stray}"
    if running:
        return DeploymentState.HEALTHY, ""
    reasons = [r.error for r in mine if r.error]
    return DeploymentState.UNHEALTHY, reasons[0] if reasons else "no replica is running yet"
