"""Whom the scaler puts to sleep when there is no room for all, by what callers do at that moment."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from mlflow_restaurant.config import DeploymentConfig
from mlflow_restaurant.control import scaler as scaler_module
from mlflow_restaurant.control.scaler import Scaler
from mlflow_restaurant.control.scaling import Scale

MB = 30.0


class World:
    """Deployments with a replica each, as long as they are awake."""

    def __init__(self, names: Sequence[str], activities: dict[str, dict[str, Any]]) -> None:
        self.names, self.activities = list(names), activities
        self.awake = set(names)
        self.news: list[tuple[str, int]] = []
        self.looks = 0
        self.updated: set[str] = set()

    def configs(self) -> Mapping[str, DeploymentConfig]:
        return {name: DeploymentConfig.from_options({}) for name in self.names}

    def changing(self) -> Collection[str]:
        return self.updated

    def processes(self) -> list[Any]:
        return [SimpleNamespace(revision=SimpleNamespace(deployment=name), pid=1) for name in self.awake]

    def scaled(self, name: str, scale: Scale) -> None:
        self.news.append((name, scale.replicas))
        (self.awake.add if scale.replicas else self.awake.discard)(name)

    async def activity(self) -> list[dict[str, Any]]:
        self.looks += 1
        return [self.activities]


def seen(idle_s: float = 0.0, waiting: int = 0, busy: int = 0) -> dict[str, Any]:
    return {"idle_s": idle_s, "waiting": waiting, "oldest_s": 0.0, "busy": busy}


async def after(world: World, scaler: Scaler, looks: int) -> None:
    """Let the scaler look so often."""
    running = asyncio.ensure_future(scaler.run())
    goal = world.looks + looks
    while world.looks < goal:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    running.cancel()


@pytest.fixture(autouse=True)
def weights() -> Any:
    with mock.patch.object(scaler_module, "private_mb", return_value=MB):
        yield


def test_what_was_asked_a_moment_ago_stays_awake_though_it_was_idle_at_the_last_look() -> None:
    activities = {"asked": seen(idle_s=5.0), "left": seen(idle_s=3.0), "wanted": seen(idle_s=9.0)}
    world = World(["asked", "left", "wanted"], activities)

    async def scenario() -> None:
        scaler = Scaler(world, world.activity, max_total_memory_mb=2.5 * MB)
        await after(world, scaler, 2)
        assert world.news == [("wanted", 0)]  # used least recently
        activities.update(asked=seen(), wanted=seen(waiting=1))
        scaler.wake("wanted")
        assert world.news == [("wanted", 0)]  # nothing is decided by what was seen some time ago
        await after(world, scaler, 1)
        assert world.news[1:] == [("left", 0)]
        await after(world, scaler, 1)
        assert world.news[2:] == [("wanted", 1)]

    asyncio.run(scenario())


def test_who_waits_for_room_is_seen_to_at_once() -> None:
    activities = {"idle": seen(idle_s=5.0), "wanted": seen(idle_s=9.0)}
    world = World(["idle", "wanted"], activities)

    async def scenario() -> None:
        scaler = Scaler(world, world.activity, max_total_memory_mb=1.5 * MB)
        await after(world, scaler, 2)
        activities["wanted"] = seen(waiting=1)
        with mock.patch.object(scaler_module, "POLL_S", 60.0):
            scaler.wake("wanted")
            await after(world, scaler, 1)
        assert world.news == [("wanted", 0), ("idle", 0)]

    asyncio.run(scenario())


def test_what_is_in_use_is_not_put_to_sleep() -> None:
    activities = {
        "busy": seen(idle_s=5.0, busy=1),
        "queued": seen(idle_s=4.0, waiting=1),
        "idle": seen(idle_s=0.1),
    }
    world = World(["busy", "queued", "idle"], activities)

    async def scenario() -> None:
        scaler = Scaler(world, world.activity, max_total_memory_mb=1.5 * MB)
        await after(world, scaler, 2)
        assert world.news == [("idle", 0)]

    asyncio.run(scenario())


def large_and_small(activities: dict[str, dict[str, Any]]) -> tuple[World, Scaler]:
    """Two sleepers: one that needs twice as much as the other, and came before it; and one that is in use all the time."""
    world = World(["small", "large", "used"], activities)
    scaler = Scaler(world, world.activity, max_total_memory_mb=3.5 * MB)
    scaler.memory_mb = dict.fromkeys(["used", "other"], MB)
    scaler.peak_mb = {"large": 2 * MB, "small": MB, "used": MB}
    scaler.scales = {"small": Scale(0), "large": Scale(0)}
    world.awake = {"used", "other"}
    return world, scaler


def test_a_small_one_does_not_take_what_a_large_one_waits_for() -> None:
    world, scaler = large_and_small(
        {"used": seen(busy=1), "large": seen(waiting=1), "small": seen(waiting=1)}
    )

    async def scenario() -> None:
        scaler.wake("large")
        scaler.wake("small")
        assert world.news == []  # there is room for the small one, but not for both
        world.awake.discard("other")
        scaler.scales["other"] = Scale(0)
        await after(world, scaler, 1)
        assert world.news[0] == ("large", 1)

    asyncio.run(scenario())


def test_who_waits_in_vain_keeps_nobody_from_waking_for_long() -> None:
    world, scaler = large_and_small(
        {"used": seen(busy=1), "large": seen(waiting=1), "small": seen(waiting=1)}
    )

    async def scenario() -> None:
        scaler.wake("large")
        scaler.in_line["large"] -= scaler_module.KEEPS_PLACE_S
        scaler.wake("small")
        assert world.news == [("small", 1)]

    asyncio.run(scenario())


def test_who_is_no_longer_waited_for_loses_its_place() -> None:
    activities = {"used": seen(busy=1), "large": seen(waiting=1), "small": seen()}
    world, scaler = large_and_small(activities)

    async def scenario() -> None:
        scaler.wake("large")
        activities["large"] = seen()
        await after(world, scaler, 1)
        assert scaler.in_line == {}
        scaler.wake("small")
        assert world.news == [("small", 1)]

    asyncio.run(scenario())


def test_who_sleeps_to_make_room_says_how_much_is_needed() -> None:
    activities = {"old": seen(idle_s=90.0), "new": seen()}
    world = World(["old", "new"], activities)
    world.awake = {"old"}

    async def scenario() -> None:
        scaler = Scaler(world, world.activity, max_total_memory_mb=1.5 * MB)
        scaler.scales["new"] = Scale(0)
        await after(world, scaler, 1)
        assert world.news == []
        activities["new"] = seen(waiting=1)
        await after(world, scaler, 2)
        assert ("old", 0) in world.news
        assert "MB more are needed (max_total_memory_mb=" in scaler.scales["old"].reason

    asyncio.run(scenario())


def test_what_is_updated_may_wake_but_never_sleeps() -> None:
    activities = {"updated": seen(idle_s=90.0), "other": seen(idle_s=5.0)}
    world = World(["updated", "other"], activities)
    world.updated = {"updated"}

    async def scenario() -> None:
        scaler = Scaler(world, world.activity, max_total_memory_mb=1.5 * MB)
        await after(world, scaler, 2)
        assert world.news == [("other", 0)]
        world.awake.clear()
        scaler.scales["updated"] = Scale(0)
        scaler.wake("updated")
        assert world.news[1:] == [("updated", 1)]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("config", "adopted", "expected"),
    [
        ({"idle_timeout_s": 9, "replicas": 3}, 0, 0),
        ({"idle_timeout_s": 9, "replicas": 3}, 1, 3),
        ({"max_replicas": 4}, 4, 4),
        ({"max_replicas": 4}, 0, 1),
        ({"replicas": 3, "min_replicas": 2}, 1, 2),
        ({"replicas": 2}, 1, 2),
    ],
)
def test_what_an_earlier_controller_left_is_gone_on_with(
    config: dict[str, Any], adopted: int, expected: int
) -> None:
    found = DeploymentConfig.from_options(config)
    world = World(["a"], {})
    with mock.patch.object(world, "configs", return_value={"a": found}):
        scaler = Scaler(world, world.activity, max_total_memory_mb=0)
        scaler.begin({"a": adopted} if adopted else {})
    assert scaler.replicas("a", found) == expected
