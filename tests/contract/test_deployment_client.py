"""What MLflow asks of every deployment target, held against ours."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.deployments import BaseDeploymentClient, PredictionsResponse, get_deploy_client, interface
from mlflow.exceptions import MlflowException
from scipy.sparse import csc_matrix, csr_matrix

import mlflow_restaurant.deployments as plugin
from mlflow_restaurant.deployments import RestaurantDeploymentClient
from mlflow_restaurant.home import Home

ROWS = pd.DataFrame({"do": ["a", "b"]})


@pytest.fixture
def client(shared_home: Home) -> RestaurantDeploymentClient:
    found: RestaurantDeploymentClient = get_deploy_client(f"restaurant:{shared_home.path}")
    return found


@pytest.fixture
def deployed(client: RestaurantDeploymentClient, actor: Path) -> Iterator[str]:
    client.create_deployment("contract", str(actor))
    yield "contract"
    client.delete_deployment("contract")


def test_mlflow_finds_the_target() -> None:
    assert interface.plugin_store["restaurant"] is plugin
    assert "restaurant" in interface.plugin_store.registry


@pytest.mark.parametrize(
    "method",
    [name for name, _ in inspect.getmembers(BaseDeploymentClient, inspect.isfunction) if name[0] != "_"],
)
def test_every_method_takes_what_the_base_class_takes(method: str) -> None:
    ours = inspect.signature(getattr(RestaurantDeploymentClient, method)).parameters
    theirs = inspect.signature(getattr(BaseDeploymentClient, method)).parameters
    assert list(ours) == list(theirs)
    assert {n: p.default for n, p in ours.items()} == {n: p.default for n, p in theirs.items()}
    assert method in vars(RestaurantDeploymentClient), "inherited, not implemented"


def test_what_describes_a_deployment_has_its_name_and_is_json(
    client: RestaurantDeploymentClient, deployed: str
) -> None:
    (listed,) = client.list_deployments()
    assert listed["name"] == deployed
    assert client.get_deployment(deployed) == listed
    assert json.loads(json.dumps(listed)) == listed


@pytest.mark.parametrize(
    "inputs",
    [
        ROWS,
        ROWS["do"],
        {"do": ["a", "b"]},
        {"do": np.array(["a", "b"])},
        [{"do": "a"}, {"do": "b"}],
        {"dataframe_split": {"columns": ["do"], "data": [["a"], ["b"]]}},
        {"dataframe_records": [{"do": "a"}, {"do": "b"}]},
        {"inputs": {"do": ["a", "b"]}},
        {"instances": [{"do": "a"}, {"do": "b"}], "params": {}},
    ],
    ids=lambda inputs: type(inputs).__name__ + ("-" + next(iter(inputs)) if isinstance(inputs, dict) else ""),
)
def test_predict_takes_what_pyfunc_takes(
    client: RestaurantDeploymentClient, deployed: str, inputs: object
) -> None:
    response = client.predict(deployed, inputs)
    assert isinstance(response, PredictionsResponse)
    assert response.get_predictions("ndarray").tolist() == ["a", "b"]


@pytest.mark.parametrize("form", [np.asarray, csr_matrix, csc_matrix])
def test_predict_takes_matrices(client: RestaurantDeploymentClient, tmp_path: Path, form: type) -> None:
    import mlflow.sklearn
    from sklearn.linear_model import LinearRegression

    values = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    model = LinearRegression(fit_intercept=False).fit(values, values @ [1.0, 10.0])
    signature = mlflow.models.infer_signature(values, model.predict(values))
    mlflow.sklearn.save_model(model, tmp_path / "m", signature=signature, pip_requirements=["scikit-learn"])
    client.create_deployment("matrix", str(tmp_path / "m"))
    try:
        predictions = client.predict("matrix", form(values))["predictions"]
    finally:
        client.delete_deployment("matrix")
    assert predictions == pytest.approx([1.0, 20.0, 13.0])


def test_errors_are_mlflow_exceptions_with_codes(client: RestaurantDeploymentClient, actor: Path) -> None:
    for call in (
        lambda: client.get_deployment("nobody"),
        lambda: client.update_deployment("nobody"),
        lambda: client.predict("nobody", ROWS),
        lambda: client.get_endpoint("nobody"),
    ):
        with pytest.raises(MlflowException) as caught:
            call()
        assert caught.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    with pytest.raises(MlflowException) as caught:
        client.create_deployment("a", str(actor), config={"replica": 1})
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


def test_deletions_are_idempotent(client: RestaurantDeploymentClient) -> None:
    client.delete_deployment("nobody")
    client.delete_endpoint("nobody")


def test_streams_are_refused_in_one_sentence(client: RestaurantDeploymentClient) -> None:
    with pytest.raises(MlflowException, match="can't be streamed"):
        client.predict_stream("contract", {})


def test_the_help_names_every_setting() -> None:
    from mlflow_restaurant.config import ChangeOptions, DeploymentConfig, ServerSettings, config_table

    text = plugin.target_help()
    for key, _, meaning in [
        row
        for settings in (DeploymentConfig, ChangeOptions, ServerSettings)
        for row in config_table(settings)
    ]:
        assert key in text
        assert meaning in text
