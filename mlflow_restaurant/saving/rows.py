"""Whether a bundle predicts each row by itself: tried on its example, row by row and all together."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from mlflow_restaurant.bundle import Bundle
from mlflow_restaurant.bundle.diagnosis import row_count
from mlflow_restaurant.bundle.models import PREDICT_METHOD
from mlflow_restaurant.comparing import as_json, difference
from mlflow_restaurant.saving.rehearsal import OTHER_PROCESS, ExampleRun, message_of

__all__ = ["row_wise_finding"]

_SAME_PROCESS = 1e-9
_ROWS_TRIED = 50
_ROWS_OF_OTHER_METHODS = 10


def row_wise_finding(bundle: Bundle, run: ExampleRun | None) -> tuple[bool | None, str]:
    """Whether rows are predicted independently of each other, and how that is known.

    Raises:
        MlflowException: the bundle was said to be row-wise, and its example shows that it is not; or the example
            has another number of predictions than of rows, and nobody said that this is meant.
    """
    if bundle.row_wise is False:
        return False, "given"
    if run is None:
        if bundle.row_wise is None and bundle._row_wise_found is not None:
            return bundle._row_wise_found, "found when it was saved before"
        return bundle.row_wise, "given" if bundle.row_wise else "there is no input example"
    _check_counts(bundle, run)
    # Nobody asked for these predictions, so nobody is to be warned of them.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found, why = _try_rows(bundle, run, OTHER_PROCESS if bundle.row_wise else _SAME_PROCESS)
    if bundle.row_wise is None:
        return found, why
    if found is False:
        raise MlflowException(
            f"The bundle is not row-wise: {why}. Leave row_wise out, or make every step treat each row by itself.",
            INVALID_PARAMETER_VALUE,
        )
    return True, "given"


def _check_counts(bundle: Bundle, run: ExampleRun) -> None:
    rows, predictions = row_count(run.seen[0]), row_count(run.predictions)
    if rows is not None and (why := _several_outputs(bundle, run.predictions, rows)):
        raise MlflowException(f"The bundle was not saved: {why}.", INVALID_PARAMETER_VALUE)
    if rows is None or predictions is None or rows == predictions:
        return
    raise MlflowException(
        f"The bundle was not saved: it makes {predictions} predictions of the {rows} rows of its input example. Give "
        f"{type(bundle.model).__name__} what it takes one item of for each row, such as a column instead of the table, "
        "or save the bundle with row_wise=False if this is meant.",
        INVALID_PARAMETER_VALUE,
    )


def _several_outputs(bundle: Bundle, predictions: Any, rows: int) -> str:
    """What to do with an array for each output, each with all rows; empty if the predictions are something else."""
    if type(predictions) is not list or not all(np.shape(output)[:1] == (rows,) for output in predictions):
        return ""
    if not isinstance(getattr(bundle.model, "classes_", None), list):  # as where a model has several outputs
        return ""
    return (
        f"it predicts a list of {len(predictions)} arrays, one for each output, each with all {rows} rows: join them in a "
        "postprocess function, such as lambda found: numpy.hstack(found) if isinstance(found, list) else found"
    )


def _try_rows(bundle: Bundle, run: ExampleRun, tolerance: float) -> tuple[bool | None, str]:
    data, params = run.seen
    rows = _rows(_first(data, _ROWS_TRIED + 1))
    if rows is None or len(rows) < 2:
        return None, "the input example has fewer than two rows"
    predictions, which = run.predictions, "the"
    if len(rows) > _ROWS_TRIED:
        data, rows, which = _first(data, _ROWS_TRIED), rows[:_ROWS_TRIED], "the first"
        try:
            predictions = bundle.predict(deepcopy(data), params)
        except Exception as error:
            return False, f"the first {len(rows)} rows of the input example without the others fail: {error}"
    if differs := _differing_row(bundle, rows, predictions, params, tolerance):
        return False, differs
    few = rows[:_ROWS_OF_OTHER_METHODS]
    for method, found in _by_other_methods(bundle, _first(data, len(few)), params):
        with_method = {**(params or {}), PREDICT_METHOD: method}
        if differs := _differing_row(bundle, few, found, with_method, tolerance):
            return False, f"by {method}, {differs}"
    if _are_equal(rows):
        return None, "the rows of the input example are all the same, which shows nothing"
    return True, f"{which} {len(rows)} rows of the input example predict the same alone and together"


def _by_other_methods(bundle: Bundle, data: Any, params: dict[str, Any] | None) -> Iterator[tuple[str, Any]]:
    """What requests get that choose another method, as far as the model has it for such data."""
    if PREDICT_METHOD not in bundle.params:
        return
    for method in bundle.methods:
        if method != (params or {}).get(PREDICT_METHOD, bundle.predict_method):
            with contextlib.suppress(Exception):  # so does it fail for every request
                yield method, bundle.predict(deepcopy(data), {**(params or {}), PREDICT_METHOD: method})


def _differing_row(
    bundle: Bundle, rows: list[Any], predictions: Any, params: dict[str, Any] | None, tolerance: float
) -> str:
    """What shows that rows are not predicted by themselves; empty if nothing does."""
    try:
        together = as_json(predictions)
    except Exception as error:  # classes of any kind are asked for their values
        return f"its predictions cannot be written as JSON: {message_of(error)}"
    if why := _several_outputs(bundle, predictions, len(rows)):
        return why
    if not isinstance(together, list) or len(together) != len(rows):
        return f"there is no prediction for each of the {len(rows)} rows of the input example"
    for number, row in enumerate(rows):
        try:
            alone = as_json(bundle.predict(row, params))
        except Exception as error:
            return f"row {number + 1} of the input example alone fails: {error}"
        if text := difference([together[number]], alone, tolerance):
            return f"alone, row {number + 1} of the input example differs: {text}"
    return ""


def _are_equal(rows: list[Any]) -> bool:
    """Whether all rows are one and the same, so that they would predict the same whatever was done with them."""
    try:
        return len({str(as_json(row)) for row in rows}) == 1
    except Exception:  # data of any kind is asked for its values
        return False


def _first(data: Any, count: int) -> Any:
    """The first rows of data of any kind that `_rows` knows."""
    if hasattr(data, "iloc"):
        return data.iloc[:count]
    if isinstance(data, dict):
        return {name: _first(value, count) for name, value in data.items()}
    return data[:count]


def _rows(data: Any) -> list[Any] | None:
    """Each row by itself, in the form of the whole."""
    if hasattr(data, "iloc"):
        return [data.iloc[i : i + 1] for i in range(len(data))]
    if isinstance(data, list):
        return [[item] for item in data]
    if isinstance(data, dict):
        columns = {name: _rows(value) for name, value in data.items()}
        lengths = {None if rows is None else len(rows) for rows in columns.values()}
        if len(lengths) != 1 or None in lengths:
            return None
        return [{name: rows[i] for name, rows in columns.items() if rows} for i in range(lengths.pop() or 0)]
    shape = getattr(data, "shape", ())
    return [data[i : i + 1] for i in range(shape[0])] if shape else None
