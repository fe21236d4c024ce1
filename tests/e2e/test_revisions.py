"""Revisions: who made them and why, how to go back, and what becomes of two changes at once."""

from __future__ import annotations

import getpass
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow.sklearn
import pandas as pd
import pytest
from mlflow.deployments import get_deploy_client
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from sklearn.dummy import DummyClassifier

from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.deployments import RestaurantDeploymentClient
from mlflow_restaurant.errors import RestaurantError
from mlflow_restaurant.home import Home

from ..conftest import save_actor
from ..support import Load, do, eventually, records


def named(name: str, **more: str) -> dict[str, str]:
    """Config under which the actor goes by a name."""
    return {"model_config": f'{{"name": "{name}"}}', **more}


def test_history_tells_who_why_when_and_what_became_of_it(
    client: RestaurantDeploymentClient, actor: Path
) -> None:
    client.create_deployment("a", str(actor), config={"reason": "first try"})
    client.update_deployment("a", config=named("second", reason="a better name"))
    with pytest.raises(MlflowException, match="fell ill"):
        client.update_deployment("a", config={"model_config": '{"at_load": "raise"}', "reason": "in vain"})
    third, second, first = ControlClient(client.home).history("a")

    assert [r["reason"] for r in (first, second, third)] == ["first try", "a better name", "in vain"]
    assert {r["by"] for r in (first, second, third)} == {getpass.getuser()}
    assert [r["state"] for r in (first, second, third)] == ["SUPERSEDED", "SERVING", "DEPLOY_FAILED"]
    assert first["created_at"] <= first["served_at"] <= first["ended_at"] == second["served_at"]
    assert second["ended_at"] is None
    assert third["served_at"] is None
    assert third["ended_at"] >= third["created_at"]
    assert "fell ill" in third["message"]
    assert "reason" not in client.get_deployment("a")["config"]


def test_a_rollback_through_mlflows_own_update(client: RestaurantDeploymentClient, actor: Path) -> None:
    client.create_deployment("a", str(actor))
    client.update_deployment("a", config=named("second"))
    client.update_deployment("a", config=named("third"))

    back = client.update_deployment("a", config={"rollback": "true", "reason": "third was worse"})
    assert (back["revision"], do(back["url"], "name").predictions) == (4, ["second"])
    first = client.update_deployment("a", config={"rollback": "true", "revision": "1"})
    assert (first["revision"], do(first["url"], "name").predictions) == (5, ["first"])
    assert [r["message"] for r in ControlClient(client.home).history("a")][:2] == [
        "as revision 1",
        "as revision 2",
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rollback": "true", "timeout_s": "5"}, "give no other .timeout_s."),
        ({"rollback": "perhaps"}, "'rollback' must be true or false, not 'perhaps'"),
        ({"revision": "1"}, "give rollback=true with it"),
        ({"rollback": "true", "revision": "0"}, "'revision' must be at least 1"),
        ({"rollback": "true", "revision": "7"}, "no revision 7"),
        ({"rollback": "true", "revision": "2"}, "Revision 2 of deployment 'a' never served"),
        ({"rollback": "true"}, "no earlier revision that served"),
        ({"reason": "x" * 501}, "'reason' must have at most 500 characters"),
        ({"reasons": "x"}, "Unknown config key 'reasons'. Did you mean 'reason'"),
    ],
    ids=str,
)
def test_what_can_not_be_rolled_back_is_refused(
    client: RestaurantDeploymentClient, actor: Path, options: dict[str, str], words: str
) -> None:
    client.create_deployment("a", str(actor))
    with pytest.raises(MlflowException, match="fell ill"):
        client.update_deployment("a", config={"model_config": '{"at_load": "raise"}'})
    with pytest.raises(MlflowException, match=words):
        client.update_deployment("a", config=options)
    assert client.get_deployment("a")["revision"] == 1


def test_a_rollback_with_a_model_or_of_a_new_deployment_is_refused(
    client: RestaurantDeploymentClient, actor: Path
) -> None:
    with pytest.raises(MlflowException, match="is new, so there is nothing to roll back to"):
        client.create_deployment("a", str(actor), config={"rollback": "true"})
    client.create_deployment("a", str(actor))
    with pytest.raises(MlflowException, match="a model URI"):
        client.update_deployment("a", str(actor), config={"rollback": "true"})


def test_only_the_last_revisions_are_kept(client: RestaurantDeploymentClient, tmp_path: Path) -> None:
    def model(number: int) -> str:
        path = tmp_path / f"model-{number}"
        save_actor(path, ["mlflow"])
        (path / "number").write_text(str(number))  # so that each is a model of its own
        return str(path)

    def cached() -> int:
        return sum(path.name.isalnum() for path in client.home.models.iterdir())

    before = cached()
    client.create_deployment("a", model(1), config={"keep_revisions": "2"})
    for number in (2, 3, 4):
        client.update_deployment("a", model(number))
    eventually(lambda: cached() == before + 2, "two models are kept")
    history = ControlClient(client.home).history("a")

    assert [(r["revision"], r["kept"]) for r in history] == [(4, True), (3, True), (2, False), (1, False)]
    with pytest.raises(RestaurantError, match="is not kept any more"):
        ControlClient(client.home).rollback("a", 1, print)
    assert ControlClient(client.home).rollback("a", 3, print)["revision"] == 5


def test_a_second_update_is_told_or_waits(client: RestaurantDeploymentClient, actor: Path) -> None:
    client.create_deployment("a", str(actor))
    said: list[str] = []
    control = ControlClient(client.home)

    def update(name: str, said: Any = None, **more: str) -> dict[str, Any]:
        request = client._request(None, None, named(name, **more), None)
        return ControlClient(client.home).update_deployment("a", request, said or (lambda _: None))

    started = threading.Event()
    with ThreadPoolExecutor() as pool:
        first = pool.submit(update, "second", lambda _: started.set())
        assert started.wait(60)
        with pytest.raises(RestaurantError, match="is being updated; wait until that is done"):
            update("third")
        with pytest.raises(RestaurantError, match="has no revision 99"):
            control.rollback("a", 99, print, wait=True)
        assert not first.done()
        waiting = [pool.submit(update, name, said.append, wait="true") for name in ("third", "fourth")]
        assert first.result()["revision"] == 2
        assert sorted(w.result()["revision"] for w in waiting) == [3, 4]
    assert "waiting for the change that is under way" in said
    assert [r["state"] for r in control.history("a")] == [
        "SERVING",
        "SUPERSEDED",
        "SUPERSEDED",
        "SUPERSEDED",
    ]


def test_a_deployment_that_is_down_can_be_updated_and_rolled_back(
    client: RestaurantDeploymentClient, actor: Path, tmp_path: Path
) -> None:
    obstacle = tmp_path / "obstacle"
    config = {"model_config": f'{{"name": "frail", "end_if_there": "{obstacle}"}}', "timeout_s": "5"}
    client.create_deployment("a", str(actor))
    frail = client.update_deployment("a", config=config)
    obstacle.touch()
    assert do(frail["url"], "kill").status == 503
    eventually(lambda: client.get_deployment("a")["state"] == "UNHEALTHY", "the deployment is down")

    back = ControlClient(client.home).rollback("a", None, print)
    assert (back["state"], do(back["url"], "name").predictions) == ("HEALTHY", ["first"])


def test_nothing_fails_while_changes_queue_up(client: RestaurantDeploymentClient, actor: Path) -> None:
    url = client.create_deployment("a", str(actor))["url"]
    with Load(url).running() as load, ThreadPoolExecutor() as pool:
        changes = [
            pool.submit(client.update_deployment, "a", config=named(f"n{number}", wait="true"))
            for number in range(4)
        ]
        revisions = sorted(change.result()["revision"] for change in changes)
        load.wait_for(20)
    assert revisions == [2, 3, 4, 5]
    assert not load.failures()


def test_a_model_with_other_input_is_refused_unless_that_is_meant(
    client: RestaurantDeploymentClient, tmp_path: Path
) -> None:
    columns = {"old": {"a": "double", "b": "long"}, "new": {"a": "string", "c": "double"}}
    for name, types in columns.items():
        frame = pd.DataFrame({column: ["1", "2"] for column in types})
        mlflow.sklearn.save_model(
            DummyClassifier().fit(frame, [0, 1]),
            tmp_path / name,
            signature=ModelSignature(Schema([ColSpec(kind, column) for column, kind in types.items()])),
            pip_requirements=["scikit-learn"],
        )
    client.create_deployment("a", str(tmp_path / "old"))
    with pytest.raises(MlflowException) as e:
        client.update_deployment("a", str(tmp_path / "new"))
    for words in (
        "column 'a' is string instead of double",
        "column 'b' is missing",
        "column 'c' (double) is added",
    ):
        assert words in str(e.value)
    assert "-C allow_schema_change=true" in str(e.value)
    assert [r["revision"] for r in ControlClient(client.home).history("a")] == [1]
    assert client.update_deployment("a", str(tmp_path / "old"))["revision"] == 2
    changed = client.update_deployment("a", str(tmp_path / "new"), config={"allow_schema_change": "true"})
    assert changed["revision"] == 3
    assert client.update_deployment("a", config={"rollback": "true"})["revision"] == 4


def test_a_model_stays_until_its_replicas_have_ended(
    client: RestaurantDeploymentClient, tmp_path: Path
) -> None:
    first, second = save_actor(tmp_path / "first", ["mlflow"]), save_actor(tmp_path / "second", ["mlflow"])
    (second / "number").write_text("2")  # so that it is a model of its own
    before = set(client.home.models.iterdir())
    url = client.create_deployment("a", str(first), config={"keep_revisions": "1"})["url"]
    (model,) = set(client.home.models.iterdir()) - before
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(do, url, "sleep:2", f"read:{model / 'MLmodel'}")
        eventually(lambda: "asleep" in client.home.deployment_log("a").read_text(), "the request is answered")
        client.update_deployment("a", str(second))
        assert answer.result().status == 200
    eventually(lambda: not model.exists(), "nothing needs the first model any more")


def edit_model(home: Home, digest: str, name: str) -> None:
    """Let the cached model answer otherwise, as another library or a damaged file would."""
    path = home.models / digest / "MLmodel"
    path.chmod(0o600)
    path.write_text(path.read_text().replace("name: first", f"name: {name}"))


def test_a_restarted_replica_that_answers_otherwise_is_told_of(home: Home, tmp_path: Path) -> None:
    client = get_deploy_client(f"restaurant:{home.path}")
    model = save_actor(tmp_path / "model", ["mlflow"], example="name")
    url = client.create_deployment("a", str(model))["url"]
    assert ControlClient(home).history("a")[0]["golden"]
    do(url, "kill")
    eventually(lambda: client.get_deployment("a")["state"] == "HEALTHY", "it is back, and as before")

    (digest,) = [path.name for path in home.models.iterdir()]
    edit_model(home, digest, "other")
    do(url, "kill")
    told = "is not the golden one any more: row 1 is 'other', not 'first'"
    eventually(lambda: told in client.get_deployment("a")["message"], "it is told of")
    assert client.get_deployment("a")["state"] == "UNHEALTHY"
    assert do(url, "name").predictions == ["other"]  # it goes on

    os.kill(records(home, "controller")[0], signal.SIGKILL)
    ControlClient(home).ensure_running()
    eventually(lambda: "golden" in client.get_deployment("a")["message"], "one taken over is told of")
    ControlClient(home).down()
    ControlClient(home).ensure_running()
    eventually(lambda: "golden" in client.get_deployment("a")["message"], "a restored one is told of too")
    client.update_deployment("a", config={"timeout_s": "50"})
    assert client.get_deployment("a")["state"] == "HEALTHY"  # a new revision has an answer of its own


def test_an_answer_that_is_not_repeatable_is_not_golden(
    client: RestaurantDeploymentClient, tmp_path: Path
) -> None:
    model = save_actor(tmp_path / "model", ["mlflow"], example="random")
    assert client.create_deployment("a", str(model))["state"] == "HEALTHY"
    assert not ControlClient(client.home).history("a")[0]["golden"]


def test_what_is_being_deleted_says_so(client: RestaurantDeploymentClient, actor: Path) -> None:
    url = client.create_deployment("a", str(actor))["url"]
    with ThreadPoolExecutor(2) as pool:
        asking = pool.submit(do, url, "sleep:6")
        eventually(lambda: "asleep" in client.home.deployment_log("a").read_text(), "it answers")
        deleting = pool.submit(client.delete_deployment, "a")
        eventually(lambda: client.get_deployment("a")["state"] == "DELETING", "it is deleted")
        assert [d["state"] for d in client.list_deployments() if d["name"] == "a"] == ["DELETING"]
        for change in (client.create_deployment, client.update_deployment):
            with pytest.raises(MlflowException, match="is being deleted; wait until that is done"):
                change("a", str(actor))
        assert asking.result().predictions == ["6"]
        deleting.result()
    assert "a" not in [d["name"] for d in client.list_deployments()]
    assert client.create_deployment("a", str(actor))["revision"] == 1


def test_the_least_number_of_replicas_may_fall_alone(client: RestaurantDeploymentClient, actor: Path) -> None:
    client.create_deployment("a", str(actor), config={"replicas": "2"})
    assert client.update_deployment("a", config={"min_replicas": "1"})["config"]["min_replicas"] == 1
    with pytest.raises(MlflowException, match="must not fall"):
        client.update_deployment("a", config={"min_replicas": "3"})


def test_only_what_is_kept_can_be_gone_back_to(client: RestaurantDeploymentClient, actor: Path) -> None:
    client.create_deployment("a", str(actor), config={"keep_revisions": "1"})
    client.update_deployment("a", config=named("second"))
    with pytest.raises(
        MlflowException, match=r"no earlier revision that served and whose model is kept \(keep_"
    ):
        client.update_deployment("a", config={"rollback": "true"})
