"""How rows are written into a request, and predictions read from an answer, by each server's protocol."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

TOLERANCE = 1e-9
"""Relative difference of two predictions that are the same."""

V2_TYPES = {"f": "FP64", "i": "INT64", "b": "BOOL"}


class Unsupported(ValueError):
    """The protocol can't carry these rows."""


def _cells(rows: pd.DataFrame) -> list[list[Any]]:
    cells: list[list[Any]] = rows.astype(object).where(rows.notna(), None).to_numpy().tolist()
    return cells


def _dump(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode()


def write_split(rows: pd.DataFrame) -> bytes:
    """MLflow's scoring protocol, in the form `dataframe_split`."""
    return _dump({"dataframe_split": {"columns": list(rows), "data": _cells(rows)}})


def write_rows(rows: pd.DataFrame) -> bytes:
    """One named argument that holds a list of rows."""
    return _dump({"rows": _cells(rows)})


def write_v2(rows: pd.DataFrame) -> bytes:
    """The Open Inference Protocol (V2): one tensor a column.

    Raises:
        Unsupported: values are missing; a tensor has no place for that.
    """
    if rows.isna().to_numpy().any():
        raise Unsupported("V2 tensors have no missing values")
    inputs = []
    for name in rows:
        values = rows[name].tolist()
        datatype = V2_TYPES.get(rows[name].dtype.kind, "BYTES")
        tensor = {"name": name, "shape": [len(rows), 1], "datatype": datatype, "data": values}
        if datatype == "BYTES":
            tensor["parameters"] = {"content_type": "str"}
        inputs.append(tensor)
    return _dump({"parameters": {"content_type": "pd"}, "inputs": inputs})


def read_mlflow(answer: bytes) -> list[Any]:
    predictions: list[Any] = json.loads(answer)["predictions"]
    return predictions


def read_v2(answer: bytes) -> list[Any]:
    data: list[Any] = json.loads(answer)["outputs"][0]["data"]
    return data


def read_list(answer: bytes) -> list[Any]:
    predictions: list[Any] = json.loads(answer)
    return predictions


WRITERS: dict[str, Callable[[pd.DataFrame], bytes]] = {
    "mlflow": write_split,
    "v2": write_v2,
    "rows": write_rows,
}
READERS: dict[str, Callable[[bytes], list[Any]]] = {
    "mlflow": read_mlflow,
    "v2": read_v2,
    "rows": read_list,
}


def same(expected: Sequence[Any], got: Sequence[Any]) -> bool:
    """Tell whether two lists of predictions are the same, numbers within a relative 1e-9."""
    return len(expected) == len(got) and all(_same(e, g) for e, g in zip(expected, got, strict=True))


def _same(expected: Any, got: Any) -> bool:
    if isinstance(expected, float) and isinstance(got, (int, float)):
        return math.isclose(expected, got, rel_tol=TOLERANCE)
    return bool(expected == got)
