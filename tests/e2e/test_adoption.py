"""What a new controller makes of what an earlier one left: rollouts under way, and numbers of replicas that had changed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow.deployments import get_deploy_client
from mlflow.exceptions import MlflowException

from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.deployments import RestaurantDeploymentClient
from mlflow_restaurant.errors import RestaurantError
from mlflow_restaurant.home import Home
from mlflow_restaurant.process.records import read_records, record_path

from ..support import Load, do, eventually, records

CANARY = {"strategy": "canary", "canary_steps": "50", "bake_s": "3600"}


@pytest.fixture
def client(home: Home) -> RestaurantDeploymentClient:
    found: RestaurantDeploymentClient = get_deploy_client(f"restaurant:{home.path}")
    return found


def settings(model: dict[str, Any], **more: str) -> dict[str, str]:
    return {"model_config": json.dumps(model), **more}


def kill_controller(client: RestaurantDeploymentClient) -> None:
    (pid,) = records(client.home, "controller")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not records(client.home, "controller"), "the controller is dead")


def of_another_version(home: Home) -> None:
    """Make the gateways that run pass for those of another version of this package."""
    for record in read_records(home.run):
        if record.kind == "gateway":
            path = record_path(home.records, record.id)
            path.write_text(
                record.model_copy(update={"version": "0.0.1"}).model_dump_json(), encoding="utf-8"
            )


def running(client: RestaurantDeploymentClient, name: str = "a") -> set[int]:
    return {r["pid"] for r in client.get_deployment(name)["replicas"] if r["state"] == "RUNNING"}


@contextlib.contextmanager
def updating(client: RestaurantDeploymentClient, config: dict[str, str]) -> Iterator[Future[dict[str, Any]]]:
    """An update that is under way; what becomes of its command is not looked at."""
    with ThreadPoolExecutor(1) as pool:
        update = pool.submit(client.update_deployment, "a", config=config)
        yield update
        with contextlib.suppress(MlflowException, RestaurantError):
            update.result()


@contextlib.contextmanager
def trying(client: RestaurantDeploymentClient) -> Iterator[None]:
    """A canary whose trial is under way; what becomes of its command is not looked at."""
    with updating(client, settings({"name": "second"}, **CANARY)):
        eventually(lambda: is_tried(client), "it is tried")
        yield


def is_tried(client: RestaurantDeploymentClient) -> bool:
    return "step" in (client.get_deployment("a")["rollout"] or {})


def test_an_abort_that_was_under_way_is_carried_out(client: RestaurantDeploymentClient, actor: Path) -> None:
    url = client.create_deployment("a", str(actor), config=settings({"load_s": 2}, replicas="3"))["url"]
    control = ControlClient(client.home)
    with Load(url, callers=2, action="name").running() as load, ThreadPoolExecutor(1) as pool:
        with updating(client, settings({"name": "second"})):
            eventually(lambda: load.seen["2"], "the new revision answers")
            aborting = pool.submit(control.abort, "a", print)
            eventually(
                lambda: "going back to revision 1" in client.get_deployment("a")["message"], "it goes back"
            )
            kill_controller(client)
        with contextlib.suppress(RestaurantError):
            aborting.result()
        control.ensure_running()
        eventually(lambda: client.get_deployment("a")["state"] == "HEALTHY", "it is at rest")
    assert not load.failures()
    second, first = control.history("a")
    assert (second["state"], first["state"]) == ("DEPLOY_FAILED", "SERVING")
    assert second["message"] == "it was aborted"
    assert do(url, "name").predictions == ["first"]


def test_an_abort_that_cannot_be_written_down_says_so_and_is_written_down_later(
    client: RestaurantDeploymentClient, actor: Path
) -> None:
    client.create_deployment("a", str(actor))
    control = ControlClient(client.home)
    with (
        trying(client),
        contextlib.closing(sqlite3.connect(client.home.database, isolation_level=None)) as database,
    ):
        database.execute("BEGIN IMMEDIATE")
        with pytest.raises(RestaurantError, match="can't be written down yet"):
            control.abort("a", print)
        database.execute("ROLLBACK")

    def states() -> list[str]:
        with contextlib.closing(sqlite3.connect(client.home.database)) as database:
            return [row[0] for row in database.execute("SELECT state FROM revisions ORDER BY number")]

    eventually(lambda: states() == ["SERVING", "DEPLOY_FAILED"], "it is written down")


def test_a_rollout_that_was_taken_over_ends_with_its_deployment(
    client: RestaurantDeploymentClient, actor: Path
) -> None:
    client.create_deployment("a", str(actor))
    control = ControlClient(client.home)
    with trying(client):
        kill_controller(client)
    control.ensure_running()
    eventually(lambda: is_tried(client), "it is tried again")
    with updating(client, settings({}, wait="true")) as waiting:
        eventually(lambda: not waiting.done(), "it waits")
        client.delete_deployment("a")
        with pytest.raises(MlflowException, match=r"no deployment 'a'|is being deleted"):
            waiting.result(60)
    kinds = [event["kind"] for event in control.events("a")]
    assert kinds[-1] == "deleted"


def test_a_trial_that_is_taken_over_wakes_the_revision_before(
    client: RestaurantDeploymentClient, actor: Path
) -> None:
    url = client.create_deployment("a", str(actor), config={"idle_timeout_s": "3600"})["url"]
    with trying(client):
        ControlClient(client.home).down()
    ControlClient(client.home).ensure_running()
    eventually(lambda: is_tried(client), "it is tried again")
    assert {do(url, "name").predictions[0] for _ in range(20)} == {"first", "second"}


def test_replicas_that_callers_need_are_kept(client: RestaurantDeploymentClient, actor: Path) -> None:
    config = settings({"takes_s": 0.1}, max_replicas="3")
    url = client.create_deployment("a", str(actor), config=config)["url"]
    with Load(url, callers=30, action="name").running() as load:
        before = eventually(lambda: len(running(client)) == 3 and running(client), "there are three")
        kill_controller(client)
        ControlClient(client.home).ensure_running()
        load.wait_for(100)
        assert running(client) == before
        client.update_deployment("a", config={"timeout_s": "50"})
        assert len(running(client)) == 3  # a new revision begins with as many
    assert not load.failures()


def test_replicas_that_died_meanwhile_come_back(client: RestaurantDeploymentClient, actor: Path) -> None:
    config = {"idle_timeout_s": "3600", "replicas": "3"}
    client.create_deployment("a", str(actor), config=config)
    pids = sorted(running(client))
    kill_controller(client)
    for pid in pids[:2]:
        os.kill(pid, signal.SIGKILL)
    ControlClient(client.home).ensure_running()
    eventually(lambda: len(running(client)) == 3, "there are three again")
    assert pids[2] in running(client)


def test_a_gateway_of_another_version_is_replaced_and_nobody_notices(
    client: RestaurantDeploymentClient, actor: Path
) -> None:
    url = client.create_deployment("a", str(actor))["url"]
    replicas, before = running(client), records(client.home, "gateway")
    stale = client.home.run / "r-0f0f0f.sock"
    stale.touch()
    with Load(url).running() as load:
        of_another_version(client.home)
        kill_controller(client)
        ControlClient(client.home).ensure_running()
        eventually(lambda: not set(records(client.home, "gateway")) & set(before), "it is replaced")
        load.wait_for(20)
    assert not load.failures()
    assert len(records(client.home, "gateway")) == 1
    assert running(client) == replicas
    assert not stale.exists()
    assert "is of version 0.0.1; another takes its place" in str(ControlClient(client.home).events())
