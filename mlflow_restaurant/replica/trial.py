"""Tries the shortcuts of `fast` beside the functions of the installed MLflow, once, before any model is served."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import FLAVOR_NAME, MAIN, PyFuncModel
from mlflow.pyfunc.context import get_prediction_context
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

from mlflow_restaurant.replica import fast, inputs

MODEL_ID = "m-0"
FLOATS = {"a": DataType.double, "b": DataType.double, "c": DataType.double}
MIXED = {kind.name: kind for kind in inputs.COLUMNS}
TENSOR = TensorSpec(np.dtype("float64"), (-1, 2))
Inputs: TypeAlias = Mapping[str, DataType] | TensorSpec
ROWS: list[list[Any]] = [[0.1, 2, None], [-1e10, -0.0, 3], [5, float("nan"), 7.25]]
FLOAT_ROWS: list[list[Any]] = [[1e300, 5e-324, float("inf")]] * 2
MIXED_ROWS: list[list[Any]] = [[0.1, 2, 3, 4, True, "x"], [None, 0.1, -(2**63), -(2**31), False, None]]
PREDICTIONS: tuple[Any, ...] = (
    np.array([0.1 + 0.2, np.nan, np.inf, -0.0, 1e16, 5e-324]),
    np.array([0.1], dtype=np.float32),
    np.array([[1, -2], [3, 4]]),
    np.array([True, False]),
    np.array(["größer", 'a"b\\c']),
    np.array(["größer", None], dtype=object),
    pd.DataFrame({"x": [1.5, np.nan], "y": ["a", None]}),
    pd.Series([1, 2], name="z"),
    [1, 2.5, "three", None, True],
)


class Recorder:
    """A model that remembers what it was called with."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.prediction: Any = np.array([1.5])

    def predict(self, data: Any, params: Any = None) -> Any:
        self.calls.append((data, params, vars(get_prediction_context())))
        if isinstance(self.prediction, Exception):
            raise self.prediction
        return self.prediction


def recorded(types: Inputs, params: ParamSchema | None = None) -> tuple[Any, Recorder]:
    """Return a model with this signature that records its calls."""
    specs = [types] if isinstance(types, TensorSpec) else [ColSpec(t, name) for name, t in types.items()]
    schema = Schema(specs)
    flavors = {FLAVOR_NAME: {MAIN: __name__}}
    meta = Model(signature=ModelSignature(inputs=schema, params=params), flavors=flavors, model_id=MODEL_ID)
    recorder = Recorder()
    return PyFuncModel(model_meta=meta, model_impl=recorder, model_id=MODEL_ID), recorder


def by_both(model: Any, recorder: Recorder, body: bytes) -> tuple[Any, Any]:
    """Return MLflow's outcome and the shortcuts', each with the call of the model that it made."""
    short = fast.Shortcuts(model)
    outcomes: list[Any] = []
    for score in (short._by_mlflow, short.score):
        recorder.calls.clear()
        try:
            answer: Any = tuple(score(body))
        except Exception as e:
            answer = (type(e), str(e), getattr(e, "error_code", None))
        outcomes.append((answer, list(recorder.calls)))
    return outcomes[0], outcomes[1]


def same_call(one: Any, other: Any) -> bool:
    """Tell whether a model can't tell two calls apart: the table to the last bit, parameters, context."""
    (data, *rest), (other_data, *other_rest) = one, other
    if rest != other_rest or type(data) is not type(other_data):
        return False
    if type(data) is np.ndarray:
        return same_array(data, other_data)
    try:
        pd.testing.assert_frame_equal(data, other_data, check_exact=True, check_index_type="exact")
    except AssertionError:
        return False
    return type(data.index) is type(other_data.index) and same_array(data.to_numpy(), other_data.to_numpy())


def same_array(one: Any, other: Any) -> bool:
    """Tell whether two arrays are the same to the last bit, and lie in memory alike."""
    if (one.dtype, one.shape, one.strides) != (other.dtype, other.shape, other.strides):
        return False
    return bool(
        one.dtype.kind == "O" or one.tobytes() == other.tobytes()
    )  # a table of objects was compared before


def same(by_mlflow: Any, by_shortcut: Any) -> bool:
    """Tell whether two outcomes of `by_both` are the same."""
    (answer, calls), (other, other_calls) = by_mlflow, by_shortcut
    return bool(
        answer == other
        and len(calls) == len(other_calls)
        and all(same_call(*pair) for pair in zip(calls, other_calls, strict=True))
    )


def probes() -> list[tuple[Inputs, Any]]:
    """Return a request for every kind of column and format that has a shortcut."""
    names = list(FLOATS)
    mixed = list(MIXED)
    records = [dict(zip(names, row, strict=True)) for row in ROWS]
    return [
        (FLOATS, {inputs.SPLIT: {"columns": names, "data": ROWS}}),
        (FLOATS, {inputs.SPLIT: {"columns": names[::-1], "data": ROWS[:1]}}),
        (FLOATS, {inputs.SPLIT: {"columns": names, "data": FLOAT_ROWS}}),
        (FLOATS, {inputs.SPLIT: {"columns": names, "data": [[None] * len(names)]}}),
        (FLOATS, {inputs.RECORDS: records}),
        (FLOATS, {inputs.INPUTS: records}),
        (FLOATS, {inputs.INSTANCES: records}),
        (FLOATS, {inputs.INPUTS: {name: [record[name] for record in records] for name in names}}),
        (FLOATS, {inputs.INSTANCES: {name: [0.5, 1.5] for name in names}}),
        (TENSOR, {inputs.INPUTS: [[1, 2.5], [None, -0.0]]}),
        (TENSOR, {inputs.INSTANCES: [[1, 2.5]]}),
        (MIXED, {inputs.SPLIT: {"columns": mixed, "data": MIXED_ROWS}}),
        (MIXED, {inputs.RECORDS: [dict(zip(mixed, row, strict=True)) for row in MIXED_ROWS]}),
    ]


def all_the_same() -> bool:
    """Score all probes both ways, let a model answer with all kinds of predictions, and fail."""
    for types, request in probes():
        if not same(*by_both(*recorded(types), json.dumps(request).encode())):
            return False
    model, recorder = recorded(FLOATS, ParamSchema([ParamSpec("p", DataType.long, 3)]))
    body: Any = {inputs.SPLIT: {"columns": list(FLOATS), "data": ROWS}, fast.PARAMS: {"p": 4}}
    for prediction in (*PREDICTIONS, ValueError("no")):
        recorder.prediction = prediction
        if not same(*by_both(model, recorder, json.dumps(body).encode())):
            return False
    return True


@functools.cache
def knows_mlflow() -> bool:
    """Tell whether the installed MLflow does what the shortcuts take it to do.

    The fork server calls it before it forks, so that no replica has to.
    """
    try:
        return all_the_same()
    except Exception:  # a name or an argument that this MLflow doesn't have
        return False
