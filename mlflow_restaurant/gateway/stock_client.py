"""The endpoints of MLflow's own deployments API, so that stock ``get_deploy_client("http://...")`` can use them.

Form: ``mlflow.deployments.mlflow.MlflowDeploymentClient`` and ``mlflow.deployments.server.config.Endpoint``.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from mlflow_restaurant.entities import EndpointRoute, RouteTable
from mlflow_restaurant.errors import DoesNotExist, quoted

PREFIX = "/api/2.0/endpoints"
ENDPOINT_TYPE = "mlflow/v1/scoring"
PROVIDER = "mlflow-restaurant"


def answer(path: str, table: RouteTable) -> dict[str, Any] | None:
    """Return the JSON for a GET of `path`, or None when it is not of this API.

    Raises:
        DoesNotExist: there is no such endpoint.
    """
    if path in (PREFIX, PREFIX + "/"):
        return {"endpoints": [_describe(e, table) for e in table.endpoints.values()], "next_page_token": None}
    if not path.startswith(PREFIX + "/"):
        return None
    name = unquote(path[len(PREFIX) + 1 :].rstrip("/"))
    if name not in table.endpoints:
        raise DoesNotExist(f"There is no endpoint {quoted(name)} here.")
    return _describe(table.endpoints[name], table)


def _describe(endpoint: EndpointRoute, table: RouteTable) -> dict[str, Any]:
    heaviest = max(endpoint.traffic, key=lambda name: endpoint.traffic[name], default=None)
    route = table.deployments.get(heaviest) if heaviest is not None else None
    version = f" version {route.model_version}" if route and route.model_version else ""
    return {
        "name": endpoint.name,
        "endpoint_type": ENDPOINT_TYPE,
        "model": {"name": f"{heaviest}{version}" if heaviest else None, "provider": PROVIDER},
        "endpoint_url": f"/endpoints/{endpoint.name}/invocations",
        "limit": None,
    }
