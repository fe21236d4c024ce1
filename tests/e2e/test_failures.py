"""Real failures on real processes: what is killed comes back, and what callers see of it."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from mlflow.deployments import get_deploy_client

from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.deployments import RestaurantDeploymentClient
from mlflow_restaurant.home import Home

from ..support import Answer, Load, call, do, eventually, records


def deployed(home: Home, actor: Path, **config: Any) -> tuple[RestaurantDeploymentClient, dict[str, Any]]:
    client: RestaurantDeploymentClient = get_deploy_client(f"restaurant:{home.path}")
    return client, client.create_deployment("a", str(actor), config=config)


def healthy(client: RestaurantDeploymentClient) -> bool:
    replicas = client.get_deployment("a")["replicas"]
    return all(r["state"] == "RUNNING" for r in replicas)


def test_no_request_fails_when_replicas_are_killed(home: Home, actor: Path) -> None:
    client, deployment = deployed(home, actor, replicas=2)
    with Load(deployment["url"]).running() as load:
        for _ in range(4):
            load.wait_for(20)
            victim = client.get_deployment("a")["replicas"][0]["pid"]
            os.kill(victim, signal.SIGKILL)
            eventually(partial(_replaced, client, victim), "the replica is replaced")
        load.wait_for(20)
    assert not load.failures()
    assert sum(r["restarts"] for r in client.get_deployment("a")["replicas"]) == 4


def _replaced(client: RestaurantDeploymentClient, victim: int) -> bool:
    return victim not in _pids(client) and healthy(client)


def _pids(client: RestaurantDeploymentClient) -> list[int]:
    return [r["pid"] for r in client.get_deployment("a")["replicas"]]


def test_requests_wait_for_the_replacement_of_an_only_replica(home: Home, actor: Path) -> None:
    client, deployment = deployed(home, actor)
    (victim,) = _pids(client)
    with ThreadPoolExecutor(4) as pool:
        slow = [pool.submit(do, deployment["url"], "sleep:1") for _ in range(4)]
        eventually(lambda: all(s.running() for s in slow), "the requests are on their way")
        time.sleep(0.3)  # the kill must come while the model works on them
        os.kill(victim, signal.SIGKILL)
        assert [s.result().status for s in slow] == [200] * 4
    (replica,) = client.get_deployment("a")["replicas"]
    assert (replica["state"], replica["restarts"]) == ("RUNNING", 1)
    assert "SIGKILL" in client.home.deployment_log("a").read_text()


def test_what_a_model_has_forked_ends_with_its_replica(home: Home, actor: Path) -> None:
    """A child holds the connections of its parent open, and who asked would wait for nobody."""
    client, deployment = deployed(home, actor)
    (victim,) = _pids(client)
    with ThreadPoolExecutor(4) as pool:
        assert do(deployment["url"], "fork:600").status == 200
        (child,) = psutil.Process(victim).children()
        slow = [pool.submit(do, deployment["url"], "sleep:1") for _ in range(4)]
        time.sleep(0.3)  # the kill must come while the model works on them
        os.kill(victim, signal.SIGKILL)
        assert [s.result().status for s in slow] == [200] * 4
    eventually(lambda: not child.is_running(), "the child is gone")


def test_a_request_that_ends_replicas_is_given_up(home: Home, actor: Path) -> None:
    client, deployment = deployed(home, actor, replicas=2)
    answer = do(deployment["url"], "kill")
    assert answer.status == 503
    assert answer.json["error_code"] == "TEMPORARILY_UNAVAILABLE"
    assert "may be what ends them" in answer.json["message"]
    assert do(deployment["url"], "x").predictions == ["x"]
    eventually(lambda: healthy(client), "both replicas are back")


def test_a_hanging_request_gets_504_and_its_replica_is_replaced(home: Home, actor: Path) -> None:
    client, deployment = deployed(home, actor, timeout_s=1)
    (before,) = _pids(client)
    answer = do(deployment["url"], "sleep:600")
    assert (answer.status, answer.json["error_code"]) == (504, "DEADLINE_EXCEEDED")
    assert "1 s" in answer.json["message"]
    assert eventually(lambda: do(deployment["url"], "pid").status == 200, "another replica answers")
    assert _pids(client) != [before]
    assert "did not answer" in client.home.deployment_log("a").read_text()


def test_a_model_that_exits_is_replaced(home: Home, actor: Path) -> None:
    client, deployment = deployed(home, actor)
    (before,) = _pids(client)
    answer = do(deployment["url"], "exit:0")
    assert answer.status == 400
    assert "stack_trace" not in answer.json
    for _ in range(10):
        assert do(deployment["url"], "x").predictions == ["x"]
    eventually(lambda: healthy(client) and _pids(client) != [before], "the replica is replaced")
    assert "SystemExit" in client.home.deployment_log("a").read_text()


def together(deployment: dict[str, Any], bad: str, good: int = 14) -> Answer:
    """Ask for one bad deed among good ones, all at once; returns its answer when the others have theirs."""
    deeds = [
        *(f"x{number}" for number in range(good // 2)),
        bad,
        *(f"y{number}" for number in range(good // 2)),
    ]
    with ThreadPoolExecutor(len(deeds)) as pool:
        answers = list(pool.map(partial(do, deployment["url"]), deeds))
    (at,) = (number for number, deed in enumerate(deeds) if deed == bad)
    for deed, answer in zip(deeds, answers, strict=True):
        assert deed == bad or (answer.status == 200 and answer.predictions == [deed]), answer
    return answers[at]


MERGING = {"batching": "on", "batch_wait_ms": 500}


def test_a_row_at_which_the_model_hangs_keeps_no_other_waiting(home: Home, actor: Path) -> None:
    client, deployment = deployed(home, actor, timeout_s=20, **MERGING)
    assert do(deployment["url"], "x").status == 200  # so that it is known how long a call takes
    answer = together(deployment, "sleep:600")
    assert answer.status == 504
    assert "many times as long" in client.home.deployment_log("a").read_text()


def test_a_row_at_which_the_model_exits_ends_two_replicas_at_most(home: Home, actor: Path) -> None:
    client, deployment = deployed(home, actor, **MERGING)
    answer = together(deployment, "exit:0")
    assert answer.status == 400
    eventually(lambda: healthy(client), "the replica is back")
    assert sum(r["restarts"] for r in client.get_deployment("a")["replicas"]) in (1, 2)


def test_a_replica_that_keeps_ending_is_unhealthy_with_the_reason(
    home: Home, actor: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    config = {"model_config": {"end_if_there": str(bad)}, "timeout_s": 2}
    client, deployment = deployed(home, actor, **config)
    bad.touch()
    os.kill(_pids(client)[0], signal.SIGKILL)
    state = eventually(lambda: _state(client, "UNHEALTHY", "keeps ending"), "it is given up")
    assert state["replicas"][0]["state"] == "FATAL"
    assert "41" in state["message"]
    answer = do(deployment["url"], "x")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")


def _state(client: RestaurantDeploymentClient, state: str, text: str) -> dict[str, Any] | None:
    found: dict[str, Any] = client.get_deployment("a")
    return found if found["state"] == state and text in found["message"] else None


def test_predictions_go_on_without_a_controller_and_the_next_one_takes_over(home: Home, actor: Path) -> None:
    client, deployment = deployed(home, actor, replicas=2)
    before, gateways = _pids(client), records(home, "gateway")
    with Load(deployment["url"]).running() as load:
        load.wait_for(10)
        os.kill(records(home, "controller")[0], signal.SIGKILL)
        load.wait_for(20)
        assert _pids(client) == before
        load.wait_for(20)
    assert not load.failures()
    assert records(home, "gateway") == gateways
    assert client.get_deployment("a")["url"] == deployment["url"]
    with Load(deployment["url"]).running() as load:
        os.kill(before[0], signal.SIGKILL)
        eventually(
            lambda: before[0] not in _pids(client) and healthy(client), "an adopted replica is replaced"
        )
        updated = client.update_deployment("a", config={"replicas": 1})
        load.wait_for(10)
    assert not load.failures()
    assert updated["revision"] == 2
    eventually(lambda: len(_pids(client)) == 1, "the adopted replicas are stopped")


def test_a_gateway_that_is_killed_is_back_and_nobody_is_refused(home: Home, actor: Path) -> None:
    _, deployment = deployed(home, actor)
    (before,) = records(home, "gateway")
    os.kill(before, signal.SIGKILL)
    # The port stays open: callers wait in its backlog.
    assert do(deployment["url"], "x").predictions == ["x"]
    assert records(home, "gateway") != [before]


def test_the_port_survives_controller_and_gateway(home: Home, actor: Path) -> None:
    client, deployment = deployed(home, actor)
    os.kill(records(home, "controller")[0], signal.SIGKILL)
    assert client.list_deployments()
    os.kill(records(home, "gateway")[0], signal.SIGKILL)
    assert do(deployment["url"], "x").predictions == ["x"]


def test_several_gateways_share_the_port(home: Home, actor: Path) -> None:
    (home.path / "config.toml").write_text("gateways = 2\n")
    client, deployment = deployed(home, actor)
    assert ControlClient(home).status()["gateways"] == 2
    with Load(deployment["url"], callers=8).running() as load:
        load.wait_for(20)
        os.kill(records(home, "gateway")[0], signal.SIGKILL)
        client.update_deployment("a")
        eventually(lambda: len(records(home, "gateway")) == 2, "the gateway is replaced")
        load.wait_for(20)
    # Only what the killed gateway had in hand may fail.
    assert sum(load.failures().values()) <= 8


def test_without_the_fork_server_replicas_go_on_and_new_ones_start(home: Home, actor: Path) -> None:
    client, deployment = deployed(home, actor)
    (replica,) = _pids(client)
    os.kill(records(home, "forkserver")[0], signal.SIGKILL)
    assert do(deployment["url"], "pid").predictions == [str(replica)]
    assert client.update_deployment("a")["revision"] == 2
    os.kill(_pids(client)[-1], signal.SIGKILL)
    assert do(deployment["url"], "x").predictions == ["x"]


def test_a_full_queue_answers_503_with_retry_after(home: Home, actor: Path) -> None:
    _, deployment = deployed(home, actor, max_queue=1)
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda _: do(deployment["url"], "sleep:0.5"), range(64)))
    statuses = {a.status for a in answers}
    assert statuses == {200, 503}
    refused = next(a for a in answers if a.status == 503)
    assert refused.json["error_code"] == "REQUEST_LIMIT_EXCEEDED"
    assert refused.headers["retry-after"] == "1"


def test_a_body_too_large_is_refused_and_nobody_else_is_disturbed(home: Home, actor: Path) -> None:
    _, deployment = deployed(home, actor, max_body_mb=0.01)
    answer = call(f"{deployment['url']}/invocations", body=b"x" * 20_000)
    assert (answer.status, answer.json["error_code"]) == (413, "BAD_REQUEST")
    assert do(deployment["url"], "x").predictions == ["x"]


def test_a_replica_that_grows_is_replaced_and_fails_no_request(home: Home, actor: Path) -> None:
    client = get_deploy_client(f"restaurant:{home.path}")
    deployment = client.create_deployment("a", str(actor), config={"max_memory_mb": "150"})
    with Load(deployment["url"]).running() as load:
        load.wait_for(10)
        for _ in range(2):
            (replica,) = client.get_deployment("a")["replicas"]

            def grown(before: int = replica["pid"]) -> bool:
                return bool(str(before) != do(deployment["url"], "grow:10").predictions[0])

            eventually(grown, "another process answers")
        load.wait_for(10)
    assert not load.failures()
    (replica,) = client.get_deployment("a")["replicas"]
    assert replica["restarts"] == 2
    log = home.deployment_log("a").read_text()
    assert "MB of memory, more than max_memory_mb=150; it is replaced" in log


def test_a_limit_that_the_model_does_not_fit_in_is_said_and_fails_no_request(home: Home, actor: Path) -> None:
    client, deployment = deployed(home, actor, max_memory_mb=3)
    with Load(deployment["url"], pause_s=0.01).running() as load:
        state = eventually(
            lambda: _state(client, "UNHEALTHY", "MB of memory, and max_memory_mb is 3"), "it is said"
        )
        assert "its model needs" in state["message"]
        begun = time.monotonic()
        while time.monotonic() < begun + 10:
            assert client.get_deployment("a")["state"] == "UNHEALTHY"
        load.wait_for(10)
    assert not load.failures()
    (replica,) = client.get_deployment("a")["replicas"]
    assert replica["restarts"] <= 6  # 0.5 s, 1, 2, 4 and 8 between them
    said = [event["kind"] for event in ControlClient(home).events("a")]
    assert said.count("unhealthy") == 1
