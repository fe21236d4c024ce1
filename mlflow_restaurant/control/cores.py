"""How the cores of this machine are shared out among replicas."""

from __future__ import annotations

import os
import sys

from mlflow_restaurant.config import DeploymentConfig
from mlflow_restaurant.process.launcher import sets_threads


def threads_of(config: DeploymentConfig) -> int | None:
    """Return how many threads numerical libraries may use in each replica; None leaves it to variables.

    One core is left to the gateway. Threads that wait for each other spin, so one too many costs far more than the
    last core gives: two processes of two threads each on two busy cores answered with 300 trees 30 times slower than
    with one each.
    """
    if config.threads != "auto":
        return config.threads
    return None if sets_threads(config.env) else max(1, (_cores() - 1) // config.replicas)


def _cores() -> int:
    """Return how many cores this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
