"""What every way of starting a replica must do, held against each."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.deployments import get_deploy_client
from mlflow.exceptions import MlflowException

from mlflow_restaurant.deployments import RestaurantDeploymentClient
from mlflow_restaurant.home import Home

from ..support import do, eventually

WAYS: dict[str, dict[str, Any]] = {
    "forked": {},
    # A variable that the interpreter reads when it starts: such a replica is not forked.
    "spawned": {"env.PYTHONWARNINGS": "default"},
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> dict[str, Any]:
    return WAYS[request.param]


@pytest.fixture
def client(shared_home: Home) -> Iterator[RestaurantDeploymentClient]:
    client = get_deploy_client(f"restaurant:{shared_home.path}")
    yield client
    client.delete_deployment("a")


def test_a_replica_answers_with_its_environment(
    client: RestaurantDeploymentClient, actor: Path, way: dict[str, Any]
) -> None:
    deployment = client.create_deployment("a", str(actor), config={**way, "env.COLOUR": "red"})
    (replica,) = deployment["replicas"]
    assert do(deployment["url"], "pid", "env:COLOUR").predictions == [str(replica["pid"]), "red"]


def test_what_it_prints_is_in_the_log(
    client: RestaurantDeploymentClient, actor: Path, way: dict[str, Any]
) -> None:
    deployment = client.create_deployment("a", str(actor), config=way)
    do(deployment["url"], "print:a word from the model")
    log = client.home.deployment_log("a")
    eventually(lambda: "a word from the model" in log.read_text(), "the word is in the log")


@pytest.mark.parametrize(
    ("at_load", "reason"), [("raise", "the actor fell ill while loading"), ("exit", "SystemExit: 9")]
)
def test_why_a_model_did_not_load_is_told(
    client: RestaurantDeploymentClient, actor: Path, way: dict[str, Any], at_load: str, reason: str
) -> None:
    config = {**way, "model_config": {"at_load": at_load}}
    with pytest.raises(MlflowException, match=reason):
        client.create_deployment("a", str(actor), config=config)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_replica_that_ends_is_replaced(
    client: RestaurantDeploymentClient, actor: Path, way: dict[str, Any], signum: signal.Signals
) -> None:
    deployment = client.create_deployment("a", str(actor), config=way)
    (replica,) = deployment["replicas"]
    os.kill(replica["pid"], signum)
    answer = do(deployment["url"], "x")
    assert answer.status == 200, client.home.deployment_log("a").read_text()
    assert answer.predictions == ["x"]

    def replaced() -> Any:
        (now,) = client.get_deployment("a")["replicas"]
        return (now["state"], now["restarts"]) == ("RUNNING", 1) and now["pid"] != replica["pid"]

    eventually(replaced, "the replica is replaced")
