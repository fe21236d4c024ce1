"""Bundle: construction, prediction, errors that name the step."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from mlflow_restaurant.bundle import Bundle, BundleError, StepError

FEATURES = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "b": [0.0, 1.0, 0.0, 1.0]})
TARGET = np.array([3.0, 5.0, 7.0, 9.0])


def scaler() -> Any:
    return StandardScaler().fit(FEATURES)


def regressor() -> Any:
    return LinearRegression().fit(FEATURES.to_numpy(), TARGET)


def keep_columns(frame: pd.DataFrame) -> Any:
    return frame[["a", "b"]]


def to_array(frame: pd.DataFrame) -> Any:
    return frame.to_numpy()


def to_series(values: Any) -> Any:
    return pd.Series(values, name="price")


def fail(data: Any) -> Any:
    raise KeyError("subject")


class Lowercase(BaseEstimator, TransformerMixin):  # type: ignore[misc]
    """Learns nothing, so it looks unfitted to scikit-learn for ever."""

    def fit(self, data: Any, target: Any = None) -> Lowercase:
        return self

    def transform(self, data: Any) -> Any:
        return data


class Doubler:
    def transform(self, data: Any) -> Any:
        return data * 2

    def __call__(self, data: Any) -> Any:
        raise AssertionError("transform goes first")


class TestPredict:
    def test_model_alone(self) -> None:
        np.testing.assert_allclose(Bundle(model=regressor()).predict(FEATURES.to_numpy()), TARGET)

    def test_every_step_runs_in_order(self) -> None:
        bundle = Bundle(
            preprocess=[keep_columns, to_array], model=regressor(), postprocess=[to_series, Doubler()]
        )

        raw = FEATURES.assign(unused="x")

        pd.testing.assert_series_equal(bundle.predict(raw), pd.Series(TARGET * 2, name="price"))

    def test_a_fitted_transformer_is_a_step(self) -> None:
        model = LinearRegression().fit(scaler().transform(FEATURES), TARGET)

        np.testing.assert_allclose(Bundle([scaler()], model).predict(FEATURES), TARGET)

    def test_a_single_step_need_not_be_in_a_list(self) -> None:
        bundle = Bundle(preprocess=to_array, model=regressor(), postprocess=to_series)

        assert [step.name for step in bundle.steps] == ["to_array", "LinearRegression", "to_series"]

    def test_none_means_no_steps(self) -> None:
        assert len(Bundle(None, regressor(), None).steps) == 1

    def test_a_pipeline_is_a_model(self) -> None:
        model = make_pipeline(StandardScaler(), LinearRegression()).fit(FEATURES, TARGET)

        np.testing.assert_allclose(Bundle(model=model).predict(FEATURES), TARGET)

    def test_params_are_accepted(self) -> None:
        assert len(Bundle(to_array, regressor()).predict(FEATURES, params={"x": 1})) == 4

    def test_parts_can_be_read(self) -> None:
        model = regressor()
        bundle = Bundle([keep_columns, to_array], model, [to_series])

        assert bundle.preprocess == [keep_columns, to_array]
        assert bundle.model is model
        assert bundle.postprocess == [to_series]


class TestStepError:
    def test_names_step_position_and_original_error(self) -> None:
        bundle = Bundle([keep_columns, fail, to_array], regressor())

        with pytest.raises(StepError) as caught:
            bundle.predict(FEATURES)

        assert str(caught.value) == (
            "preprocess step 2 of 3 'fail' failed: KeyError: 'subject'; its input has no column 'subject' but 'a', 'b'"
        )
        assert isinstance(caught.value.__cause__, KeyError)
        assert caught.value.step == "preprocess step 2 of 3 'fail'"

    def test_names_the_model(self) -> None:
        with pytest.raises(StepError, match=r"^model 'LinearRegression' failed: ValueError: "):
            Bundle(model=regressor()).predict(np.zeros((2, 5)))

    def test_names_a_postprocess_step(self) -> None:
        with pytest.raises(StepError, match=r"^postprocess step 1 of 1 'fail' failed"):
            Bundle(to_array, regressor(), fail).predict(FEATURES)

    def test_survives_pickling(self) -> None:
        error = pickle.loads(pickle.dumps(StepError("model 'X'", "ValueError: no")))

        assert str(error) == "model 'X' failed: ValueError: no"


class TestValidation:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "A bundle needs a model"),
            ({"model": 3}, r"The model is 3 \(int\), which has no predict method and cannot be called"),
            ({"model": "spam"}, r"The model is 'spam' \(str\), which has no predict method and is no URI"),
            ({"model": LinearRegression}, "The model is the class LinearRegression, not an instance"),
            (
                {"model": LinearRegression()},
                "The model: the LinearRegression is not fitted yet: call its fit method",
            ),
            (
                {"model": make_pipeline(StandardScaler(), LogisticRegression())},
                "The model: the StandardScaler in the Pipeline is not fitted yet",
            ),
            (
                {"preprocess": [to_array, 3], "model": regressor()},
                r"preprocess step 2 of 2 is 3 \(int\), which is neither a function nor has a transform method",
            ),
            (
                {"preprocess": StandardScaler(), "model": regressor()},
                "preprocess step 1 of 1: the StandardScaler is not fitted yet",
            ),
            (
                {"postprocess": [StandardScaler], "model": regressor()},
                "postprocess step 1 of 1 is the class StandardScaler, not an instance",
            ),
            (
                {"preprocess": ColumnTransformer([("n", StandardScaler(), ["a"])]), "model": regressor()},
                "the ColumnTransformer is not fitted yet",
            ),
        ],
    )
    def test_refused(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(BundleError, match=message):
            Bundle(**arguments)

    @pytest.mark.parametrize(
        "step",
        [
            FunctionTransformer(),
            HashingVectorizer(),
            Lowercase(),
            Pipeline([("none", "passthrough"), ("scale", StandardScaler().fit(FEATURES))]),
        ],
    )
    def test_what_needs_no_fitting_is_accepted(self, step: Any) -> None:
        assert len(Bundle(step, regressor()).steps) == 2


class TestRepr:
    def test_all_parts(self) -> None:
        bundle = Bundle([keep_columns, scaler()], regressor(), to_series)

        assert repr(bundle) == (
            "Bundle(preprocess=[keep_columns, StandardScaler], model=LinearRegression, postprocess=[to_series])"
        )

    def test_model_alone(self) -> None:
        assert repr(Bundle(model=regressor())) == "Bundle(model=LinearRegression)"
