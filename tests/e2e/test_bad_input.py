"""What is refused: with one clear sentence, nothing changed, and nothing left running."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from benchmarks.chaos import surroundings
from mlflow_restaurant.deployments import RestaurantDeploymentClient
from mlflow_restaurant.home import Home

from ..support import call, do, eventually, processes_of, records
from .conftest import own_client, restaurant

LONGEST_SENTENCE = 600
OTHER_USER = 12345
ROWS = {"do": ["x"]}


def state(client: RestaurantDeploymentClient) -> dict[str, Any]:
    """Everything that a refused command must leave as it was."""
    eventually(
        lambda: all(r["state"] == "RUNNING" for d in client.list_deployments() for r in d["replicas"]),
        "only what serves is running",
    )
    return {
        "deployments": client.list_deployments(),
        "endpoints": client.list_endpoints(),
        "models": sorted(p.name for p in client.home.models.iterdir()),
        "replicas": sorted(records(client.home, "replica")),
    }


def sentence(text: str) -> str:
    """Check that a message is one clear sentence, and return it."""
    assert "\n" not in text
    assert "Traceback" not in text
    assert 20 <= len(text) <= LONGEST_SENTENCE
    assert text[-1] in ".?"
    return text


def refused(client: RestaurantDeploymentClient, command: Callable[[], object], *words: str) -> None:
    """Check that a command fails with a sentence that has all these words, and changes nothing."""
    before = state(client)
    with pytest.raises(MlflowException) as caught:
        command()
    message = sentence(caught.value.message)
    for word in words:
        assert word in message
    assert state(client) == before


def changed(model: Path, name: str, content: str, to: Path) -> Path:
    """Copy a model, with one file changed."""
    shutil.copytree(model, to)
    (to / name).write_text(content)
    return to


# Settings


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"replcas": "2"}, ["'replcas'", "Did you mean 'replicas'?"]),
        ({"timeout": "2"}, ["'timeout'", "Did you mean 'timeout_s'?"]),
        ({"colour": "red"}, ["'colour'", "Known: ", "replicas"]),
        ({"": "2"}, ["''", "Known: "]),
        ({5: "2"}, ["5"]),
        ({"replicas": "two"}, ["'replicas'", "whole number", "'two'"]),
        ({"replicas": "1.5"}, ["'replicas'", "whole number", "'1.5'"]),
        ({"replicas": ""}, ["'replicas'", "whole number", "''"]),
        ({"replicas": None}, ["'replicas'", "whole number"]),
        ({"replicas": [2]}, ["'replicas'", "whole number"]),
        ({"replicas": True}, ["'replicas'", "number", "True"]),
        ({"replicas": "0"}, ["'replicas'", "at least 1"]),
        ({"replicas": "-1"}, ["'replicas'", "at least 1", "-1"]),
        ({"replicas": "1000000"}, ["'replicas'", "at most 256"]),
        ({"timeout_s": "-5"}, ["'timeout_s'", "greater than 0"]),
        ({"timeout_s": "nan"}, ["'timeout_s'", "finite number"]),
        ({"timeout_s": "inf"}, ["'timeout_s'", "finite number"]),
        ({"startup_timeout_s": "0"}, ["'startup_timeout_s'", "greater than 0"]),
        ({"max_body_mb": "1e9"}, ["'max_body_mb'", "at most 2048"]),
        ({"max_queue": "-1"}, ["'max_queue'", "at least 0"]),
        ({"batch_wait_ms": "soon"}, ["'batch_wait_ms'", "number", "'soon'"]),
        ({"max_batch_rows": "9" * 400}, ["'max_batch_rows'"]),
        ({"env_manager": "pip"}, ["'env_manager'", "'uv'", "'pip'"]),
        ({"batching": "yes"}, ["'batching'", "'off'", "'yes'"]),
        ({"model_config": "{"}, ["'model_config'", "JSON"]),
        ({"model_config": "[1]"}, ["'model_config'", "JSON object"]),
        ({"env": "x"}, ["'env'", "env.NAME=value"]),
        ({"env.": "x"}, ["'env.'", "env.NAME=value"]),
        ({"env.A": "x\0y"}, ["env.A"]),
    ],
)
def test_settings(
    standing: RestaurantDeploymentClient, actor: Path, config: dict[Any, Any], words: list[str]
) -> None:
    refused(standing, lambda: standing.create_deployment("a", str(actor), config=config), *words)
    refused(standing, lambda: standing.update_deployment("standing", config=config), *words)


# Names


@pytest.mark.parametrize(
    "name",
    [
        "x/y",
        "n" * 101,
        "n" * 300,
        "",
        ".",
        "..",
        "../x",
        "a b",
        "é",
        "-a",
        "a-",
        "a\n",
        "a\0",
        None,
        5,
        ["a"],
    ],
)
def test_names(standing: RestaurantDeploymentClient, actor: Path, name: Any) -> None:
    refused(standing, lambda: standing.create_deployment(name, str(actor)), "name of a deployment")
    refused(standing, lambda: standing.create_endpoint(name), "name of an endpoint")
    if name is not None:
        refused(
            standing,
            lambda: standing.create_deployment("a", str(actor), endpoint=name),
            "name of an endpoint",
        )


@pytest.mark.parametrize("name", ["nobody", "x/y", "n" * 300, "", "../status", "é", "a\n", None, 5])
def test_deployments_that_are_not_there(standing: RestaurantDeploymentClient, name: Any) -> None:
    for command in (standing.get_deployment, standing.update_deployment):
        refused(standing, partial(command, name), "no deployment")
    if name is not None:
        refused(standing, lambda: standing.predict(name, ROWS), "no deployment")
        refused(standing, lambda: standing.explain(name, {"do": ["x", "y"]}), "no deployment")
    before = state(standing)
    standing.delete_deployment(name)
    assert state(standing) == before


def test_a_name_that_is_taken(standing: RestaurantDeploymentClient, actor: Path) -> None:
    refused(standing, lambda: standing.create_deployment("standing", str(actor)), "'standing' exists already")
    refused(standing, lambda: standing.create_endpoint("door"), "'door' exists already")


def test_delete_of_a_deployment_that_a_split_names(standing: RestaurantDeploymentClient) -> None:
    refused(
        standing, lambda: standing.delete_deployment("standing"), "Endpoint 'door'", "100 %", "'standing'"
    )


def test_keys_where_there_are_none(standing: RestaurantDeploymentClient) -> None:
    refused(standing, lambda: standing.delete_deployment("standing", config={"force": "yes"}), "'force'")
    refused(
        standing, lambda: standing.create_endpoint("e", {"weights": "standing=100"}), "'weights'", "traffic"
    )


# Models


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("/nothing/here", ["/nothing/here"]),
        ("file:///nothing/here", ["/nothing/here"]),
        ("nothing-here", ["nothing-here"]),
        ("/" + "n" * 300, ["File name too long"]),
        ("models:/nobody/1", ["models:/nobody/1", "not found"]),
        ("models:/nobody@champion", ["models:/nobody@champion", "not found"]),
        ("models:/bad-input/2", ["models:/bad-input/2", "not found"]),
        ("models:/bad-input@nobody", ["models:/bad-input@nobody", "not found"]),
        ("models:/bad-input/latest/x", ["models:/bad-input/latest/x"]),
        ("models:/m-0123456789", ["m-0123456789", "not found"]),
        ("models:/", ["models:/"]),
        ("runs:/0123456789/model", ["0123456789", "not found"]),
        ("runs:/", ["runs:/"]),
        ("nothing://here", ["nothing://here"]),
        ("mlflow-artifacts:/here", ["mlflow-artifacts:/here"]),
        ("", ["model URI is needed"]),
        (None, ["model URI is needed"]),
    ],
)
@pytest.mark.usefixtures("registered")
def test_models_that_are_not_there(standing: RestaurantDeploymentClient, uri: Any, words: list[str]) -> None:
    refused(standing, lambda: standing.create_deployment("a", uri), *words)


def test_an_update_with_an_empty_uri(standing: RestaurantDeploymentClient) -> None:
    """As a shell makes of ``-m "$URI"`` when there is no such variable."""
    refused(standing, lambda: standing.update_deployment("standing", ""), "model URI is needed")


@pytest.fixture(scope="module")
def registered(actor: Path) -> Iterator[None]:
    """A registered model `bad-input` with one version and no alias."""
    registry = MlflowClient()
    registry.create_registered_model("bad-input")
    registry.create_model_version("bad-input", str(actor))
    yield
    registry.delete_registered_model("bad-input")


def test_a_directory_or_a_file_that_is_no_model(standing: RestaurantDeploymentClient, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (tmp_path, file, Path("/")):
        refused(standing, partial(standing.create_deployment, "a", str(path)), str(path), "no MLflow model")


def test_models_that_are_damaged(standing: RestaurantDeploymentClient, actor: Path, tmp_path: Path) -> None:
    for number, content in enumerate(("", "][", "flavors: 5\n", "flavors: {}\n", "\0\1\2")):
        model = changed(actor, "MLmodel", content, tmp_path / f"m{number}")
        refused(standing, partial(standing.create_deployment, "a", str(model)), str(model))
        refused(standing, partial(standing.update_deployment, "standing", str(model)), str(model))


def test_a_flavor_that_the_model_does_not_have(standing: RestaurantDeploymentClient, actor: Path) -> None:
    refused(
        standing,
        lambda: standing.create_deployment("a", str(actor), "sklearn"),
        "'sklearn'",
        "python_function",
    )
    refused(standing, lambda: standing.update_deployment("standing", flavor="sklearn"), "flavor", "model")


def test_a_model_that_does_not_come_up(
    standing: RestaurantDeploymentClient, actor: Path, tmp_path: Path
) -> None:
    columns = {"columns": ["nonsense"], "data": [["x"]]}
    example = changed(
        actor, "serving_input_example.json", json.dumps({"dataframe_split": columns}), tmp_path / "example"
    )
    broken = changed(actor, "serving_input_example.json", "{", tmp_path / "broken")
    hang = {"model_config": '{"at_load": "hang"}', "startup_timeout_s": "1"}
    cases: list[tuple[Path, dict[str, str], list[str]]] = [
        (actor, {"model_config": '{"at_load": "raise"}'}, ["ValueError", "the actor fell ill while loading"]),
        (actor, {"model_config": '{"at_load": "exit"}'}, ["SystemExit"]),
        (actor, hang, ["not ready within startup_timeout_s=1 s"]),
        (example, {}, ["its own input example", "Model is missing inputs ['do']"]),
        (broken, {}, ["its own input example"]),
    ]
    for model, config, words in cases:
        refused(
            standing,
            partial(standing.create_deployment, "a", str(model), None, config),
            "'a'",
            *words,
        )


@pytest.mark.slow
def test_requirements_that_can_not_be_installed(
    home: Home, actor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ENV_ROOT", str(tmp_path / "envs"))
    client = own_client(home)
    client.create_deployment("standing", str(actor))
    model = changed(actor, "requirements.txt", "mlflow\nnumpy==0.0.1\n", tmp_path / "model")
    for manager in ("uv", "auto"):
        config = {"env_manager": manager}
        refused(client, partial(client.create_deployment, "a", str(model), None, config), "numpy==0.0.1")
    assert list((tmp_path / "envs").iterdir()) == []


def test_conda_that_is_not_installed(
    home: Home, actor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_CONDA_HOME", str(tmp_path / "nowhere"))
    client, config = own_client(home), {"env_manager": "conda"}
    refused(client, lambda: client.create_deployment("a", str(actor), None, config), "conda", "uv")


# Inputs


def test_inputs(standing: RestaurantDeploymentClient) -> None:
    refused(standing, lambda: standing.predict("standing", object()), "type object")
    refused(standing, lambda: standing.predict("standing", {"do": [object()]}), "JSON")
    refused(standing, lambda: standing.predict(inputs=ROWS), "deployment or an endpoint")
    refused(standing, lambda: standing.explain("standing", {"do": ["x"]}), "at least two rows")
    before = state(standing)
    with pytest.raises(MlflowException, match="Model is missing inputs"):
        standing.predict("standing", {"wrong": ["x"]})
    with pytest.raises(MlflowException, match="error while evaluating the model"):
        standing.predict("standing", {"do": ["raise:the model says no"]})
    assert state(standing) == before


# Targets, homes and settings of a server


def not_started(home: Home, *words: str, env: dict[str, str] | None = None) -> None:
    """Check that no server starts in `home`: the command and the plugin say why in one sentence."""
    error = sentence(restaurant(home, "up", env=env).error)
    for word in words:
        assert word in error
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        with pytest.raises(MlflowException) as caught:
            own_client(home).list_deployments()
    assert f"Error: {sentence(caught.value.message)}" == error
    eventually(lambda: not processes_of(home), "nothing is left running")


@pytest.mark.parametrize(
    "target", ["restaurant:", "restaurant:here", "restaurant://127.0.0.1:5001", "restaurants"]
)
def test_targets(target: str) -> None:
    with pytest.raises(MlflowException, match="restaurant") as caught:
        RestaurantDeploymentClient(target)
    sentence(caught.value.message)


def test_a_port_in_use(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        not_started(home, port, "in use", env={"MLFLOW_RESTAURANT_PORT": port})
    assert restaurant(home, "up").status == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("prot = 5001\n", ["'prot'", "config.toml", "Did you mean 'port'?"]),
        ("port = \n", ["config.toml", "TOML"]),
        ("port = 70000\n", ["'port'", "at most 65535"]),
        ("gateways = 'two'\n", ["'gateways'", "whole number"]),
        ("host = ''\n", ["'host'"]),
        ("host = 'no.such.host.invalid'\n", ["no.such.host.invalid"]),
        ("[server]\nport = 0\n", ["'server'"]),
        (b"\xff\xfe", ["config.toml"]),
    ],
)
def test_a_config_file(
    home: Home, monkeypatch: pytest.MonkeyPatch, content: str | bytes, words: list[str]
) -> None:
    monkeypatch.delenv("MLFLOW_RESTAURANT_PORT")
    file = home.path / "config.toml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    not_started(home, *words)
    file.unlink()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("MLFLOW_RESTAURANT_PROT", "0", ["Did you mean 'MLFLOW_RESTAURANT_PORT'?"]),
        ("MLFLOW_RESTAURANT_PORT", "http", ["'port'", "whole number"]),
        ("MLFLOW_RESTAURANT_GATEWAYS", "0", ["'gateways'", "at least 1"]),
    ],
)
def test_a_variable(home: Home, name: str, value: str, words: list[str]) -> None:
    not_started(home, *words, env={name: value})


def damaged(good: bytes, path: Path) -> Iterator[bytes]:
    """Give a database that is damaged in one way after the other."""
    yield b"this is no database, and it has never been one; " * 100
    yield good[: len(good) // 2]
    yield good[:4096] + b"\xff" * 4096 + good[8192:]
    path.write_bytes(good)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    yield path.read_bytes()


def test_a_database_that_is_damaged(home: Home, actor: Path, tmp_path: Path) -> None:
    client = own_client(home)
    client.create_deployment("a", str(actor))
    restaurant(home, "down")
    good = home.database.read_bytes()
    for bad in damaged(good, tmp_path / "newer.db"):
        home.database.write_bytes(bad)
        not_started(home, str(home.database))
        assert home.database.read_bytes() == bad
    home.database.write_bytes(good)
    assert do(client.get_deployment("a")["url"], "x").predictions == ["x"]


def test_a_home_that_is_a_file_or_below_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    not_started(Home(tmp_path / "file"), str(tmp_path / "file"))
    not_started(Home(tmp_path / "file" / "home"), str(tmp_path / "file"))


def test_a_home_of_another_user(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a directory to another user")
    home = Home(tmp_path / "home")
    home.path.mkdir()
    os.chown(home.path, OTHER_USER, OTHER_USER)
    not_started(home, str(home.path), "belongs to another user", str(OTHER_USER))
    assert list(home.path.iterdir()) == []


@contextlib.contextmanager
def mounted(path: Path, options: str) -> Iterator[None]:
    """Mount an empty file system in memory at `path`, or skip the test."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(surroundings.mounted(path, options))
        except surroundings.Impossible as e:
            pytest.skip(str(e))
        yield


def test_a_home_that_can_not_be_written(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.path.mkdir()
    if os.getuid() == 0:  # whom permissions don't stop
        with mounted(home.path, "ro,size=1m"):
            not_started(home, str(home.path), "Read-only file system")
    else:
        tmp_path.chmod(0o500)
        not_started(Home(tmp_path / "other"), str(tmp_path / "other"), "Permission denied")
        tmp_path.chmod(0o700)


def fill(directory: Path) -> Path:
    """Leave no byte free in the file system of `directory`."""
    filler = surroundings.fill(directory)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        (directory / "more").write_bytes(b"\0" * 8192)
    (directory / "more").unlink(missing_ok=True)
    return filler


@pytest.fixture
def on_small_disk(home: Home, actor: Path) -> Iterator[RestaurantDeploymentClient]:
    """A client of a server whose home has a disk of 16 MB to itself, with the actor as `a` behind `e`."""
    with mounted(home.path, "size=16m,mode=700"):
        try:
            client = own_client(home)
            client.create_deployment("a", str(actor), endpoint="e")
            yield client
        finally:
            restaurant(home, "down")
            eventually(lambda: not processes_of(home), "nothing runs in the home")


def test_on_a_full_disk_what_serves_goes_on_serving(on_small_disk: RestaurantDeploymentClient) -> None:
    url = on_small_disk.get_deployment("a")["url"]
    gateways = records(on_small_disk.home, "gateway")
    fill(on_small_disk.home.path)
    for _ in range(20):
        assert do(url, "x").status == 200
        assert do(url, "raise:x").status == 400
        assert do(f"{url}b", "x").status == 404
    assert call(url.replace("/deployments/a", "/metrics")).status == 200
    assert records(on_small_disk.home, "gateway") == gateways


def test_on_a_full_disk_changes_fail_until_there_is_room(
    on_small_disk: RestaurantDeploymentClient, actor: Path
) -> None:
    client = on_small_disk
    filler = fill(client.home.path)
    before = state(client)
    commands: list[Callable[[], object]] = [
        lambda: client.update_deployment("a", config={"timeout_s": "7"}),
        lambda: client.create_endpoint("f"),
        lambda: client.update_endpoint("e", {"traffic": {}}),
        lambda: client.delete_endpoint("e"),
        lambda: client.create_deployment("b", str(actor)),
    ]
    for command in commands:
        with pytest.raises(MlflowException, match=r"full|No space left") as caught:
            command()
        sentence(caught.value.message)
    assert state(client) == before
    filler.unlink()
    assert client.update_deployment("a", config={"timeout_s": "7"})["revision"] == 2
    assert client.create_deployment("b", str(actor))["state"] == "HEALTHY"
    client.delete_endpoint("e")
    assert do(client.get_deployment("a")["url"], "x").predictions == ["x"]


def test_a_server_does_not_start_on_a_full_disk(home: Home) -> None:
    with mounted(home.path, "size=1m,mode=700"):
        fill(home.path)
        not_started(home, str(home.path))
