"""Why a step of a bundle failed: the column or the value that its error is about.

Runs only after a step has failed, and never fails itself. This module travels inside every saved bundle: it imports the standard library only.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["columns_of", "explain", "row_count"]

_SHOWN = 10
_LIBRARIES = {"pandas", "sklearn"}
_QUOTED = re.compile(r"'([^']+)'|\"([^\"]+)\"|np\.str_\('([^']+)'\)")
_FITTED = re.compile(r"has no attribute '[A-Za-z]\w*_'")
_MISSING = re.compile(r"\bNaN\b|missing value|\bNone\b|NAType|\bNA\b")


def columns_of(data: Any) -> list[Any] | None:
    """Names of the columns of a DataFrame; None for anything else."""
    columns = getattr(data, "columns", None)
    return None if columns is None else list(columns)


def row_count(data: Any) -> int | None:
    """Rows of a DataFrame, Series, array, matrix or list; None where there are none to count."""
    shape = getattr(data, "shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) else None
    return len(data) if type(data) is list else None


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
        if isinstance(error, KeyError) and not _raised_by_library(
            error
        ):  # looked up in something else, perhaps
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
    clause = f"; its input has no column {_listed(wanted)} but {_listed(columns)}"
    dropped = [(name, label) for name in wanted for label in [_dropped_by(name, before)] if label]
    return clause + "".join(f"; {label} dropped {name!r}" for name, label in dropped[:1])


def _wanted_columns(error: BaseException, columns: list[Any]) -> list[Any]:
    known = set(columns)
    if isinstance(error, KeyError) and error.args and not isinstance(error.args[0], str):
        return [error.args[0]]
    text = re.sub(r"dtype='\w+'", "", str(error.args[0]) if error.args else "")
    if isinstance(error, KeyError) and not _QUOTED.search(text):
        return [text] if text and text not in known else []
    names = [next(filter(None, groups)) for groups in _QUOTED.findall(text)]
    listed = [line[2:].strip() for line in text.splitlines() if line.startswith("- ")]
    return [name for name in dict.fromkeys([*names, *listed]) if name not in known]


def _raised_by_library(error: BaseException) -> bool:
    """Whether the error comes from the library of the table, not from code that looks up things of its own."""
    trace = error.__traceback__
    if trace is None:
        return True
    while trace.tb_next is not None:
        trace = trace.tb_next
    module = str(trace.tb_frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] in _LIBRARIES


def _dropped_by(name: Any, before: Sequence[tuple[Any, Any]]) -> str:
    """The last step that got the column: what came out of it lacked the column."""
    return next((str(step) for step, had in reversed(before) if had is not None and name in had), "")


def _bad_value(error: BaseException, data: Any) -> str:
    if not hasattr(data, "items") or columns_of(data) is None:
        return ""
    text = str(error)
    values: list[Any] = [next(filter(None, groups)) for groups in _QUOTED.findall(text)]
    for value in list(error.args) if isinstance(error, KeyError) else values:
        for name, column in data.items():
            if place := _place_of(value, column):
                return f"; the value {value!r} is in column {name!r}, {place}"
    if _MISSING.search(text):
        empty = [name for name, column in data.items() if column.isna().any()]
        return f"; values are missing in column {_listed(empty)}" if empty else ""
    return ""


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


def _place_of(value: Any, column: Any) -> str:
    for position, cell in enumerate(islice(column, 10_000), 1):
        if type(cell) is type(value) and cell == value:
            return f"row {position}"
    return ""


def _listed(names: Iterable[Any]) -> str:
    shown = [repr(name) for name in islice(names, _SHOWN + 1)]
    return ", ".join(shown[:_SHOWN]) + (", …" if len(shown) > _SHOWN else "")
