"""Settings of the server and of a deployment: each key's type, default, bounds and meaning have their home here.

Help texts and documentation are generated from these classes.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from mlflow_restaurant.errors import HomeError, InvalidRequest, nearest, quoted
from mlflow_restaurant.sticky import OFF, parse_sticky

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ENV_PREFIX = "MLFLOW_RESTAURANT_"
HOME_VARIABLE = ENV_PREFIX + "HOME"
CONFIG_FILE = "config.toml"
MAX_REPLICAS = 256
MAX_THREADS = 1024

Model = TypeVar("Model", bound=BaseModel)


def _parse_json_object(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as e:
        raise ValueError(f"not valid JSON ({e})") from None


def _refuse_bool(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("number_needed", "a number is needed")
    return value


ENDPOINT_TABLE = [
    ("traffic", "", "percentage for each deployment, as `a=90,b=10` or JSON; they add up to 100"),
    (
        "sticky",
        "off",
        "`header:NAME` or `client` (the caller's address): each caller stays with one deployment; who has no such"
        " header goes anywhere",
    ),
]
"""Key, default and meaning of the settings of an endpoint."""

Number = BeforeValidator(_refuse_bool)
EnvManager = Literal["auto", "local", "uv", "virtualenv", "conda"]
Batching = Literal["auto", "on", "off"]
TrialReport = Literal["auto", "off"]
Strategy = Literal["rolling", "canary", "shadow"]


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
        2048, ge=0, le=1_000_000, description="requests that wait before new ones get 503 with `Retry-After`"
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

    def shares(self) -> tuple[float, ...]:
        """Return the shares of the requests, in percent, that a new revision is tried with one after the other."""
        if self.strategy == "canary":
            return tuple(map(float, self.canary_steps.split(",")))
        return (self.shadow_percent,) if self.strategy == "shadow" else ()

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
        return _validate(cls, {**values, "env": env}, "Config key")


class ChangeOptions(BaseModel):
    """What holds for one change of a deployment only, given with ``-C key=value`` beside its settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str = Field("", max_length=500, description="why the change is made; `history` shows it")
    wait: bool = Field(
        False,
        description="`true`: wait until another change of the deployment is done, instead of being refused",
    )
    allow_schema_change: bool = Field(
        False, description="`true`: the new model may take other input than the one that serves"
    )
    rollback: bool = Field(
        False,
        description="`true`: go back to the revision that served before, as `mlflow-restaurant rollback`",
    )
    revision: Annotated[int | None, Number] = Field(
        None, ge=1, description="with `rollback=true`: the revision to go back to"
    )

    def refuse_revision(self) -> None:
        """Refuse a revision without a rollback.

        Raises:
            InvalidRequest: there is one.
        """
        if self.revision is not None:
            raise InvalidRequest(
                "Config key 'revision' says where to roll back to: give rollback=true with it."
            )

    def refuse_rollback(self, why: str) -> None:
        """Refuse a rollback where there can be none.

        Raises:
            InvalidRequest: one is asked for.
        """
        if self.rollback or self.revision is not None:
            raise InvalidRequest(f"{why}; leave rollback and revision out.")


def parse_options(
    options: Mapping[str, Any], base: DeploymentConfig | None = None
) -> tuple[DeploymentConfig, ChangeOptions]:
    """Return the settings that ``-C`` options give, as `DeploymentConfig.from_options`, and the options of the change.

    Raises:
        InvalidRequest: an unknown key, a value of the wrong type or out of bounds.
    """
    change = {key: value for key, value in options.items() if key in ChangeOptions.model_fields}
    settings = {key: value for key, value in options.items() if key not in change}
    config = DeploymentConfig.from_options(settings, base)
    return config, _validate(ChangeOptions, change, "Config key")


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


class ServerSettings(BaseModel):
    """The settings of one server, from ``config.toml`` in its home or ``MLFLOW_RESTAURANT_<NAME>`` variables."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", min_length=1, description="address the gateway listens on")
    port: Annotated[int, Number] = Field(
        5001, ge=0, le=65535, description="port of the gateway; 0 = any free port"
    )
    gateways: Annotated[int, Number] = Field(
        1, ge=1, le=64, description="gateway processes that share the port"
    )
    max_total_memory_mb: Annotated[float, Number] = Field(
        0,
        ge=0,
        le=1_000_000_000,
        allow_inf_nan=False,
        description="private memory of all replicas, in megabytes, above which the deployments that were used least"
        " recently sleep until the next request; 0: no limit",
    )

    keep_events: Annotated[int, Number] = Field(
        200,
        ge=1,
        le=1_000_000,
        description="events of each kind that are kept of each deployment and endpoint",
    )
    keep_events_days: Annotated[float, Number] = Field(
        90, gt=0, le=36_500, allow_inf_nan=False, description="time for which events are kept, in days"
    )
    max_log_mb: Annotated[float, Number] = Field(
        10,
        ge=0,
        le=1_000_000,
        allow_inf_nan=False,
        description="size from which a log is rotated, in megabytes; 0: never",
    )
    log_files: Annotated[int, Number] = Field(
        3, ge=0, le=100, description="rotated files that are kept of each log"
    )

    @classmethod
    def load(cls, home: Path, environ: Mapping[str, str] = os.environ) -> ServerSettings:
        """Read the settings of the server of `home`; a variable wins over the file.

        Raises:
            HomeError: the file can't be read, or a key is unknown or its value is not allowed.
        """
        file = home / CONFIG_FILE
        values = _read_toml(file)
        for key in values:
            if key not in cls.model_fields:
                raise HomeError(f"Unknown key '{key}' in {file}. {nearest(key, cls.model_fields)}")
        for variable, value in environ.items():
            if not variable.startswith(ENV_PREFIX) or variable == HOME_VARIABLE:
                continue
            key = variable[len(ENV_PREFIX) :].lower()
            if key not in cls.model_fields:
                names = [ENV_PREFIX + name.upper() for name in cls.model_fields]
                raise HomeError(f"Unknown environment variable {variable}. {nearest(variable, names)}")
            values[key] = value
        try:
            return _validate(cls, values, "Setting")
        except InvalidRequest as e:
            raise HomeError(e.message) from None


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
        return values
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as e:
        raise HomeError(f"{file} can't be read as TOML: {e}. Mend or remove it.") from None


def public_name(name: str, field: FieldInfo) -> str:
    """Return the name under which users give the field."""
    return field.alias or name


def _validate(cls: type[Model], values: Mapping[str, Any], what: str) -> Model:
    try:
        return cls.model_validate(dict(values))
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        key = str(first["loc"][0]) if first["loc"] else "?"
        raise InvalidRequest(f"{what} '{key}' {_reason(first)}, not {_shown(values.get(key))}.") from None


_REASONS = {
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "number_needed": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be one of {expected}",
    "dict_type": "must be a JSON object",
    "string_type": "must be a string",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
}


def _reason(error: Any) -> str:
    if error["type"] == "steps":
        return str(error["msg"])
    template = _REASONS.get(error["type"])
    if template is None:
        return f"is not allowed ({error['msg']})"
    context = {key: f"{v:g}" if isinstance(v, float) else v for key, v in error.get("ctx", {}).items()}
    return template.format(**context)


def _shown(value: object) -> str:
    return quoted(value, 80)


def config_table(cls: type[BaseModel]) -> list[tuple[str, str, str]]:
    """Return (key, default, meaning) of every setting of `cls`, for help texts and documentation."""
    rows = []
    for name, field in cls.model_fields.items():
        key = "env.NAME" if name == "env" else public_name(name, field)
        default = field.get_default(call_default_factory=True)
        shown = (
            "" if default in (None, {}) else f"{default:g}" if isinstance(default, float) else str(default)
        )
        rows.append((key, shown, field.description or ""))
    return rows
