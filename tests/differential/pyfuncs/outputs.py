"""A model that returns, or raises, what the `kind` of its first row names."""

from __future__ import annotations

import collections
import datetime
import decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pydantic
import scipy.sparse
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos import databricks_pb2
from mlflow.pyfunc import PythonModel

if TYPE_CHECKING:
    from collections.abc import Callable

Point = collections.namedtuple("Point", "x y")


class Item(pydantic.BaseModel):
    name: str
    price: float
    at: datetime.date


class Unknown:
    """JSON cannot hold it; its text has no address, so that two servers can say the same."""

    def __repr__(self) -> str:
        return "Unknown()"


def circular() -> list[Any]:
    items: list[Any] = [1]
    items.append(items)
    return items


def deep(levels: int) -> list[Any]:
    items: list[Any] = []
    for _ in range(levels):
        items = [items]
    return items


MOMENT = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901)

RETURNS: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "true": lambda: True,
    "int": lambda: 42,
    "big_int": lambda: 10**30,
    "float": lambda: 0.1 + 0.2,
    "minus_zero": lambda: -0.0,
    "whole_float": lambda: 1e16,
    "tiny_float": lambda: 5e-324,
    "nan": lambda: float("nan"),
    "infinities": lambda: [float("inf"), float("-inf"), float("nan")],
    "string": lambda: "plain",
    "unicode": lambda: 'é ☃ 😀 \u2028 "quoted" \\ </script> \x00 \x7f',
    "lone_surrogate": lambda: "\ud800",
    "empty_string": lambda: "",
    "bytes": lambda: b"\x00\xff binary",
    "long_bytes": lambda: [b"x" * 100],
    "bytearray": lambda: bytearray(b"abc"),
    "list": lambda: [1, 2.0, "three", None, True],
    "empty_list": list,
    "tuple": lambda: (1, 2),
    "named_tuple": lambda: Point(1, 2),
    "nested": lambda: [[1, [2, [3]]], {"a": {"b": [None]}}],
    "deep": lambda: deep(500),
    "too_deep": lambda: deep(50_000),
    "circular": circular,
    "set": lambda: {1},
    "generator": lambda: (i for i in range(3)),
    "range": lambda: range(3),
    "complex": lambda: 1 + 2j,
    "decimal": lambda: decimal.Decimal("1.10"),
    "unknown": Unknown,
    "unknown_inside": lambda: [1, Unknown()],
    "pydantic": lambda: Item(name="a", price=1, at=MOMENT.date()),
    "pydantics": lambda: [Item(name="a", price=1.5, at=MOMENT.date())],
    "dict": lambda: {"b": 1, "a": [1, 2]},
    "empty_dict": dict,
    "predictions_inside": lambda: {"predictions": [1]},
    "key_types": lambda: {1: "int", None: "none", False: "bool", 1.5: "float"},
    "numpy_key": lambda: {np.int64(1): "numpy"},
    "tuple_key": lambda: {(1, 2): "tuple"},
    "dict_of_arrays": lambda: {"a": np.arange(3), "b": np.array([[1.5, 2.5]])},
    "dict_of_series": lambda: {"a": pd.Series([1, 2])},
    "list_of_frames": lambda: [pd.DataFrame({"a": [1]})],
    "list_of_arrays": lambda: [np.array([1, 2]), np.array([3.0])],
    "datetime": lambda: MOMENT,
    "aware_datetime": lambda: MOMENT.replace(tzinfo=datetime.timezone.utc),
    "date_and_time": lambda: [MOMENT.date(), MOMENT.time()],
    "timedelta": lambda: datetime.timedelta(seconds=1),
    "timestamp": lambda: pd.Timestamp("2026-01-02 03:04:05.123456789"),
    "nat": lambda: pd.NaT,
    "pandas_na": lambda: pd.NA,
    "numpy_bool": lambda: np.bool_(True),
    "numpy_int": lambda: np.int32(7),
    "numpy_float32": lambda: np.float32(0.1),
    "numpy_float16": lambda: [np.float16(0.1)],
    "numpy_string": lambda: np.str_("text"),
    "numpy_bytes": lambda: np.bytes_(b"abc"),
    "numpy_datetime": lambda: np.datetime64("2026-01-02T03:04:05"),
    "numpy_nanoseconds": lambda: np.datetime64("2026-01-02T03:04:05.123456789"),
    "numpy_timedelta": lambda: np.timedelta64(5, "s"),
    "numpy_complex": lambda: np.array([1j]),
    "array_0d": lambda: np.array(3),
    "array_int": lambda: np.arange(4),
    "array_float": lambda: np.array([0.1, 1.0, 1e300]),
    "array_float32": lambda: np.array([0.1, 1.0], dtype=np.float32),
    "array_nan": lambda: np.array([np.nan, np.inf, -np.inf]),
    "array_bool": lambda: np.array([True, False]),
    "array_string": lambda: np.array(["a", "bc"]),
    "array_bytes": lambda: np.array([b"a", b"bc"]),
    "array_object": lambda: np.array([1, "a", None, 2.5], dtype=object),
    "array_object_bytes": lambda: {"a": np.array([b"a", "b", np.int64(3)], dtype=object)},
    "array_datetime": lambda: np.array(["2026-01-02", "NaT"], dtype="datetime64[s]"),
    "array_uint64": lambda: np.array([2**64 - 1], dtype=np.uint64),
    "array_2d": lambda: np.arange(6).reshape(2, 3),
    "array_3d": lambda: np.zeros((2, 1, 2)),
    "array_empty": lambda: np.array([]),
    "array_structured": lambda: np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    "array_masked": lambda: np.ma.masked_array([1, 2], mask=[False, True]),
    "matrix": lambda: np.matrix([[1, 2]]),
    "sparse": lambda: scipy.sparse.csr_matrix(np.eye(2)),
    "series": lambda: pd.Series([1.5, 2.5]),
    "series_named": lambda: pd.Series(["a", None], name="label"),
    "series_index": lambda: pd.Series([1, 2], index=["x", "y"]),
    "index": lambda: pd.Index([1, 2]),
    "frame": lambda: pd.DataFrame({"a": [1, 2], "b": [0.5, None], "c": ["x", None]}),
    "frame_types": lambda: pd.DataFrame(
        {
            "bool": [True],
            "int8": np.array([1], dtype=np.int8),
            "float32": np.array([0.1], dtype=np.float32),
            "bytes": [b"abc"],
            "date": [MOMENT.date()],
            "object": [{"a": [1]}],
        }
    ),
    "frame_datetime": lambda: pd.DataFrame({"at": [pd.Timestamp(MOMENT), pd.NaT]}),
    "frame_aware": lambda: pd.DataFrame({"at": [pd.Timestamp(MOMENT, tz="UTC")]}),
    "frame_timedelta": lambda: pd.DataFrame({"for": [pd.Timedelta(seconds=1)]}),
    "frame_period": lambda: pd.DataFrame({"in": pd.period_range("2026-01", periods=1, freq="M")}),
    "frame_category": lambda: pd.DataFrame({"a": pd.Categorical(["x", "y"])}),
    "frame_nullable": lambda: pd.DataFrame({"a": pd.array([1, 2], dtype="Int64")}),
    "frame_na": lambda: pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}),
    "frame_index": lambda: pd.DataFrame({"a": [1, 2]}, index=[5, 6]),
    "frame_int_columns": lambda: pd.DataFrame([[1, 2]]),
    "frame_multi_columns": lambda: pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])),
    "frame_no_rows": lambda: pd.DataFrame({"a": []}),
    "frame_no_columns": lambda: pd.DataFrame(index=[0, 1]),
    "frame_unknown": lambda: pd.DataFrame({"a": [Unknown()]}),
}

RAISES: dict[str, Callable[[], BaseException]] = {
    "raise_value_error": lambda: ValueError("a bad value"),
    "raise_key_error": lambda: KeyError("a"),
    "raise_unicode": lambda: RuntimeError("é ☃"),
    "raise_assertion": AssertionError,
    "raise_stop_iteration": StopIteration,
    "raise_recursion": RecursionError,
    "raise_memory": MemoryError,
    "raise_timeout": TimeoutError,
    "raise_mlflow": lambda: MlflowException("an internal error"),
    "raise_mlflow_invalid": lambda: MlflowException.invalid_parameter_value("an invalid value"),
    "raise_mlflow_bad_request": lambda: MlflowException("bad", error_code=databricks_pb2.BAD_REQUEST),
    "raise_mlflow_missing": lambda: MlflowException(
        "no such", error_code=databricks_pb2.RESOURCE_DOES_NOT_EXIST
    ),
    "raise_mlflow_denied": lambda: MlflowException("denied", error_code=databricks_pb2.PERMISSION_DENIED),
    "raise_mlflow_unavailable": lambda: MlflowException(
        "later", error_code=databricks_pb2.TEMPORARILY_UNAVAILABLE
    ),
    "raise_mlflow_limit": lambda: MlflowException(
        "too many", error_code=databricks_pb2.REQUEST_LIMIT_EXCEEDED
    ),
    "raise_mlflow_unimplemented": lambda: MlflowException("not", error_code=databricks_pb2.NOT_IMPLEMENTED),
    "raise_mlflow_cancelled": lambda: MlflowException("cancelled", error_code=databricks_pb2.CANCELLED),
    "raise_mlflow_more": lambda: MlflowException("more", hint="try again", count=3),
    "raise_mlflow_unserialisable": lambda: MlflowException("more", hint=Unknown()),
    "raise_mlflow_unicode": lambda: MlflowException("é ☃ 😀"),
    "raise_mlflow_schema": lambda: MlflowException("Failed to enforce schema, says the model"),
}

KINDS = [*RETURNS, *RAISES]


class Outputs(PythonModel):  # type: ignore[misc]
    # Without annotations: MLflow takes a hint of the input as a signature, and warns about one it cannot use.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        kind = model_input["kind"].iloc[0] if isinstance(model_input, pd.DataFrame) else model_input["kind"]
        if kind in RAISES:
            raise RAISES[kind]()
        return RETURNS[kind]()


set_model(Outputs())
