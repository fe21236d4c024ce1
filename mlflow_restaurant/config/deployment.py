"""Settings of a deployment."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from mlflow_restaurant.config.change import ChangeOptions
from mlflow_restaurant.config.checks import Number, public_name, validate
from mlflow_restaurant.errors import InvalidRequest, nearest, quoted
from mlflow_restaurant.sticky import OFF, parse_sticky

MAX_REPLICAS = 256
MAX_THREADS = 1024

EnvManager = Literal["auto", "local", "uv", "virtualenv", "conda"]
Batching = Literal["auto", "on", "off"]
TrialReport = Literal["auto", "off"]
Strategy = Literal["rolling", "canary", "shadow"]

OF_ROLLOUTS = (
    "strategy",
    "canary_steps",
    "shadow_percent",
    "bake_s",
    "min_requests",
    "max_error_rate_increase",
    "max_latency_ratio",
    "min_agreement",
)
"""Settings of how an update comes into service."""


def _parse_json_object(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as e:
        raise ValueError(f"not valid JSON ({e})") from None


def _parse_steps(value: object) -> str:
    """Read shares that rise, ``5,25,50`` or a list of numbers; returns them as text."""
    parts = value.split(",") if isinstance(value, str) else value
    shares = [_share(part) for part in (parts if isinstance(parts, (list, tuple)) else [parts])]
    if not shares or not all(0 < share <= 100 for share in shares):
        raise PydanticCustomError("steps", "must be percentages above 0 and up to 100, such as 5,25,50")
    if shares != sorted(set(shares)):
        raise PydanticCustomError("steps", "must be percentages that rise, such as 5,25,50")
    return ",".join(f"{share:g}" for share in shares)


def _share(part: object) -> float:
    try:
        return math.nan if isinstance(part, bool) else float(part)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def _parse_stickiness(value: object) -> object:
    return parse_sticky(value) or OFF


class DeploymentConfig(BaseModel):
    """The settings of one deployment, as given with ``-C key=value``.

    ``env.NAME`` keys are gathered in `env`. Values may be strings, as the command line sends them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    replicas: Annotated[int, Number] = Field(
        1, ge=1, le=MAX_REPLICAS, description="processes serving the model"
    )
    min_replicas: Annotated[int, Number] = Field(
        0, ge=0, le=MAX_REPLICAS, description="fewest replicas while it is awake; 0: as many as `replicas`"
    )
    max_replicas: Annotated[int, Number] = Field(
        0,
        ge=0,
        le=MAX_REPLICAS,
        description="most replicas; between the two the number follows the queue; 0: as many as `replicas`",
    )
    idle_timeout_s: Annotated[float, Number] = Field(
        0,
        ge=0,
        le=31_536_000,
        allow_inf_nan=False,
        description="time without a request after which the replicas stop, in seconds; the next request starts them"
        " and waits; 0: never",
    )
    threads: Annotated[int, Number, Field(ge=1, le=MAX_THREADS)] | Literal["auto"] = Field(
        "auto",
        description="threads of BLAS and OpenMP in each replica; `auto`: all cores but one, shared out among the"
        " replicas, or what `env.OMP_NUM_THREADS` and the like say",
    )
    env_manager: EnvManager = Field(
        "auto",
        description="`auto`, `local`, `uv`, `virtualenv`, `conda`; `auto` is `local` when what is installed"
        " satisfies the model's requirements, else `uv`",
    )
    batching: Batching = Field(
        "auto",
        description="`auto`, `on`, `off`: whether requests may be merged into one call of the model",
    )
    max_batch_rows: Annotated[int, Number] = Field(
        1024, ge=1, le=1_000_000, description="rows in one merged call"
    )
    batch_wait_ms: Annotated[float, Number] = Field(
        0,
        ge=0,
        le=60_000,
        allow_inf_nan=False,
        description="how long a free replica waits for more rows, in milliseconds",
    )
    max_queue: Annotated[int, Number] = Field(
        2048,
        ge=0,
        le=1_000_000,
        description="requests that wait in a gateway before new ones get 503 with `Retry-After`",
    )
    timeout_s: Annotated[float, Number] = Field(
        60, gt=0, le=86_400, allow_inf_nan=False, description="time for one request, in seconds; then 504"
    )
    max_body_mb: Annotated[float, Number] = Field(
        64, gt=0, le=2048, allow_inf_nan=False, description="larger bodies get 413, in megabytes"
    )
    startup_timeout_s: Annotated[float, Number] = Field(
        120,
        gt=0,
        le=86_400,
        allow_inf_nan=False,
        description="time for a replica to become ready, in seconds",
    )
    max_memory_mb: Annotated[float, Number] = Field(
        0,
        ge=0,
        le=100_000_000,
        allow_inf_nan=False,
        description="private memory of a replica, in megabytes, above which it is replaced; 0: no limit",
    )
    strategy: Strategy = Field(
        "rolling",
        description="how an update comes into service: `rolling`, `canary` (it gets shares of the requests that grow),"
        " `shadow` (it gets copies of requests, and its answers are compared)",
    )
    canary_steps: Annotated[str, BeforeValidator(_parse_steps)] = Field(
        "5,25,50", description="shares of the requests, in percent, that a canary gets one after the other"
    )
    shadow_percent: Annotated[float, Number] = Field(
        100,
        gt=0,
        le=100,
        allow_inf_nan=False,
        description="share of the requests that a shadow gets copies of",
    )
    bake_s: Annotated[float, Number] = Field(
        60,
        ge=0,
        le=604_800,
        allow_inf_nan=False,
        description="time for each step of a canary, or for a shadow, in seconds",
    )
    min_requests: Annotated[int, Number] = Field(
        50,
        ge=1,
        le=1_000_000,
        description="requests that a new revision must have answered before it is judged",
    )
    max_error_rate_increase: Annotated[float, Number] = Field(
        0.02,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="a canary or shadow goes back when this much more of its requests fail (0.02: 2 %) than of those"
        " of the revision before",
    )
    max_latency_ratio: Annotated[float, Number] = Field(
        2,
        ge=1,
        le=1_000_000,
        allow_inf_nan=False,
        description="a canary or shadow goes back when its p95 is more than so many times that of the revision before",
    )
    min_agreement: Annotated[float, Number] = Field(
        0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="a shadow goes back when a smaller share of its rows agrees (0.99: 99 %); 0 only reports",
    )
    trial_report: TrialReport = Field(
        "auto",
        description="`auto`, `off`: whether the report of a canary or shadow is logged as an MLflow run, where the model"
        " came from MLflow",
    )
    sticky: Annotated[str, BeforeValidator(_parse_stickiness)] = Field(
        OFF,
        description="`header:NAME` or `client`: each caller stays on its side of a canary while shares grow",
    )
    keep_revisions: Annotated[int, Number] = Field(
        5,
        ge=1,
        le=1000,
        description="how many revisions that served are kept to go back to, the present one included",
    )
    env: dict[str, str] = Field(default_factory=dict, description="environment variable of the replicas")
    model_config_: Annotated[dict[str, Any] | None, BeforeValidator(_parse_json_object)] = Field(
        None, alias="model_config", description="JSON object passed to `load_model`"
    )

    @model_validator(mode="after")
    def _check_replicas(self) -> DeploymentConfig:
        low, high = self.min_replicas or self.replicas, self.max_replicas or self.replicas
        if not low <= self.replicas <= high:
            raise InvalidRequest(
                f"min_replicas={low}, replicas={self.replicas} and max_replicas={high} must not fall; replicas is the"
                " number to begin with."
            )
        return self

    @model_validator(mode="after")
    def _check_wait(self) -> DeploymentConfig:
        if self.batch_wait_ms / 1000 >= self.timeout_s:
            raise InvalidRequest(
                f"batch_wait_ms={self.batch_wait_ms:g} must be less than timeout_s={self.timeout_s:g} (seconds): requests"
                " would wait for more rows until their time is over."
            )
        return self

    def shares(self) -> tuple[float, ...]:
        """Return the shares of the requests, in percent, that a new revision is tried with one after the other."""
        if self.strategy == "canary":
            return tuple(map(float, self.canary_steps.split(",")))
        return (self.shadow_percent,) if self.strategy == "shadow" else ()

    def rollout_settings_beside(self, other: DeploymentConfig) -> dict[str, Any]:
        """Return the settings of how an update comes into service that are not those of `other`."""
        mine, others = self.to_dict(), other.to_dict()
        return {name: mine[name] for name in OF_ROLLOUTS if mine[name] != others[name]}

    def to_dict(self) -> dict[str, Any]:
        """Return the settings under their public names."""
        return self.model_dump(mode="json", by_alias=True)

    @classmethod
    def from_options(
        cls, options: Mapping[str, Any], base: DeploymentConfig | None = None
    ) -> DeploymentConfig:
        """Return the settings that `options` give, each key they don't name as in `base` or its default.

        Args:
            options: ``-C`` keys and values; values may be strings. ``env.NAME`` sets one variable.
            base: the settings of the revision before.

        Raises:
            InvalidRequest: an unknown key, a value of the wrong type or out of bounds.
        """
        values = base.to_dict() if base else {}
        env = dict(values.get("env", {}))
        for key, value in options.items():
            if not isinstance(key, str):
                raise InvalidRequest(f"Config keys must be strings, not {quoted(key)}.")
            if key.startswith("env."):
                env[_env_name(key)] = _env_value(key, value)
            elif key == "env":
                env = _env_mapping(value)
            else:
                values[key] = value
        known = [public_name(n, f) for n, f in cls.model_fields.items()]
        for key in values:
            if key not in known:
                allowed = [*known, "env.NAME", *ChangeOptions.model_fields]
                raise InvalidRequest(f"Unknown config key '{key}'. {nearest(key, allowed)}")
        return validate(cls, {**values, "env": env}, "Config key")


def parse_options(
    options: Mapping[str, Any], base: DeploymentConfig | None = None
) -> tuple[DeploymentConfig, ChangeOptions]:
    """Return the settings that ``-C`` options give, as `DeploymentConfig.from_options`, and the options of the change.

    Raises:
        InvalidRequest: an unknown key, a value of the wrong type or out of bounds.
    """
    settings = {key: value for key, value in options.items() if key not in ChangeOptions.model_fields}
    return DeploymentConfig.from_options(settings, base), parse_change(options)


def parse_change(options: Mapping[str, Any]) -> ChangeOptions:
    """Return the options of the change alone; settings beside them are not looked at.

    Raises:
        InvalidRequest: a value has the wrong type or is out of bounds.
    """
    change = {key: value for key, value in options.items() if key in ChangeOptions.model_fields}
    return validate(ChangeOptions, change, "Config key")


def _env_name(key: str) -> str:
    name = key[len("env.") :]
    if not name or "=" in name or "\0" in name:
        raise InvalidRequest(f"Config key '{key}' names no environment variable: write env.NAME=value.")
    return name


def _env_value(key: str, value: object) -> str:
    text = str(value)
    if "\0" in text:
        raise InvalidRequest(f"Config key '{key}' must not have a NUL character in its value.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"Config key '{key}' must have a value that can be written in UTF-8.") from None
    return text


def _env_mapping(value: object) -> dict[str, str]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, dict):
        raise InvalidRequest(
            "Config key 'env' must be a JSON object of names and values; or write env.NAME=value."
        )
    return {_env_name(f"env.{k}"): _env_value(f"env.{k}", v) for k, v in value.items()}
