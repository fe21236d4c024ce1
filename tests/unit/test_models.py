"""Models: methods, class names, labels, thresholds, and what kinds of model can be called."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.preprocessing import LabelEncoder
from sklearn.svm import SVC

from mlflow_restaurant.bundle import Bundle, BundleError, StepError

FEATURES = pd.DataFrame({"a": [0.0, 1.0, 2.0, 3.0]}, index=[10, 11, 12, 13])


def classifier(labels: Any = ("ham", "ham", "spam", "spam")) -> Any:
    return LogisticRegression().fit(FEATURES, list(labels))


class TestMethods:
    def test_probabilities_have_class_names(self) -> None:
        probabilities = Bundle(model=classifier(), predict_method="predict_proba").predict(FEATURES)

        assert list(probabilities.columns) == ["ham", "spam"]
        assert list(probabilities.index) == [10, 11, 12, 13]
        np.testing.assert_allclose(probabilities, classifier().predict_proba(FEATURES))

    def test_a_request_chooses(self) -> None:
        bundle = Bundle(model=classifier())

        assert list(bundle.predict(FEATURES)) == ["ham", "ham", "spam", "spam"]
        assert list(bundle.predict(FEATURES, {"predict_method": "predict_proba"})) == ["ham", "spam"]
        assert bundle.predict(FEATURES, {"predict_method": "decision_function"}).shape == (4,)
        assert bundle.params == {"predict_method": "predict"}

    def test_decision_function_of_many_classes_has_their_names(self) -> None:
        bundle = Bundle(model=classifier("abca"), predict_method="decision_function")

        assert list(bundle.predict(FEATURES)) == ["a", "b", "c"]

    def test_a_request_cannot_call_just_anything(self) -> None:
        with pytest.raises(StepError, match="predict_method is 'fit': this model has predict, predict_proba"):
            Bundle(model=classifier()).predict(FEATURES, {"predict_method": "fit"})

    def test_a_model_without_that_method(self) -> None:
        with pytest.raises(BundleError, match="LinearRegression has no method 'predict_proba'"):
            Bundle(model=LinearRegression().fit(FEATURES, [1, 2, 3, 4]), predict_method="predict_proba")

    def test_private_methods_are_not_offered(self) -> None:
        with pytest.raises(BundleError, match="has no method '__init__'"):
            Bundle(model=classifier(), predict_method="__init__")

    def test_a_model_that_only_transforms(self) -> None:
        bundle = Bundle(model=PCA(1).fit(FEATURES))

        assert bundle.predict_method == "transform"
        assert bundle.predict(FEATURES).shape == (4, 1)

    def test_an_attribute_named_steps_makes_no_pipeline(self) -> None:
        class Stepwise:
            steps = 10

            def predict(self, frame: Any) -> Any:
                return [self.steps] * len(frame)

        assert Bundle(model=Stepwise()).predict([[1], [2]]) == [10, 10]

    def test_clusters(self) -> None:
        bundle = Bundle(model=KMeans(2, n_init=1, random_state=0).fit(FEATURES))

        assert bundle.predict(FEATURES, {"predict_method": "transform"}).shape == (4, 2)

    def test_one_method_needs_no_param(self) -> None:
        assert Bundle(model=LinearRegression().fit(FEATURES, [1, 2, 3, 4])).params == {}

    def test_several_outputs_are_left_alone(self) -> None:
        model = MultiOutputClassifier(LogisticRegression()).fit(FEATURES, [[0, 1], [0, 0], [1, 1], [1, 0]])

        assert len(Bundle(model=model).predict(FEATURES, {"predict_method": "predict_proba"})) == 2

    def test_changed_method(self) -> None:
        bundle = Bundle(model=classifier())

        assert bundle.changed("predict_proba").predict_method == "predict_proba"
        assert bundle.changed("predict_proba").params == {"predict_method": "predict_proba"}
        assert bundle.predict_method == "predict"
        assert bundle.changed() is bundle


class TestLabels:
    @pytest.mark.parametrize(
        "labels",
        [
            ["ham", "spam"],
            {0: "ham", 1: "spam"},
            LabelEncoder().fit(["spam", "ham"]),
            np.array(["ham", "spam"]),
            pd.Index(["ham", "spam"]),
            pd.Series(["spam", "ham"], index=[1, 0]),
        ],
    )
    def test_are_decoded(self, labels: Any) -> None:
        bundle = Bundle(model=classifier([0, 0, 1, 1]), labels=labels)

        assert list(bundle.predict(FEATURES)) == ["ham", "ham", "spam", "spam"]
        assert list(bundle.predict(FEATURES, {"predict_method": "predict_proba"})) == ["ham", "spam"]

    def test_of_a_function(self) -> None:
        bundle = Bundle(model=lambda frame: frame["a"] % 2, labels=["even", "odd"])

        result = bundle.predict(FEATURES)

        assert list(result) == ["even", "odd", "even", "odd"]
        assert list(result.index) == [10, 11, 12, 13]

    def test_of_a_column_of_codes(self) -> None:
        bundle = Bundle(model=lambda frame: np.array([[0], [1], [1], [0]]), labels=[None, 7])

        assert bundle.predict(FEATURES).tolist() == [None, 7, 7, None]

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (["ham"], "labels has no name for the class 1"),
            ([], "labels is empty"),
            ("ham", "give a list of names"),
            (3, "give a list of names"),
            ({"ham", "spam"}, "give a list of names"),
            (pd.DataFrame({"name": ["ham", "spam"]}), "give a list of names"),
            (classifier(), "give a list of names"),
        ],
    )
    def test_refused(self, labels: Any, message: str) -> None:
        with pytest.raises(BundleError, match=message):
            Bundle(model=classifier([0, 0, 1, 1]), labels=labels)

    def test_an_unknown_code(self) -> None:
        with pytest.raises(StepError, match=r"labels has no name for 0\.5, which the model predicted"):
            Bundle(model=lambda frame: [0.5], labels=["a", "b"]).predict(FEATURES)


class TestThreshold:
    def test_default_and_request(self) -> None:
        bundle = Bundle(model=classifier(), threshold=0.05)

        assert list(bundle.predict(FEATURES)) == ["spam"] * 4 or "spam" in list(bundle.predict(FEATURES))
        assert list(bundle.predict(FEATURES, {"threshold": 1.0})) == ["ham"] * 4
        assert list(bundle.predict(FEATURES, {"threshold": 0})) == ["spam"] * 4
        assert bundle.params == {"threshold": 0.05, "predict_method": "predict"}

    def test_with_labels(self) -> None:
        bundle = Bundle(model=classifier([0, 0, 1, 1]), labels=["no", "yes"], threshold=0.0)

        assert list(bundle.predict(FEATURES)) == ["yes"] * 4

    @pytest.mark.parametrize("value", [2, -0.1, "high", True])
    def test_a_request_with_nonsense(self, value: Any) -> None:
        with pytest.raises(StepError, match="give a number from 0 to 1"):
            Bundle(model=classifier(), threshold=0.5).predict(FEATURES, {"threshold": value})

    @pytest.mark.parametrize("model", [classifier("abca"), LinearRegression().fit(FEATURES, [1, 2, 3, 4])])
    def test_needs_two_classes(self, model: Any) -> None:
        with pytest.raises(BundleError, match="A threshold needs a model with predict_proba and two classes"):
            Bundle(model=model, threshold=0.5)


class TestWhatDecides:
    """Cases where shapes alone would mislead."""

    THREE = (0, 0, 1, 2)

    def test_a_threshold_needs_classes_that_exclude_each_other(self) -> None:
        model = OneVsRestClassifier(LogisticRegression()).fit(FEATURES, [[0, 1], [0, 0], [1, 1], [1, 0]])

        with pytest.raises(BundleError, match="A threshold needs a model with predict_proba and two classes"):
            Bundle(model=model, threshold=0.5)

    def test_probabilities_that_do_not_add_up_are_not_decided(self) -> None:
        class Both:
            classes_ = np.array([0, 1])

            def predict_proba(self, data: Any) -> Any:
                return np.full((len(data), 2), 0.9)

            predict = predict_proba

        with pytest.raises(StepError, match="do not add up to 1: leave threshold out"):
            Bundle(model=Both(), threshold=0.5).predict(FEATURES)

    def test_pairs_of_classes_do_not_bear_the_names_of_classes(self) -> None:
        model = SVC(decision_function_shape="ovo").fit(FEATURES, self.THREE)

        found = Bundle(model=model, predict_method="decision_function").predict(FEATURES)

        assert isinstance(found, np.ndarray)
        assert found.shape == (4, 3)

    def test_two_classes_of_one_name_have_no_probabilities(self) -> None:
        joined = Bundle(model=classifier(self.THREE), labels=["a", "b", "b"])

        assert set(joined.predict(FEATURES)) == {"a", "b"}
        with pytest.raises(StepError, match="labels gives the name 'b' to 2 classes"):
            joined.predict(FEATURES, {"predict_method": "predict_proba"})
        with pytest.raises(BundleError, match="labels gives the name 'b' to 2 classes"):
            Bundle(model=classifier(self.THREE), labels=["a", "b", "b"], predict_method="predict_proba")

    def test_labels_are_for_one_code_a_row(self) -> None:
        with pytest.raises(StepError, match="labels are for one code a row, and the model predicts 2 values"):
            Bundle(model=lambda data: np.zeros((len(data), 2)), labels=["a"]).predict(FEATURES)


class TestPlainValues:
    def test_of_numpy_become_plain(self) -> None:
        bundle = Bundle(
            model=classifier(),
            threshold=np.float64(0.3),
            params={"k": np.int64(3), "words": np.array(["a"]), "pair": (1, 2)},
        )

        assert [(value, type(value)) for value in (bundle.threshold, bundle.params["k"])] == [
            (0.3, float),
            (3, int),
        ]
        assert (bundle.params["words"], bundle.params["pair"]) == (["a"], [1, 2])

    @pytest.mark.parametrize("threshold", [0, 1, True, "0.5", 7, -0.1, float("nan")])
    def test_thresholds(self, threshold: Any) -> None:
        if threshold in (0, 1) and not isinstance(threshold, bool):
            assert type(Bundle(model=classifier(), threshold=threshold).threshold) is float
        else:
            with pytest.raises(BundleError, match="give a number from 0 to 1"):
                Bundle(model=classifier(), threshold=threshold)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"params": [1]}, "params is .*: give a dictionary"),
            ({"params": {"words": []}}, "'words' has no default"),
            ({"params": {"x": object()}}, "'x' has the default .*: give a string, number"),
            (
                {"labels": [pd.Timestamp("2026-01-01")]},
                "labels holds .*: give codes and names that are strings",
            ),
            ({"predict_method": 3}, "predict_method is 3 .*: give the name of a method"),
            ({"row_wise": "no"}, "row_wise is 'no': give True, False or None"),
            ({"flavor": 3}, r"flavor is 3 \(int\): give the name of an MLflow flavor"),
            ({"params": {1: 2}}, r"params has the name 1 \(int\): names of params are strings"),
            ({"predict_method": "fit"}, "has no method 'fit' to predict with"),
            ({"predict_method": "set_params"}, "has no method 'set_params' to predict with"),
        ],
    )
    def test_others_are_refused(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(BundleError, match=message):
            Bundle(model=classifier(), **arguments)
