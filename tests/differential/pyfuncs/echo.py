"""A model that describes what it was given: container, types, shapes, order and every value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


def describe_value(value: object) -> str:
    return f"{type(value).__name__} {value!r}"


def describe_frame(frame: pd.DataFrame) -> dict[str, Any]:
    return {
        "is": "DataFrame",
        "shape": list(frame.shape),
        "index": [describe_value(label) for label in frame.index],
        "columns": [
            {
                "name": describe_value(name),
                "dtype": str(frame.iloc[:, position].dtype),
                "values": [describe(value) for value in frame.iloc[:, position]],
            }
            for position, name in enumerate(frame.columns)
        ],
    }


def describe(value: object) -> Any:
    if isinstance(value, pd.DataFrame):
        return describe_frame(value)
    if isinstance(value, np.ndarray):
        return {
            "is": "ndarray",
            "dtype": str(value.dtype),
            "shape": list(value.shape),
            "values": repr(value.tolist()),
        }
    if isinstance(value, dict):
        return {"is": "dict", "items": [[describe_value(key), describe(item)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"is": type(value).__name__, "items": [describe(item) for item in value]}
    return describe_value(value)


class Echo(PythonModel):  # type: ignore[misc]
    # Without annotations: MLflow takes a hint of the input as a signature, and warns about one it cannot use.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        return {"input": describe(model_input), "params": describe(params)}


set_model(Echo())
