"""Puts requests together in whose texts different values are missing, where the model takes each row as it would alone.

pandas makes of a null beside text a missing value of its own, and leaves it a null where there is no text: so a row in
which a text is missing is not the same alone as beside a row with one. In a column of Python's objects both can stand
beside each other (`inputs.text_column`). To scikit-learn's encoders of text that column is what pandas' column of text
is: they make an array of objects of either. Which do so was tried for each by name (`STEPS`, and the tests), and is tried
again with each model when it is loaded, beside MLflow's own functions.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from mlflow.types import DataType

from mlflow_restaurant.comparing import difference
from mlflow_restaurant.replica.arrays import sklearn_model
from mlflow_restaurant.replica.inputs import SPLIT, Table
from mlflow_restaurant.replica.traces import TRACES

if TYPE_CHECKING:
    from mlflow_restaurant.replica.fast import Shortcuts

IMPUTER = "SimpleImputer"
"""What it doesn't fill in it hands on, and what comes next may take that for something else beside other rows."""
STEPS = frozenset({"OneHotEncoder", "OrdinalEncoder", IMPUTER, "TargetEncoder"})
BUNDLE = "restaurant"
"""The flavor of bundles, whose code is the one that each was saved with."""
ANY_TEXT = "text"
TOLERANCE = 1e-9


def are_told_apart(shortcuts: Shortcuts) -> bool:
    """Tell whether a model gives each row of several requests, in whose texts values are missing, what it gives it alone.

    Args:
        shortcuts: those of the model.
    """
    table = shortcuts.inputs
    if not isinstance(table, Table) or not table.texts:
        return False
    try:  # what the model says to made-up input is of no interest to who reads its log
        with warnings.catch_warnings(), TRACES.mute():
            warnings.simplefilter("ignore")
            return _is_told_apart(shortcuts, table)
    except Exception:  # the model has its own view of such input
        return False


def _is_told_apart(shortcuts: Shortcuts, table: Table) -> bool:
    readers = list(_readers(_estimator(shortcuts.model), table))
    known = all(_are_known(steps) for steps, _ in readers)
    return known and _same_as_alone(shortcuts, table, _words(readers))


def _estimator(model: Any) -> Any:
    """Return what takes the table of a pyfunc: its estimator, or the first step of a bundle; None where that is not known."""
    if BUNDLE in model.metadata.flavors:  # what comes after that step gets its output
        return model._model_impl.bundle.steps[0].target
    return sklearn_model(model)


def _readers(estimator: Any, table: Table) -> Iterator[tuple[list[Any], list[str]]]:
    """Yield the steps through which text goes in a fitted model, with the columns of the first; none for what is not known."""
    from sklearn.compose import ColumnTransformer

    steps = _steps(estimator)
    if type(steps[0]) is not ColumnTransformer:
        yield (steps if len(table.texts) == table.width else []), table.names
        return
    for _, step, columns in steps[0].transformers_:
        names = _names(columns, steps[0])
        if names is None:
            yield [], table.texts
        elif not set(table.texts).isdisjoint(names):
            yield _steps(step), names


def _steps(estimator: Any) -> list[Any]:
    from sklearn.pipeline import Pipeline

    if type(estimator) is Pipeline and estimator.steps:
        return [step for _, step in estimator.steps]
    return [estimator]


def _names(columns: Any, transformer: Any) -> list[str] | None:
    """Return the names of what a `ColumnTransformer` hands to one of its steps; None if that is not told by names or numbers."""
    if isinstance(columns, str):
        return [columns]
    if not isinstance(columns, Sequence):
        return None
    found = [transformer.feature_names_in_[c] if type(c) is int else c for c in columns]
    return found if all(isinstance(name, str) for name in found) else None


def _are_known(steps: list[Any]) -> bool:
    """Tell whether text becomes numbers in steps that are known; what comes after gets these in both cases."""
    for step in steps:
        if not _is_known(step):
            return False
        if type(step).__name__ != IMPUTER:
            return True
    return False


def _is_known(step: Any) -> bool:
    import sklearn

    return step == "drop" or (
        type(step).__module__.startswith("sklearn.")
        and type(step).__name__ in STEPS
        and not hasattr(step, "_sklearn_output_config")  # of `set_output`
        and bool(sklearn.get_config()["transform_output"] == "default")
    )


def _words(readers: list[tuple[list[Any], list[str]]]) -> dict[str, str]:
    """Return for columns of text a word that the model knows, as far as it tells."""
    words: dict[str, Any] = {}
    for (step, *_), names in readers:
        categories = getattr(step, "categories_", ())
        words |= {name: next(iter(known), None) for name, known in zip(names, categories, strict=False)}
    return {name: word for name, word in words.items() if isinstance(word, str)}


def _same_as_alone(shortcuts: Shortcuts, table: Table, words: dict[str, str]) -> bool:
    """Score requests by MLflow's functions each, and together; where a missing text is an error, it should be one alone."""
    requests = _requests(shortcuts, table, words)
    expected = []
    for rows in requests:
        expected += _predictions(shortcuts._by_mlflow({SPLIT: {"columns": table.names, "data": rows}}))
    body = json.dumps({SPLIT: {"columns": table.names, "data": list(chain.from_iterable(requests))}})
    found = _predictions(shortcuts.score(body.encode(), [len(rows) for rows in requests]))
    return not difference(expected, found, TOLERANCE)


def _predictions(answer: Any) -> list[Any]:
    return list(json.loads(answer.response)["predictions"])


def _requests(shortcuts: Shortcuts, table: Table, words: dict[str, str]) -> list[list[list[Any]]]:
    """Return the rows of requests: one with texts, one without any, and one of rows with, with some and without."""
    types = dict(zip(table.names, shortcuts.schema.input_types(), strict=True))

    def row(number: int, texts: Mapping[str, str | None]) -> list[Any]:
        return [texts[name] if name in texts else OTHERS[types[name]][number] for name in table.names]

    known = {name: words.get(name, ANY_TEXT) for name in table.texts}
    some = {name: ANY_TEXT if at % 2 else None for at, name in enumerate(table.texts)}
    none = dict.fromkeys(table.texts)
    return [[row(0, known)], [row(1, none)], [row(1, known), row(0, some), row(1, none)]]


OTHERS: dict[DataType, tuple[Any, Any]] = {
    DataType.double: (0.5, -1.25),
    DataType.float: (0.5, -1.25),
    DataType.long: (1, 2),
    DataType.integer: (1, 2),
    DataType.boolean: (True, False),
}
