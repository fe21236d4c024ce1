"""What one column of a table looks like: its type, counts, and what is typical of its values."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

from mlflow_restaurant.bundle.profile import ColumnProfile

__all__ = ["QUANTILES", "TOP_VALUES", "UnsupportedColumn", "json_text", "profile_column"]

QUANTILES = (0.01, 0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95, 0.99)
"""Deciles, quartiles and tails: what comparing distributions needs."""

TOP_VALUES = 20
"""How many of the most frequent values are kept."""

LONGEST_TOP_VALUE = 200
"""Characters; longer texts are no categories, and are left out of the most frequent values."""


class UnsupportedColumn(TypeError):
    """A column holds values that no summary can be made of."""


def profile_column(name: str | int, values: pd.Series) -> ColumnProfile:
    """Summarise one column.

    Raises:
        UnsupportedColumn: values such as complex numbers, periods or objects of classes that JSON knows nothing of.
    """
    kind = _type_of(values)
    present = values.dropna()
    summary = _SUMMARIES[kind](present) if len(present) else {}
    distinct = summary.pop("distinct", None)
    return ColumnProfile(
        name=name,
        type=kind,
        dtype=str(values.dtype),
        count=len(present),
        missing=len(values) - len(present),
        distinct=int(present.nunique()) if distinct is None else distinct,
        **summary,
    )


def json_text(value: Any) -> str:
    """Return a nested or odd value as JSON; dates become ISO 8601, sets and arrays lists, decimals numbers."""
    return json.dumps(value, default=_as_json)


def _as_json(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    if isinstance(value, decimal.Decimal):
        return float(value)
    if value is pd.NA or value is pd.NaT:
        return None
    raise UnsupportedColumn(f"it holds objects of {_class_name(value)}")


def _type_of(values: pd.Series) -> str:
    dtype, types = values.dtype, pd.api.types
    if isinstance(dtype, pd.CategoricalDtype):
        return "category"
    for is_type, name in (
        (types.is_bool_dtype, "boolean"),
        (types.is_integer_dtype, "integer"),
        (types.is_float_dtype, "float"),
        (types.is_datetime64_any_dtype, "datetime"),
        (types.is_timedelta64_dtype, "duration"),
    ):
        if is_type(dtype):
            return name
    return _type_of_objects(values.astype(object).dropna())


_INFERRED = {
    "string": "string",
    "bytes": "binary",
    "integer": "integer",
    "floating": "float",
    "mixed-integer-float": "float",
    "decimal": "decimal",
    "boolean": "boolean",
    "datetime": "datetime",
    "datetime64": "datetime",
    "date": "date",
    "timedelta": "duration",
    "timedelta64": "duration",
    "empty": "empty",
}
"""Our name for what pandas infers about a column of objects."""

_SCALARS = (bool, int, float, str, datetime.date, datetime.time, decimal.Decimal, np.generic)
_NESTED = (list, tuple, dict, set, frozenset, np.ndarray)


def _type_of_objects(values: pd.Series) -> str:
    if (known := _INFERRED.get(pd.api.types.infer_dtype(values, skipna=True))) is not None:
        return known
    odd = next((v for v in values if not isinstance(v, (*_SCALARS, *_NESTED))), None)
    if odd is not None:
        raise UnsupportedColumn(f"it holds objects of {_class_name(odd)}")
    return "nested" if all(isinstance(value, _NESTED) for value in values) else "mixed"


def _class_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _numbers(values: pd.Series) -> dict[str, Any]:
    numbers = values.to_numpy(dtype=float)
    finite = numbers[np.isfinite(numbers)]
    summary: dict[str, Any] = {"infinite": len(numbers) - len(finite)}
    if not len(finite):
        return summary
    with np.errstate(all="ignore"):  # sums of numbers near the largest float overflow
        summary.update(
            min=finite.min(),
            max=finite.max(),
            mean=finite.mean(),
            std=finite.std(ddof=1) if len(finite) > 1 else None,
        )
        at = np.quantile(finite, QUANTILES)
    summary["quantiles"] = {str(q): value for q, value in zip(QUANTILES, at.tolist(), strict=True)}
    return {name: _finite(value) for name, value in summary.items()}


def _finite(value: Any) -> Any:
    """A value as JSON can hold it: no NumPy number, nothing infinite."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _integers(values: pd.Series) -> dict[str, Any]:
    # As whole numbers: a float would lose the last digits of large ones.
    return {**_numbers(values), "infinite": None, "min": int(values.min()), "max": int(values.max())}


def _categories(values: pd.Series) -> dict[str, Any]:
    counts = values.value_counts(sort=False)
    return {"top": _top(counts.index, counts.to_numpy(dtype=np.int64))}


def _top(values: Sequence[Any] | pd.Index, counts: np.ndarray) -> tuple[tuple[Any, int], ...]:
    """The most frequent values; of equally frequent ones those that came first, always the same for the same data."""
    order = np.argsort(-counts, kind="stable")
    short = ((_plain(values[at]), int(counts[at])) for at in order if counts[at] and _is_short(values[at]))
    return tuple(islice(short, TOP_VALUES))


def _is_short(value: Any) -> bool:
    return not isinstance(value, str) or len(value) <= LONGEST_TOP_VALUE


def _plain(value: Any) -> Any:
    """A value as JSON can hold it: a boolean, a number or a string."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def _lengths(values: pd.Series) -> dict[str, Any]:
    lengths = np.fromiter(map(len, values), dtype=np.int64, count=len(values))
    found = {"min": int(lengths.min()), "max": int(lengths.max()), "mean": float(lengths.mean())}
    return {"length": found}


def _mixed(values: pd.Series) -> dict[str, Any]:
    # By their types as well: 1, 1.0 and True are equal, and not the same.
    counts: dict[tuple[str, str], int] = {}
    firsts: dict[tuple[str, str], Any] = {}
    for value in values:
        key = (type(value).__name__, json_text(value))
        counts[key] = counts.get(key, 0) + 1
        firsts.setdefault(key, value if isinstance(value, _SCALARS) else key[1])
    return {"distinct": len(counts), "top": _top(list(firsts.values()), np.array(list(counts.values())))}


def _nested(values: pd.Series) -> dict[str, Any]:
    return {"distinct": len({json_text(value) for value in values}), **_lengths(values)}


def _times(values: pd.Series) -> dict[str, Any]:
    times = pd.to_datetime(values, utc=True) if values.dtype == object else values
    return {"earliest": times.min().isoformat(), "latest": times.max().isoformat()}


def _dates(values: pd.Series) -> dict[str, Any]:
    return {"earliest": min(values).isoformat(), "latest": max(values).isoformat()}


_SUMMARIES: dict[str, Callable[[pd.Series], dict[str, Any]]] = {
    "integer": _integers,
    "float": _numbers,
    "decimal": _numbers,
    "duration": lambda values: {**_numbers(pd.to_timedelta(values).dt.total_seconds()), "infinite": None},
    "boolean": _categories,
    "category": _categories,
    "string": lambda values: {**_categories(values), **_lengths(values)},
    "binary": _lengths,
    "nested": _nested,
    "mixed": _mixed,
    "datetime": _times,
    "date": _dates,
    "empty": lambda values: {},
}
