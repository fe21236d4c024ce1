"""The whole path on real processes: create, update, look, delete, and what survives what."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from mlflow.exceptions import MlflowException

from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.deployments import RestaurantDeploymentClient
from mlflow_restaurant.errors import RestaurantError
from mlflow_restaurant.home import Home
from mlflow_restaurant.reference import DEPLOYMENT_FIELDS

from ..support import Load, call, do, eventually, processes_of, records
from .conftest import own_client, restaurant

FIELDS = {
    "name",
    "flavor",
    "model_uri",
    "model_version",
    "model_uuid",
    "endpoint",
    "revision",
    "state",
    "message",
    "replicas",
    "url",
    "config",
    "created_at",
    "updated_at",
}


def test_create_returns_what_get_returns_and_predictions_work(
    client: RestaurantDeploymentClient, actor: Path
) -> None:
    created = client.create_deployment("a", str(actor), config={"replicas": "2"})
    assert created == client.get_deployment("a")
    assert set(created) >= FIELDS
    assert list(created) == [field for field, _ in DEPLOYMENT_FIELDS]
    assert created["state"] == "HEALTHY"
    assert (created["revision"], created["model_version"], created["endpoint"]) == (1, None, None)
    assert created["model_uri"] == str(actor)
    assert [r["state"] for r in created["replicas"]] == ["RUNNING", "RUNNING"]
    assert {r["restarts"] for r in created["replicas"]} == {0}
    answer = do(created["url"], "hello", "world")
    assert answer.predictions == ["hello", "world"]
    assert answer.headers["x-mlflow-deployment"] == "a"
    assert answer.headers["x-mlflow-revision"] == "1"
    assert len(answer.headers["x-request-id"]) >= 16


def test_both_replicas_answer(client: RestaurantDeploymentClient, actor: Path) -> None:
    deployment = client.create_deployment("a", str(actor), config={"replicas": 2})
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: do(deployment["url"], "pid").predictions[0], range(64)))
    assert set(answers) == {str(r["pid"]) for r in deployment["replicas"]}


def test_update_changes_what_it_names_and_keeps_the_rest(
    client: RestaurantDeploymentClient, actor: Path
) -> None:
    client.create_deployment("a", str(actor), config={"timeout_s": "7", "env.COLOUR": "red"})
    updated = client.update_deployment("a", config={"model_config": '{"name": "second"}'})
    assert updated["revision"] == 2
    assert updated["config"]["timeout_s"] == 7
    assert updated["config"]["env"] == {"COLOUR": "red"}
    assert do(updated["url"], "name", "env:COLOUR").predictions == ["second", "red"]
    history = ControlClient(client.home).history("a")
    assert [(r["revision"], r["state"]) for r in history] == [(2, "SERVING"), (1, "SUPERSEDED")]


def test_a_rollback_brings_an_earlier_revision_back(client: RestaurantDeploymentClient, actor: Path) -> None:
    control = ControlClient(client.home)
    deployment = client.create_deployment("a", str(actor), config={"replicas": 1})
    with pytest.raises(RestaurantError, match="no earlier revision"):
        control.rollback("a", None, print)
    for name in ("second", "third"):
        client.update_deployment("a", config={"model_config": f'{{"name": "{name}"}}'})
    with Load(deployment["url"]).running() as load:
        back = control.rollback("a", None, print)
        load.wait_for(5)
    assert not load.failures()
    assert back["revision"] == 4
    assert do(back["url"], "name").predictions == ["second"]
    assert control.rollback("a", 1, print)["config"]["model_config"] is None
    assert [r["message"] for r in control.history("a")][:2] == ["as revision 1", "as revision 2"]
    for number, words in ((5, "serves already"), (9, "no revision 9")):
        with pytest.raises(RestaurantError, match=words):
            control.rollback("a", number, print)


def test_no_request_fails_during_updates(client: RestaurantDeploymentClient, actor: Path) -> None:
    deployment = client.create_deployment("a", str(actor))
    with Load(deployment["url"]).running() as load:
        for number in range(3):
            load.wait_for(20)
            client.update_deployment("a", config={"model_config": f'{{"name": "v{number}"}}'})
        load.wait_for(20)
    assert not load.failures()
    assert set(load.seen) == {"1", "2", "3", "4"}
    eventually(lambda: len(client.get_deployment("a")["replicas"]) == 1, "the old replicas are stopped")


def test_requests_in_flight_are_finished_by_the_old_revision(
    client: RestaurantDeploymentClient, actor: Path
) -> None:
    deployment = client.create_deployment("a", str(actor))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(do, deployment["url"], "sleep:2")
        eventually(lambda: slow.running(), "the slow request is on its way")
        client.update_deployment("a")
        answer = slow.result()
    assert (answer.status, answer.predictions) == (200, ["2"])
    assert answer.headers["x-mlflow-revision"] == "1"


def test_a_failed_create_leaves_nothing_but_its_log(client: RestaurantDeploymentClient, actor: Path) -> None:
    with pytest.raises(MlflowException, match="the actor fell ill while loading"):
        client.create_deployment(
            "a", str(actor), config={"model_config": '{"at_load": "raise"}'}, endpoint="e"
        )
    assert client.list_deployments() == []
    assert client.list_endpoints() == []
    assert "the actor fell ill while loading" in client.home.deployment_log("a").read_text()
    assert client.create_deployment("a", str(actor))["revision"] == 1


def test_a_failed_update_leaves_the_old_revision_serving(
    client: RestaurantDeploymentClient, actor: Path
) -> None:
    deployment = client.create_deployment("a", str(actor))
    with Load(deployment["url"]).running() as load:
        load.wait_for(5)
        with pytest.raises(MlflowException, match="the actor fell ill while loading"):
            client.update_deployment("a", config={"model_config": '{"at_load": "raise"}'})
        load.wait_for(5)
    assert not load.failures()
    after = client.get_deployment("a")
    assert (after["revision"], after["state"]) == (1, "HEALTHY")
    assert "revision 2 failed" in after["message"]
    assert after["config"]["model_config"] is None
    history = ControlClient(client.home).history("a")
    assert [(r["revision"], r["state"]) for r in history] == [(2, "DEPLOY_FAILED"), (1, "SERVING")]
    assert client.update_deployment("a")["revision"] == 3


def test_delete_is_idempotent_and_stops_the_replicas(client: RestaurantDeploymentClient, actor: Path) -> None:
    deployment = client.create_deployment("a", str(actor))
    client.delete_deployment("a")
    client.delete_deployment("a")
    assert records(client.home, "replica") == []
    assert call(f"{deployment['url']}/ping").status == 404
    assert list(client.home.models.iterdir()) == []


def test_one_model_twice_is_cached_once(client: RestaurantDeploymentClient, actor: Path) -> None:
    client.create_deployment("a", str(actor))
    client.create_deployment("b", str(actor))
    assert len(list(client.home.models.iterdir())) == 1
    client.delete_deployment("a")
    assert do(client.get_deployment("b")["url"], "still here").predictions == ["still here"]


def test_many_commands_at_once_start_one_server(home: Home) -> None:
    command = [sys.executable, "-m", "mlflow_restaurant.cli", "-t", f"restaurant:{home.path}", "up"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(10)]
    said = {process.communicate()[0].partition(" at ")[2] for process in started}
    assert {process.returncode for process in started} == {0}
    assert len(said) == 1
    assert len(records(home, "controller")) == 1
    assert len(records(home, "gateway")) == 1


def test_the_server_survives_its_terminal(home: Home) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(
            sys.executable,
            [sys.executable, "-m", "mlflow_restaurant.cli", "-t", f"restaurant:{home.path}", "up"],
        )
    said = b""
    while b"runs at" not in said:
        said += os.read(terminal, 1000)
    os.waitpid(pid, 0)
    os.close(terminal)
    assert ControlClient(home).is_running()
    assert ControlClient(home).status()["gateways"] == 1


def test_after_a_kill_of_everything_up_brings_all_back_without_the_store(
    home: Home, actor: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(actor, model)
    client = own_client(home)
    client.create_deployment("a", str(model), endpoint="e")
    client.update_deployment("a", config={"model_config": '{"name": "second"}', "replicas": 2})
    before = client.get_deployment("a")
    shutil.rmtree(model)
    for process in processes_of(home):
        process.kill()
    eventually(lambda: not processes_of(home), "all processes are gone")
    ControlClient(home).ensure_running()
    after = client.get_deployment("a")
    assert {k: after[k] for k in ("revision", "url", "config", "created_at")} == {
        k: before[k] for k in ("revision", "url", "config", "created_at")
    }
    assert do(after["url"], "name").predictions == ["second"]
    assert call(f"{after['url'].replace('deployments/a', 'endpoints/e')}/ping").status == 200
    eventually(lambda: client.get_deployment("a")["state"] == "HEALTHY", "the deployment is healthy")


def test_down_stops_everything_and_up_brings_it_back(home: Home, actor: Path) -> None:
    client = own_client(home)
    deployment = client.create_deployment("a", str(actor))
    assert ControlClient(home).down()
    assert processes_of(home) == []
    assert not ControlClient(home).down()
    assert client.predict("a", {"do": ["x"]})["predictions"] == ["x"]
    assert client.get_deployment("a")["url"] == deployment["url"]


def test_down_works_without_a_controller(home: Home, actor: Path) -> None:
    own_client(home).create_deployment("a", str(actor))
    (controller,) = records(home, "controller")
    os.kill(controller, signal.SIGKILL)
    assert ControlClient(home).down()
    assert processes_of(home) == []


def test_a_server_that_hangs_keeps_no_command_waiting_and_down_ends_it(home: Home, actor: Path) -> None:
    client = own_client(home)
    url = client.create_deployment("a", str(actor))["url"]
    (controller,) = records(home, "controller")
    trial = {"strategy": "canary", "canary_steps": "50", "bake_s": "3600"}
    with ThreadPoolExecutor(2) as pool:
        update = pool.submit(client.update_deployment, "a", config=trial)
        eventually(lambda: "step" in (client.get_deployment("a")["rollout"] or {}), "it is tried")
        os.kill(controller, signal.SIGSTOP)
        try:
            status = pool.submit(restaurant, home, "status")
            for answer in (update, status):
                with contextlib.suppress(MlflowException):
                    answer.result(60)
            assert do(url, "x").predictions == ["x"]
            said = f"process {controller} is there; end it with 'mlflow-restaurant down' and start it again"
            assert said in str(update.exception())
            assert said in status.result().error
            assert restaurant(home, "down").out == "The server is down.\n"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(controller, signal.SIGCONT)
    assert processes_of(home) == []
    assert restaurant(home, "up").status == 0
    assert do(client.get_deployment("a")["url"], "x").predictions == ["x"]


def test_an_interrupted_create_leaves_nothing(home: Home, actor: Path) -> None:
    ControlClient(home).ensure_running()
    script = (
        "from mlflow.deployments import get_deploy_client as g;"
        f"g('restaurant:{home.path}').create_deployment('a', {str(actor)!r},"
        " config={'model_config': '{\"at_load\": \"hang\"}'})"
    )
    command = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    client = own_client(home)
    eventually(lambda: records(home, "replica"), "the replica is starting")
    command.send_signal(signal.SIGINT)
    command.wait()
    eventually(lambda: not client.list_deployments() and not records(home, "replica"), "nothing is left")
    assert client.create_deployment("a", str(actor))["revision"] == 1


@pytest.mark.parametrize("same", [True, False])
def test_what_an_aborted_replica_writes_late_harms_no_other(
    client: RestaurantDeploymentClient, actor: Path, tmp_path: Path, same: bool
) -> None:
    control, writes = ControlClient(client.home), {"model_config": '{"at_load": "write"}'}
    other = tmp_path / "other"
    shutil.copytree(actor, other)
    (other / "number").write_text("2")  # so that it is a model of its own
    with ThreadPoolExecutor(1) as pool:
        creating = pool.submit(client.create_deployment, "a", str(actor), None, writes)
        (written,) = eventually(lambda: list(client.home.models.glob("*/__pycache__")), "it writes")
        (pid,) = records(client.home, "replica")
        control.abort("a", lambda _: None)
        with pytest.raises(MlflowException):
            creating.result()
    assert client.create_deployment("a", str(actor if same else other))["revision"] == 1
    assert (written.parent / "MLmodel").exists() or not psutil.pid_exists(pid)
    eventually(lambda: same or not written.parent.exists(), "nothing needs the first model any more")


def test_delete_overtakes_a_create(home: Home, actor: Path) -> None:
    client = own_client(home)
    hang = {"model_config": '{"at_load": "hang"}'}
    with ThreadPoolExecutor(1) as pool:
        creating = pool.submit(client.create_deployment, "a", str(actor), None, hang)
        eventually(lambda: records(home, "replica"), "the replica is starting")
        own_client(home).delete_deployment("a")
        with pytest.raises(MlflowException, match="'a' was deleted before the command was done"):
            creating.result()
    assert client.list_deployments() == []
    assert records(home, "replica") == []


def test_a_name_in_use_and_an_update_under_way_are_refused(home: Home, actor: Path) -> None:
    client = own_client(home)
    client.create_deployment("a", str(actor))
    with pytest.raises(MlflowException, match="exists already"):
        client.create_deployment("a", str(actor))
    with ThreadPoolExecutor(1) as pool:
        updating = pool.submit(client.update_deployment, "a", config={"model_config": '{"at_load": "hang"}'})
        eventually(lambda: client.get_deployment("a")["state"] == "UPDATING", "the update has begun")
        with pytest.raises(MlflowException, match="is being updated"):
            own_client(home).update_deployment("a")
        own_client(home).delete_deployment("a")
        with pytest.raises(MlflowException):
            updating.result()


def test_an_interrupted_rollout_goes_on_with_the_next_controller(home: Home, actor: Path) -> None:
    client = own_client(home)
    client.create_deployment("a", str(actor))
    with ThreadPoolExecutor(1) as pool:
        updating = pool.submit(client.update_deployment, "a", config={"model_config": '{"at_load": "hang"}'})
        eventually(lambda: client.get_deployment("a")["state"] == "UPDATING", "the update has begun")
        (controller,) = records(home, "controller")
        os.kill(controller, signal.SIGKILL)
        with pytest.raises(MlflowException, match="went down"):
            updating.result()
    after = client.get_deployment("a")
    assert (after["state"], after["revision"]) == ("UPDATING", 1)
    assert do(after["url"], "x").predictions == ["x"]


def test_a_home_with_a_long_path_works(actor: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / ("long" * 30))
    client = own_client(home)
    try:
        deployment = client.create_deployment("a", str(actor))
        assert do(deployment["url"], "x").predictions == ["x"]
    finally:
        run = home.run
        ControlClient(home).down()
    assert not run.exists()


def test_processes_end_when_their_home_is_deleted(home: Home, actor: Path) -> None:
    own_client(home).create_deployment("a", str(actor))
    eventually(lambda: records(home, "standby"), "a gateway stands by")
    running = processes_of(home)
    assert len(running) == 5  # controller, fork server, replica, and two gateways
    shutil.rmtree(home.path)
    eventually(lambda: not any(p.is_running() and p.status() != "zombie" for p in running), "all have ended")


def test_what_else_lies_in_a_home_is_left_alone(home: Home, actor: Path) -> None:
    other = home.path / "models" / "mine"
    other.mkdir(parents=True)
    (other / "weights").touch()
    home.path.chmod(0o755)
    client = own_client(home)
    client.create_deployment("a", str(actor))
    client.delete_deployment("a")
    assert (other / "weights").exists()
    assert home.path.stat().st_mode & 0o777 == 0o755
    assert home.run.stat().st_mode & 0o777 == 0o700


def test_models_outlast_a_database_that_is_moved_away_and_back(home: Home, actor: Path) -> None:
    client, control = own_client(home), ControlClient(home)
    client.create_deployment("a", str(actor))
    control.down()
    away = home.path / "away"
    away.mkdir()
    for file in home.path.glob("state.db*"):
        file.rename(away / file.name)
    assert client.list_deployments() == []
    control.down()
    for file in away.iterdir():
        file.replace(home.path / file.name)
    assert client.predict("a", {"do": ["x"]})["predictions"] == ["x"]


def test_a_name_is_free_once_its_deployment_is_gone(client: RestaurantDeploymentClient, actor: Path) -> None:
    deployment = client.create_deployment("a", str(actor))
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(do, deployment["url"], "sleep:3")
        eventually(lambda: _in_flight(client), "the slow request is on its way")
        deleting = pool.submit(own_client(client.home).delete_deployment, "a")
        eventually(lambda: client.list_deployments()[0]["state"] == "DELETING", "the deletion has begun")
        with pytest.raises(MlflowException, match="exists already"):
            client.create_deployment("a", str(actor))
        deleting.result()
        assert slow.result().status == 200
    assert client.create_deployment("a", str(actor))["revision"] == 1


def _in_flight(client: RestaurantDeploymentClient) -> bool:
    log = client.home.deployment_log("a")
    return "asleep" in log.read_text()


def test_a_failed_update_does_not_join_an_endpoint(client: RestaurantDeploymentClient, actor: Path) -> None:
    client.create_deployment("a", str(actor))
    with pytest.raises(MlflowException):
        client.update_deployment("a", config={"model_config": '{"at_load": "raise"}'}, endpoint="e")
    assert client.get_deployment("a")["endpoint"] is None
    assert client.list_endpoints() == []
    assert client.update_deployment("a", config={"model_config": "{}"}, endpoint="e")["endpoint"] == "e"
    assert client.get_endpoint("e")["traffic"] == {"a": 100}


def test_a_deployment_of_another_endpoint_is_not_deleted(
    client: RestaurantDeploymentClient, actor: Path
) -> None:
    client.create_deployment("a", str(actor))
    client.delete_deployment("a", endpoint="other")
    assert client.get_deployment("a")["state"] == "HEALTHY"


def test_replicas_draw_numbers_of_their_own(client: RestaurantDeploymentClient, actor: Path) -> None:
    urls = [client.create_deployment(name, str(actor))["url"] for name in "ab"]
    assert len({do(url, "random").predictions[0] for url in urls}) == 2


def test_predictions_go_through_no_proxy(
    client: RestaurantDeploymentClient, actor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create_deployment("a", str(actor))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert client.predict("a", {"do": ["x"]})["predictions"] == ["x"]
