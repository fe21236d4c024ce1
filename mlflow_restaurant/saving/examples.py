"""The input example of a bundle, with the columns that callers can send."""

from __future__ import annotations

from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

__all__ = ["as_callers_send", "columns_made_plain"]


def columns_made_plain(example: Any) -> list[Any]:
    """Columns of an example that `as_callers_send` changes."""
    data = example[0] if isinstance(example, tuple) else example
    if not isinstance(data, pd.DataFrame):
        return []
    return [name for name, dtype in zip(data.columns, data.dtypes, strict=True) if _is_extension(dtype)]


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
    return example.apply(lambda column: _plain_column(column) if _is_extension(column.dtype) else column)


def _is_extension(dtype: Any) -> bool:
    """Whether pandas alone has the type: dates with time zones are MLflow's business."""
    return isinstance(dtype, pd.api.extensions.ExtensionDtype) and not isinstance(dtype, pd.DatetimeTZDtype)


def _plain_column(column: pd.Series) -> pd.Series:
    missing = column.isna()
    if (
        pd.api.types.is_numeric_dtype(column.dtype)
        and not pd.api.types.is_bool_dtype(column.dtype)
        and missing.any()
    ):
        return column.astype("float64")
    return column.astype(object).mask(missing, None).infer_objects()
