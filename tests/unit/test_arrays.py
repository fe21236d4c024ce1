"""scikit-learn gets an array only where it gives the same prediction as the table, to the last bit."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from typing import Any

import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest
from mlflow.models import Model, infer_signature
from mlflow.pyfunc import FLAVOR_NAME, MAIN, PyFuncModel
from mlflow.types import DataType
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import all_estimators

from mlflow_restaurant.replica import arrays, fast
from mlflow_restaurant.replica.inputs import Table

NAMES = list("abcd")
DRAWN = np.random.default_rng(7)
DATA = pd.DataFrame(np.abs(DRAWN.normal(size=(60, 4))), columns=NAMES)
LABELS = (DATA["a"] > DATA["a"].median()).astype(int) + 1
SCALED = make_pipeline(StandardScaler(), LogisticRegression()).fit(DATA, LABELS)


@pytest.fixture(autouse=True)
def own_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        yield


def pyfunc(estimator: Any, predict_fn: str = "predict") -> Any:
    wrapper = mlflow.sklearn._SklearnModelWrapper(estimator)
    flavors = {FLAVOR_NAME: {MAIN: "mlflow.sklearn"}}
    meta = Model(signature=infer_signature(DATA, [1.0]), flavors=flavors)
    return PyFuncModel(model_meta=meta, model_impl=wrapper, predict_fn=predict_fn)


def takes_arrays(estimator: Any, predict_fn: str = "predict") -> bool:
    inputs = fast.Shortcuts(pyfunc(estimator, predict_fn)).inputs
    assert isinstance(inputs, Table)
    return inputs.as_array


def body(rows: Any) -> bytes:
    return json.dumps({"dataframe_split": {"columns": NAMES, "data": rows}}).encode()


def tables() -> list[Any]:
    """Tables of many sizes, some with what many models refuse."""
    found = [DRAWN.normal(size=(rows, 4)) for rows in (1, 2, 7, 50)]
    for value in (np.nan, np.inf, -np.inf, 1e300, 1e-320):
        odd = DRAWN.normal(size=(3, 4))
        odd[1, 2] = value
        found.append(odd)
    return found


def outcome(method: Any, data: Any) -> Any:
    try:
        found = method(data)
    except Exception as e:
        return type(e), str(e)
    assert type(found) is np.ndarray
    return found.dtype, found.shape, found.strides, found.tobytes()


@pytest.mark.parametrize("name", sorted(arrays.ESTIMATORS))
def test_each_estimator_gives_the_same_for_both(name: str) -> None:
    found = dict(all_estimators())[name]()
    if name == "KBinsDiscretizer":
        found.set_params(encode="ordinal")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found.fit(DATA, LABELS)
        methods = [getattr(found, m) for m in (*arrays.METHODS, "transform") if hasattr(found, m)]
        assert methods
        frame = Table(dict.fromkeys(NAMES, DataType.double)).frame
        for method in methods:
            for table in tables():
                assert outcome(method, frame(table)) == outcome(method, arrays.block(table))


@pytest.mark.parametrize(
    "estimator",
    [
        SCALED,
        LinearRegression().fit(DATA, LABELS),
        make_pipeline(SimpleImputer(), RandomForestClassifier(5)).fit(DATA, LABELS),
    ],
    ids=["pipeline", "linear", "forest"],
)
def test_a_model_that_looks_at_the_numbers_only_gets_them(estimator: Any) -> None:
    assert takes_arrays(estimator)


def test_so_does_another_method() -> None:
    assert takes_arrays(SCALED, "predict_proba")


class Shifted(StandardScaler):  # type: ignore[misc]
    """A scaler of somebody's own."""


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(FunctionTransformer(lambda frame: frame[["a"]]), LogisticRegression()),
        make_pipeline(ColumnTransformer([("s", StandardScaler(), ["a"])]), LogisticRegression()),
        make_pipeline(Shifted(), LogisticRegression()),
        make_pipeline("passthrough", LogisticRegression()),
        make_pipeline(StandardScaler(), LogisticRegression()).set_output(transform="pandas"),
        BaggingClassifier(n_estimators=2),
    ],
    ids=["function", "columns", "subclass", "passthrough", "pandas output", "meta-estimator"],
)
def test_whoever_may_look_at_more_gets_the_table(estimator: Any) -> None:
    assert not takes_arrays(estimator.fit(DATA, LABELS))


@pytest.mark.parametrize("data", [DATA[NAMES[::-1]], DATA.to_numpy()], ids=["another order", "none"])
def test_a_model_that_knows_other_names_gets_the_table(data: Any) -> None:
    assert not takes_arrays(LogisticRegression().fit(data, LABELS))


def test_one_that_differs_on_trial_gets_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = LinearRegression().fit(DATA, LABELS)
    of_class = LinearRegression.predict

    def predict(self: Any, data: Any) -> Any:
        found = of_class(self, data)
        return found if isinstance(data, pd.DataFrame) else found + 1e-12

    monkeypatch.setattr(LinearRegression, "predict", predict)
    assert not takes_arrays(estimator)


def test_answers_are_mlflows() -> None:
    short = fast.Shortcuts(pyfunc(SCALED, "predict_proba"))
    for table in tables():
        if np.isfinite(table).all():
            asked = body(table.tolist())
            assert short.score(asked) == short._by_mlflow(asked)


def test_what_fails_is_told_as_by_mlflow() -> None:
    short = fast.Shortcuts(pyfunc(SCALED))
    gap = body([[1.0, None, 2.0, 3.0]])
    told = []
    for score in (short.score, short._by_mlflow):
        with pytest.raises(Exception, match="unexpected error") as e:
            score(gap)
        told.append((type(e.value), str(e.value)))
    assert told[0] == told[1]


def test_nobody_is_warned_of_missing_names(recwarn: pytest.WarningsRecorder) -> None:
    short = fast.Shortcuts(pyfunc(SCALED))
    assert isinstance(short.inputs, Table)
    assert short.inputs.as_array
    assert json.loads(short.score(body([[1.0, 2.0, 2.0, 3.0]])).response)["predictions"]
    assert not [w for w in recwarn if "feature names" in str(w.message)]
