"""Every verb of ``mlflow deployments -t restaurant``, through the real command line."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mlflow.deployments.cli import commands as mlflow_deployments

from mlflow_restaurant.config import ChangeOptions, DeploymentConfig, ServerSettings, config_table
from mlflow_restaurant.deployments import RestaurantDeploymentClient
from mlflow_restaurant.home import Home

from ..support import do, eventually, processes_of
from .conftest import BIN, Done, mlflow, processes_in, restaurant, run, running, temporary_files


def both_at_once(*calls: Any) -> list[Done]:
    """Run commands, two at a time: each imports MLflow, which takes its time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda call: call(), calls))


def test_create_update_and_delete(client: RestaurantDeploymentClient, actor: Path) -> None:
    home = client.home
    created = mlflow("create", home, "--name", "a", "-m", actor, "-C", "replicas=2", "--endpoint", "e")
    assert (created.status, created.err) == (0, "")
    assert created.out == "\npython_function deployment a is created\n"
    deployment = client.get_deployment("a")
    assert (deployment["config"]["replicas"], deployment["endpoint"]) == (2, "e")
    assert client.get_endpoint("e")["traffic"] == {"a": 100}

    settings = ("-C", 'model_config={"name": "second"}', "-C", "env.COLOUR=red=blue")
    updated = mlflow("update", home, "--name", "a", "-m", actor, "-f", "python_function", *settings)
    assert (updated.status, updated.err) == (0, "")
    assert updated.out == "Deployment a is updated (with flavor python_function)\n"
    assert do(deployment["url"], "name", "env:COLOUR").predictions == ["second", "red=blue"]
    assert client.get_deployment("a")["config"]["replicas"] == 2

    assert "'e' still sends 100 %" in mlflow("delete", home, "--name", "a").error
    client.delete_endpoint("e")
    deleted = mlflow("delete", home, "--name", "a")
    assert (deleted.status, deleted.out, deleted.err) == (0, "Deployment a is deleted\n", "")
    assert "a" not in [d["name"] for d in client.list_deployments()]


def test_a_relative_path_and_a_relative_store_are_those_of_the_caller(
    client: RestaurantDeploymentClient, actor: Path
) -> None:
    command = (BIN / "mlflow", "deployments", "create", "-t", f"restaurant:{client.home.path}", "--name", "a")
    done = run(*command, "-m", actor.name, cwd=actor.parent)
    assert (done.status, done.err) == (0, "")
    assert client.get_deployment("a")["model_uri"] == str(actor)


def test_list_and_get(standing: RestaurantDeploymentClient) -> None:
    home = standing.home
    listed, of_endpoint, got = both_at_once(
        lambda: mlflow("list", home),
        lambda: mlflow("list", home, "--endpoint", "door"),
        lambda: mlflow("get", home, "--name", "standing"),
    )
    deployments = standing.list_deployments()
    assert listed.out == of_endpoint.out == f"List of all deployments:\n{deployments}\n"
    assert got.out.splitlines()[: len(deployments[0])] == [f"{k}: {v}" for k, v in deployments[0].items()]
    assert {listed.err, of_endpoint.err, got.err} == {""}


def test_endpoint_verbs(client: RestaurantDeploymentClient, actor: Path) -> None:
    home = client.home
    for name in ("a", "b"):
        client.create_deployment(name, str(actor))
    client.create_endpoint("e")
    updated = mlflow("update-endpoint", home, "--endpoint", "e", "-C", "traffic=a=90,b=10")
    assert (updated.status, updated.out, updated.err) == (0, "\nEndpoint e is updated\n", "")
    listed, got = both_at_once(
        lambda: mlflow("list-endpoints", home), lambda: mlflow("get-endpoint", home, "--endpoint", "e")
    )
    endpoint, endpoints = client.get_endpoint("e"), client.list_endpoints()
    assert endpoint["traffic"] == {"a": 90, "b": 10}
    assert listed.out == f"List of all endpoints:\n{endpoints}\n"
    assert got.out.splitlines()[: len(endpoint)] == [f"{k}: {v}" for k, v in endpoint.items()]
    deleted = mlflow("delete-endpoint", home, "--endpoint", "e")
    assert (deleted.status, deleted.out, deleted.err) == (0, "\nEndpoint e is deleted\n", "")
    assert "e" not in [e["name"] for e in client.list_endpoints()]
    assert client.get_deployment("a")["endpoint"] is None


def test_create_endpoint_fails_inside_mlflow_and_our_command_does_it(
    client: RestaurantDeploymentClient,
) -> None:
    """MLflow calls its own function with an argument that it does not have; no plugin is reached."""
    done = mlflow("create-endpoint", client.home, "--endpoint", "e")
    assert done.status != 0
    assert "create_endpoint() got an unexpected keyword argument 'endpoint'" in done.err
    assert "mlflow_restaurant" not in done.err
    assert restaurant(client.home, "endpoints", "create", "e").status == 0
    assert client.get_endpoint("e")["traffic"] == {}


PAYLOADS: dict[str, Any] = {
    "records": [{"do": "name"}, {"do": "007 é ☃"}],
    "columns": {"do": {"0": "name", "1": "007 é ☃"}},
    "dataframe_split": {"dataframe_split": {"columns": ["do"], "data": [["name"], ["007 é ☃"]]}},
    "dataframe_split_with_index": {
        "dataframe_split": {"index": [5, 7], "columns": ["do"], "data": [["name"], ["007 é ☃"]]}
    },
    "dataframe_records": {"dataframe_records": [{"do": "name"}, {"do": "007 é ☃"}]},
    "instances": {"instances": [{"do": "name"}, {"do": "007 é ☃"}]},
    "inputs": {"inputs": {"do": ["name", "007 é ☃"]}},
    "inputs_list": {"inputs": [{"do": "name"}, {"do": "007 é ☃"}]},
}


@pytest.mark.parametrize("form", PAYLOADS)
def test_predict_takes_every_form_of_file(
    standing: RestaurantDeploymentClient, tmp_path: Path, form: str
) -> None:
    """MLflow's command, in this process: importing it eight times over would take most of a minute."""
    file = tmp_path / "file.json"
    file.write_text(json.dumps(PAYLOADS[form]))
    target = f"restaurant:{standing.home.path}"
    options = ["predict", "-t", target, "--name", "standing", "-I", str(file)]
    done = CliRunner().invoke(mlflow_deployments, options)
    assert json.loads(done.stdout) == {"predictions": ["first", "007 é ☃"]}


def test_predict_gives_strings_of_digits_as_they_are(
    standing: RestaurantDeploymentClient, tmp_path: Path
) -> None:
    """In these forms pandas, through which MLflow reads the file, leaves the values alone."""
    rows = {"dataframe_split": {"columns": ["do"], "data": [["007"], ["2026-01-02"]]}}
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    done = mlflow("predict", standing.home, "--name", "standing", "-I", tmp_path / "rows.json")
    assert json.loads(done.out) == {"predictions": ["007", "2026-01-02"]}


def test_predict_with_numbers_by_endpoint_and_into_a_file(
    client: RestaurantDeploymentClient, linear: Path, tmp_path: Path
) -> None:
    client.create_deployment("a", str(linear), endpoint="e")
    rows, columns, out = tmp_path / "rows.json", tmp_path / "columns.json", tmp_path / "out.json"
    rows.write_text(json.dumps([{"a": 1.5, "b": 1}, {"a": 0.1, "b": 0}]))
    columns.write_text(json.dumps({"inputs": {"a": [1.5, 0.1], "b": [1.0, 0.0]}}))
    by_endpoint, by_name, both = both_at_once(
        lambda: mlflow("predict", client.home, "--endpoint", "e", "-I", rows, "-O", out),
        lambda: mlflow("predict", client.home, "--name", "a", "-I", columns),
        lambda: mlflow("predict", client.home, "--name", "a", "--endpoint", "e", "-I", rows),
    )
    assert (by_endpoint.status, by_endpoint.out, by_endpoint.err) == (0, "", "")
    assert json.loads(out.read_text())["predictions"] == pytest.approx([13, 0.2])
    assert json.loads(by_name.out)["predictions"] == pytest.approx([13, 0.2])
    assert both.status == 2


def test_explain(client: RestaurantDeploymentClient, linear: Path, tmp_path: Path) -> None:
    client.create_deployment("a", str(linear), endpoint="e")
    rows, one, out = tmp_path / "rows.json", tmp_path / "one.json", tmp_path / "out.json"
    rows.write_text(json.dumps([{"a": 1, "b": 0}, {"a": 3, "b": 1}]))
    one.write_text(json.dumps([{"a": 1, "b": 0}]))
    printed, written, refused = both_at_once(
        lambda: mlflow("explain", client.home, "--name", "a", "-I", rows),
        lambda: mlflow("explain", client.home, "--endpoint", "e", "-I", rows, "-O", out),
        lambda: mlflow("explain", client.home, "--name", "a", "-I", one),
    )
    effects = json.loads(printed.out)
    assert [row["a"] for row in effects] == pytest.approx([-4, 4])
    assert [row["b"] for row in effects] == pytest.approx([-10, 10])
    assert written.status == 0
    assert json.loads(out.read_text()) == effects
    assert "at least two rows" in refused.error


def test_help_names_every_setting() -> None:
    done = run(BIN / "mlflow", "deployments", "help", "-t", "restaurant")
    assert (done.status, done.err) == (0, "")
    words = done.out.split()
    for key, default, _ in [
        row
        for settings in (DeploymentConfig, ChangeOptions, ServerSettings)
        for row in config_table(settings)
    ]:
        assert key in words
        assert default in ["", *words]
    for text in ("traffic", "restaurant:/abs/path", "MLFLOW_RESTAURANT_HOME"):
        assert text in done.out


def test_errors_are_one_line_and_a_status(standing: RestaurantDeploymentClient, tmp_path: Path) -> None:
    home, before = standing.home, standing.list_deployments()
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"wrong": "name"}]))
    done = both_at_once(
        lambda: mlflow("create", home, "--name", "a", "-m", tmp_path, "-C", "replicsa=2"),
        lambda: mlflow("update", home, "--name", "nobody"),
        lambda: mlflow("predict", home, "--name", "nobody", "-I", rows),
        lambda: run(BIN / "mlflow", "deployments", "list", "-t", "restaurant:here"),
    )
    texts = ("'replicas'", "'nobody'", "'nobody'", "'restaurant:here'")
    for one, text in zip(done, texts, strict=True):
        assert text in one.error
        assert one.error.startswith("Error: ")
        assert one.out == ""
    assert standing.list_deployments() == before


def test_an_input_that_the_model_refuses_is_explained(
    standing: RestaurantDeploymentClient, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"wrong": "name"}]))
    done = mlflow("predict", standing.home, "--name", "standing", "-I", rows)
    assert done.status != 0
    assert "Model is missing inputs ['do']" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_run_local_leaves_nothing_behind(actor: Path, signum: int) -> None:
    command = (BIN / "mlflow", "deployments", "run-local", "-t", "restaurant", "--name", "a", "-m", actor)
    with temporary_files() as (directory, environment), running(*command, env=environment) as local:
        line = local.line("answers at")
        assert do(line.split()[4].removesuffix(".").removesuffix("/invocations"), "name").predictions == [
            "first"
        ]
        (home,) = directory.glob("mlflow-restaurant-*")
        server = processes_of(Home(home))
        assert len(server) >= 3
        status = local.end(signum)
        eventually(lambda: not any(p.is_running() for p in server), "its processes have ended")
        if signum != signal.SIGKILL:
            assert status == 0
            assert list(directory.iterdir()) == []
        assert "Traceback" not in local.said


def test_run_local_says_why_a_model_does_not_load(actor: Path) -> None:
    command = (BIN / "mlflow", "deployments", "run-local", "-t", "restaurant", "--name", "a", "-m", actor)
    with temporary_files() as (directory, environment):
        done = run(*command, "-C", 'model_config={"at_load": "raise"}', env=environment)
        assert "the actor fell ill while loading" in done.error
        assert list(directory.iterdir()) == []


def test_run_local_interrupted_while_it_starts_leaves_nothing_behind(actor: Path) -> None:
    command = (BIN / "mlflow", "deployments", "run-local", "-t", "restaurant", "--name", "a", "-m", actor)
    hang = ("-C", 'model_config={"at_load": "hang"}')
    with temporary_files() as (directory, environment), running(*command, *hang, env=environment) as local:
        eventually(lambda: [r for r in directory.glob("*/run/r-*") if r.exists()], "the replica is starting")
        server = processes_in(directory)
        local.end(signal.SIGINT)
        eventually(lambda: not any(p.is_running() for p in server), "its processes have ended")
        assert list(directory.iterdir()) == []
        assert "Traceback" not in local.said
