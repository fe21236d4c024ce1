"""Changes the number of replicas of deployments by what the gateways see, and keeps all of them within the memory.

Deployments with `idle_timeout_s` start asleep when the server starts, so that a home with hundreds of them is up at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from mlflow_restaurant.config import DeploymentConfig
from mlflow_restaurant.control.replicas import Replica
from mlflow_restaurant.control.scaling import (
    Activity,
    Scale,
    adjust,
    is_scaled,
    limits,
    sleepers,
    within_limits,
)
from mlflow_restaurant.process.memory import private_mb

POLL_S = 0.5
LOOK_AGAIN_S = 0.1
"""Time at least between two looks at what callers do."""
KEEPS_PLACE_S = 10.0
"""Time for which one that waits for memory keeps what becomes free from those that came later.

Whoever can go to sleep does so in less; after it, what is there is better used by those that fit.
"""
WEIGH_S = 1.0
USUAL_MB = 20.0
"""Private memory to reckon with for a replica at least."""


class Scaled(Protocol):
    """What the scaler needs to know and to do."""

    def configs(self) -> Mapping[str, DeploymentConfig]:
        """Return the settings of the deployments that serve."""

    def changing(self) -> Collection[str]:
        """Return the deployments that a rollout is under way for: they may wake, and nothing else."""

    def processes(self) -> Sequence[Replica]:
        """Return the replicas that run, start, or are about to end."""

    def scaled(self, name: str, scale: Scale) -> None:
        """Note that a deployment has another number of replicas now."""


class Scaler:
    """The numbers of replicas of all deployments.

    Args:
        world: see `Scaled`.
        activity: asks the gateways what callers do: for each gateway, by deployment.
        max_total_memory_mb: private memory of all replicas; 0 for no limit.
    """

    def __init__(
        self,
        world: Scaled,
        activity: Callable[[], Awaitable[Sequence[Mapping[str, Any]]]],
        max_total_memory_mb: float,
    ) -> None:
        self.world, self.activity, self.max_total_mb = world, activity, max_total_memory_mb
        self.scales: dict[str, Scale] = {}
        self.memory_mb: dict[str, float] = {}
        self.peak_mb: dict[str, float] = {}
        self.weighed = 0.0
        self.activities: dict[str, Activity] = {}
        self.in_line: dict[str, float] = {}
        """Who sleeps and waits for memory, and since when; first come, first served."""
        self.crowded = asyncio.Event()

    def replicas(self, name: str, config: DeploymentConfig) -> int:
        """Return how many replicas of a deployment should run."""
        scale = self.scales.get(name)
        return config.replicas if scale is None else scale.replicas

    def is_asleep(self, name: str) -> bool:
        scale = self.scales.get(name)
        return scale is not None and scale.replicas == 0

    def forget(self, name: str) -> None:
        """Let a deployment have as many replicas as it is configured to have."""
        self.scales.pop(name, None)
        self.in_line.pop(name, None)

    def carry_over(self, name: str, config: DeploymentConfig, replicas: int) -> None:
        """Let the revision that serves now go on with so many replicas."""
        self.forget(name)
        if replicas != config.replicas:
            self.scales[name] = Scale(replicas, "as many as the revision before had")

    def begin(self, adopted: Mapping[str, int]) -> None:
        """Let deployments go on with as many replicas as an earlier controller left, and others that may sleep do so."""
        for name, config in self.world.configs().items():
            if is_scaled(config) and (config.idle_timeout_s or adopted.get(name)):
                replicas = within_limits(adopted.get(name, 0), config)
                self.scales[name] = Scale(replicas, "as it was when the server started")

    def wake(self, name: str) -> None:
        """Start replicas of a deployment that sleeps: a request came.

        When there is no room for them, others are put to sleep as soon as it is known which of them nobody uses just now.
        """
        config = self.world.configs().get(name)
        if config is None or not self.is_asleep(name):
            return
        now = time.monotonic()
        if self._is_behind_others(name, now) or self._no_room_for(name, config):
            self.in_line.setdefault(name, now)
            self.crowded.set()
            return
        self.in_line.pop(name, None)
        self.memory_mb[name] = limits(config)[0] * self._expected_mb(name)  # until it is weighed
        self._set(name, limits(config)[0], "a request came")

    def _is_behind_others(self, name: str, now: float) -> bool:
        """Tell whether others wait for memory before it: else small ones would take it from a large one for ever."""
        for other, since in self.in_line.items():
            if other == name:
                return False
            if now - since < KEEPS_PLACE_S:
                return True
        return False

    async def run(self) -> None:
        """Look and adjust until cancelled."""
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.crowded.wait(), POLL_S - LOOK_AGAIN_S)
            self.crowded.clear()
            configs = {n: c for n, c in self.world.configs().items() if self.max_total_mb or is_scaled(c)}
            if configs:
                looked = time.monotonic()
                self.activities = gathered(await self.activity())
                self._serve_line(configs, looked)
                changing = self.world.changing()
                for name, config in configs.items():
                    if name not in changing:
                        self._adjust(name, config)
                await self._keep_within_memory()

    def _serve_line(self, configs: Mapping[str, DeploymentConfig], looked: float) -> None:
        """Wake those that callers wait for, in the order they came, and make room for those there is none for yet."""
        wanted = [
            n for n in configs if self.is_asleep(n) and n in self.activities and self.activities[n].waiting
        ]
        # One that came while the gateways were asked is not in their answer.
        self.in_line = {n: since for n, since in self.in_line.items() if n in wanted or since >= looked}
        for name in wanted:
            self.in_line.setdefault(name, looked)
        needed_mb = 0.0
        for name in list(self.in_line):
            self.wake(name)
            if name in configs and self.is_asleep(name):
                needed_mb += limits(configs[name])[0] * self._expected_mb(name)
        if needed_mb:
            self._make_room(needed_mb)

    def _adjust(self, name: str, config: DeploymentConfig) -> None:
        activity = self.activities.get(name)
        if activity is not None and is_scaled(config) and not self.is_asleep(name):
            scale = self.scales.setdefault(name, Scale(config.replicas))
            if adjust(scale, config, activity, time.monotonic()):
                self.world.scaled(name, scale)

    def _set(self, name: str, replicas: int, reason: str) -> None:
        scale = self.scales.setdefault(name, Scale(-1))
        if scale.set(replicas, reason):
            self.world.scaled(name, scale)

    # -- memory

    async def _keep_within_memory(self) -> None:
        if not self.max_total_mb or time.monotonic() - self.weighed < WEIGH_S:
            return
        pids = [(r.revision.deployment, r.pid) for r in self.world.processes() if r.pid is not None]
        weights = await asyncio.to_thread(lambda: [(name, private_mb(pid)) for name, pid in pids])
        total: defaultdict[str, float] = defaultdict(float)
        for name, used in weights:
            self.peak_mb[name] = max(used, self.peak_mb.get(name, 0.0))
            total[name] += self._expected_mb(name)  # one that starts is not as large yet as it will be
        starting = {name: mb for name, mb in self.memory_mb.items() if not self.is_asleep(name)}
        self.memory_mb, self.weighed = {**starting, **total}, time.monotonic()
        self._make_room(0.0)

    def _no_room_for(self, name: str, config: DeploymentConfig) -> bool:
        """Tell whether the memory that a deployment needs to wake is not there.

        One that needs more than all may use wakes when all others sleep.
        """
        needed, used = limits(config)[0] * self._expected_mb(name), self._used_mb()
        return bool(self.max_total_mb and used and used > self.max_total_mb - needed)

    def _used_mb(self) -> float:
        """Return the memory of all replicas, those included that start or are about to end."""
        there = {replica.revision.deployment for replica in self.world.processes()}
        self.memory_mb = {n: mb for n, mb in self.memory_mb.items() if n in there or not self.is_asleep(n)}
        return sum(self.memory_mb.values())

    def _make_room(self, needed_mb: float) -> None:
        """Put deployments to sleep until so much more will fit."""
        awake = {name: mb for name, mb in self.memory_mb.items() if not self.is_asleep(name)}
        may_sleep = self.world.configs().keys() - self.world.changing()
        idle = {name: found for name, found in self.activities.items() if name in awake and name in may_sleep}
        used = sum(awake.values())
        for name in sleepers(idle, awake, used + needed_mb - self.max_total_mb):
            limit = f"max_total_memory_mb={self.max_total_mb:g}"
            wanted = f" and {needed_mb:,.0f} MB more are needed" if needed_mb >= 1 else ""
            self._set(
                name, 0, f"all replicas use {used:,.0f} MB{wanted} ({limit}), and it was used least recently"
            )

    def _expected_mb(self, name: str) -> float:
        """Return the memory to reckon with for each replica of a deployment."""
        return max(USUAL_MB, self.peak_mb.get(name, 0.0))


def gathered(parts: Sequence[Mapping[str, Any]]) -> dict[str, Activity]:
    """Return what callers do by all gateways together."""
    found: dict[str, Activity] = {}
    for part in parts:
        for name, seen in part.items():
            one, other = Activity(**seen), found.get(name)
            found[name] = one if other is None else _together(one, other)
    return found


def _together(one: Activity, other: Activity) -> Activity:
    return Activity(
        idle_s=min(one.idle_s, other.idle_s),
        waiting=one.waiting + other.waiting,
        oldest_s=max(one.oldest_s, other.oldest_s),
        busy=one.busy + other.busy,
    )
