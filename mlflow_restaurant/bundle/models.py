"""How a bundle calls its model: by method, with class names for probabilities, decoded labels and a threshold."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from .calling import calling, has, params_of_pyfunc
from .steps import BundleError, check_fitted, describe

__all__ = [
    "PREDICT_METHOD",
    "THRESHOLD",
    "Predictor",
    "checked_params",
    "checked_threshold",
    "normal_labels",
]

PREDICT_METHOD = "predict_method"
THRESHOLD = "threshold"

_PLAIN = (bool, int, float, str)
_NAMES = {"Index", "Series", "ndarray"}

_DECIDE = "leave threshold out, and decide in a postprocess function that takes params."

_NO_PREDICTIONS = ("_", "fit", "partial_fit", "set_", "get_")

_BY_CLASS = {"predict_proba", "predict_log_proba", "decision_function"}


class Predictor:
    """Calls a model by the name of a method; a pyfunc with a param of that name (another bundle) chooses by itself.

    Args:
        target: the model.
        kwargs: keyword arguments that the model gets at every call.
        method: the method a request gets that names none; by default ``predict``, or what the model has.
        labels: names of the classes, by what the model predicts for them.
        threshold: whether ``predict`` compares the probability of the second class with the param `THRESHOLD`.

    Raises:
        BundleError: the model cannot be called, is not fitted, or does not fit the other arguments.
    """

    def __init__(
        self,
        target: Any,
        kwargs: dict[str, Any],
        method: str | None,
        labels: dict[Any, Any] | None,
        threshold: bool,
    ) -> None:
        found, self._call = calling(target, kwargs)
        self._target = target
        check_fitted("The model", target)
        inner = params_of_pyfunc(target).get(PREDICT_METHOD)
        self.chooses = inner is not None
        self.method = _chosen_method(target, found, method, inner)
        self.methods = tuple(dict.fromkeys((*found, self.method)))
        self.labels = labels
        self._classes = _classes(target)
        self._names = _class_names(self._classes, labels)
        self._by_class = _BY_CLASS - ({"decision_function"} if _is_pairwise(target) else set())
        self._threshold = threshold
        if threshold:
            self._check_threshold()
        if self.method in self._by_class:
            self._check_names()

    def __call__(self, data: Any, params: dict[str, Any]) -> Any:
        method = params.get(PREDICT_METHOD) or self.method
        if self.chooses:
            params = {**params, PREDICT_METHOD: method}
        elif method not in self.methods:
            raise BundleError(f"{PREDICT_METHOD} is {method!r}: this model has {', '.join(self.methods)}.")
        if self._threshold and method == "predict":
            return self._decide(data, params)
        if method in self._by_class:
            self._check_names()
        result = self._call(method, data, params)
        if method == "predict":
            return result if self.labels is None else decode(result, self.labels)
        if method in self._by_class and self._names is not None:
            return _with_names(result, self._names, data)
        return result

    def _decide(self, data: Any, params: dict[str, Any]) -> Any:
        import numpy as np

        threshold = checked_threshold(params[THRESHOLD])
        probabilities = np.asarray(self._call("predict_proba", data, params))
        if probabilities.shape[1:] != (2,) or not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3):
            raise BundleError(
                "A threshold needs two classes that exclude each other, and the probabilities of this model's classes "
                f"do not add up to 1: {_DECIDE}"
            )
        second = probabilities[:, 1] >= threshold
        codes = np.asarray(self._classes)[second.astype(int)]
        return codes if self.labels is None else decode(codes, self.labels)

    def _check_names(self) -> None:
        """Refuse columns of the same name: JSON would keep the last of them only."""
        names = self._names or []
        if twice := [name for name in names if names.count(name) > 1]:
            raise BundleError(
                f"labels gives the name {twice[0]!r} to {names.count(twice[0])} classes, and probabilities have a column "
                "for each: give every class a name of its own, or join the classes in a postprocess function."
            )

    def _check_threshold(self) -> None:
        count = None if self._classes is None or _is_multilabel(self._target) else len(self._classes)
        if "predict_proba" not in self.methods or count != 2:
            raise BundleError(
                f"A threshold needs a model with predict_proba and two classes, and this one has "
                f"{count or 'no'} classes and the methods {', '.join(self.methods)}: {_DECIDE}"
            )


def checked_threshold(given: Any) -> float:
    """The threshold as a float, if it is one: an integer would be the type of the param.

    Raises:
        BundleError: it is no number from 0 to 1.
    """
    import numpy as np

    if isinstance(given, bool) or not isinstance(given, (int, float, np.number)) or not 0 <= given <= 1:
        raise BundleError(f"{THRESHOLD} is {given!r}: give a number from 0 to 1.")
    return float(given)


def normal_labels(given: Any) -> dict[Any, Any] | None:
    """Labels as a dictionary of plain values.

    Args:
        given: names by code, as a list, array or Index; names whose codes are the keys of a dictionary or the index of a
            Series; or a fitted ``LabelEncoder``.

    Raises:
        BundleError: it is none of these, or empty.
    """
    if given is None:
        return None
    kind = type(given).__name__
    names: Any = getattr(given, "classes_", None) if kind == "LabelEncoder" else given
    if not isinstance(names, (Mapping, list, tuple)) and type(names).__name__ not in _NAMES:
        raise BundleError(
            f"labels is {describe(given)}: give a list of names, a dictionary from code to name, or a fitted LabelEncoder."
        )
    pairs = names.items() if isinstance(names, Mapping) or kind == "Series" else enumerate(names)
    labels = {_plain(code): _plain(name) for code, name in pairs}
    if odd := [
        value for pair in labels.items() for value in pair if not isinstance(value, (*_PLAIN, type(None)))
    ]:
        raise BundleError(
            f"labels holds {describe(odd[0])}: give codes and names that are strings, numbers or booleans."
        )
    if not labels:
        raise BundleError("labels is empty: give a name for every class that the model predicts.")
    return labels


def decode(predictions: Any, labels: dict[Any, Any]) -> Any:
    """Names for predicted codes: an array for arrays and lists, a Series for a Series.

    Raises:
        BundleError: a code has no name.
    """
    import numpy as np

    codes = np.asarray(predictions)
    if codes.ndim == 2 and codes.shape[1] == 1:
        codes = codes[:, 0]
    if codes.ndim > 1:
        raise BundleError(
            f"labels are for one code a row, and the model predicts {codes.shape[1]} values: choose among them in a "
            "postprocess function, and leave labels out."
        )
    mixed = len({type(name) for name in labels.values()}) > 1
    try:
        names = np.array([labels[code] for code in codes.tolist()], dtype=object if mixed else None)
    except (KeyError, TypeError) as error:
        raise BundleError(
            f"labels has no name for {error.args[0]!r}, which the model predicted: it has names for "
            f"{', '.join(map(repr, labels))}."
        ) from error
    if type(predictions).__name__ == "Series":
        return type(predictions)(names, index=predictions.index, name=predictions.name)
    return names


def _final(target: Any) -> Any:
    """The estimator at the end of a pipeline, or that a search has found."""
    while True:
        if hasattr(target, "best_estimator_"):
            target = target.best_estimator_
        elif isinstance(getattr(target, "named_steps", None), Mapping):
            target = target.steps[-1][1]
        else:
            return target


def _is_multilabel(target: Any) -> bool:
    final = _final(target)
    kind = getattr(getattr(final, "_label_binarizer", None), "y_type_", "")
    return bool(getattr(final, "multilabel_", False)) or str(kind).startswith("multilabel")


def _is_pairwise(target: Any) -> bool:
    """Whether decision_function compares classes in pairs: as many columns as classes, where there are three."""
    return getattr(_final(target), "decision_function_shape", None) == "ovo"


def _chosen_method(target: Any, found: tuple[str, ...], method: str | None, inner: str | None) -> str:
    if method is None:
        return inner or found[0]
    if not isinstance(method, str):
        raise BundleError(f"predict_method is {describe(method)}: give the name of a method.")
    if (
        inner
        or method in found
        or (method.isidentifier() and not method.startswith(_NO_PREDICTIONS) and has(target, method))
    ):
        return method
    raise BundleError(
        f"The model {type(target).__name__} has no method {method!r} to predict with: predict_method can be {', '.join(found)}."
    )


def _classes(target: Any) -> list[Any] | None:
    classes = getattr(target, "classes_", None)
    if classes is None or isinstance(classes, list):  # a list: several outputs
        return None
    plain = [_plain(value) for value in classes]
    return plain or None


def _class_names(classes: list[Any] | None, labels: dict[Any, Any] | None) -> list[str] | None:
    if labels is None:
        return None if classes is None else [str(value) for value in classes]
    if classes is not None and (unnamed := [value for value in classes if value not in labels]):
        raise BundleError(
            f"labels has no name for the class {unnamed[0]!r} of the model: give names for {classes}."
        )
    return [str(labels[value]) for value in (labels if classes is None else classes)]


def _with_names(result: Any, names: list[str], data: Any) -> Any:
    """A DataFrame with a column per class, if the result has that shape."""
    import pandas as pd

    shape: Any = getattr(result, "shape", ())
    if len(shape) != 2 or shape[1] != len(names):
        return result
    if isinstance(result, pd.DataFrame):
        return result.set_axis(names, axis=1)
    index = data.index if isinstance(data, (pd.DataFrame, pd.Series)) else None
    return pd.DataFrame(result, columns=names, index=index)


def _plain(value: Any) -> Any:
    """A NumPy scalar as a plain Python value, an array as a list."""
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def checked_params(params: Any) -> dict[str, Any]:
    """Params with plain values.

    Raises:
        BundleError: a default is missing, or has a type that no param can have.
    """
    if not isinstance(params, Mapping):
        raise BundleError(f"params is {describe(params)}: give a dictionary from names to defaults.")
    if odd := [name for name in params if not isinstance(name, str)]:
        raise BundleError(f"params has the name {describe(odd[0])}: names of params are strings.")
    plain = {name: _plain(default) for name, default in params.items()}
    for name, default in plain.items():
        if default is None or default == []:
            raise BundleError(
                f"The param {name!r} has no default: give it one, whose type is the param's type."
            )
        items = default if isinstance(default, list) else [default]
        if not all(isinstance(item, (*_PLAIN, datetime)) for item in items):
            raise BundleError(
                f"The param {name!r} has the default {describe(default)}: give a string, number, boolean, date, or a list "
                "of one of them."
            )
        if name in {PREDICT_METHOD, THRESHOLD}:
            raise BundleError(f"The param {name!r} is the bundle's own: give its default as {name}=...")
    return plain
