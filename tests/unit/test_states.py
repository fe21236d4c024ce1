"""The tables of states: every state has its row, and `advance` allows what the rows say and nothing else."""

from __future__ import annotations

from enum import Enum
from itertools import product
from typing import Any

import pytest

from mlflow_restaurant.states import (
    REPLICA_TRANSITIONS,
    REVISION_TRANSITIONS,
    IllegalTransition,
    ReplicaState,
    RevisionState,
    advance,
)

MACHINES = [
    pytest.param(REPLICA_TRANSITIONS, ReplicaState, id="replica"),
    pytest.param(REVISION_TRANSITIONS, RevisionState, id="revision"),
]


@pytest.mark.parametrize(("table", "states"), MACHINES)
def test_every_state_has_a_row_and_none_follows_itself(table: dict[Any, frozenset[Any]], states: Any) -> None:
    assert set(table) == set(states)
    assert all(state not in followers for state, followers in table.items())


@pytest.mark.parametrize(("table", "states"), MACHINES)
def test_advance_allows_exactly_the_table_and_the_same_state_again(
    table: dict[Any, frozenset[Any]], states: Any
) -> None:
    for current, new in product(states, states):
        if new is current or new in table[current]:
            assert advance(table, current, new) is new
        else:
            with pytest.raises(IllegalTransition, match=f"{current.value} to {new.value}"):
                advance(table, current, new)


@pytest.mark.parametrize(("table", "states"), MACHINES)
def test_every_state_can_reach_an_end(table: dict[Any, frozenset[Any]], states: Any) -> None:
    ends = {state for state in states if not table[state]}
    reached: set[Enum] = set(ends)
    while more := {s for s in states if s not in reached and table[s] & reached}:
        reached |= more

    assert ends
    assert reached == set(states)


def test_a_failed_revision_never_serves() -> None:
    with pytest.raises(IllegalTransition):
        advance(REVISION_TRANSITIONS, RevisionState.FAILED, RevisionState.SERVING)


def test_a_draining_replica_never_runs_again() -> None:
    assert REPLICA_TRANSITIONS[ReplicaState.DRAINING] == {ReplicaState.STOPPED}


def test_replicas_that_ended_may_start_again() -> None:
    for ended in (ReplicaState.BACKOFF, ReplicaState.FATAL):
        assert advance(REPLICA_TRANSITIONS, ended, ReplicaState.STARTING) is ReplicaState.STARTING
