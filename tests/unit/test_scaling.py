"""How many replicas there should be, from what callers do."""

from __future__ import annotations

import pytest

from mlflow_restaurant.config import DeploymentConfig
from mlflow_restaurant.control.scaler import gathered
from mlflow_restaurant.control.scaling import (
    DOWN_S,
    UP_S,
    Activity,
    Scale,
    adjust,
    is_scaled,
    limits,
    sleepers,
)

NOW = 100.0


def config(**options: object) -> DeploymentConfig:
    return DeploymentConfig.from_options(options)


class TestSleep:
    def test_it_comes_after_so_long_without_a_request(self) -> None:
        scale = Scale(2)
        assert not adjust(scale, config(replicas=2, idle_timeout_s=10), Activity(9.9), NOW)
        assert adjust(scale, config(replicas=2, idle_timeout_s=10), Activity(10.0), NOW)
        assert (scale.replicas, scale.reason) == (0, "no request came for 10 s (idle_timeout_s)")

    @pytest.mark.parametrize("activity", [Activity(99, waiting=1), Activity(99, busy=1)])
    def test_nobody_is_left_waiting(self, activity: Activity) -> None:
        assert not adjust(Scale(1), config(idle_timeout_s=10), activity, NOW)

    def test_without_a_timeout_there_is_none(self) -> None:
        assert not adjust(Scale(1), config(), Activity(1e9), NOW)


class TestQueue:
    def test_one_more_when_callers_wait_for_long(self) -> None:
        scale, options = Scale(1), config(max_replicas=3)
        crowd = Activity(0, waiting=9, oldest_s=0.5, busy=6)
        found = [adjust(scale, options, crowd, NOW + tick * UP_S / 2) for tick in range(8)]
        assert found == [False, False, True, False, False, True, False, False]
        assert scale.replicas == 3
        assert "9 requests waited, the oldest for 0.5 s" in scale.reason

    def test_a_short_wait_is_no_reason(self) -> None:
        scale, options = Scale(1), config(max_replicas=3)
        for tick in range(20):
            oldest_s = 0.5 if tick % 2 else 0.01
            assert not adjust(scale, options, Activity(0, 9, oldest_s, 1), NOW + tick)

    def test_one_less_when_that_is_enough_for_long(self) -> None:
        scale, options = Scale(3), config(max_replicas=3)
        for tick in range(int(DOWN_S)):
            assert not adjust(scale, options, Activity(0, busy=1), NOW + tick)
        assert adjust(scale, options, Activity(0, busy=1), NOW + DOWN_S)
        assert scale.replicas == 2
        assert not adjust(scale, options, Activity(0, busy=1), NOW + DOWN_S + 1)

    def test_never_fewer_than_allowed(self) -> None:
        scale, options = Scale(2), config(replicas=2, min_replicas=2, max_replicas=3)
        assert not any(adjust(scale, options, Activity(9), NOW + tick) for tick in range(200))


def test_what_may_change_by_itself() -> None:
    assert not is_scaled(config(replicas=2))
    assert is_scaled(config(idle_timeout_s=5))
    assert is_scaled(config(max_replicas=2))
    assert limits(config(replicas=2, max_replicas=4)) == (2, 4)
    assert limits(config(replicas=2, min_replicas=1)) == (1, 2)


def test_the_least_recently_used_sleep_first_and_only_as_many_as_needed() -> None:
    activities = {"a": Activity(1), "b": Activity(30), "c": Activity(20), "busy": Activity(40, busy=1)}
    memory = {"a": 20.0, "b": 20.0, "c": 20.0, "busy": 20.0}
    assert sleepers(activities, memory, 0) == []
    assert sleepers(activities, memory, 15) == ["b"]
    assert sleepers(activities, memory, 25) == ["b", "c"]
    assert sleepers(activities, memory, 1000) == ["b", "c", "a"]
    assert sleepers(activities, {}, 15) == []


def test_gateways_are_taken_together() -> None:
    one = {"a": {"idle_s": 5.0, "waiting": 1, "oldest_s": 0.2, "busy": 1}}
    other = {"a": {"idle_s": 2.0, "waiting": 2, "oldest_s": 0.1, "busy": 0}, "b": vars(Activity(1.0))}
    assert gathered([one, other]) == {"a": Activity(2.0, 3, 0.2, 1), "b": Activity(1.0)}
