"""Hands scikit-learn an array of floats in place of the table that MLflow makes, where only the array counts.

Most of scikit-learn's estimators look at a table of floats for no more than its column names, which the signature has
settled, and then go on with the array inside; for one row, that look takes twice as long as the prediction. The array
here is that array, to the strides. Which estimators do so was tried for each by name (`ESTIMATORS`, and the tests), is
tried again with each model when it is loaded, and whatever fails goes the long way, for its own error.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

METHODS = frozenset({"predict", "predict_proba", "predict_log_proba"})
ESTIMATORS = frozenset(
    {
        "AdaBoostClassifier",
        "AdaBoostRegressor",
        "BayesianRidge",
        "DecisionTreeClassifier",
        "DecisionTreeRegressor",
        "ElasticNet",
        "ElasticNetCV",
        "ExtraTreesClassifier",
        "ExtraTreesRegressor",
        "GammaRegressor",
        "GaussianMixture",
        "GaussianNB",
        "GradientBoostingClassifier",
        "GradientBoostingRegressor",
        "HistGradientBoostingClassifier",
        "HistGradientBoostingRegressor",
        "HuberRegressor",
        "IsolationForest",
        "KBinsDiscretizer",
        "KMeans",
        "KNNImputer",
        "KNeighborsClassifier",
        "KNeighborsRegressor",
        "Lasso",
        "LassoCV",
        "LinearDiscriminantAnalysis",
        "LinearRegression",
        "LinearSVC",
        "LinearSVR",
        "LogisticRegression",
        "LogisticRegressionCV",
        "MLPClassifier",
        "MLPRegressor",
        "MaxAbsScaler",
        "MinMaxScaler",
        "Normalizer",
        "PCA",
        "Perceptron",
        "PoissonRegressor",
        "PolynomialFeatures",
        "PowerTransformer",
        "QuadraticDiscriminantAnalysis",
        "QuantileTransformer",
        "RandomForestClassifier",
        "RandomForestRegressor",
        "Ridge",
        "RidgeCV",
        "RidgeClassifier",
        "RobustScaler",
        "SGDClassifier",
        "SGDRegressor",
        "SVC",
        "SVR",
        "SelectKBest",
        "SimpleImputer",
        "SplineTransformer",
        "StandardScaler",
        "TruncatedSVD",
        "TweedieRegressor",
        "VarianceThreshold",
    }
)
NAMELESS = "X does not have valid feature names"
"""How scikit-learn's warning begins that says an array has no column names."""


def takes_arrays(model: Any, names: list[str], frame: Callable[[Any], Any]) -> bool:
    """Tell whether a pyfunc gives the same predictions for an array as for the table with it.

    Args:
        model: the pyfunc.
        names: the columns of its signature, all of them doubles.
        frame: makes the table for an array.
    """
    estimator = sklearn_model(model)
    if estimator is None or not _looks_at_the_array_only(estimator, names):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same = all(
            _outcome(model, block(array)) == _outcome(model, frame(array)) for array in _trials(len(names))
        )
    if same:
        warnings.filterwarnings("ignore", NAMELESS, UserWarning)
    return same


def block(array: Any) -> Any:
    """Return the array as pandas keeps and shows it: a row for each column, and not to be written to."""
    inside = array.T.copy().T
    inside.flags.writeable = False
    return inside


def sklearn_model(model: Any) -> Any:
    """Return the estimator of a pyfunc that does nothing but call one of its methods, else None."""
    from mlflow.sklearn import _SklearnModelWrapper

    wrapper, called = model._model_impl, model._predict_fn
    if type(wrapper) is not _SklearnModelWrapper or getattr(called, "__name__", None) not in METHODS:
        return None
    estimator = wrapper.sklearn_model
    return estimator if getattr(called, "__self__", None) in (wrapper, estimator) else None


def _looks_at_the_array_only(estimator: Any, names: list[str]) -> bool:
    import sklearn
    from sklearn.pipeline import Pipeline

    # What comes after the first step of a pipeline gets that step's output in both cases.
    first = estimator.steps[0][1] if type(estimator) is Pipeline and estimator.steps else estimator
    return (
        type(first).__module__.startswith("sklearn.")
        and type(first).__name__ in ESTIMATORS
        and list(getattr(first, "feature_names_in_", ())) == names
        and not hasattr(first, "_sklearn_output_config")  # of `set_output`
        and sklearn.get_config()["transform_output"] == "default"
    )


def _trials(width: int) -> list[Any]:
    ramp = np.linspace(-2.5, 3.5, 3 * width).reshape(3, width)
    gap = ramp.copy()
    gap[1, 0] = np.nan
    return [ramp[:1], ramp, gap]


def _outcome(model: Any, data: Any) -> tuple[Any, ...]:
    try:
        found = model._predict_fn(data)
    except Exception as e:
        return type(e), str(e)
    if type(found) is not np.ndarray:
        return type(found), id(found)  # different from any other
    content = found.tolist() if found.dtype.kind == "O" else found.tobytes()
    return np.ndarray, found.dtype, found.shape, content
