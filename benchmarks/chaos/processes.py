"""Processes that are killed, or stopped so that they hang."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from signal import SIGCONT, SIGKILL, SIGSTOP

import psutil

from benchmarks.chaos.form import Form
from benchmarks.chaos.outcome import Outcome
from benchmarks.chaos.stage import Stage

NAME = "steady"
HANGS_FOR_S = 5.0
IN_HAND = "what is with a process that ends, or hangs, has no other way to its caller"


def repeatedly(form: Form, every_s: float, outcome: Outcome, strike: Callable[[], float]) -> None:
    """Strike every so many seconds, the first time at once; `strike` returns how long the recovery took."""
    begun = time.monotonic()
    end = begun + form.seconds
    for number in itertools.count(1):
        outcome.recovered(strike())
        following = max(time.monotonic(), begun + number * every_s)
        if following >= end:
            break
        time.sleep(max(0.0, following - time.monotonic()))
    time.sleep(max(0.0, end - time.monotonic()))


def oldest(pids: Iterable[int]) -> int:
    """Return the process that has run longest: one of two replicas, and the next time the other one.

    A single one would be given up for a while after five deaths.
    """
    return min(pids, key=lambda pid: psutil.Process(pid).create_time())


def kill_replicas(stage: Stage, form: Form, outcome: Outcome) -> None:
    """One of two replicas, that one of them that has run longer, whether the one before is back or not."""
    killed: set[int] = set()

    def strike() -> float:
        running = {pid for pid, state in stage.replicas(NAME).items() if state == "RUNNING"} - killed
        if running:
            victim = oldest(running)
            stage.signal(victim, SIGKILL)
            killed.add(victim)
        return 0.0

    with stage.besieged(NAME, stage.models.linear, replicas="2") as callers:
        repeatedly(form, 2.0, outcome, strike)
        last = time.monotonic()
        stage.until(lambda: list(stage.replicas(NAME).values()) == ["RUNNING"] * 2, "both run again")
        recovery = time.monotonic() - last
    outcome.strikes, outcome.recovery_s = len(killed), recovery
    outcome.count(callers.tally())
    outcome.judge("0 failed", f"{outcome.failed} failed", reached=not outcome.failed)


def kill_only_replica(stage: Stage, form: Form, outcome: Outcome) -> None:
    """The only replica: callers wait for its replacement."""

    def strike() -> float:
        (victim,) = stage.replicas(NAME)
        stage.signal(victim, SIGKILL)
        return stage.until(lambda: stage.is_whole(NAME, victim, 1), "the replica is replaced")

    with stage.besieged(NAME, stage.models.linear) as callers:
        repeatedly(form, 31.0, outcome, strike)  # so that no death is a quick one
    outcome.count(callers.tally())


def kill_controller(stage: Stage, form: Form, outcome: Outcome) -> None:
    """The next command, here at once, starts another one, which takes over what runs."""

    def strike() -> float:
        begun, victim, replicas = time.monotonic(), stage.one_of("controller"), set(stage.replicas(NAME))
        stage.signal(victim, SIGKILL)
        stage.until(lambda: victim not in stage.pids("controller"), "the controller has ended")
        if set(stage.replicas(NAME)) != replicas:
            outcome.broken.append("a replica was not taken over")
        return time.monotonic() - begun

    with stage.besieged(NAME, stage.models.linear, replicas="2") as callers:
        repeatedly(form, 5.0, outcome, strike)
    outcome.count(callers.tally())
    outcome.judge("0 failed", f"{outcome.failed} failed", reached=not outcome.failed)


def stop_controller(stage: Stage, form: Form, outcome: Outcome) -> None:
    """The controller hangs for a while, and a replica is killed in it: the other one answers until it goes on."""

    def strike() -> float:
        controller, victim = stage.one_of("controller"), oldest(stage.replicas(NAME))
        stage.signal(controller, SIGSTOP)
        stage.signal(victim, SIGKILL)
        time.sleep(HANGS_FOR_S)
        stage.signal(controller, SIGCONT)
        return stage.until(lambda: stage.is_whole(NAME, victim, 2), "the replica is replaced")

    with stage.besieged(NAME, stage.models.linear, replicas="2") as callers:
        repeatedly(form, 20.0, outcome, strike)
    outcome.count(callers.tally())
    outcome.judge("0 failed", f"{outcome.failed} failed", reached=not outcome.failed)


def kill_fork_server(stage: Stage, form: Form, outcome: Outcome) -> None:
    """And a replica with it, so that another fork server is needed at once."""

    def strike() -> float:
        victim = oldest(stage.replicas(NAME))
        stage.signal(stage.one_of("forkserver"), SIGKILL)
        stage.signal(victim, SIGKILL)
        return stage.until(lambda: stage.is_whole(NAME, victim, 2), "the replica is replaced")

    with stage.besieged(NAME, stage.models.linear, replicas="2") as callers:
        repeatedly(form, 10.0, outcome, strike)
    outcome.count(callers.tally())


def kill_gateway(stage: Stage, form: Form, outcome: Outcome) -> None:
    """The only gateway: what counts is when callers are answered again."""
    with stage.besieged(NAME, stage.models.linear, replicas="2") as callers:

        def strike() -> float:
            begun, victim = time.monotonic(), stage.one_of("gateway")
            stage.signal(victim, SIGKILL)
            return callers.first_after(begun)

        repeatedly(form, 10.0, outcome, strike)
    outcome.excused, outcome.excuse = callers.number * outcome.strikes, f"{IN_HAND} but this gateway"
    outcome.count(callers.tally())
    recovery = outcome.recovery_s or 0.0
    outcome.judge("serving again within 1 s", f"{recovery:.2f} s", reached=recovery <= 1.0)


def stop_replica(stage: Stage, form: Form, outcome: Outcome) -> None:
    """One of two replicas hangs: SIGSTOP."""

    def strike() -> float:
        victim = oldest(stage.replicas(NAME))
        stage.signal(victim, SIGSTOP)
        return stage.until(lambda: stage.is_whole(NAME, victim, 2), "the replica is replaced")

    with stage.besieged(NAME, stage.models.linear, replicas="2", timeout_s="2") as callers:
        repeatedly(form, 10.0, outcome, strike)
    outcome.excused = callers.number * outcome.strikes
    outcome.excuse = "what a replica that hangs has in hand gets 504 at `timeout_s`, here 2 s"
    outcome.count(callers.tally())


def stop_gateway(stage: Stage, form: Form, outcome: Outcome) -> None:
    """The only gateway hangs: SIGSTOP."""
    with stage.besieged(NAME, stage.models.linear, replicas="2") as callers:

        def strike() -> float:
            begun, victim = time.monotonic(), stage.one_of("gateway")
            stage.signal(victim, SIGSTOP)
            return callers.first_after(begun)

        repeatedly(form, 15.0, outcome, strike)
    outcome.excused, outcome.excuse = callers.number * outcome.strikes, f"{IN_HAND} but this gateway"
    outcome.count(callers.tally())


def stop_fork_server(stage: Stage, form: Form, outcome: Outcome) -> None:
    """It hangs, and a replica is killed, so that another fork server is needed."""

    def strike() -> float:
        victim = oldest(stage.replicas(NAME))
        stage.signal(stage.one_of("forkserver"), SIGSTOP)
        stage.signal(victim, SIGKILL)
        return stage.until(lambda: stage.is_whole(NAME, victim, 2), "the replica is replaced")

    with stage.besieged(NAME, stage.models.linear, replicas="2") as callers:
        repeatedly(form, 30.0, outcome, strike)
    outcome.count(callers.tally())
