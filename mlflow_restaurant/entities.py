"""The records of this package: what is deployed, what should run, and what the gateways know.

All are frozen. The ones that cross process boundaries travel as JSON.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from mlflow_restaurant.config import DeploymentConfig
from mlflow_restaurant.errors import InvalidRequest, quoted
from mlflow_restaurant.states import DeploymentState, RevisionState

NAME_PATTERN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?\Z")
FULL_TRAFFIC = 100.0


class Record(BaseModel):
    """A frozen record without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class BatchFacts(Record):
    """What the MLmodel file says of merging requests.

    Attributes:
        row_wise: whether the model predicts each row by itself, by the contract of its flavor.
        reason: how that is known.
        columns: see `BatchRoute`; `tensor` likewise.
        obstacle: why input of this signature can't be merged; empty if it can.
        library: whether nothing but one of the libraries whose models are row-wise makes the predictions.
    """

    row_wise: bool
    reason: str
    columns: dict[str, str] | None = None
    tensor: tuple[str, tuple[int, ...]] | None = None
    obstacle: str = ""
    library: bool = False


class BatchDecision(Record):
    """Whether the requests of a revision are merged, and why.

    Attributes:
        own_code: whether the model may run functions of its author, see `BatchRoute`.
        tells_requests_apart: see `BatchRoute`.
    """

    chosen: Literal["on", "off"]
    reason: str
    own_code: bool = True
    tells_requests_apart: bool = False


class ModelSignature(Record):
    """The input of a model as its MLmodel file has it: columns or tensors, and params; None where it says nothing."""

    inputs: list[dict[str, Any]] | None = None
    params: list[dict[str, Any]] | None = None


class ModelArtifact(Record):
    """A model in the local cache, and what its MLmodel file says; `model_id` is that of MLflow's logged model."""

    digest: str
    model_uri: str
    model_version: str | None = None
    model_uuid: str | None = None
    model_id: str | None = None
    flavor: str = "python_function"
    env_manager: str = "local"
    env_reason: str = ""
    has_example: bool = False
    batch_facts: BatchFacts | None = None
    signature: ModelSignature | None = None


class Revision(Record):
    """One numbered state of a deployment: a model and its settings. Never changed but for how it fares.

    Attributes:
        state: how far it has come; `message` says why.
        batching: decided when it comes into service.
        actor: the system user who made it.
        reason: why, in that user's words.
        served_at: when it came into service; None if it never did.
        ended_at: when it left service, or failed.
        trial: how it fared beside the revision before, where it was tried.
        golden: what it answered to its model's input example when it came into service; None if that is not repeatable.
        at_once: whether it serves without the trial that its strategy asks for.
        stopped: why it was given up, from the moment that it was; empty while nothing speaks against it.
        joins: the endpoint that the deployment joins when it serves.
    """

    deployment: str
    number: int
    artifact: ModelArtifact
    config: DeploymentConfig
    tracking_uri: str | None = None
    registry_uri: str | None = None
    state: RevisionState = RevisionState.PENDING
    message: str = ""
    batching: BatchDecision | None = None
    actor: str = ""
    reason: str = ""
    created_at: datetime
    served_at: datetime | None = None
    ended_at: datetime | None = None
    trial: dict[str, Any] | None = None
    golden: str | None = None
    at_once: bool = False
    stopped: str = ""
    joins: str | None = None


class Deployment(Record):
    """A named deployment; `serving` is the number of the revision that answers, if one does."""

    name: str
    endpoint: str | None = None
    state: DeploymentState = DeploymentState.UPDATING
    message: str = ""
    serving: int | None = None
    created_at: datetime
    updated_at: datetime


class Endpoint(Record):
    """A name whose requests are split over deployments.

    Attributes:
        traffic: percentages, which add up to 100, by deployment.
        sticky: by what a caller stays with a deployment: ``client``, ``header:NAME``, or nothing.
    """

    name: str
    traffic: dict[str, float] = {}
    sticky: str = ""
    created_at: datetime
    updated_at: datetime


EVENT_KINDS = {
    "created": "a deployment was made, with its first revision",
    "revision": "an update made a revision",
    "rollback": "an earlier revision was brought back, or a new one was taken back after it had got requests; and why",
    "promoted": "a revision serves",
    "failed": "a revision did not come into service, and why",
    "trial": "a step of a canary, or a shadow, began, or passed with too few requests to judge it",
    "promote": "somebody ended a trial, so that the new revision serves",
    "abort": "somebody gave a rollout up",
    "report": "the report of a trial was logged as an MLflow run, or why not",
    "scaled": "a deployment has another number of replicas or sleeps, and why",
    "replica": "a replica ended, and why, or runs again",
    "memory": "a replica is replaced because it grew beyond `max_memory_mb`",
    "batching": "requests to a revision are merged no more, and why",
    "unhealthy": "a replica keeps ending, needs more memory than it may have, or no longer gives the golden answer",
    "deleted": "a deployment was deleted",
    "endpoint": "an endpoint was made, changed or deleted, with its traffic",
    "gateway": "a gateway ended and another takes its place",
    "server": "the server started or went down",
}
"""Kinds of events, and what each says."""


class Event(Record):
    """Something that happened.

    Attributes:
        kind: one of `EVENT_KINDS`.
        message: what happened, for people.
        deployment: that it happened to; likewise `revision` and `endpoint`.
        actor: the system user who did it; empty where nobody did.
    """

    at: datetime
    kind: str
    message: str
    deployment: str | None = None
    revision: int | None = None
    endpoint: str | None = None
    actor: str = ""


class ReplicaRoute(Record):
    """Where one running replica answers. `key` differs for each process that ever served."""

    key: str
    socket: str


class BatchRoute(Record):
    """How a gateway may merge the requests of one deployment, where that was decided at rollout.

    Attributes:
        max_rows: rows in one merged call.
        wait_ms: how long a free replica waits for more rows, in milliseconds.
        columns: types of the signature's columns by name, where the input is a table.
        tensor: type and inner shape (without the rows) of the signature's one tensor, where the input is that.
        own_code: whether the model may run functions of its author. What these return for a row may look otherwise beside
            a missing value than alone: pandas writes 9 as 9.0 there, and None as NaN.
        tells_requests_apart: whether replicas that are told how many rows each request has take a missing text for what it
            is in its own request, so that requests can be merged in whose texts others are missing.
    """

    max_rows: int
    wait_ms: float
    columns: dict[str, str] | None = None
    tensor: tuple[str, tuple[int, ...]] | None = None
    own_code: bool = True
    tells_requests_apart: bool = False


class DeploymentRoute(Record):
    """What a gateway needs to know of one revision of a deployment.

    Attributes:
        batch: None where every request goes to the model alone.
        asleep: whether it has no replicas until a request comes.
        trial: the revision that is being tried beside this one, if one is.
    """

    name: str
    revision: int
    model_version: str | None = None
    timeout_s: float
    max_queue: int
    max_body_mb: float
    batch: BatchRoute | None = None
    replicas: tuple[ReplicaRoute, ...] = ()
    asleep: bool = False
    trial: TrialRoute | None = None


class TrialRoute(Record):
    """How a new revision is tried beside the one that serves.

    Attributes:
        mode: ``canary``: it answers its share of the requests; ``shadow``: it gets copies of that share, and its
            answers are compared and thrown away.
        share: percentage of the requests.
        step: number of the step; what is counted of both sides begins anew with each.
        sticky: by what a caller stays with its side: see `parse_sticky`.
        route: the new revision.
    """

    mode: Literal["canary", "shadow"]
    share: float
    step: int
    sticky: str = ""
    route: DeploymentRoute


class EndpointRoute(Record):
    """What a gateway needs to know of one endpoint."""

    name: str
    traffic: dict[str, float] = {}
    sticky: str = ""


class RouteTable(Record):
    """All that a gateway knows: immutable, replaced as a whole."""

    version: int = 0
    deployments: dict[str, DeploymentRoute] = {}
    endpoints: dict[str, EndpointRoute] = {}


def utcnow() -> datetime:
    """Return the time now, in UTC."""
    return datetime.now(timezone.utc)


def isoformat(moment: datetime) -> str:
    """Return `moment` as ISO 8601 in UTC, to the millisecond."""
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def check_name(name: object, what: str = "a deployment") -> str:
    """Return `name` if it can name a deployment or an endpoint.

    Raises:
        InvalidRequest: it is no string, too long, or has a character that is not allowed.
    """
    if not isinstance(name, str) or not NAME_PATTERN.match(name):
        raise InvalidRequest(
            f"{quoted(name)} can't be the name of {what}: use 1 to 100 letters, digits, '-', '_' or '.',"
            " beginning and ending with a letter or digit."
        )
    return name


def parse_traffic(value: object) -> dict[str, float]:
    """Read a traffic split: ``"a=90,b=10"``, a JSON object, or a mapping of deployment to percentage.

    Raises:
        InvalidRequest: it can't be read, a weight is not a percentage, or they don't add up to 100.
    """
    pairs = _traffic_pairs(value)
    weights = {check_name(name): _weight(name, weight) for name, weight in pairs}
    if len(weights) != len(pairs):
        raise InvalidRequest("A traffic split names each deployment once.")
    total = math.fsum(weights.values())
    if weights and abs(total - FULL_TRAFFIC) > 1e-6:
        raise InvalidRequest(f"The weights of a traffic split must add up to 100, not {total:g}.")
    return weights


def _traffic_pairs(value: object) -> list[tuple[str, object]]:
    if isinstance(value, Mapping):
        return [(str(k), v) for k, v in value.items()]
    text = str(value).strip()
    if text.startswith("{"):
        try:
            pairs = json.loads(text, object_pairs_hook=list)
        except ValueError as e:
            raise InvalidRequest(f"The traffic split is not valid JSON: {e}.") from None
        return [(str(k), v) for k, v in pairs]
    parts = [part.partition("=") for part in text.split(",") if part.strip()]
    if not all(sep for _, sep, _ in parts):
        raise InvalidRequest(f"Write a traffic split as a=90,b=10 or as a JSON object, not {text!r}.")
    return [(name.strip(), weight.strip()) for name, _, weight in parts]


def _weight(name: str, value: Any) -> float:
    try:
        weight = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        weight = math.nan
    if not 0 <= weight <= FULL_TRAFFIC:
        raise InvalidRequest(f"The weight of '{name}' must be a percentage from 0 to 100, not {value!r}.")
    return weight


def plain_weights(traffic: Mapping[str, float]) -> dict[str, float]:
    """Return the weights with whole percentages as integers, as users wrote them."""
    return {name: int(w) if float(w).is_integer() else w for name, w in traffic.items()}


def traffic_text(traffic: Mapping[str, float]) -> str:
    """Return a split as people read it."""
    return ", ".join(f"{name} {weight:g} %" for name, weight in traffic.items()) or "no deployments yet"
