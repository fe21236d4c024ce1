"""Put MLflow models into service on your own machine.

Importing this package starts nothing and imports neither MLflow nor server code: the names below are loaded on first
use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlflow_restaurant._version import __version__

if TYPE_CHECKING:
    from mlflow_restaurant.bundle import Bundle, BundleError, StepError
    from mlflow_restaurant.flavor import load_model, log_model, save_model

__all__ = [
    "Bundle",
    "BundleError",
    "StepError",
    "__version__",
    "load_model",
    "log_model",
    "save_model",
]

_HOMES = {
    "Bundle": "bundle",
    "BundleError": "bundle",
    "StepError": "bundle",
    "load_model": "flavor",
    "log_model": "flavor",
    "save_model": "flavor",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
