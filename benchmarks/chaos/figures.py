"""Figures: what updates, canaries, sleep and a crowd of deployments take, and that nothing fails meanwhile."""

from __future__ import annotations

import json
import math
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from mlflow.exceptions import MlflowException

from benchmarks.chaos.callers import Callers
from benchmarks.chaos.form import Form
from benchmarks.chaos.outcome import Outcome
from benchmarks.chaos.stage import Models, Stage, staged
from mlflow_restaurant.entities import utcnow
from mlflow_restaurant.process.memory import private_mb

NAME = "figures"
HOT = "hot"
CANARY_SHARE = 20
FAIL_EVERY = 5
JUDGED_FROM = 50
"""Requests that a new revision must have answered before it is judged (`min_requests`)."""
REST_SHARE = 0.5
"""Time at rest, as part of the time under a fault."""
SLOW_CALLERS = 4
SLOW_BODY_S = 0.3
"""Longer than a gateway waits for a small body before it leaves it to uvicorn."""
MB_PER_DEPLOYMENT = 5
"""Memory limit for each of many deployments; a replica takes some 20 MB, so that three of four sleep."""
MEMORY_SLACK = 1.2


def updates(stage: Stage, form: Form, outcome: Outcome) -> None:
    """Updates one after the other, after some time at rest; the bodies of some callers are on their way meanwhile."""
    windows: list[tuple[float, float]] = []
    with (
        stage.besieged(NAME, stage.models.linear, replicas="2") as callers,
        Callers(callers.urls, SLOW_CALLERS, body_s=SLOW_BODY_S).asking() as slow,
    ):
        rested = time.monotonic()
        time.sleep(form.seconds * REST_SHARE)
        began = time.monotonic()
        for _ in range(form.updates):
            begun = time.monotonic()
            stage.client.update_deployment(NAME)
            windows.append((begun, time.monotonic()))
        ended = time.monotonic()
    for found in (callers.tally(), slow.tally()):
        outcome.count(found)
    outcome.strikes = form.updates
    outcome.judge("0 failed", f"{outcome.failed} failed", reached=not outcome.failed)
    rest = callers.tally(lambda answer: rested <= answer.sent < began).p99_s
    busy = callers.tally(lambda answer: began <= answer.sent < ended).p99_s
    text = f"p99 {busy * 1000:.1f} ms, {rest * 1000:.1f} ms at rest ({busy / rest:.1f} x)"
    outcome.judge("p99 at most 2 x that at rest", text, reached=busy <= 2 * rest)
    took = statistics.median(end - begin for begin, end in windows)
    outcome.value += f"; an update of both replicas took {took:.2f} s"


def bad_canary(stage: Stage, form: Form, outcome: Outcome) -> None:
    """A version that fails a fifth of its requests goes back by itself."""
    config = {
        "model_config": json.dumps({"fail_every": FAIL_EVERY}),
        "strategy": "canary",
        "canary_steps": f"{CANARY_SHARE},50",
        "bake_s": "60",
    }
    with stage.besieged(NAME, stage.models.unruly, replicas="2") as callers:
        begun = time.monotonic()
        try:
            stage.client.update_deployment(NAME, config=config)
            outcome.broken.append("it came into service")
        except MlflowException:
            pass
        ended = time.monotonic()
    tried = sorted(
        (a for a in callers.answers if a.revision == "2" and a.sent >= begun), key=lambda a: a.sent + a.took_s
    )
    judged = tried[JUDGED_FROM - 1].sent + tried[JUDGED_FROM - 1].took_s
    outcome.strikes, outcome.excused = 1, len(tried) // FAIL_EVERY + 1
    outcome.excuse = "a fifth of the canary's own requests"
    outcome.count(callers.tally())
    others = callers.tally(lambda answer: bool(answer.error) and answer.revision != "2").failed
    if others:
        outcome.broken.append(f"{others} requests failed that the canary had nothing to do with")
    back = max(answer.sent + answer.took_s for answer in tried) - judged
    outcome.recovery_s = ended - begun
    outcome.judge(
        "taken back within 10 s of its first 50 requests",
        f"{max(back, ended - judged):.1f} s",
        reached=back <= 10,
    )
    share = 100 * len(tried) / max(1, len([a for a in callers.answers if begun <= a.sent < ended]))
    outcome.judge(
        f"only callers in its {CANARY_SHARE} % see errors",
        f"{share:.0f} % of the requests meanwhile, {others} errors elsewhere",
        reached=not others and share < CANARY_SHARE + 2,
    )


def update_alone(stage: Stage, form: Form, outcome: Outcome) -> None:
    """Without load, one replica, the environment ready."""
    times = []
    with stage.deployed(NAME, stage.models.linear):
        for _ in range(form.repetitions):
            begun = time.monotonic()
            stage.client.update_deployment(NAME)
            times.append(time.monotonic() - begun)
    outcome.strikes = form.repetitions
    _judge_median(outcome, times, 0.7)


def wake(stage: Stage, form: Form, outcome: Outcome) -> None:
    """The first request to a deployment that sleeps."""
    times = []
    with stage.deployed(NAME, stage.models.linear, idle_timeout_s="0.5") as url:
        for _ in range(form.repetitions):
            stage.until(lambda: not stage.replicas(NAME), "it sleeps")
            callers = Callers([url], number=1)
            with callers.asking():
                callers.more(1)
            outcome.count(callers.tally())
            times.append(callers.answers[0].took_s)
    outcome.strikes = form.repetitions
    _judge_median(outcome, times, 0.6)


def _judge_median(outcome: Outcome, times: list[float], aim_s: float) -> None:
    found = statistics.median(times)
    text = f"median {found:.2f} s, {min(times):.2f} to {max(times):.2f} s"
    outcome.judge(f"{aim_s:g} s", text, reached=found <= aim_s)


@contextmanager
def crowded(models: Models, form: Form) -> Iterator[Stage]:
    """Give a server whose replicas may take less memory than all deployments together would."""
    limit = {"MLFLOW_RESTAURANT_MAX_TOTAL_MEMORY_MB": str(MB_PER_DEPLOYMENT * form.deployments)}
    with staged(models, limit) as stage:
        yield stage


def many_deployments(stage: Stage, form: Form, outcome: Outcome) -> None:
    """All called at random, and one all the time, which is so used least recently less often than others."""
    limit = MB_PER_DEPLOYMENT * form.deployments
    weights: list[float] = []
    ended = threading.Event()

    def weigh() -> None:
        while not ended.wait(1):
            weights.append(sum(private_mb(pid) for pid in stage.pids("replica")))

    with ExitStack() as stack:
        hot = stack.enter_context(stage.deployed(HOT, stage.models.linear))
        names = [f"d{number}" for number in range(form.deployments - 1)]
        urls = [stack.enter_context(stage.deployed(name, stage.models.linear)) for name in names]
        callers, favourites = Callers(urls), Callers([hot], number=1)
        watching = threading.Thread(target=weigh)
        with favourites.asking(), callers.asking():
            favourites.more(1)
            begun = utcnow()
            watching.start()
            time.sleep(form.minutes * 60)
            callers.more(callers.number)
            ended.set()
            watching.join()
        for found in (callers.tally(), favourites.tally()):
            outcome.count(found)
        events = stage.control.events(since=begun)
    slept = [event["deployment"] for event in events if "asleep" in event["message"]]
    outcome.strikes = form.deployments
    share = len(slept) / form.deployments
    if slept.count(HOT) > share + 3 * math.sqrt(share):  # more often than chance would have it
        outcome.broken.append(
            f"one that was called all the time slept {slept.count(HOT)} of {len(slept)} times"
        )
    if max(weights) > MEMORY_SLACK * limit:
        outcome.broken.append(f"all replicas took {max(weights):.0f} MB, with {limit} MB allowed")
    outcome.judge(
        "0 failed, memory bounded",
        f"{outcome.failed} failed; {limit} MB allowed, {max(weights):.0f} MB at most; {len(slept)} times one slept,"
        f" {slept.count(HOT)} times the one that was called all the time",
        reached=not outcome.failed and max(weights) <= MEMORY_SLACK * limit,
    )
