"""This package's errors, as MLflow and its command line want them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from click import ClickException
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode

from mlflow_restaurant.errors import RestaurantError

__all__ = ["DeploymentError", "as_mlflow"]

P = ParamSpec("P")
R = TypeVar("R")


class DeploymentError(MlflowException, ClickException):  # type: ignore[misc]
    """An ``MlflowException`` that ``mlflow deployments`` shows as one line instead of a traceback."""

    def __init__(self, message: str, error_code: str = "INTERNAL_ERROR") -> None:
        MlflowException.__init__(self, message, error_code=ErrorCode.Value(error_code))


def as_mlflow(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function raise ``DeploymentError`` in place of this package's errors."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except RestaurantError as e:
            raise DeploymentError(e.message, error_code=e.error_code) from None

    return wrapped
