"""The shortcuts give what MLflow's own scoring functions give, and leave to those what they do not cover."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import FLAVOR_NAME, MAIN, PyFuncModel, scoring_server
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

from mlflow_restaurant.replica import fast, inputs, trial

SCHEMAS: dict[str, dict[str, DataType]] = {
    "doubles": trial.FLOATS,
    "one double": {"only": DataType.double},
    "mixed": trial.MIXED,
    "floats": {"a": DataType.float, "b": DataType.float},
    "strings": {"a": DataType.string, "b": DataType.string},
}
PARAMS = ParamSchema([ParamSpec("count", DataType.long, 3), ParamSpec("word", DataType.string, "x")])

pytestmark = [
    # numpy's word on numbers too large for the type of a column; MLflow's way meets them too.
    pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Could not infer format:UserWarning"),
]


def assert_same(model: Any, recorder: trial.Recorder, body: bytes) -> None:
    by_mlflow, by_shortcut = trial.by_both(model, recorder, body)
    assert trial.same(by_mlflow, by_shortcut), (body, by_mlflow, by_shortcut)


def split(types: dict[str, DataType], *rows: list[Any]) -> dict[str, Any]:
    return {"dataframe_split": {"columns": list(types), "data": list(rows)}}


# -- random requests -------------------------------------------------------------------------------------------------

integers = st.integers() | st.sampled_from(
    [2**31, -(2**31) - 1, 2**53, 2**53 + 1, 2**63, -(2**63), 2**64, 10**400]
)
floats = st.floats(width=64) | st.floats(width=32)
texts = st.text(max_size=3) | st.sampled_from(["1", "1.5", "nan", "true", "2026-01-02"])
scalars = st.none() | st.booleans() | integers | floats | texts
values = scalars | st.lists(integers, max_size=2) | st.dictionaries(texts, floats, max_size=1)
FITTING: dict[DataType, Any] = {
    DataType.double: floats | st.integers(-9, 9) | st.none(),
    DataType.float: floats | st.integers(-9, 9) | st.none(),
    DataType.long: st.integers(-(2**63), 2**63 - 1),
    DataType.integer: st.integers(-(2**31), 2**31 - 1),
    DataType.boolean: st.booleans(),
    DataType.string: texts | st.none(),
}


@st.composite
def rows_of(draw: st.DrawFn, types: dict[str, DataType]) -> list[list[Any]]:
    """Rows that mostly fit the types, with strangers among their values."""
    fitting = [FITTING[kind] for kind in types.values()]
    rows: list[list[Any]] = draw(st.lists(st.tuples(*fitting).map(list), max_size=4))
    for row in rows:
        if draw(st.integers(0, 5)) == 0:
            row[draw(st.integers(0, len(row) - 1))] = draw(values)
        if draw(st.integers(0, 15)) == 0:
            row.pop()
    return rows


@st.composite
def documents(draw: st.DrawFn, types: dict[str, DataType]) -> Any:
    names = draw(st.permutations(list(types)))
    rows = draw(rows_of({name: types[name] for name in names}))
    spoilt = st.integers(0, 7).map(lambda n: n == 0)
    if draw(spoilt):
        names = draw(st.lists(st.one_of(st.sampled_from([*types, "extra"]), values), max_size=len(types) + 1))
    records = [{str(n): v for n, v in zip(names, row, strict=False)} for row in rows]
    columns = {str(n): [row[i] for row in rows if i < len(row)] for i, n in enumerate(names)}
    table: dict[str, Any] = {"columns": names, "data": rows}
    if draw(spoilt):
        table["index"] = list(range(1, len(rows) + 1))
    form = draw(st.sampled_from(sorted(inputs.FORMATS)))
    content = draw(st.sampled_from([table] if form == "dataframe_split" else [records, columns, rows]))
    document = {form: content}
    if draw(spoilt):
        known = st.sampled_from(["count", "word", "other", "messages"])
        document["params"] = draw(st.dictionaries(known, scalars, max_size=2) | scalars)
    if draw(spoilt):
        document[draw(st.sampled_from(["inputs", "extra", "messages"]))] = draw(values)
    return document


@pytest.mark.parametrize("params", [None, PARAMS], ids=["no params", "params"])
@pytest.mark.parametrize("types", SCHEMAS.values(), ids=SCHEMAS)
def test_random_requests_get_mlflows_answer(types: dict[str, DataType], params: ParamSchema | None) -> None:
    model, recorder = trial.recorded(types, params)

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(documents(types))
    def check(document: Any) -> None:
        assert_same(model, recorder, json.dumps(document).encode())

    check()


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "uint8", "bool", "str"])
def test_random_tensors_get_mlflows_answer(dtype: str) -> None:
    model, recorder = trial.recorded(TensorSpec(np.dtype(dtype), (-1, 2)), PARAMS)
    row = st.lists(st.integers(-9, 300) | scalars, min_size=2, max_size=2)
    form = st.sampled_from(["inputs", "instances", "dataframe_split"])

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(form, st.lists(row, max_size=3) | values, st.none() | st.just({"count": 4}) | scalars)
    def check(form: str, content: Any, params: Any) -> None:
        assert_same(model, recorder, json.dumps({form: content, "params": params}).encode())

    check()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.binary(max_size=40)
    | st.recursive(values, lambda v: st.lists(v, max_size=3)).map(lambda v: json.dumps(v).encode())
)
def test_anything_else_gets_mlflows_answer(body: bytes) -> None:
    assert_same(*trial.recorded(trial.FLOATS), body)


rows_of_json = st.lists(scalars, max_size=5) | st.lists(
    st.dictionaries(texts, scalars, max_size=2), max_size=3
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    rows_of_json
    | st.lists(values, max_size=3)
    | st.lists(floats, max_size=5).map(np.array)
    | st.lists(texts, min_size=1, max_size=5).map(np.array)
    | st.lists(st.lists(floats, min_size=2, max_size=2), min_size=1, max_size=3).map(lambda v: np.array(v).T)
    | st.lists(values, max_size=3).map(lambda v: np.array([*v, None], dtype=object))
    | st.lists(floats, max_size=3).map(lambda v: pd.DataFrame({"x": v, 1: v}))
    | st.lists(texts, max_size=3).map(lambda v: pd.Series(v, dtype=object))
)
def test_random_predictions_are_written_as_mlflow_writes_them(prediction: Any) -> None:
    model, recorder = trial.recorded({"a": DataType.double})
    recorder.prediction = prediction
    assert_same(model, recorder, b'{"dataframe_split": {"columns": ["a"], "data": [[1.5]]}}')


@pytest.mark.parametrize(
    "prediction",
    [
        np.array([0.1], dtype=np.longdouble),
        np.array([1 + 2j]),
        np.array(["2026-01-02"], dtype="datetime64[s]"),
        np.array(1.5),
        np.array([b"abc"]),
        pd.DataFrame({"at": pd.to_datetime(["2026-01-02"])}),
        [np.float32(0.1)],
        {"a": np.array([1])},
        (1, 2),
        {1, 2},
        float("nan"),
        "\ud800",
        None,
    ],
    ids=repr,
)
def test_odd_predictions_are_written_or_refused_as_by_mlflow(prediction: Any) -> None:
    model, recorder = trial.recorded({"a": DataType.double})
    recorder.prediction = prediction
    assert_same(model, recorder, b'{"dataframe_split": {"columns": ["a"], "data": [[1.5]]}}')


# -- when shortcuts are taken ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("types", "request_"), trial.probes(), ids=lambda v: str(v)[:50])
def test_what_a_shortcut_is_for_takes_it(
    types: trial.Inputs, request_: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, recorder = trial.recorded(types)
    shortcuts = fast.shortcuts(model)
    assert shortcuts is not None
    monkeypatch.setattr(scoring_server, "invocations", None)

    assert shortcuts.score(json.dumps(request_).encode()).response == '{"predictions": [1.5]}'
    assert len(recorder.calls) == 1


@pytest.mark.parametrize(
    "error", [ValueError("no"), MlflowException("Failed to enforce schema"), KeyError("k")]
)
def test_a_failing_model_is_called_once_and_its_error_worded_by_mlflow(error: Exception) -> None:
    model, recorder = trial.recorded(trial.FLOATS)
    recorder.prediction = error
    by_mlflow, by_shortcut = trial.by_both(
        model, recorder, json.dumps(split(trial.FLOATS, [1.0, 2.0, 3.0])).encode()
    )

    assert trial.same(by_mlflow, by_shortcut)
    assert len(by_shortcut[1]) == 1


def pyfunc_with(signature: ModelSignature | None, **meta: Any) -> Any:
    model = Model(signature=signature, flavors={FLAVOR_NAME: {MAIN: "none"}}, **meta)
    return PyFuncModel(model_meta=model, model_impl=trial.Recorder())


DOUBLES = ModelSignature(inputs=Schema([ColSpec(DataType.double, "a")]))


@pytest.mark.parametrize(
    "signature",
    [
        None,
        ModelSignature(inputs=Schema([ColSpec(DataType.double), ColSpec(DataType.double)])),
        ModelSignature(inputs=Schema([TensorSpec(np.dtype("float64"), (-1, 4), "named")])),
        ModelSignature(inputs=Schema([ColSpec(DataType.datetime, "a")])),
        ModelSignature(inputs=Schema([ColSpec(DataType.binary, "a"), ColSpec(DataType.double, "b")])),
    ],
    ids=["none", "unnamed", "named tensor", "datetime", "binary"],
)
def test_other_signatures_have_none(signature: ModelSignature | None) -> None:
    assert fast.shortcuts(pyfunc_with(signature)) is None


def test_a_model_with_schemas_of_dependencies_has_none() -> None:
    assert fast.shortcuts(pyfunc_with(DOUBLES)) is not None
    assert fast.shortcuts(pyfunc_with(DOUBLES, metadata={"dependencies_schemas": {}})) is None


def test_a_model_of_another_class_has_none() -> None:
    class Other(PyFuncModel):  # type: ignore[misc]
        pass

    model = pyfunc_with(DOUBLES)
    assert fast.shortcuts(Other(model_meta=model.metadata, model_impl=trial.Recorder())) is None


# -- an MLflow that has changed --------------------------------------------------------------------------------------


def test_the_installed_mlflow_is_known() -> None:
    assert trial.knows_mlflow()


def test_an_mlflow_that_writes_otherwise_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    original = scoring_server.predictions_to_json

    def other(raw: Any, output: Any, metadata: Any = None) -> Any:
        original(raw, output, {"more": 1})

    monkeypatch.setattr(scoring_server, "predictions_to_json", other)
    assert not trial.all_the_same()


def test_an_mlflow_that_makes_other_tables_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    original = scoring_server.infer_and_parse_data

    def other(*args: Any, **kwargs: Any) -> Any:
        data = original(*args, **kwargs)
        return data.set_index(data.index + 1) if isinstance(data, pd.DataFrame) else data

    monkeypatch.setattr(scoring_server, "infer_and_parse_data", other)
    assert not trial.all_the_same()


def test_an_mlflow_without_what_is_used_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(scoring_server, "invocations")
    trial.knows_mlflow.cache_clear()
    try:
        assert fast.shortcuts(pyfunc_with(DOUBLES)) is None
    finally:
        trial.knows_mlflow.cache_clear()
