"""The servers under test, by name."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from benchmarks.targets.base import Absent, Served, Target

__all__ = ["BASELINE", "OURS", "TARGETS", "Absent", "Served", "Target", "load_target"]

BASELINE = "mlflow"
"""The target that ratios refer to."""

OURS = "restaurant"

_RESTAURANT = "benchmarks.targets.restaurant:Restaurant"
_MLFLOW = "benchmarks.targets.mlflow_serve:MlflowServe"
_MLSERVER = "benchmarks.targets.mlserver:MLServer"

TARGETS: dict[str, tuple[str, dict[str, Any]]] = {
    "restaurant": (_RESTAURANT, {}),
    "restaurant-2r": (_RESTAURANT, {"replicas": 2}),
    "restaurant-2g": (_RESTAURANT, {"gateways": 2}),
    "restaurant-2r2g": (_RESTAURANT, {"replicas": 2, "gateways": 2}),
    "mlflow": (_MLFLOW, {}),
    "mlflow-2w": (_MLFLOW, {"workers": 2}),
    "mlserver": (_MLSERVER, {"body_format": "mlflow"}),
    "mlserver-v2": (_MLSERVER, {"body_format": "v2"}),
    "litserve": ("benchmarks.targets.litserve:LitServe", {}),
    "bentoml": ("benchmarks.targets.bentoml:BentoML", {}),
    "rayserve": ("benchmarks.targets.rayserve:RayServe", {}),
}
"""Name -> class, as ``module:Class``, and its arguments."""


def load_target(name: str) -> Target:
    """Return the target of that name, a key of `TARGETS`."""
    where, arguments = TARGETS[name]
    module, _, attribute = where.partition(":")
    target: Target = getattr(import_module(module), attribute)(**arguments)
    return target
