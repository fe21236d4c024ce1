"""Merged requests on a real server: what is decided and told, and that every caller gets its own answer."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import mlflow_restaurant
from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.deployments import RestaurantDeploymentClient
from mlflow_restaurant.home import Home

from ..support import call, do, eventually, merged_calls
from .conftest import borrowed, own_client, saved_from_code

CALLERS = 32
REQUESTS = 640
RAW = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "b": [0.0, 1.0, 0.0, 1.0]})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same regression saved in several ways."""

    def less_the_mean(frame: pd.DataFrame) -> pd.DataFrame:  # in here, so that it is pickled by value
        return frame - frame.mean()

    def filled(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.fillna(frame.mean())

    def graded(predictions: np.ndarray) -> pd.Series:
        return pd.Series([int(value) if value > 0 else None for value in predictions])

    folder = tmp_path_factory.mktemp("models")
    model = LinearRegression().fit(RAW, 2 * RAW["a"] + 10 * RAW["b"])
    centred = make_pipeline(FunctionTransformer(less_the_mean), model)
    signature = mlflow.models.infer_signature(RAW, np.zeros(4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, saved, example in [
            ("linear", model, RAW),
            ("one-row", model, RAW.head(1)),
            ("equal-rows", model, RAW.iloc[[0, 0, 0]]),
            ("no-example", model, None),
            ("centred", centred, RAW),
            ("filled", make_pipeline(FunctionTransformer(filled), model), RAW),
        ]:
            mlflow.sklearn.save_model(
                saved,
                folder / name,
                pip_requirements=["mlflow", "scikit-learn"],
                signature=signature,
                input_example=example,
                serialization_format="cloudpickle",
            )
        for name, row_wise in [("bundle", None), ("bundle-not-row-wise", False)]:
            bundle = mlflow_restaurant.Bundle(model=model, row_wise=row_wise)
            mlflow_restaurant.save_model(
                bundle, folder / name, input_example=RAW, pip_requirements=["mlflow", "scikit-learn"]
            )
        mlflow_restaurant.save_model(
            mlflow_restaurant.Bundle(model=model, postprocess=[graded]),
            folder / "graded",
            input_example=RAW,
            pip_requirements=["mlflow", "scikit-learn"],
        )
    return folder


@pytest.fixture(scope="module")
def deployed(shared_home: Home, models: Path) -> Iterator[RestaurantDeploymentClient]:
    with borrowed(shared_home) as client:
        yield client


@pytest.mark.parametrize(
    ("model", "chosen", "reason"),
    [
        (
            "linear",
            "on",
            "models of scikit-learn predict each row by itself, and the rows of the input example",
        ),
        ("one-row", "off", "its input example has one row, which shows nothing"),
        ("equal-rows", "off", "the rows of its input example are all the same, which shows nothing"),
        ("no-example", "off", "no input example"),
        (
            "centred",
            "off",
            r"its step 'functiontransformer' \(FunctionTransformer\) may look at several rows",
        ),
        ("filled", "off", r"its step 'functiontransformer' \(FunctionTransformer\) may look at several rows"),
        ("bundle", "on", "the bundle was saved as row-wise"),
        ("bundle-not-row-wise", "off", r"not saved as row-wise \(given\)"),
    ],
)
def test_decided_at_rollout_and_told(
    deployed: RestaurantDeploymentClient, models: Path, model: str, chosen: str, reason: str
) -> None:
    found = deployed.create_deployment(model, str(models / model))

    assert found["batching"]["chosen"] == chosen
    assert re.search(reason, found["batching"]["reason"])
    assert deployed.get_deployment(model)["batching"] == found["batching"]
    deployed.delete_deployment(model)


def test_settings_of_the_user_count(deployed: RestaurantDeploymentClient, models: Path) -> None:
    deployed.create_deployment("asked", str(models / "no-example"), config={"batching": "on"})
    assert deployed.get_deployment("asked")["batching"] == {"chosen": "on", "reason": "as asked for"}

    found = deployed.update_deployment("asked", config={"batching": "off"})

    assert found["batching"] == {"chosen": "off", "reason": "as asked for"}
    assert ControlClient(deployed.home).rollback("asked", None, lambda _: None)["batching"]["chosen"] == "on"
    deployed.delete_deployment("asked")


def test_every_caller_gets_its_own_answer(deployed: RestaurantDeploymentClient, models: Path) -> None:
    url = deployed.create_deployment("own", str(models / "linear"))["url"]

    def ask(number: int) -> bool:
        rows = [[float(number), 0.0]] * (number % 3 + 1)
        if number % 7 == 0:
            return call(f"{url}/invocations", body=b'{"dataframe_split": {').status == 400
        columns = ["a", "b"] if number % 11 else ["a", "c"]
        answer = call(f"{url}/invocations", {"dataframe_split": {"columns": columns, "data": rows}})
        if columns == ["a", "c"]:
            return answer.status == 400 and "Model is missing inputs ['b']" in answer.json["message"]
        return bool(np.allclose(answer.predictions, [2.0 * number] * len(rows)))

    with ThreadPoolExecutor(CALLERS) as pool:
        assert all(pool.map(ask, range(REQUESTS)))
    requests, calls = merged_calls(url)
    assert 0 < calls < requests
    deployed.delete_deployment("own")


def test_a_missing_prediction_changes_no_other(deployed: RestaurantDeploymentClient, models: Path) -> None:
    found = deployed.create_deployment("graded", str(models / "graded"))
    assert found["batching"]["chosen"] == "on"

    def ask(number: int) -> bytes:
        rows = [[5.0 if number % 2 else -5.0, 0.0]]
        return call(
            f"{found['url']}/invocations", {"dataframe_split": {"columns": ["a", "b"], "data": rows}}
        ).body

    alone = [ask(0), ask(1)]
    with ThreadPoolExecutor(CALLERS) as pool:
        answers = list(pool.map(ask, range(REQUESTS)))
    assert answers == [alone[number % 2] for number in range(REQUESTS)]
    deployed.delete_deployment("graded")


def test_a_row_that_fails_fails_its_own_request_only(
    deployed: RestaurantDeploymentClient, actor: Path
) -> None:
    url = deployed.create_deployment("rows", str(actor), config={"batching": "on"})["url"]

    def ask(number: int) -> bool:
        if number % 5 == 0:
            answer = do(url, f"raise:broken {number}")
            return answer.status == 400 and answer.json["error_code"] == "BAD_REQUEST"
        return bool(do(url, f"say {number}").predictions == [f"say {number}"])

    with ThreadPoolExecutor(CALLERS) as pool:
        assert all(pool.map(ask, range(REQUESTS)))
    deployed.delete_deployment("rows")


LOSSY = """
import mlflow


class Lossy(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [value for value in model_input["a"].tolist() if value]


mlflow.models.set_model(Lossy())
"""


def test_a_model_that_loses_rows_is_merged_no_more(
    deployed: RestaurantDeploymentClient, tmp_path: Path
) -> None:
    model = saved_from_code(LOSSY, tmp_path / "lossy", mlflow.models.infer_signature(RAW[["a"]], [1.0]))
    url = deployed.create_deployment("lossy", str(model), config={"batching": "on"})["url"]

    def ask(number: int) -> bool:
        value = float(number % 2)
        answer = call(f"{url}/invocations", {"dataframe_split": {"columns": ["a"], "data": [[value]]}})
        return bool(answer.predictions == ([value] if value else []))

    with ThreadPoolExecutor(CALLERS) as pool:
        assert all(pool.map(ask, range(REQUESTS)))
    log = deployed.home.deployment_log("lossy").read_text()
    assert log.count("its requests are merged no more") == 1
    eventually(lambda: deployed.get_deployment("lossy")["batching"]["chosen"] == "off", "it is told")
    assert "one prediction for each row" in deployed.get_deployment("lossy")["batching"]["reason"]
    assert [e["kind"] for e in ControlClient(deployed.home).events("lossy")].count("batching") == 1
    deployed.delete_deployment("lossy")


CROWD = """
import threading
import time

import mlflow

present = []


class Crowd(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        present.append(threading.get_ident())
        time.sleep(0.05)
        found = len(present)
        present.remove(threading.get_ident())
        return [found] * len(model_input)


mlflow.models.set_model(Crowd())
"""


@pytest.mark.parametrize("shortcuts", ["on", "off"])
def test_a_replica_predicts_one_at_a_time_whatever_number_of_gateways_ask(
    home: Home, tmp_path: Path, shortcuts: str
) -> None:
    (home.path / "config.toml").write_text("gateways = 2\n")
    model = saved_from_code(CROWD, tmp_path / "crowd", mlflow.models.infer_signature(RAW[["a"]], [1.0]))
    config = {"batching": "on", "env.RESTAURANT_SHORTCUTS": shortcuts}
    client = own_client(home)
    url = client.create_deployment("crowd", str(model), config=config)["url"]

    def ask(_: int) -> float:
        row = {"dataframe_split": {"columns": ["a"], "data": [[1.0]]}}
        return float(call(f"{url}/invocations", row).predictions[0])

    def most() -> float:
        with ThreadPoolExecutor(CALLERS) as pool:
            return max(pool.map(ask, range(REQUESTS // 10)))

    assert most() == 1
    client.update_deployment("crowd", config={"batching": "off"})
    assert most() > 1  # so that more than one could have been there


def test_the_decision_outlives_the_server(home: Home, models: Path) -> None:
    client = own_client(home)
    before = client.create_deployment("kept", str(models / "linear"))["batching"]
    ControlClient(home).down()

    ControlClient(home).ensure_running()

    assert client.get_deployment("kept")["batching"] == before
    url = client.get_deployment("kept")["url"]
    answer = call(f"{url}/invocations", {"dataframe_split": {"columns": ["a", "b"], "data": [[5.0, 0.0]]}})
    assert answer.predictions == [pytest.approx(10.0)]
    assert merged_calls(url)[0] == 1


def restarts(client: RestaurantDeploymentClient, name: str) -> int:
    return sum(int(replica["restarts"]) for replica in client.get_deployment(name)["replicas"])


def test_rows_that_take_long_end_no_replica(deployed: RestaurantDeploymentClient, actor: Path) -> None:
    config = {"batching": "on", "timeout_s": 4}
    url = deployed.create_deployment("long", str(actor), config=config)["url"]
    assert do(url, "sleep:0.1").status == 200

    with ThreadPoolExecutor(24) as pool:
        for _ in range(2):
            assert {answer.status for answer in pool.map(lambda _: do(url, "sleep:0.1"), range(24))} == {200}

    assert restarts(deployed, "long") == 0
    deployed.delete_deployment("long")


def test_a_row_that_hangs_costs_no_other_its_answer_though_one_took_long_before(
    deployed: RestaurantDeploymentClient, actor: Path
) -> None:
    config = {"batching": "on", "timeout_s": 12}
    url = deployed.create_deployment("hanging", str(actor), config=config)["url"]
    for action in ("say 1", "sleep:1"):
        assert do(url, action).status == 200

    def ask(number: int) -> int:
        return do(url, f"say {number}" if number else "sleep:100").status

    def asleep() -> int:
        return deployed.home.deployment_log("hanging").read_text().count("asleep")

    before = asleep()
    with ThreadPoolExecutor(25) as pool:
        busy = pool.submit(do, url, "sleep:1")
        # While it is with the replica, the others come together.
        eventually(lambda: asleep() > before, "a request keeps the replica busy")
        assert list(pool.map(ask, range(24))) == [504] + [200] * 23
        assert busy.result().status == 200
    deployed.delete_deployment("hanging")
