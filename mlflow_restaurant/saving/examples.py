"""The input example of a bundle and its reference data, with the columns that callers can send."""

from __future__ import annotations

from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models.utils import _enforce_schema
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.types import Schema

from mlflow_restaurant.bundle import BundleError

__all__ = ["as_callers_send", "check_reference", "columns_made_plain"]


def columns_made_plain(example: Any) -> list[Any]:
    """Columns of an example that `as_callers_send` changes."""
    data = example[0] if isinstance(example, tuple) else example
    if not isinstance(data, pd.DataFrame):
        return []
    return [name for name, column in data.items() if _plain(column).dtype != column.dtype]


def as_callers_send(example: Any) -> Any:
    """An example whose columns are as JSON makes them: neither it nor a signature has categories, or integers that
    may be missing.

    Raises:
        MlflowException: it is a Series.
    """
    if isinstance(example, pd.Series):
        raise MlflowException(
            "input_example is a Series, and callers send tables: give its to_frame(), or a DataFrame of a few rows.",
            INVALID_PARAMETER_VALUE,
        )
    if isinstance(example, tuple):
        return tuple(map(as_callers_send, example))
    if not columns_made_plain(example):
        return example
    return example.apply(_plain)


def check_reference(data: Any, signature: Any) -> None:
    """Refuse reference data whose values callers could not send.

    Args:
        data: the reference data.
        signature: ``ModelSignature`` of the model, or None.

    Raises:
        BundleError: a column has another type than in the signature; missing values are those of any type.
    """
    inputs = getattr(signature, "inputs", None)
    if inputs is None or not isinstance(data, (pd.DataFrame, pd.Series)) or not inputs.has_input_names():
        return
    table = data.to_frame() if isinstance(data, pd.Series) else data
    for spec in inputs:
        if spec.name in table.columns and len(values := _present(table[spec.name], spec)):
            _check_column(values, spec)


def _present(column: Any, spec: Any) -> pd.DataFrame:
    """The values of a column that are not missing; numbers with the type that a signature gives them out of JSON."""
    values = as_callers_send(column.to_frame()).iloc[:, 0].dropna().infer_objects()
    wanted = spec.type.to_numpy() if hasattr(spec.type, "to_numpy") else values.dtype
    if values.dtype.kind in "iuf" and (
        wanted.kind == "f" or (wanted.kind == "i" and (values % 1 == 0).all())
    ):
        values = values.astype(wanted)
    return values.to_frame()


def _check_column(values: pd.DataFrame, spec: Any) -> None:
    try:
        _enforce_schema(values, Schema([spec]))
    except Exception as error:
        text = str(getattr(error, "message", error)).rstrip(".")
        raise BundleError(
            f"reference_data does not fit the signature in column {spec.name!r}: {text}. Give raw input, as callers send "
            "it."
        ) from error


def _is_extension(dtype: Any) -> bool:
    """Whether pandas alone has the type: dates with time zones are MLflow's business."""
    return isinstance(dtype, pd.api.extensions.ExtensionDtype) and not isinstance(dtype, pd.DatetimeTZDtype)


def _plain(column: pd.Series) -> pd.Series:
    if not _is_extension(column.dtype):
        return column
    missing = column.isna()
    if (
        pd.api.types.is_numeric_dtype(column.dtype)
        and not pd.api.types.is_bool_dtype(column.dtype)
        and missing.any()
    ):
        return column.astype("float64")
    return column.astype(object).mask(missing, None).infer_objects()
