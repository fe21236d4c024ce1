"""MLflow's own deployments client, which knows nothing of this package, finds and asks the endpoints of a server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.deployments import get_deploy_client
from mlflow.deployments.mlflow import MlflowDeploymentClient

from mlflow_restaurant.deployments import RestaurantDeploymentClient

ROWS = {"dataframe_split": {"columns": ["do"], "data": [["name"], ["x"]]}}


@pytest.fixture
def url(client: RestaurantDeploymentClient, actor: Path) -> str:
    """The URL of a server with an endpoint `e` that serves, and `empty`, which has no deployments."""
    client.create_deployment("a", str(actor), endpoint="e")
    client.create_endpoint("empty")
    address: str = client.get_endpoint("e")["url"].removesuffix("/endpoints/e")
    return address


@pytest.fixture
def stock(url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow's client; it asks again, for minutes, what is answered with 500s unless told not to."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    client = get_deploy_client(url)
    assert type(client) is MlflowDeploymentClient
    return client


def test_it_lists_the_endpoints(stock: Any) -> None:
    found = {endpoint.name: endpoint for endpoint in stock.list_endpoints()}
    assert set(found) == {"e", "empty"}
    assert found["e"].endpoint_url.endswith("/endpoints/e/invocations")
    assert found["e"].model.name == "a"
    assert found["e"].model.provider == "mlflow-restaurant"


def test_it_gets_an_endpoint(stock: Any) -> None:
    endpoint = stock.get_endpoint("e")
    assert endpoint.name == "e"
    assert endpoint == next(e for e in stock.list_endpoints() if e.name == "e")


@pytest.mark.parametrize("name", ["nobody", "x/y", "é"])
def test_an_endpoint_that_is_not_there_is_not_found(stock: Any, name: str) -> None:
    with pytest.raises(Exception, match="404"):
        stock.get_endpoint(name)
    with pytest.raises(Exception, match="404"):
        stock.predict(endpoint=name, inputs=ROWS)


def test_it_predicts(stock: Any) -> None:
    assert stock.predict(endpoint="e", inputs=ROWS) == {"predictions": ["first", "x"]}
    assert stock.predict(endpoint="e", inputs={"inputs": {"do": ["x"]}}) == {"predictions": ["x"]}


def test_it_predicts_with_a_model_of_the_registry(
    client: RestaurantDeploymentClient, stock: Any, registered: str
) -> None:
    client.create_deployment("b", registered, endpoint="f")
    assert stock.get_endpoint("f").model.name == "b version 1"
    assert stock.predict(endpoint="f", inputs=ROWS) == {"predictions": ["first", "x"]}


@pytest.fixture
def registered(actor: Path) -> Iterator[str]:
    """The actor in the model registry."""
    from mlflow import MlflowClient

    registry = MlflowClient()
    registry.create_registered_model("stock-client")
    version = registry.create_model_version("stock-client", str(actor)).version
    yield f"models:/stock-client/{version}"
    registry.delete_registered_model("stock-client")


def test_a_failure_of_the_model_reaches_the_caller(stock: Any) -> None:
    with pytest.raises(Exception, match="400"):
        stock.predict(endpoint="e", inputs={"inputs": {"wrong": ["x"]}})
    with pytest.raises(Exception, match="503"):
        stock.predict(endpoint="empty", inputs=ROWS)


SCRIPT = """
import json, sys
from mlflow.deployments import get_deploy_client
client = get_deploy_client(sys.argv[1])
names = [e.name for e in client.list_endpoints()]
got = client.get_endpoint("e").name
answer = client.predict(endpoint="e", inputs=json.loads(sys.argv[2]))
print(json.dumps([names, got, answer]))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_it_works_where_this_package_is_not_installed(
    url: str, folder: Path, environment: dict[str, str], mlflow_command: str
) -> None:
    python = str(Path(mlflow_command).parent / "python")
    command = [python, "-c", SCRIPT, url, json.dumps(ROWS)]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["e", "empty"], "e", {"predictions": ["first", "x"]}]
