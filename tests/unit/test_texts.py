"""Requests in whose texts different values are missing are put together only where each gets what it gets alone."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import FLAVOR_NAME, MAIN, PyFuncModel
from mlflow.types import ColSpec, DataType, Schema
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import all_estimators

from mlflow_restaurant.bundle import Bundle
from mlflow_restaurant.bundle.loader import BundleModel
from mlflow_restaurant.entities import BatchRoute
from mlflow_restaurant.gateway import scoring
from mlflow_restaurant.process.merging import APART, NEVER
from mlflow_restaurant.replica import fast, inputs, serving, texts
from mlflow_restaurant.replica.model_guard import Guard

TYPES = {"x": DataType.double, "s": DataType.string, "ok": DataType.boolean, "t": DataType.string}
DRAWN = np.random.default_rng(3)
WORDS = ["red", "green", "blue sky", ""]
FRAME = pd.DataFrame(
    {
        "x": DRAWN.normal(size=80),
        "s": [(*WORDS, None)[i] for i in DRAWN.integers(5, size=80)],
        "ok": DRAWN.random(80) > 0.5,
        "t": [(*WORDS, None)[i] for i in DRAWN.integers(5, size=80)],
    }
)
LABELS = (FRAME["x"] > 0) ^ (FRAME["s"] == "red") ^ FRAME["t"].isna()


def pyfunc(model: Any, types: dict[str, DataType]) -> PyFuncModel:
    schema = Schema([ColSpec(kind, name, required=False) for name, kind in types.items()])
    flavors: dict[str, Any] = {FLAVOR_NAME: {MAIN: "mlflow.sklearn"}}
    if isinstance(model, Bundle):
        flavors["restaurant"] = {}
        implementation: Any = BundleModel(model)
    else:
        implementation = mlflow.sklearn._SklearnModelWrapper(model)
    meta = Model(signature=ModelSignature(inputs=schema), flavors=flavors)
    return PyFuncModel(model_meta=meta, model_impl=implementation)


def shortcuts(estimator: Any, types: dict[str, DataType] = TYPES) -> fast.Shortcuts:
    found = fast.shortcuts(pyfunc(estimator, types))
    assert found is not None
    return found


def fitted(*steps: tuple[str, Any, Any], frame: pd.DataFrame = FRAME, **options: Any) -> Any:
    tree = DecisionTreeClassifier(random_state=0)
    return make_pipeline(ColumnTransformer(list(steps), **options), tree).fit(frame, LABELS)


def step_of(name: str) -> Any:
    made = dict(all_estimators())[name]()
    options: dict[str, dict[str, Any]] = {
        "OneHotEncoder": {"handle_unknown": "ignore"},
        "OrdinalEncoder": {"handle_unknown": "use_encoded_value", "unknown_value": -1},
        "SimpleImputer": {"strategy": "most_frequent"},
    }
    made.set_params(**options.get(name, {}))
    return (
        make_pipeline(made, OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1))
        if name == "SimpleImputer"
        else made
    )


def says(codes: Any) -> list[str]:
    return ["yes" if code else "no" for code in codes]


@cache
def model_with(name: str, bundled: bool = False) -> fast.Shortcuts:
    """A model whose texts are read by a step of that name."""
    numbers = ("x", SimpleImputer(), ["x"])
    whole = fitted(numbers, ("texts", step_of(name), ["s", "t"]), ("ok", "passthrough", ["ok"]))
    (_, columns), (_, tree) = whole.steps
    return shortcuts(Bundle(columns, tree, says) if bundled else whole)


words = st.sampled_from([*WORDS, "other", "é\0"])
rows = st.tuples(st.none() | st.floats(-2, 2), st.none() | words, st.booleans(), st.none() | words)
crowds = st.lists(st.lists(rows.map(list), min_size=1, max_size=3), min_size=2, max_size=6)


def body(content: list[list[Any]], form: str, names: list[str]) -> bytes:
    if form == inputs.SPLIT:
        return json.dumps({form: {"columns": names, "data": content}}).encode()
    return json.dumps({form: [dict(zip(names, row, strict=True)) for row in content]}).encode()


def by_mlflow(short: fast.Shortcuts, request: bytes) -> bytes | None:
    try:
        answer = short._by_mlflow(request)
    except Exception:
        return None
    return answer.response.encode() if answer.status == 200 else None


@pytest.mark.parametrize("bundled", [False, True], ids=["model", "bundle"])
@pytest.mark.parametrize("name", sorted(texts.STEPS))
def test_with_each_step_every_request_gets_what_it_gets_alone(name: str, bundled: bool) -> None:
    short = model_with(name, bundled)
    assert short.tells_requests_apart
    names = list(TYPES)
    served = serving.Scoring(None, short)  # type: ignore[arg-type]
    route = BatchRoute(
        max_rows=99, wait_ms=0, columns={n: kind.name for n, kind in TYPES.items()}, tells_requests_apart=True
    )
    reader = scoring.Reader(route)
    merged = 0

    @settings(max_examples=40, deadline=None, database=None)
    @given(crowds, st.sampled_from([inputs.SPLIT, inputs.RECORDS]), st.permutations(names))
    def check(requests: list[list[list[Any]]], form: str, order: list[str]) -> None:
        nonlocal merged
        bodies = []
        for content in requests:
            ordered = [[row[names.index(column)] for column in order] for row in content]
            bodies.append(body(ordered, form, order))
        alone = [by_mlflow(short, one) for one in bodies]
        for one, answer in zip(bodies, alone, strict=True):
            if answer is not None:
                assert served.answer(one) == (200, answer)
        parts = [reader.parse(one) for one, answer in zip(bodies, alone, strict=True) if answer is not None]
        together = [part for part in parts if part is not None]
        assert len(together) == len(parts)
        if not together:
            return
        assert len({part.kind for part in together}) == 1
        counts = [part.count for part in together]
        status, answer = served.answer(scoring.merge(together), ",".join(map(str, counts)).encode())
        assert status == 200
        assert scoring.split(answer, counts) == [found for found in alone if found is not None]
        merged += len(together) > 1

    check()
    assert merged > 10


def test_a_null_beside_text_of_its_request_is_what_pandas_makes_of_it() -> None:
    column = inputs.text_column((None, "a", "b", None, None, None), (1, 1, 2, 2), inputs.beside_text())
    frame = pd.DataFrame({"s": ["b", None]})

    assert column.dtype == object
    assert [type(value) for value in column] == [
        type(None),
        str,
        str,
        type(frame["s"][1]),
        type(None),
        type(None),
    ]


class Own(OneHotEncoder):  # type: ignore[misc]
    """An encoder of somebody's own."""


NUMBERS = ("x", SimpleImputer(), ["x"])
ENCODER = OneHotEncoder(handle_unknown="ignore")


@pytest.mark.parametrize(
    ("estimator", "types"),
    [
        (fitted(NUMBERS, ("s", Own(handle_unknown="ignore"), ["s", "t"])), TYPES),
        (
            fitted(
                NUMBERS, ("s", ENCODER, ["s"]), ("t", FunctionTransformer(lambda frame: frame.isna()), ["t"])
            ),
            TYPES,
        ),
        (fitted(NUMBERS, *[(name, TfidfVectorizer(), name) for name in "st"], frame=FRAME.fillna("")), TYPES),
        (
            fitted(
                NUMBERS, ("s", OneHotEncoder(sparse_output=False).set_output(transform="pandas"), ["s", "t"])
            ),
            TYPES,
        ),
        (
            make_pipeline(FunctionTransformer(lambda frame: frame.isna()), LogisticRegression()).fit(
                FRAME, LABELS
            ),
            TYPES,
        ),
        (Bundle(lambda frame: frame, fitted(NUMBERS, ("s", ENCODER, ["s", "t"]))), TYPES),
        (fitted(NUMBERS), {"x": DataType.double}),
    ],
    ids=[
        "class of its own",
        "function",
        "missing text is an error",
        "pandas output",
        "no columns",
        "bundle with a function",
        "no text",
    ],
)
def test_others_are_sent_alone(estimator: Any, types: dict[str, DataType]) -> None:
    short = shortcuts(estimator, types)
    assert not short.tells_requests_apart
    served = serving.Scoring(None, short)  # type: ignore[arg-type]
    row = [
        1.0 if kind is DataType.double else True if kind is DataType.boolean else "a"
        for kind in types.values()
    ]
    assert served.answer(body([row, row], inputs.SPLIT, list(types)), b"1,1") == (NEVER, b"")


def test_what_an_imputer_hands_on_to_something_else_is_not_told_apart() -> None:
    tables = FunctionTransformer(feature_names_out="one-to-one").set_output(transform="pandas")
    steps = SimpleImputer(strategy="most_frequent"), tables, OneHotEncoder(handle_unknown="ignore")
    assert not shortcuts(fitted(NUMBERS, ("s", make_pipeline(*steps), ["s", "t"]))).tells_requests_apart


def test_errors_tell_the_types_that_mlflow_makes() -> None:
    def picky(table: Any) -> Any:
        if (table["x"] > 9).any():
            raise TypeError("too large")
        return table

    whole = fitted(("x", FunctionTransformer(picky), ["x"]), ("s", ENCODER, ["s", "t"]))
    (_, columns), (_, tree) = whole.steps
    short = shortcuts(Bundle(columns, tree))
    assert short.tells_requests_apart
    request = body([[10.0, "a", True, "b"]], inputs.SPLIT, list(TYPES))
    with pytest.raises(MlflowException) as by_mlflow_itself:
        short._by_mlflow(request)
    with pytest.raises(MlflowException) as by_shortcut:
        short.score(request)
    assert by_shortcut.value.message == by_mlflow_itself.value.message


def test_what_is_not_read_does_not_matter() -> None:
    short = shortcuts(fitted(NUMBERS, ("s", ENCODER, ["s"]), ("no", "drop", ["t"])))
    assert short.tells_requests_apart


def test_columns_may_be_told_by_number() -> None:
    assert shortcuts(fitted(NUMBERS, ("s", ENCODER, [1, 3]))).tells_requests_apart


def test_a_model_that_sees_a_difference_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded = OneHotEncoder.transform

    def transform(self: Any, table: Any) -> Any:
        return encoded(self, table) * len(table)

    monkeypatch.setattr(OneHotEncoder, "transform", transform)
    columns = ColumnTransformer([NUMBERS, ("s", ENCODER, ["s", "t"])])
    estimator = make_pipeline(columns, LinearRegression()).fit(FRAME, LABELS.astype(float))
    assert not shortcuts(estimator).tells_requests_apart


@pytest.mark.parametrize(
    ("content", "counts"),
    [
        ([[1.0, "a", True, "b"]] * 2, b"1,2"),
        ([[1.0, "a", True, 1]] * 2, b"1,1"),
        ([[1.0, "a", True]] * 2, b"1,1"),
        ([["1", "a", True, "b"]] * 2, b"1,1"),
    ],
    ids=["counts", "kind", "width", "number"],
)
def test_what_only_mlflow_knows_is_sent_alone(content: list[list[Any]], counts: bytes) -> None:
    served = serving.Scoring(None, model_with("OneHotEncoder"))  # type: ignore[arg-type]
    assert served.answer(body(content, inputs.SPLIT, list(TYPES)), counts) == (APART, b"")


def test_what_made_up_input_leads_to_is_not_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    def picky(codes: Any) -> Any:
        raise ValueError("not these")

    whole = fitted(NUMBERS, ("s", ENCODER, ["s", "t"]))
    (_, columns), (_, tree) = whole.steps
    model = pyfunc(Bundle(columns, tree, picky), TYPES)
    Guard(None).guard(model)
    found = fast.shortcuts(model)

    assert found is not None
    assert not found.tells_requests_apart
    assert "not these" not in capsys.readouterr().err
