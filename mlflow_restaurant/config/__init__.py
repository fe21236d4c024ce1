"""Settings of the server, of a deployment, of a change: each key's type, default, bounds and meaning have their home here.

Help texts and documentation are generated from these classes.
"""

from mlflow_restaurant.config.change import ChangeOptions
from mlflow_restaurant.config.checks import config_table
from mlflow_restaurant.config.deployment import (
    MAX_REPLICAS,
    MAX_THREADS,
    DeploymentConfig,
    parse_change,
    parse_options,
)
from mlflow_restaurant.config.endpoint import ENDPOINT_TABLE
from mlflow_restaurant.config.server import CONFIG_FILE, ENV_PREFIX, HOME_VARIABLE, ServerSettings

__all__ = [
    "CONFIG_FILE",
    "ENDPOINT_TABLE",
    "ENV_PREFIX",
    "HOME_VARIABLE",
    "MAX_REPLICAS",
    "MAX_THREADS",
    "ChangeOptions",
    "DeploymentConfig",
    "ServerSettings",
    "config_table",
    "parse_change",
    "parse_options",
]
