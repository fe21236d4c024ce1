"""Models that misbehave."""

from __future__ import annotations

import time
from signal import SIGKILL

import psutil

from benchmarks.chaos.form import Form
from benchmarks.chaos.outcome import Outcome
from benchmarks.chaos.processes import repeatedly
from benchmarks.chaos.stage import Harm, Stage

NAME = "unruly"
SLOW_S = 0.3
LIMIT_MB = 150
LEAK_KB = 50
CHILDREN = 8
LOGS_MB = 100
"""What the logs of a home may take, at most, with the default limits."""


def slow(stage: Stage, form: Form, outcome: Outcome) -> None:
    """Every call takes 0.3 s instead of a few milliseconds, for a third of the time."""
    with stage.besieged(NAME, stage.models.unruly, replicas="2") as callers:

        def strike() -> float:
            (stage.orders / "slow").write_text(str(SLOW_S))
            time.sleep(form.seconds / 3)
            callers.more(1)
            stage.withdraw()
            begun = time.monotonic()
            stage.until(
                lambda: any(a.sent > begun and a.took_s < SLOW_S / 2 for a in callers.answers[-50:]),
                "it is as fast as before",
            )
            return time.monotonic() - begun

        repeatedly(form, form.seconds, outcome, strike)
    outcome.count(callers.tally())


def leak(stage: Stage, form: Form, outcome: Outcome) -> None:
    """Every call leaves 50 kB behind, with `max_memory_mb=150`; each replacement counts."""
    config = {"replicas": "2", "max_memory_mb": str(LIMIT_MB), "model_config": f'{{"leak_kb": {LEAK_KB}}}'}
    heaviest = 0.0

    def strike() -> float:
        nonlocal heaviest
        before = set(stage.replicas(NAME))
        begun = time.monotonic()
        while before <= set(stage.replicas(NAME)):
            heaviest = max([heaviest, *(_resident_mb(pid) for pid in before)])
            if time.monotonic() - begun > 120:
                raise Harm("no replica was replaced")
            time.sleep(0.1)
        begun = time.monotonic()
        stage.until(lambda: len(stage.replicas(NAME)) == 2, "the replica is replaced")
        return time.monotonic() - begun

    with stage.besieged(NAME, stage.models.unruly, **config) as callers:
        repeatedly(form, 0.0, outcome, strike)
    outcome.count(callers.tally())
    outcome.value = f"a replica had {heaviest:.0f} MB at most, shared pages included"


def _resident_mb(pid: int) -> float:
    try:
        return float(psutil.Process(pid).memory_info().rss) / 1e6
    except psutil.Error:
        return 0.0


def print_much(stage: Stage, form: Form, outcome: Outcome) -> None:
    """One call prints a gigabyte; the logs stay bounded."""
    largest = 0.0

    def strike() -> float:
        nonlocal largest
        begun = time.monotonic()
        stage.order(f"print:{form.megabytes}")
        while time.monotonic() < begun + 3:
            largest = max(largest, _logs_mb(stage))
            time.sleep(0.05)
        stage.until(lambda: _logs_mb(stage) < LOGS_MB, "the logs are cut")
        return time.monotonic() - begun

    with stage.besieged(NAME, stage.models.unruly, replicas="2") as callers:
        repeatedly(form, 20.0, outcome, strike)
    outcome.count(callers.tally())
    outcome.recovery_s = None
    outcome.value = f"the logs took {largest:.0f} MB at most, {_logs_mb(stage):.0f} MB after it"


def _logs_mb(stage: Stage) -> float:
    total = 0
    for path in stage.home.logs.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # rotated just now
            continue
    return total / 1e6


def fork(stage: Stage, form: Form, outcome: Outcome) -> None:
    """A replica starts 8 processes that hold its connections, and is killed; they must go with it."""

    def strike() -> float:
        victim = stage.order(f"fork:{CHILDREN}")
        process = psutil.Process(victim)
        stage.until(lambda: len(process.children()) == CHILDREN, "the children are there")
        children = process.children()
        stage.signal(victim, SIGKILL)
        took = stage.until(lambda: stage.is_whole(NAME, victim, 2), "the replica is replaced")
        stage.until(lambda: not any(map(_lives, children)), "its children are gone")
        return took

    with stage.besieged(NAME, stage.models.unruly, replicas="2") as callers:
        repeatedly(form, 10.0, outcome, strike)
    outcome.count(callers.tally())


def fork_and_go(stage: Stage, form: Form, outcome: Outcome) -> None:
    """As before, but the replica is ended in order, by an update."""

    def strike() -> float:
        victim = stage.order(f"fork:{CHILDREN}")
        process = psutil.Process(victim)
        stage.until(lambda: len(process.children()) == CHILDREN, "the children are there")
        children = process.children()
        begun = time.monotonic()
        stage.client.update_deployment(NAME)
        stage.until(lambda: not any(map(_lives, [process, *children])), "all of them are gone")
        return time.monotonic() - begun

    with stage.besieged(NAME, stage.models.unruly, replicas="2") as callers:
        repeatedly(form, 10.0, outcome, strike)
    outcome.count(callers.tally())


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def close(stage: Stage, form: Form, outcome: Outcome) -> None:
    """A replica closes every descriptor it has but its output: its socket, its connections, its event loop's."""

    def strike() -> float:
        victim = stage.order("close")
        return stage.until(lambda: stage.is_whole(NAME, victim, 2), "the replica is replaced")

    with stage.besieged(NAME, stage.models.unruly, replicas="2", timeout_s="5") as callers:
        repeatedly(form, 10.0, outcome, strike)
    outcome.count(callers.tally())
