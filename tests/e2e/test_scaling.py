"""Deployments that sleep, wake, grow, and fit into the memory there is, on real servers."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow.deployments import get_deploy_client
from mlflow.exceptions import MlflowException

from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.deployments import RestaurantDeploymentClient
from mlflow_restaurant.home import Home
from mlflow_restaurant.process.memory import private_mb

from ..support import Load, do, eventually, records

LIMIT_MB = 60


@pytest.fixture
def client(home: Home) -> RestaurantDeploymentClient:
    found: RestaurantDeploymentClient = get_deploy_client(f"restaurant:{home.path}")
    return found


def is_asleep(client: RestaurantDeploymentClient, name: str = "a") -> bool:
    found = client.get_deployment(name)
    return not found["replicas"] and found["message"] == "asleep until the next request"


def test_an_idle_deployment_sleeps_and_the_next_request_wakes_it(
    client: RestaurantDeploymentClient, actor: Path
) -> None:
    url = client.create_deployment("a", str(actor), config={"idle_timeout_s": "1"})["url"]
    for _ in range(2):
        eventually(lambda: is_asleep(client), "it sleeps")
        assert client.get_deployment("a")["state"] == "HEALTHY"
        started = time.monotonic()
        assert do(url, "name").predictions == ["first"]
        assert time.monotonic() - started < 10  # some 0.4 s on a machine that does nothing else
        assert len(client.get_deployment("a")["replicas"]) == 1
    log = client.home.deployment_log("a").read_text()
    assert "asleep: no request came for 1 s (idle_timeout_s)" in log
    assert "1 replica: a request came" in log


def test_a_crowd_that_comes_while_it_sleeps_is_answered(
    client: RestaurantDeploymentClient, actor: Path
) -> None:
    url = client.create_deployment("a", str(actor), config={"idle_timeout_s": "1", "replicas": "2"})["url"]
    eventually(lambda: is_asleep(client), "it sleeps")
    with ThreadPoolExecutor(20) as pool:
        statuses = [answer.status for answer in pool.map(lambda _: do(url, "name"), range(100))]
    assert set(statuses) == {200}
    assert len(client.get_deployment("a")["replicas"]) == 2


def test_requests_that_come_and_go_at_the_edge_of_sleep_never_fail(
    client: RestaurantDeploymentClient, actor: Path
) -> None:
    url = client.create_deployment("a", str(actor), config={"idle_timeout_s": "0.5"})["url"]
    for _ in range(12):
        time.sleep(random.uniform(0.4, 1.2))  # the product's own clock is what is tested
        assert do(url, "name").status == 200


def test_what_sleeps_stays_asleep_over_a_restart_and_is_updated_in_its_sleep(
    client: RestaurantDeploymentClient, actor: Path
) -> None:
    url = client.create_deployment("a", str(actor), config={"idle_timeout_s": "1"})["url"]
    ControlClient(client.home).down()
    ControlClient(client.home).ensure_running()
    assert is_asleep(client)
    assert do(url, "name").predictions == ["first"]
    eventually(lambda: is_asleep(client), "it sleeps")
    client.update_deployment("a", config={"model_config": '{"name": "second"}'})
    assert do(url, "name").predictions == ["second"]


@pytest.mark.parametrize("strategy", ["rolling", "canary"])
def test_what_sleeps_wakes_for_callers_also_while_it_is_updated(
    client: RestaurantDeploymentClient, actor: Path, strategy: str
) -> None:
    url = client.create_deployment("a", str(actor), config={"idle_timeout_s": "1"})["url"]
    eventually(lambda: is_asleep(client), "it sleeps")
    second = {"model_config": '{"name": "second", "load_s": 6}', "timeout_s": "4"}
    config = {**second, "strategy": strategy, "canary_steps": "50", "bake_s": "3", "idle_timeout_s": "0"}
    with ThreadPoolExecutor(1) as pool:
        update = pool.submit(client.update_deployment, "a", config=config)
        eventually(lambda: client.get_deployment("a")["rollout"], "it is updated")
        with Load(url, callers=2, action="name").running() as load:
            update.result()
            load.wait_for(20)
    assert not load.failures()
    assert load.seen["1"]
    assert load.seen["2"]


def test_who_waits_for_a_sleeper_is_answered_when_the_controller_is_back(
    client: RestaurantDeploymentClient, actor: Path
) -> None:
    url = client.create_deployment("a", str(actor), config={"idle_timeout_s": "1"})["url"]
    eventually(lambda: is_asleep(client), "it sleeps")
    os.kill(records(client.home, "controller")[0], signal.SIGKILL)
    eventually(lambda: not records(client.home, "controller"), "the controller is dead")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(do, url, "name")
        ControlClient(client.home).ensure_running()
        assert waiting.result(60).predictions == ["first"]


def test_the_number_of_replicas_follows_the_queue(client: RestaurantDeploymentClient, actor: Path) -> None:
    config = {"max_replicas": "3", "model_config": '{"takes_s": 0.1}'}
    url = client.create_deployment("a", str(actor), config=config)["url"]
    with Load(url, callers=40, action="name").running() as load:
        eventually(lambda: len(client.get_deployment("a")["replicas"]) == 3, "there are three")
        load.wait_for(100)
    assert not load.failures()
    assert "requests waited, the oldest for" in client.home.deployment_log("a").read_text()


def test_all_together_keep_within_the_memory(
    home: Home, actor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RESTAURANT_MAX_TOTAL_MEMORY_MB", str(LIMIT_MB))
    client = get_deploy_client(f"restaurant:{home.path}")
    urls = [client.create_deployment(f"d{number}", str(actor))["url"] for number in range(8)]

    def weight() -> float:
        return sum(private_mb(pid) for pid in records(home, "replica"))

    eventually(lambda: weight() <= LIMIT_MB, "those that were used least recently sleep")
    weights: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            weights.append(weight())

    watching = threading.Thread(target=watch)
    watching.start()
    draw = random.Random(5)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: do(draw.choice(urls), "name").status, range(40)))
    ended.set()
    watching.join()
    assert set(answers) == {200}
    found = [client.get_deployment(f"d{number}") for number in range(8)]
    assert {d["state"] for d in found} == {"HEALTHY"}
    assert any("asleep" in d["message"] for d in found)
    assert max(weights) < 1.2 * LIMIT_MB


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"min_replicas": "3", "max_replicas": "2"},
            "min_replicas=3, replicas=1 and max_replicas=2 must not fall",
        ),
        ({"max_replicas": "1", "replicas": "2"}, "must not fall"),
        ({"idle_timeout_s": "-1"}, "'idle_timeout_s' must be at least 0"),
    ],
    ids=str,
)
def test_numbers_that_are_refused(
    client: RestaurantDeploymentClient, actor: Path, options: dict[str, str], words: str
) -> None:
    with pytest.raises(MlflowException, match=words):
        client.create_deployment("a", str(actor), config=options)
