"""Which deployment answers a request. Pure: a path, a table, the caller and a number in, a target out.

An endpoint's requests are split by numbers that fall evenly into [0, 1) (`Draws`), so that shares are exact after some
dozens of requests already, and so are those of a canary behind it; or, where the endpoint is sticky, by the caller: each has a score with every deployment, and
goes where it is highest (rendezvous hashing with weights). When a deployment's share grows, it gets callers from others,
and nobody else moves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from urllib.parse import quote, unquote

from mlflow_restaurant.entities import (
    FULL_TRAFFIC,
    DeploymentRoute,
    EndpointRoute,
    RouteTable,
)
from mlflow_restaurant.errors import DoesNotExist, Unavailable, quoted
from mlflow_restaurant.sticky import CLIENT, HEADER

DEPLOYMENTS = "deployments"
ENDPOINTS = "endpoints"
OLD, NEW = "old", "new"
"""The sides of a canary, in a caller's score."""
CANARY, SHADOW = "canary", "shadow"
STEPS = {ENDPOINTS: (5**0.5 - 1) / 2, CANARY: 2**0.5 - 1, SHADOW: 3**0.5 - 1}
"""Numbers whose multiples fall evenly into [0, 1), those of the golden ratio most of all. For each kind of draw another
one, and none a fraction of the others: so where an endpoint chooses by its draws which requests a deployment gets, that
says nothing about the draws of the deployment's canary."""


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


@dataclass(slots=True)
class Caller:
    """Who asks: the headers of the request, names in lower case, and the address of the connection's other end."""

    headers: Sequence[tuple[bytes, bytes]] = ()
    address: str = ""

    def key(self, sticky: str) -> bytes | None:
        """Return what tells this caller from others, by the rule of an endpoint; None when nothing does."""
        if sticky == CLIENT:
            return self.address.encode() or None
        if not sticky.startswith(HEADER):
            return None
        wanted = sticky[len(HEADER) :].encode()
        return next((value for name, value in self.headers if name == wanted and value), None)


class Draws:
    """Numbers, 0 <= n < 1, for each endpoint, canary and shadow, that fall evenly."""

    def __init__(self) -> None:
        self.last: dict[str, dict[str, float]] = {kind: {} for kind in STEPS}

    def next(self, kind: str, name: str) -> float:
        """Return the next number.

        Args:
            kind: one of `STEPS`.
            name: of the endpoint, or of the deployment that has the canary or shadow.
        """
        last = self.last[kind]
        drawn = last[name] = (last.get(name, 0.0) + STEPS[kind]) % 1.0
        return drawn

    def keep(self, table: RouteTable) -> None:
        """Forget what is not in a table."""
        for kind, last in self.last.items():
            names = table.endpoints if kind == ENDPOINTS else table.deployments
            self.last[kind] = {name: drawn for name, drawn in last.items() if name in names}


def parse_path(path: str) -> Address | None:
    """Return what a path addresses, or None when it is below neither deployments nor endpoints."""
    parts = path.split("/", 3)
    if len(parts) < 4 or parts[0] or parts[1] not in (DEPLOYMENTS, ENDPOINTS):
        return None
    return Address(parts[1], unquote(parts[2]), "/" + parts[3])


def pick(address: Address, table: RouteTable, caller: Caller, draws: Draws) -> str:
    """Return the name of the deployment that answers.

    Args:
        address: what the request names.
        table: the routes of now.
        caller: who asks.
        draws: for callers who may go anywhere.

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
    key = caller.key(endpoint.sticky) if endpoint.sticky else None
    name = _shared(endpoint, draws) if key is None else stuck(endpoint.traffic, key)
    if name is None:
        raise Unavailable(f"Endpoint '{endpoint.name}' sends its requests to no deployment yet.")
    return name


def _shared(endpoint: EndpointRoute, draws: Draws) -> str | None:
    return split(endpoint.traffic, draws.next(ENDPOINTS, endpoint.name) if len(endpoint.traffic) > 1 else 0.0)


def pick_side(route: DeploymentRoute, caller: Caller, draws: Draws) -> DeploymentRoute:
    """Return the side of a deployment that answers: its canary for the canary's share of the requests, or itself."""
    trial = route.trial
    if trial is None or trial.mode != CANARY or not trial.route.replicas:
        return route
    key = caller.key(trial.sticky) if trial.sticky else None
    if key is None:
        chosen = draws.next(CANARY, route.name) < trial.share / FULL_TRAFFIC
    else:
        chosen = stuck({OLD: FULL_TRAFFIC - trial.share, NEW: trial.share}, key) == NEW
    return trial.route if chosen else route


def takes_part(route: DeploymentRoute, draws: Draws) -> bool:
    """Tell whether a request to a deployment is copied for a revision in its shadow."""
    trial = route.trial
    return (
        trial is not None
        and trial.mode == SHADOW
        and draws.next(SHADOW, route.name) < trial.share / FULL_TRAFFIC
    )


def split(weights: Mapping[str, float], draw: float) -> str | None:
    """Return the name whose share `draw` falls into, 0 <= draw < 1; None where no weight is above 0."""
    total = sum(weights.values())
    passed, last = 0.0, None
    for name, weight in weights.items():
        if weight <= 0:
            continue
        passed, last = passed + weight, name
        if draw * total < passed:
            return name
    return last


def stuck(weights: Mapping[str, float], key: bytes) -> str | None:
    """Return the name that a caller belongs to; None where no weight is above 0.

    Source: weighted rendezvous hashing, https://en.wikipedia.org/wiki/Rendezvous_hashing.
    """
    scores = {name: weight / -math.log(_uniform(key, name)) for name, weight in weights.items() if weight > 0}
    return max(scores, key=scores.__getitem__, default=None)


def _uniform(key: bytes, name: str) -> float:
    """Return a number between 0 and 1 that is the same in every process."""
    digest = blake2b(key, digest_size=8, salt=blake2b(name.encode(), digest_size=16).digest()).digest()
    return ((int.from_bytes(digest, "big") >> 11) + 0.5) / (1 << 53)
