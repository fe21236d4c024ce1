"""Settings of a server: from a file in its home, or from the environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from mlflow_restaurant.config.checks import Number, validate
from mlflow_restaurant.errors import HomeError, InvalidRequest, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ENV_PREFIX = "MLFLOW_RESTAURANT_"
HOME_VARIABLE = ENV_PREFIX + "HOME"
CONFIG_FILE = "config.toml"


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
    max_bodies_mb: Annotated[float, Number] = Field(
        1024,
        ge=0,
        le=1_000_000_000,
        allow_inf_nan=False,
        description="bodies of requests that each gateway holds at a time, in megabytes; more get 503 with `Retry-After`;"
        " 0: no limit",
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
            return validate(cls, values, "Setting")
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
