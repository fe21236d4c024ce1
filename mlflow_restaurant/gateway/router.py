"""Which deployment answers a request. Pure: a path, a table and a random number in, a target out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote

from mlflow_restaurant.entities import EndpointRoute, RouteTable
from mlflow_restaurant.errors import DoesNotExist, Unavailable, quoted

DEPLOYMENTS = "deployments"
ENDPOINTS = "endpoints"


@dataclass(frozen=True)
class Address:
    """A path below a deployment or an endpoint, such as ``/deployments/spam/invocations``; `rest` as it was sent."""

    kind: str
    name: str
    rest: str

    @property
    def prefix(self) -> str:
        """The path of the deployment or endpoint itself."""
        return f"/{self.kind}/{quote(self.name, safe='')}"


def parse_path(path: str) -> Address | None:
    """Return what a path addresses, or None when it is below neither deployments nor endpoints."""
    parts = path.split("/", 3)
    if len(parts) < 4 or parts[0] or parts[1] not in (DEPLOYMENTS, ENDPOINTS):
        return None
    return Address(parts[1], unquote(parts[2]), "/" + parts[3])


def pick(address: Address, table: RouteTable, draw: float) -> str:
    """Return the name of the deployment that answers.

    Args:
        address: what the request names.
        table: the routes of now.
        draw: a random number, 0 <= draw < 1.

    Raises:
        DoesNotExist: there is no such deployment or endpoint.
        Unavailable: the endpoint sends its requests nowhere yet.
    """
    if address.kind == DEPLOYMENTS:
        if address.name not in table.deployments:
            raise DoesNotExist(f"There is no deployment {quoted(address.name)} here.")
        return address.name
    endpoint = table.endpoints.get(address.name)
    if endpoint is None:
        raise DoesNotExist(f"There is no endpoint {quoted(address.name)} here.")
    return split(endpoint, draw)


def split(endpoint: EndpointRoute, draw: float) -> str:
    """Return the deployment whose share of the endpoint's traffic `draw` falls into."""
    name = _weighted(endpoint.traffic, draw)
    if name is None:
        raise Unavailable(f"Endpoint '{endpoint.name}' sends its requests to no deployment yet.")
    return name


def _weighted(traffic: Mapping[str, float], draw: float) -> str | None:
    total = sum(traffic.values())
    passed, last = 0.0, None
    for name, weight in traffic.items():
        if weight <= 0:
            continue
        passed, last = passed + weight, name
        if draw * total < passed:
            return name
    return last
