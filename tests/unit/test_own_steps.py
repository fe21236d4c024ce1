"""What in a scikit-learn model is its author's own work."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lightgbm import LGBMRegressor
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import RandomForestRegressor, StackingRegressor, VotingRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from mlflow_restaurant.replica.own_steps import own_step

FRAME = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0] * 5, "b": [0.0, 1.0, 0.0, 1.0] * 5})
TARGET = 2 * FRAME["a"]


def less_the_mean(frame: Any) -> Any:
    return frame - frame.mean()


class Centred(TransformerMixin, BaseEstimator):  # type: ignore[misc,unused-ignore]
    """Sees all rows at once."""

    def fit(self, rows: Any, targets: Any = None) -> Centred:
        return self

    def transform(self, rows: Any) -> Any:
        return less_the_mean(rows)


class Scaler(StandardScaler):  # type: ignore[misc,unused-ignore]
    """Could do anything."""


def loaded(model: Any) -> Any:
    """Return what looks like a `PyFuncModel` of a fitted model."""
    model.fit(FRAME, TARGET)
    return SimpleNamespace(_model_impl=SimpleNamespace(sklearn_model=model))


FILL = FunctionTransformer(less_the_mean)


@pytest.mark.parametrize(
    ("model", "step"),
    [
        (make_pipeline(FILL, LinearRegression()), "its step 'functiontransformer' (FunctionTransformer)"),
        (Pipeline([("mid", Centred()), ("last", LinearRegression())]), "its step 'mid' (Centred)"),
        (make_pipeline(Scaler(), LinearRegression()), "its step 'scaler' (Scaler)"),
        (
            make_pipeline(ColumnTransformer([("inner", FILL, ["a"])]), LinearRegression()),
            "its step 'inner' (FunctionTransformer)",
        ),
        (make_pipeline(FeatureUnion([("one", Centred())]), LinearRegression()), "its step 'one' (Centred)"),
        (
            GridSearchCV(make_pipeline(Centred(), LinearRegression()), {}, cv=2),
            "its step 'centred' (Centred)",
        ),
        (
            StackingRegressor([("deep", make_pipeline(FILL, LinearRegression()))], cv=2),
            "its step 'functiontransformer' (FunctionTransformer)",
        ),
        (
            VotingRegressor([("deep", make_pipeline(Centred(), LinearRegression()))]),
            "its step 'centred' (Centred)",
        ),
        (
            TransformedTargetRegressor(
                LinearRegression(), func=less_the_mean, inverse_func=abs, check_inverse=False
            ),
            "the model (FunctionTransformer)",
        ),
    ],
)
def test_what_is_found(model: Any, step: str) -> None:
    assert own_step(loaded(model)) == step


@pytest.mark.parametrize(
    "model",
    [
        LinearRegression(),
        make_pipeline(SimpleImputer(), StandardScaler(), RandomForestRegressor(5)),
        make_pipeline(
            ColumnTransformer([("hot", OneHotEncoder(), ["b"])], remainder="passthrough"), LGBMRegressor()
        ),
        GridSearchCV(make_pipeline(StandardScaler(), LinearRegression()), {}, cv=2),
        StackingRegressor([("a", LinearRegression()), ("b", RandomForestRegressor(3))], cv=2),
        make_pipeline(FunctionTransformer(np.log1p, np.expm1), LinearRegression()),
        make_pipeline(FunctionTransformer(), LinearRegression()),
        TransformedTargetRegressor(LinearRegression(), func=np.log1p, inverse_func=np.expm1),
    ],
)
def test_the_librarys_own(model: Any) -> None:
    assert own_step(loaded(model)) == ""


def test_words_of_a_vectorizer() -> None:
    model = make_pipeline(TfidfVectorizer(), LinearRegression())
    model.fit(["good day", "bad day"], [1, 0])

    assert own_step(SimpleNamespace(_model_impl=SimpleNamespace(sklearn_model=model))) == ""


def test_models_of_other_flavors_are_not_looked_at() -> None:
    assert own_step(SimpleNamespace(_model_impl=SimpleNamespace(python_model=Centred()))) == ""
    assert own_step(SimpleNamespace()) == ""
