"""Why a step of a bundle failed: the column or the value that its error is about.

Runs only after a step has failed, and never fails itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from math import inf
from traceback import walk_tb
from typing import Any

__all__ = ["columns_of", "explain", "row_count"]

_SHOWN = 10
_QUOTED = re.compile(r"'([^']+)'|\"([^\"]+)\"|np\.str_\('([^']+)'\)")
_FITTED = re.compile(r"has no attribute '[A-Za-z]\w*_'")
_MISSING = re.compile(r"(?i:\bnan\b)|missing value|\bNone\b|NAType|\bNA\b")
_MAY_BE_MISSING = re.compile(_MISSING.pattern + "|NoneType|'float' object")
_INFINITE = re.compile(r"infinity|\binf\b")
_LARGEST = {"float32": 3.4028236e38}


def columns_of(data: Any) -> list[Any] | None:
    """Names of the columns of a DataFrame; None for anything else."""
    columns = getattr(data, "columns", None)
    return None if columns is None else list(columns)


def row_count(data: Any) -> int | None:
    """Rows of a DataFrame, Series, array, matrix or list; None where there are none to count, as in a list of tables."""
    shape = getattr(data, "shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) else None
    is_rows = type(data) is list and not (data and len(getattr(data[0], "shape", ())) > 1)
    return len(data) if is_rows else None


def explain(error: BaseException, data: Any, before: Sequence[tuple[Any, Any]] = ()) -> str:
    """Say which column or value of `data` an error is about.

    Args:
        error: what the step raised.
        data: what the step got.
        before: the steps before it, each with the columns that it got.

    Returns:
        A clause to put behind the error's own message, or an empty string.
    """
    try:
        if isinstance(error, KeyError) and not _asked_a_table(error):  # looked up in something else, perhaps
            return _bad_value(error, data) or _missing_column(error, data, before)
        return (
            _missing_column(error, data, before)
            or _bad_value(error, data)
            or _unfitted(error)
            or _odd_types(error, data)
        )
    except Exception:  # odd data must not hide the error that is to be explained
        return ""


def _missing_column(error: BaseException, data: Any, before: Sequence[tuple[Any, Any]]) -> str:
    columns = columns_of(data)
    if columns is None:
        return ""
    wanted = _wanted_columns(error, columns)
    earlier = {name for _, had in before if had is not None for name in had}
    if not isinstance(error, KeyError):
        wanted = [name for name in wanted if name in earlier]
    if not wanted:
        return ""
    # By the last step that got the column: what came out of it lacked it.
    had = (
        (name, step) for name in wanted for step, got in reversed(before) if got is not None and name in got
    )
    dropped = next((f"; {step} dropped {name!r}" for name, step in had), "")
    return f"; its input has no column {_listed(wanted)} but {_listed(columns)}{dropped}"


def _wanted_columns(error: BaseException, columns: list[Any]) -> list[Any]:
    known = set(columns)
    if isinstance(error, KeyError) and error.args and not isinstance(error.args[0], str):
        return [error.args[0]]
    text = re.sub(r"dtype='\w+'", "", str(error.args[0]) if error.args else "")
    if isinstance(error, KeyError) and not _QUOTED.search(text):
        return [text] if text and text not in known else []
    names = _quoted(text)
    listed = [line[2:].strip() for line in text.splitlines() if line.startswith("- ")]
    return [name for name in dict.fromkeys([*names, *listed]) if name not in known]


def _quoted(text: str) -> list[Any]:
    return [next(filter(None, groups)) for groups in _QUOTED.findall(text)]


def _asked_a_table(error: BaseException) -> bool:
    """Whether an error comes from ``DataFrame.__getitem__``, and so is about a column."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__) if frame.f_code.co_name == "__getitem__"]
    return any(columns_of(frame.f_locals.get("self")) is not None for frame in frames)


def _bad_value(error: BaseException, data: Any) -> str:
    from pandas import isna

    text = str(error)
    for value in error.args if isinstance(error, KeyError) else _quoted(text):
        if place := _place(data, partial(_is_same, value)):
            return f"; the value {value!r} is in {place}"
    largest = next((number for dtype, number in _LARGEST.items() if dtype in text), inf)
    if _INFINITE.search(text) and (
        place := _place(data, lambda cell: _is_float(cell) and abs(cell) >= largest)
    ):
        return f"; the value in {place} is infinite or too large"
    if columns_of(data) is None:
        place = _place(data, lambda cell: isna(cell) is True) if _MAY_BE_MISSING.search(text) else ""
        return f"; the value in {place} is missing" if place else ""
    empty = [name for name, column in data.items() if column.isna().any()]
    return f"; values are missing in column {_listed(empty)}" if empty and _MISSING.search(text) else ""


def _is_same(value: Any, cell: Any) -> bool:
    return (type(cell) is type(value) or (isinstance(cell, str) and isinstance(value, str))) and bool(
        cell == value
    )


def _is_float(cell: Any) -> bool:
    return type(cell).__name__.startswith("float")


def _unfitted(error: BaseException) -> str:
    """Fitting sets the attributes that end in "_", by scikit-learn's convention."""
    is_of_fit = isinstance(error, AttributeError) and _FITTED.search(str(error))
    return "; fit sets such an attribute: call it before making the bundle" if is_of_fit else ""


def _odd_types(error: BaseException, data: Any) -> str:
    """The types of the columns, and where values are missing, for an operation that did not fit one of them."""
    if not isinstance(error, (TypeError, AttributeError)) or columns_of(data) is None:
        return ""
    types = [
        f"{name!r} ({column.dtype}{', with missing values' if column.isna().any() else ''})"
        for name, column in islice(data.items(), _SHOWN + 1)
    ]
    return f"; its input has the columns {', '.join(types[:_SHOWN])}{', …' if len(types) > _SHOWN else ''}"


def _place(data: Any, wanted: Callable[[Any], bool]) -> str:
    """Column and row of the first value that is wanted; of a Series or a list, the row."""
    for column, cells in _columns(data):
        for row, cell in enumerate(islice(cells, 10_000), 1):
            if wanted(cell):
                return f"{column}row {row}"
    return ""


def _columns(data: Any) -> Iterable[tuple[str, Any]]:
    """The columns of a table, array or list, with what each is called."""
    if columns_of(data) is not None or isinstance(data, dict):
        return ((f"column {name!r}, ", cells) for name, cells in data.items())
    if hasattr(data, "toarray"):  # sparse, and perhaps too large for anything else
        return []
    if len(getattr(data, "shape", ())) == 2:
        columns = data.T
    elif type(data) is list and data and isinstance(data[0], (list, tuple)):
        columns = zip(*data, strict=False)
    else:
        return [("", data)] if hasattr(data, "__iter__") and not isinstance(data, str) else []
    return ((f"column {number} (counted from 0), ", cells) for number, cells in enumerate(columns))


def _listed(names: Iterable[Any]) -> str:
    shown = [repr(name) for name in islice(names, _SHOWN + 1)]
    return ", ".join(shown[:_SHOWN]) + (", …" if len(shown) > _SHOWN else "")
