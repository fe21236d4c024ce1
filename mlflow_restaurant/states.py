"""The states of deployments, revisions and replicas, and which may follow which.

Each machine is a table; `advance` applies it. A pair that is not in the table is an error and changes nothing.
"""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

S = TypeVar("S", bound=Enum)


class DeploymentState(str, Enum):
    """What a user sees of a deployment."""

    UPDATING = "UPDATING"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    DEPLOY_FAILED = "DEPLOY_FAILED"
    DELETING = "DELETING"


class RevisionState(str, Enum):
    """How far one revision of a deployment has come."""

    PENDING = "PENDING"
    SERVING = "SERVING"
    SUPERSEDED = "SUPERSEDED"
    FAILED = "DEPLOY_FAILED"


class ReplicaState(str, Enum):
    """What one replica is doing."""

    STARTING = "STARTING"
    RUNNING = "RUNNING"
    BACKOFF = "BACKOFF"
    FATAL = "FATAL"
    DRAINING = "DRAINING"
    STOPPED = "STOPPED"


REVISION_TRANSITIONS: dict[RevisionState, frozenset[RevisionState]] = {
    RevisionState.PENDING: frozenset({RevisionState.SERVING, RevisionState.FAILED}),
    RevisionState.SERVING: frozenset({RevisionState.SUPERSEDED}),
    RevisionState.SUPERSEDED: frozenset(),
    RevisionState.FAILED: frozenset(),
}

REPLICA_TRANSITIONS: dict[ReplicaState, frozenset[ReplicaState]] = {
    ReplicaState.STARTING: frozenset(
        {
            ReplicaState.RUNNING,
            ReplicaState.BACKOFF,
            ReplicaState.FATAL,
            ReplicaState.DRAINING,
            ReplicaState.STOPPED,
        }
    ),
    ReplicaState.RUNNING: frozenset(
        {ReplicaState.BACKOFF, ReplicaState.FATAL, ReplicaState.DRAINING, ReplicaState.STOPPED}
    ),
    ReplicaState.BACKOFF: frozenset({ReplicaState.STARTING, ReplicaState.STOPPED}),
    ReplicaState.FATAL: frozenset({ReplicaState.STARTING, ReplicaState.STOPPED}),
    ReplicaState.DRAINING: frozenset({ReplicaState.STOPPED}),
    ReplicaState.STOPPED: frozenset(),
}


class IllegalTransition(RuntimeError):
    """A state was asked to become one that may not follow it: a mistake in the caller."""


def advance(table: dict[S, frozenset[S]], current: S, new: S) -> S:
    """Return `new` if it may follow `current`; the same state again is always allowed.

    Raises:
        IllegalTransition: `new` may not follow `current`.
    """
    if new is not current and new not in table[current]:
        raise IllegalTransition(f"{type(current).__name__} can't go from {current.value} to {new.value}")
    return new
