"""How many replicas a deployment should have now: none while nobody asks, more while callers wait. Pure.

Between `min_replicas` and `max_replicas` the number follows the queue: one more when the oldest request waits longer than
`UP_WAIT_S` at every look for `UP_S`, one less when one fewer would have been enough for `DOWN_S`. With `idle_timeout_s`, a
deployment that nobody asks for so long sleeps without replicas, and the next request wakes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow_restaurant.config import DeploymentConfig

UP_WAIT_S = 0.1
UP_S = 1.0
DOWN_S = 60.0


@dataclass(frozen=True)
class Activity:
    """What callers do with a deployment now.

    Attributes:
        idle_s: time since the last request came.
        waiting: requests that wait for a replica, the oldest for `oldest_s`.
        busy: requests, or merged calls, that replicas work on.
    """

    idle_s: float
    waiting: int = 0
    oldest_s: float = 0.0
    busy: int = 0

    def quiet(self) -> bool:
        """Tell whether nobody waits for anything."""
        return not self.waiting and not self.busy


@dataclass
class Scale:
    """The number of replicas of one deployment, and since when it seems too small or too large.

    Attributes:
        replicas: how many should run.
        reason: why there are as many.
    """

    replicas: int
    reason: str = ""
    short_since: float | None = None
    spare_since: float | None = None

    def set(self, replicas: int, reason: str) -> bool:
        """Change the number; tells whether it is another one."""
        changed = replicas != self.replicas
        if changed:
            self.replicas, self.reason = replicas, reason
            self.short_since = self.spare_since = None
        return changed


def limits(config: DeploymentConfig) -> tuple[int, int]:
    """Return the smallest and the largest number of replicas of a deployment that is awake."""
    return config.min_replicas or config.replicas, config.max_replicas or config.replicas


def within_limits(replicas: int, config: DeploymentConfig) -> int:
    """Return the number of replicas that a deployment which has `replicas` may have; one that sleeps goes on sleeping."""
    low, high = limits(config)
    return min(max(replicas, low), high) if replicas else 0


def is_scaled(config: DeploymentConfig) -> bool:
    """Tell whether the number of replicas may change by itself."""
    low, high = limits(config)
    return config.idle_timeout_s > 0 or low != high


def adjust(scale: Scale, config: DeploymentConfig, activity: Activity, now: float) -> bool:
    """Bring the number of replicas of a deployment that is awake nearer to what callers need; tells whether it changed.

    Args:
        now: a clock, in seconds.
    """
    low, high = limits(config)
    if config.idle_timeout_s and activity.quiet() and activity.idle_s >= config.idle_timeout_s:
        return scale.set(0, f"no request came for {config.idle_timeout_s:g} s (idle_timeout_s)")
    return _grow(scale, high, activity, now) or _shrink(scale, low, activity, now)


def _grow(scale: Scale, high: int, activity: Activity, now: float) -> bool:
    if scale.replicas >= high or activity.oldest_s < UP_WAIT_S:
        scale.short_since = None
        return False
    scale.short_since = now if scale.short_since is None else scale.short_since
    if now - scale.short_since < UP_S:
        return False
    reason = f"{activity.waiting} requests waited, the oldest for {activity.oldest_s:.2g} s"
    return scale.set(scale.replicas + 1, reason)


def _shrink(scale: Scale, low: int, activity: Activity, now: float) -> bool:
    if scale.replicas <= low or activity.waiting or activity.busy >= scale.replicas:
        scale.spare_since = None
        return False
    scale.spare_since = now if scale.spare_since is None else scale.spare_since
    if now - scale.spare_since < DOWN_S:
        return False
    return scale.set(scale.replicas - 1, f"one fewer was enough for {DOWN_S:g} s")


def sleepers(
    activities: Mapping[str, Activity], memory_mb: Mapping[str, float], excess_mb: float
) -> list[str]:
    """Return the deployments to put to sleep for memory: those that nobody uses, the least recently used first.

    Args:
        activities: of the deployments that may sleep.
        memory_mb: private memory of their replicas.
        excess_mb: how much must be freed.
    """
    found = []
    for name in sorted(activities, key=lambda name: -activities[name].idle_s):
        if excess_mb <= 0:
            break
        if activities[name].quiet() and memory_mb.get(name, 0.0) > 0:
            found.append(name)
            excess_mb -= memory_mb[name]
    return found
