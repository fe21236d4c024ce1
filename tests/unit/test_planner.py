"""The planner: each action, and a simulated world in which plans lead to what is wanted without an interruption."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_restaurant.control.planner import (
    FATAL_AFTER_QUICK_DEATHS,
    QUICK_DEATH_S,
    SLOW_RETRY_S,
    SOON_RETRY_S,
    Action,
    Fail,
    Promote,
    Restart,
    Seen,
    Start,
    Stop,
    Trial,
    Try,
    Wanted,
    after_death,
    deployment_state,
    next_deadline,
    plan,
)
from mlflow_restaurant.states import REPLICA_TRANSITIONS, DeploymentState, ReplicaState, advance

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

STARTING, RUNNING, BACKOFF, FATAL, DRAINING, STOPPED = ReplicaState
NOW = 1000.0


def wanted(serving: int | None, target: int | None = None, replicas: int = 1, name: str = "d") -> Wanted:
    numbers = {n for n in (serving, target) if n is not None}
    return Wanted(name, serving, target, dict.fromkeys(numbers | {1, 2, 3}, replicas))


def seen(
    revision: int,
    state: ReplicaState,
    index: int = 0,
    *,
    name: str = "d",
    retry_at: float = 0.0,
    error: str = "",
) -> Seen:
    return Seen(f"{name}-{revision}-{index}", name, revision, index, state, retry_at, error)


class TestPlan:
    def test_nothing_wanted_and_nothing_seen_is_nothing_to_do(self) -> None:
        assert plan([], [], NOW) == []

    def test_what_runs_as_wanted_is_left_alone(self) -> None:
        assert plan([wanted(1, replicas=2)], [seen(1, RUNNING), seen(1, RUNNING, 1)], NOW) == []

    def test_missing_replicas_are_started(self) -> None:
        assert plan([wanted(1, replicas=3)], [seen(1, RUNNING, 1)], NOW) == [
            Start("d", 1, 0),
            Start("d", 1, 2),
        ]

    def test_after_a_restart_of_the_controller_serving_and_target_are_both_started(self) -> None:
        assert plan([wanted(1, 2)], [], NOW) == [Start("d", 1, 0), Start("d", 2, 0)]

    @pytest.mark.parametrize("state", [STARTING, RUNNING, BACKOFF, FATAL])
    def test_what_is_not_wanted_is_stopped(self, state: ReplicaState) -> None:
        strangers = [seen(1, state, name="gone"), seen(2, state), seen(3, state, 1)]

        actions = plan([wanted(3)], [*strangers, seen(3, RUNNING)], NOW)

        assert actions == [Stop(r.id) for r in strangers]

    @pytest.mark.parametrize("state", [DRAINING, STOPPED])
    def test_what_is_going_already_is_not_stopped_again(self, state: ReplicaState) -> None:
        assert plan([], [seen(1, state)], NOW) == []

    @pytest.mark.parametrize("state", [DRAINING, STOPPED])
    def test_what_is_going_does_not_count_as_there(self, state: ReplicaState) -> None:
        assert plan([wanted(1)], [seen(1, state)], NOW) == [Start("d", 1, 0)]

    def test_a_successor_starts_beside_the_old(self) -> None:
        assert plan([wanted(1, 2)], [seen(1, RUNNING)], NOW) == [Start("d", 2, 0)]

    def test_a_starting_successor_is_waited_for(self) -> None:
        assert plan([wanted(1, 2)], [seen(1, RUNNING), seen(2, STARTING)], NOW) == []

    def test_one_of_two_is_not_enough_to_promote(self) -> None:
        there = [seen(1, RUNNING), seen(1, RUNNING, 1), seen(2, RUNNING), seen(2, STARTING, 1)]

        assert plan([wanted(1, 2, replicas=2)], there, NOW) == []

    def test_all_of_the_successor_running_promotes_and_stops_nothing_yet(self) -> None:
        assert plan([wanted(1, 2)], [seen(1, RUNNING), seen(2, RUNNING)], NOW) == [Promote("d", 2)]

    def test_the_first_revision_is_promoted_too(self) -> None:
        assert plan([wanted(None, 1)], [seen(1, RUNNING)], NOW) == [Promote("d", 1)]

    def test_after_the_promotion_the_old_is_stopped(self) -> None:
        assert plan([wanted(2)], [seen(1, RUNNING), seen(2, RUNNING)], NOW) == [Stop("d-1-0")]

    @pytest.mark.parametrize("state", [BACKOFF, FATAL])
    def test_a_successor_that_ends_fails_with_its_error_and_is_not_started_again(
        self, state: ReplicaState
    ) -> None:
        there = [seen(1, RUNNING), seen(2, state, error="no such module")]

        assert plan([wanted(1, 2, replicas=1)], there, NOW) == [Fail("d", 2, "no such module")]

    def test_a_failing_successor_starts_no_more_of_its_kind_but_the_old_is_kept_complete(self) -> None:
        there = [seen(2, BACKOFF, error="x"), seen(1, RUNNING)]

        assert plan([wanted(1, 2, replicas=2)], there, NOW) == [Fail("d", 2, "x"), Start("d", 1, 1)]

    def test_a_successor_with_a_dead_replica_is_never_promoted(self) -> None:
        there = [seen(2, RUNNING), seen(2, BACKOFF, 1, error="x")]

        assert plan([wanted(None, 2, replicas=2)], there, NOW) == [Fail("d", 2, "x")]

    @pytest.mark.parametrize("state", [BACKOFF, FATAL])
    def test_a_serving_replica_is_restarted_when_its_time_has_come_and_not_before(
        self, state: ReplicaState
    ) -> None:
        ended = seen(1, state, retry_at=NOW)

        assert plan([wanted(1)], [ended], NOW) == [Restart(ended.id)]
        assert plan([wanted(1)], [ended], NOW - 0.001) == []

    def test_an_ended_replica_is_restarted_while_a_successor_comes(self) -> None:
        there = [seen(1, BACKOFF, retry_at=NOW), seen(2, STARTING)]

        assert plan([wanted(1, 2)], there, NOW) == [Restart("d-1-0")]

    def test_deployments_do_not_touch_each_other(self) -> None:
        both = [wanted(1, name="a"), wanted(1, 2, name="b")]
        there = [
            seen(1, BACKOFF, name="a", retry_at=NOW),
            seen(1, RUNNING, name="b"),
            seen(2, RUNNING, name="b"),
        ]

        assert plan(both, there, NOW) == [Restart("a-1-0"), Promote("b", 2)]

    def test_different_revisions_may_have_different_numbers_of_replicas(self) -> None:
        mixed = Wanted("d", 1, 2, {1: 2, 2: 1})
        there = [seen(1, RUNNING), seen(1, RUNNING, 1), seen(2, RUNNING)]

        assert plan([mixed], there, NOW) == [Promote("d", 2)]


class TestDeadline:
    def test_none_when_nothing_waits(self) -> None:
        assert next_deadline([seen(1, RUNNING), seen(1, STARTING, 1, retry_at=3)]) is None

    def test_the_earliest_of_those_that_wait(self) -> None:
        assert next_deadline([seen(1, BACKOFF, retry_at=7), seen(1, FATAL, 1, retry_at=5)]) == 5


class TestDeath:
    def test_the_first_restart_comes_at_once(self) -> None:
        assert after_death(QUICK_DEATH_S + 1, 0, NOW).retry_at == NOW
        assert after_death(0.1, 0, NOW).retry_at == NOW

    def test_waits_grow_and_then_it_is_fatal_but_tried_again_slowly(self) -> None:
        quick, waits, states = 0, [], []
        for _ in range(FATAL_AFTER_QUICK_DEATHS + 2):
            death = after_death(1.0, quick, NOW)
            quick = death.quick_deaths
            waits.append(death.retry_at - NOW)
            states.append(death.state)

        early = FATAL_AFTER_QUICK_DEATHS - 1
        assert states == [BACKOFF] * early + [FATAL] * 3
        assert waits == sorted(waits)
        assert len(set(waits[:early])) == early
        assert set(waits[early:]) == {SLOW_RETRY_S}

    @pytest.mark.parametrize(("start_s", "longest"), [(0.1, SOON_RETRY_S), (2.0, 6.0), (100.0, SLOW_RETRY_S)])
    def test_one_that_runs_before_it_ends_is_tried_again_sooner(self, start_s: float, longest: float) -> None:
        quick, waits = 0, []
        for _ in range(20):
            death = after_death(1.0, quick, NOW, start_s)
            quick = death.quick_deaths
            waits.append(death.retry_at - NOW)

        assert death.state is FATAL
        assert waits[0] == 0
        assert waits == sorted(waits)
        assert waits[-1] <= longest

    @unhurried
    @given(st.floats(QUICK_DEATH_S, 1e9), st.integers(0, 100))
    def test_a_long_life_is_forgiven(self, lived_s: float, quick_deaths: int) -> None:
        death = after_death(lived_s, quick_deaths, NOW)

        assert (death.state, death.retry_at) == (BACKOFF, NOW)

    @unhurried
    @given(st.floats(0, QUICK_DEATH_S, exclude_max=True), st.integers(0, 1000))
    def test_a_retry_is_never_in_the_past_nor_far_away(self, lived_s: float, quick_deaths: int) -> None:
        assert NOW <= after_death(lived_s, quick_deaths, NOW).retry_at <= NOW + SLOW_RETRY_S


class TestState:
    def test_a_rollout_is_updating(self) -> None:
        assert deployment_state(wanted(1, 2), [seen(1, RUNNING)]) == (
            DeploymentState.UPDATING,
            "revision 2 is being rolled out",
        )

    def test_running_is_healthy(self) -> None:
        assert deployment_state(wanted(1), [seen(1, RUNNING)]) == (DeploymentState.HEALTHY, "")

    def test_one_of_two_running_still_answers(self) -> None:
        state, _ = deployment_state(wanted(1, replicas=2), [seen(1, RUNNING), seen(1, BACKOFF, 1)])

        assert state is DeploymentState.HEALTHY

    def test_none_running_is_unhealthy_with_the_reason(self) -> None:
        assert deployment_state(wanted(1), [seen(1, BACKOFF, error="killed")]) == (
            DeploymentState.UNHEALTHY,
            "killed",
        )
        assert deployment_state(wanted(1), [])[0] is DeploymentState.UNHEALTHY

    def test_a_replica_given_up_is_unhealthy_even_beside_one_that_runs(self) -> None:
        state, message = deployment_state(
            wanted(1, replicas=2), [seen(1, RUNNING), seen(1, FATAL, 1, error="out of memory")]
        )

        assert state is DeploymentState.UNHEALTHY
        assert "d-1-1" in message
        assert "out of memory" in message

    def test_others_do_not_count(self) -> None:
        others = [seen(2, RUNNING), seen(1, RUNNING, name="other")]

        assert deployment_state(wanted(1), others)[0] is DeploymentState.UNHEALTHY


@dataclass
class World:
    """Deployments and replicas, changed by plans, by their users and by bad luck."""

    wanted: dict[str, Wanted] = field(default_factory=dict)
    replicas: dict[str, Seen] = field(default_factory=dict)
    quick_deaths: dict[str, int] = field(default_factory=dict)
    now: float = NOW

    def become(self, replica: Seen, state: ReplicaState, **changes: float | str) -> None:
        advance(REPLICA_TRANSITIONS, replica.state, state)
        self.replicas[replica.id] = replace(replica, state=state, **changes)  # type: ignore[arg-type]

    def running(self, name: str) -> int:
        serving = self.wanted[name].serving
        return sum(
            r.state is RUNNING and (r.deployment, r.revision) == (name, serving)
            for r in self.replicas.values()
        )

    def step(self) -> list[Action]:
        before = {name: self.running(name) for name in self.wanted}
        actions = plan(list(self.wanted.values()), list(self.replicas.values()), self.now)
        for action in actions:
            self.apply(action)
        for name, running in before.items():
            served = name not in self.wanted or self.running(name) > 0
            assert served or not running, f"{name} was taken out of service by {actions}"
        return actions

    def applies(self, action: Action) -> bool:
        """Tell whether what an action is about is still there: one before it may have changed that."""
        if isinstance(action, (Restart, Stop)):
            replica = self.replicas.get(action.id)
            return replica is not None and replica.state not in (DRAINING, STOPPED)
        return not isinstance(action, (Promote, Fail, Try)) or action.deployment in self.wanted

    def apply(self, action: Action) -> None:
        if isinstance(action, Start):
            new = seen(action.revision, STARTING, action.index, name=action.deployment)
            assert self.replicas.get(new.id, replace(new, state=STOPPED)).state in (DRAINING, STOPPED)
            self.replicas[new.id] = new
            self.quick_deaths[new.id] = 0
        elif isinstance(action, Restart):
            replica = self.replicas[action.id]
            assert self.wanted[replica.deployment].serving == replica.revision
            self.become(replica, STARTING)
        elif isinstance(action, Stop):
            replica = self.replicas[action.id]
            self.become(replica, DRAINING if replica.state is RUNNING else STOPPED)
        elif isinstance(action, Promote):
            w = self.wanted[action.deployment]
            assert action.revision == w.target
            self.wanted[w.deployment] = replace(w, serving=w.target, target=None, undone=False, trial=None)
        elif isinstance(action, Try):
            w = self.wanted[action.deployment]
            self.wanted[w.deployment] = replace(w, trial=Trial.UNDER_WAY)
        else:
            w = self.wanted[action.deployment]
            assert action.revision == w.target
            if w.gradual and not w.undone and w.serving is not None:
                self.wanted[w.deployment] = replace(w, undone=True)
            elif w.serving is None:
                del self.wanted[w.deployment]
            else:
                self.wanted[w.deployment] = replace(w, target=None, undone=False, trial=None)

    # what users do

    def roll_out(self, name: str, replicas: int) -> None:
        w = self.wanted.get(name, Wanted(name, None, None, {}))
        if w.target is None:
            number = max([*w.replicas, *(r.revision for r in self.replicas.values())], default=0) + 1
            self.wanted[name] = replace(w, target=number, replicas={**w.replicas, number: replicas})

    def delete(self, name: str) -> None:
        self.wanted.pop(name, None)

    # what happens

    def ready(self, pick: int) -> None:
        if candidates := [r for r in self.replicas.values() if r.state is STARTING]:
            self.become(candidates[pick % len(candidates)], RUNNING)

    def die(self, pick: int) -> None:
        if candidates := [r for r in self.replicas.values() if r.state in (STARTING, RUNNING)]:
            replica = candidates[pick % len(candidates)]
            death = after_death(1.0, self.quick_deaths[replica.id], self.now)
            self.quick_deaths[replica.id] = death.quick_deaths
            self.become(replica, death.state, retry_at=death.retry_at, error="killed")

    def let_go(self) -> None:
        self.replicas = {i: r for i, r in self.replicas.items() if r.state not in (DRAINING, STOPPED)}

    def settle(self) -> None:
        """Let everything succeed from now on."""
        for _ in range(20):
            self.step()
            self.let_go()
            for replica in list(self.replicas.values()):
                if replica.state is STARTING:
                    self.become(replica, RUNNING)
            self.now = max(self.now, next_deadline(self.replicas.values()) or 0.0)


picks = st.integers(0, 20)
events = st.one_of(
    st.tuples(st.just("roll_out"), st.sampled_from("ab"), st.integers(1, 3)),
    st.tuples(st.just("delete"), st.sampled_from("ab")),
    st.tuples(st.just("ready"), picks),
    st.tuples(st.just("ready"), picks),
    st.tuples(st.just("die"), picks),
    st.tuples(st.just("let_go")),
)


@given(st.lists(st.tuples(events, st.booleans(), st.floats(0, 5)), max_size=40))
@settings(unhurried, max_examples=300)
def test_whatever_happens_plans_lead_to_what_is_wanted_without_an_interruption(
    history: list[tuple[tuple[str, ...], bool, float]],
) -> None:
    world = World()
    for (what, *arguments), planned, passed in history:
        getattr(world, what)(*arguments)
        world.now += passed
        if planned:
            world.step()

    world.settle()

    assert plan(list(world.wanted.values()), list(world.replicas.values()), world.now) == []
    assert all(w.target is None and w.serving is not None for w in world.wanted.values())
    running = {(r.deployment, r.revision, r.index) for r in world.replicas.values()}
    assert running == {
        (w.deployment, w.serving, index)
        for w in world.wanted.values()
        if w.serving is not None
        for index in range(w.replicas[w.serving])
    }
    assert all(r.state is RUNNING for r in world.replicas.values())


@unhurried
@given(st.lists(st.tuples(picks, picks), max_size=30), st.integers(1, 4), st.integers(1, 4))
def test_an_update_never_leaves_fewer_running_than_were(
    luck: list[tuple[int, int]], old: int, new: int
) -> None:
    world = World({"d": Wanted("d", 1, 2, {1: old, 2: new})})
    for index in range(old):
        world.replicas[f"d-1-{index}"] = seen(1, RUNNING, index)

    for pick_, _ in luck:
        world.step()
        world.ready(pick_)
        expected = new if world.wanted["d"].serving == 2 else old
        assert world.running("d") == expected

    world.settle()
    assert world.wanted["d"].serving == 2
    assert world.running("d") == new


def answering(world: World) -> int:
    """Return how many replicas answer: those of the revision that serves, and of the one that takes its place."""
    w = world.wanted["d"]
    return sum(r.state is RUNNING and r.revision in w.revisions() for r in world.replicas.values())


def alive(world: World) -> int:
    return sum(r.state in (STARTING, RUNNING, DRAINING) for r in world.replicas.values())


def exchange(old: int, new: int) -> World:
    world = World({"d": Wanted("d", 1, 2, {1: old, 2: new}, gradual=True)})
    for index in range(old):
        world.replicas[f"d-1-{index}"] = seen(1, RUNNING, index)
    return world


def coming(world: World) -> Seen | None:
    return next((r for r in world.replicas.values() if r.revision == 2 and r.state is STARTING), None)


moves = st.one_of(st.tuples(st.just("ready"), picks), st.tuples(st.just("let_go")))


@unhurried
@given(st.lists(st.tuples(moves, st.booleans()), max_size=60), st.integers(1, 4), st.integers(1, 4))
def test_a_gradual_update_keeps_the_number_and_goes_one_beyond_it(
    luck: list[tuple[tuple[str, ...], bool]], old: int, new: int
) -> None:
    world = exchange(old, new)
    for (what, *arguments), planned in luck:
        if planned:
            world.step()
        getattr(world, what)(*arguments)
        assert answering(world) >= min(old, new)
        assert alive(world) <= max(old, new) + 1

    world.settle()
    assert world.wanted["d"].serving == 2
    assert world.running("d") == new == len(world.replicas)


@unhurried
@given(st.integers(2, 4), st.integers(0, 3), st.lists(st.tuples(moves, st.booleans()), max_size=40))
def test_a_gradual_update_that_fails_goes_back_as_it_came(
    count: int, exchanged: int, luck: list[tuple[tuple[str, ...], bool]]
) -> None:
    world = exchange(count, count)
    while sum(r.revision == 2 and r.state is RUNNING for r in world.replicas.values()) < min(
        exchanged, count - 1
    ):
        world.step()
        world.ready(0)
        world.let_go()
    while (dying := coming(world)) is None:
        world.step()
        world.let_go()
    world.become(dying, BACKOFF, retry_at=world.now, error="killed")
    for (what, *arguments), planned in luck:
        if planned:
            world.step()
        getattr(world, what)(*arguments)
        assert answering(world) >= count
        assert alive(world) <= count + 1

    world.settle()
    assert world.wanted["d"] == Wanted("d", 1, None, {1: count, 2: count}, gradual=True)
    assert world.running("d") == count == len(world.replicas)


@given(st.lists(st.tuples(events, st.booleans(), st.floats(0, 5)), max_size=40))
@settings(unhurried, max_examples=300)
def test_whatever_happens_gradual_updates_end_too(
    history: list[tuple[tuple[str, ...], bool, float]],
) -> None:
    world = World()
    for (what, *arguments), planned, passed in history:
        getattr(world, what)(*arguments)
        world.wanted = {name: replace(w, gradual=True) for name, w in world.wanted.items()}
        world.now += passed
        if planned:
            for action in plan(list(world.wanted.values()), list(world.replicas.values()), world.now):
                if world.applies(action):
                    world.apply(action)

    world.settle()

    assert plan(list(world.wanted.values()), list(world.replicas.values()), world.now) == []
    assert all(w.target is None and w.serving is not None for w in world.wanted.values())
    assert all(r.state is RUNNING for r in world.replicas.values())
    assert len(world.replicas) == sum(w.replicas[w.serving] for w in world.wanted.values() if w.serving)


class TestTrials:
    def test_a_trial_begins_when_all_replicas_run(self) -> None:
        due = replace(wanted(1, 2, replicas=2), trial=Trial.DUE)
        running = [seen(r, RUNNING, index) for r in (1, 2) for index in (0, 1)]

        assert plan([due], running[:3], NOW) == [Start("d", 2, 1)]
        assert plan([due], running, NOW) == [Try("d", 2)]
        assert plan([replace(due, trial=Trial.UNDER_WAY)], running, NOW) == []
        assert plan([replace(due, trial=None)], running, NOW) == [Promote("d", 2)]

    def test_on_trial_one_death_is_mended_and_the_second_ends_it(self) -> None:
        trial = replace(wanted(1, 2), trial=Trial.UNDER_WAY)
        once = replace(seen(2, BACKOFF, error="killed"), quick_deaths=1)

        assert plan([trial], [seen(1, RUNNING), once], NOW) == [Restart("d-2-0")]
        assert plan([trial], [seen(1, RUNNING), replace(once, quick_deaths=2)], NOW) == [
            Fail("d", 2, "killed")
        ]
