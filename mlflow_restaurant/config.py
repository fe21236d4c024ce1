"""Settings of the server and of a deployment: each key's type, default, bounds and meaning have their home here.

Help texts and documentation are generated from these classes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from mlflow_restaurant.errors import HomeError, InvalidRequest, nearest, quoted

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ENV_PREFIX = "MLFLOW_RESTAURANT_"
HOME_VARIABLE = ENV_PREFIX + "HOME"
CONFIG_FILE = "config.toml"
MAX_REPLICAS = 256

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


Number = BeforeValidator(_refuse_bool)
EnvManager = Literal["auto", "local", "uv", "virtualenv", "conda"]
Batching = Literal["auto", "on", "off"]


class DeploymentConfig(BaseModel):
    """The settings of one deployment, as given with ``-C key=value``.

    ``env.NAME`` keys are gathered in `env`. Values may be strings, as the command line sends them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    replicas: Annotated[int, Number] = Field(
        1, ge=1, le=MAX_REPLICAS, description="processes serving the model"
    )
    env_manager: EnvManager = Field(
        "auto",
        description="`auto`, `local`, `uv`, `virtualenv`, `conda`; `auto` is `local` when what is installed"
        " satisfies the model's requirements, else `uv`",
    )
    batching: Batching = Field(
        "auto",
        description="`auto`, `on`, `off`: whether requests may be merged into one call of the model (no effect yet)",
    )
    max_batch_rows: Annotated[int, Number] = Field(
        1024, ge=1, le=1_000_000, description="rows in one merged call (no effect yet)"
    )
    batch_wait_ms: Annotated[float, Number] = Field(
        0,
        ge=0,
        le=60_000,
        allow_inf_nan=False,
        description="how long a free replica waits for more rows, in milliseconds (no effect yet)",
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
    env: dict[str, str] = Field(default_factory=dict, description="environment variable of the replicas")
    model_config_: Annotated[dict[str, Any] | None, BeforeValidator(_parse_json_object)] = Field(
        None, alias="model_config", description="JSON object passed to `load_model`"
    )

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
        known = {**{public_name(n, f): f for n, f in cls.model_fields.items()}}
        for key in values:
            if key not in known:
                raise InvalidRequest(f"Unknown config key '{key}'. {nearest(key, [*known, 'env.NAME'])}")
        return _validate(cls, {**values, "env": env}, "Config key")


def _env_name(key: str) -> str:
    name = key[len("env.") :]
    if not name or "=" in name or "\0" in name:
        raise InvalidRequest(f"Config key '{key}' names no environment variable: write env.NAME=value.")
    return name


def _env_value(key: str, value: object) -> str:
    text = str(value)
    if "\0" in text:
        raise InvalidRequest(f"Config key '{key}' must not have a NUL character in its value.")
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
}


def _reason(error: Any) -> str:
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
