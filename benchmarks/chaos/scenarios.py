"""All scenarios, by name, and the servers that they run on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from mlflow.exceptions import MlflowException

from benchmarks.chaos import figures, models, processes, surroundings
from benchmarks.chaos.form import Form
from benchmarks.chaos.outcome import Outcome
from benchmarks.chaos.stage import Harm, Models, Stage, staged

Run = Callable[[Stage, Form, Outcome], None]
Place = Callable[[Models, Form], AbstractContextManager[Stage]]


@dataclass(frozen=True)
class Scenario:
    """One fault, or one figure.

    Attributes:
        title: what the table calls it.
        run: brings it about on a server, and notes what came of it.
        place: gives it a server of its own; None: any that has one gateway.
    """

    title: str
    run: Run
    place: Place | None = None


SCENARIOS = {
    "kill-replica": Scenario("one of 2 replicas killed every 2 s", processes.kill_replicas),
    "kill-only-replica": Scenario("the only replica killed", processes.kill_only_replica),
    "kill-controller": Scenario("controller killed every 5 s", processes.kill_controller),
    "stop-controller": Scenario("controller hangs for 5 s, a replica killed", processes.stop_controller),
    "kill-gateway": Scenario("the only gateway killed", processes.kill_gateway),
    "kill-fork-server": Scenario("fork server and a replica killed", processes.kill_fork_server),
    "stop-replica": Scenario("one of 2 replicas hangs (SIGSTOP)", processes.stop_replica),
    "stop-gateway": Scenario("the only gateway hangs (SIGSTOP)", processes.stop_gateway),
    "stop-fork-server": Scenario("fork server hangs, a replica killed", processes.stop_fork_server),
    "full-disk": Scenario(
        "full disk, a replica killed meanwhile",
        surroundings.full_disk,
        lambda m, _: surroundings.small_disk(m),
    ),
    "slow-model": Scenario("model that is slow for a third of the time", models.slow),
    "leak": Scenario("model that leaks memory", models.leak),
    "print": Scenario("model that prints a gigabyte", models.print_much),
    "fork": Scenario("model that forks, and is killed", models.fork),
    "fork-and-go": Scenario("model that forks, and is updated", models.fork_and_go),
    "close": Scenario("model that closes its sockets", models.close),
    "clock": Scenario(
        "clock jumps; controller and a replica killed", surroundings.jumping_clock, lambda m, _: staged(m)
    ),
    "updates": Scenario("updates in a row, 2 replicas", figures.updates),
    "canary": Scenario("canary that fails a fifth of its requests", figures.bad_canary),
    "update": Scenario("update, environment ready, no load", figures.update_alone),
    "wake": Scenario("first request to a deployment that sleeps", figures.wake),
    "many": Scenario("200 deployments called at random", figures.many_deployments, figures.crowded),
}


def perform(name: str, stage: Stage, form: Form) -> Outcome:
    """Run a scenario on a server; what it did not stand is in `Outcome.broken`.

    Raises:
        surroundings.Impossible: it can't be brought about here.
    """
    scenario = SCENARIOS[name]
    outcome = Outcome(name, scenario.title)
    try:
        scenario.run(stage, form, outcome)
    except (Harm, TimeoutError, MlflowException) as e:
        outcome.broken.append(str(e))
    finally:
        with contextlib.suppress(Exception):
            stage.withdraw()
    return outcome
