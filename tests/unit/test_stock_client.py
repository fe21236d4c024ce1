"""The endpoints as MLflow's own deployments client reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mlflow.deployments.server.config import Endpoint

from mlflow_restaurant.entities import DeploymentRoute, EndpointRoute, RouteTable
from mlflow_restaurant.errors import DoesNotExist
from mlflow_restaurant.gateway.stock_client import answer


def table(version: str | None = "3") -> RouteTable:
    deployments = {
        name: DeploymentRoute(
            name=name, revision=1, model_version=version, timeout_s=1, max_queue=1, max_body_mb=1
        )
        for name in ("a", "b")
    }
    endpoints = {
        "split": EndpointRoute(name="split", traffic={"a": 10, "b": 90}),
        "empty": EndpointRoute(name="empty"),
    }
    return RouteTable(deployments=deployments, endpoints=endpoints)


def as_read(payload: dict[str, Any] | None) -> Any:
    return Endpoint(**json.loads(json.dumps(payload)))


def described(path: str, version: str | None = "3") -> dict[str, Any]:
    found = answer(path, table(version))
    assert found is not None
    return found


@pytest.mark.parametrize("path", ["/api/2.0/endpoints", "/api/2.0/endpoints/"])
def test_the_list_holds_every_endpoint_in_mlflows_form(path: str) -> None:
    payload = described(path)

    assert [as_read(e).name for e in payload["endpoints"]] == ["split", "empty"]
    assert payload["next_page_token"] is None


@pytest.mark.parametrize(
    "path", ["/api/2.0/endpoints/split", "/api/2.0/endpoints/spl%69t", "/api/2.0/endpoints/split/"]
)
def test_one_endpoint_names_its_heaviest_deployment_and_where_to_post(path: str) -> None:
    endpoint = as_read(described(path))

    assert endpoint.name == "split"
    assert endpoint.model.name == "b version 3"
    assert endpoint.endpoint_url == "/endpoints/split/invocations"


def test_a_model_without_a_version_is_named_alone() -> None:
    assert as_read(described("/api/2.0/endpoints/split", version=None)).model.name == "b"


def test_an_endpoint_without_traffic_is_still_described() -> None:
    assert as_read(described("/api/2.0/endpoints/empty")).model.name is None


def test_an_unknown_endpoint() -> None:
    with pytest.raises(DoesNotExist, match="'nobody'"):
        answer("/api/2.0/endpoints/nobody", table())


@pytest.mark.parametrize("path", ["/", "/api/2.0/mlflow/experiments", "/api/2.0/endpointsx", "/api/2.0"])
def test_other_paths_are_not_of_this_api(path: str) -> None:
    assert answer(path, table()) is None
