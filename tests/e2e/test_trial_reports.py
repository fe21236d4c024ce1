"""The reports of trials in MLflow: on a tracking server over HTTP, in a database, and when there is none to take them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.deployments import RestaurantDeploymentClient
from mlflow_restaurant.home import Home

from ..conftest import ACTOR
from ..support import Load, call, eventually
from .conftest import own_client

SHADOW = {"strategy": "shadow", "bake_s": "2", "max_latency_ratio": "1000000"}
KEEPER = """
import os, signal, subprocess, sys
subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
sys.stdin.read()
os.killpg(0, signal.SIGKILL)
"""
"""Ends a command, and what it started, together with whoever started this."""
DEFAULTS = {"at_load": "", "end_if_there": "", "fail_every": 1 << 62, "takes_s": 0}


@dataclass
class TrackingServer:
    """An `mlflow server` with its own database."""

    url: str
    process: subprocess.Popen[bytes]

    def signal(self, signum: int) -> None:
        os.killpg(self.process.pid, signum)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    directory = tmp_path_factory.mktemp("tracking")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    stores = [
        "--backend-store-uri",
        f"sqlite:///{directory}/mlflow.db",
        "--artifacts-destination",
        str(directory),
    ]
    command = [
        sys.executable,
        "-c",
        KEEPER,
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--port",
        str(port),
        "--workers",
        "1",
        *stores,
    ]
    environ = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environ,
            start_new_session=True,
        )
    found = TrackingServer(f"http://127.0.0.1:{port}", process)

    def answers() -> bool:
        assert process.poll() is None, (directory / "log").read_text()
        try:
            return call(f"{found.url}/health", timeout_s=1).status == 200
        except OSError:
            return False

    try:
        eventually(answers, "the tracking server answers", 120)
        yield found
    finally:
        found.signal(signal.SIGKILL)
        process.communicate()


def log_versions(experiment: str) -> None:
    """Log three versions of the actor: two that are called alike, and one that is called otherwise."""
    mlflow.set_experiment(experiment)
    for name in ("first", "first", "second"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mlflow.pyfunc.log_model(
                name="actor",
                python_model=str(ACTOR),
                model_config={**DEFAULTS, "name": name},
                pip_requirements=["mlflow"],
                registered_model_name="actor",
                signature=mlflow.models.infer_signature([{"do": "x"}], ["x"]),
            )


@pytest.fixture(scope="module")
def tracked(server: TrackingServer) -> TrackingServer:
    """A tracking server that has three versions of the actor, logged in the experiment ``actors``."""
    mlflow.set_tracking_uri(server.url)
    log_versions("actors")
    return server


@pytest.fixture
def over_http(tracked: TrackingServer, monkeypatch: pytest.MonkeyPatch) -> TrackingServer:
    """The same, as the tracking server of this process."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracked.url)
    return tracked


def said(client: RestaurantDeploymentClient, kind: str) -> list[dict[str, Any]]:
    return [e for e in ControlClient(client.home).events("a") if e["kind"] == kind]


def reported(client: RestaurantDeploymentClient, patience_s: float = 60) -> str:
    """Wait until a report was logged, or could not be, and return what is said of it."""
    (event,) = eventually(lambda: said(client, "report"), "the trial is reported", patience_s)
    return str(event["message"])


def shown_run(client: RestaurantDeploymentClient) -> Any:
    """Return the run that was logged for the newest revision, as the tracking store has it."""
    reported(client)
    trial = ControlClient(client.home).history("a")[0]["trial"]
    return MlflowClient().get_run(trial["run"]["run_id"])


@pytest.fixture
def home_client(home: Home) -> RestaurantDeploymentClient:
    """A client of a server of its own, so that the events are those of the test."""
    return own_client(home)


def test_a_shadow_that_came_into_service(
    over_http: TrackingServer, home_client: RestaurantDeploymentClient
) -> None:
    client = home_client
    url = client.create_deployment("a", "models:/actor/1")["url"]
    with Load(url, callers=2, action="name").running() as load:
        load.wait_for(20)
        client.update_deployment("a", "models:/actor/3", config=SHADOW)
    assert not load.failures()
    run = shown_run(client)
    store = MlflowClient()
    assert run.info.status == "FINISHED"
    assert store.get_experiment(run.info.experiment_id).name == "actors"
    assert run.data.tags["mlflow-restaurant.verdict"] == "promoted"
    assert run.data.tags["mlflow-restaurant.model_uri"] == "models:/actor/3"
    assert run.data.tags["mlflow-restaurant.before.model_version"] == "1"
    assert run.data.params["shadow_percent"] == "100.0"
    trial = ControlClient(client.home).history("a")[0]["trial"]
    assert run.data.metrics["rows"] == trial["agreement"]["rows"] > 0
    assert run.data.metrics["row_agreement"] == run.data.metrics["agreement/prediction"] == 0
    assert run.data.metrics["new.requests"] == trial["new"]["requests"]
    artifact = mlflow.artifacts.load_dict(f"runs:/{run.info.run_id}/trial.json")
    assert artifact == {key: value for key, value in trial.items() if key != "run"}
    worst = store.load_table(experiment_id=run.info.experiment_id, artifact_file="worst_rows.json")
    assert (worst["old"][0], worst["new"][0]) == ("first", "second")
    version = store.get_model_version("actor", "3")
    assert version.tags["mlflow-restaurant.shadow_run_id"] == run.info.run_id
    assert version.tags["mlflow-restaurant.shadow_verdict"] == "promoted"
    model_id = mlflow.models.get_model_info("models:/actor/3").model_id
    model = store.get_logged_model(model_id)
    assert {m.key: m.value for m in model.metrics}["rows"] == run.data.metrics["rows"]
    assert [m.model_id for m in run.inputs.model_inputs] == [model_id]
    assert run.info.run_id in reported(client)
    assert over_http.url in reported(client)


def test_a_shadow_that_was_taken_back(
    over_http: TrackingServer, home_client: RestaurantDeploymentClient
) -> None:
    client = home_client
    url = client.create_deployment("a", "models:/actor/1")["url"]
    config = {**SHADOW, "bake_s": "600", "min_agreement": "0.9"}
    with (
        Load(url, callers=2, action="name").running() as load,
        pytest.raises(MlflowException, match="agrees with the revision before"),
    ):
        client.update_deployment("a", "models:/actor/3", config=config)
    assert not load.failures()
    run = shown_run(client)
    assert run.data.tags["mlflow-restaurant.verdict"] == "taken back"
    assert "agrees with the revision before on 0.0%" in run.data.tags["mlflow-restaurant.reason"]
    assert (
        MlflowClient().get_model_version("actor", "3").tags["mlflow-restaurant.shadow_verdict"]
        == "taken back"
    )
    (told,) = said(client, "rollback")
    assert "agrees with the revision before" in told["message"]


def test_a_tracking_server_that_hangs_keeps_nobody_waiting(
    over_http: TrackingServer, home_client: RestaurantDeploymentClient
) -> None:
    client = home_client
    url = client.create_deployment("a", "models:/actor/1")["url"]
    finished = threading.Event()

    def update() -> None:
        client.update_deployment("a", "models:/actor/2", config={**SHADOW, "bake_s": "6"})
        finished.set()

    thread = threading.Thread(target=update)
    with Load(url, callers=2, action="name").running() as load:
        thread.start()
        eventually(lambda: said(client, "trial"), "the shadow gets its copies")
        over_http.signal(signal.SIGSTOP)
        try:
            assert finished.wait(60)
            load.wait_for(50)
            assert "could not be logged at http://127.0.0.1" in reported(client, 120)
        finally:
            over_http.signal(signal.SIGCONT)
            thread.join()
    assert not load.failures()
    assert client.get_deployment("a")["revision"] == 2
    assert "could not be logged" in client.home.deployment_log("a").read_text()


@pytest.fixture
def in_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, actor: Path) -> MlflowClient:
    """A client of a tracking store that is a file; its model ``stray`` has two versions that come from no run."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    store = MlflowClient()
    store.create_registered_model("stray")
    for _ in range(2):
        store.create_model_version("stray", str(actor))
    return store


CANARY = {"strategy": "canary", "canary_steps": "50", "bake_s": "2"}


def test_a_canary_of_a_model_without_a_run_goes_to_our_own_experiment(
    in_a_database: MlflowClient, home_client: RestaurantDeploymentClient
) -> None:
    client = home_client
    url = client.create_deployment("a", "models:/stray/1")["url"]
    with Load(url, callers=2, action="name").running():
        client.update_deployment("a", "models:/stray/2", config=CANARY)
    run = shown_run(client)
    assert in_a_database.get_experiment(run.info.experiment_id).name == "mlflow-restaurant"
    assert run.data.metrics["old.requests"] > 0
    assert run.data.metrics["new.error_rate"] == 0
    assert "rows" not in run.data.metrics
    tags = in_a_database.get_model_version("stray", "2").tags
    assert tags["mlflow-restaurant.canary_run_id"] == run.info.run_id


@pytest.mark.parametrize("why", ["off", "path"])
def test_where_no_report_is_wanted_or_the_model_is_not_mlflows(
    in_a_database: MlflowClient, home_client: RestaurantDeploymentClient, actor: Path, why: str
) -> None:
    client = home_client
    first, second = ("models:/stray/1", "models:/stray/2") if why == "off" else (str(actor), str(actor))
    url = client.create_deployment("a", first)["url"]
    with Load(url, callers=2, action="name").running():
        options = {"trial_report": "off"} if why == "off" else {}
        client.update_deployment("a", second, config={**CANARY, **options})
    assert ControlClient(client.home).history("a")[0]["trial"]["new"]["requests"] > 0
    assert ControlClient(client.home).down()  # whatever was under way is over
    assert not any("report" in line for line in client.home.deployment_log("a").read_text().splitlines())
    assert in_a_database.get_experiment_by_name("mlflow-restaurant") is None
