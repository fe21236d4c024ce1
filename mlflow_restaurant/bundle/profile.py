"""A reference profile: what the data that a bundle was made for looks like, and some rows of it.

It lies beside the steps, as ``profile/profile.json`` and ``profile/sample.parquet``; both are hashed in MLmodel. What
makes it is in ``saving/profiling.py``.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from .bundle import BundleError
from .files import INTACT, SUMMARY_FILE, state_of

__all__ = [
    "SAMPLE_FILE",
    "ColumnProfile",
    "Profile",
    "is_kept_as_json",
    "profile_reader",
    "read_profile",
]

FORMAT_VERSION = 1
"""Layout of ``profile.json``."""

SAMPLE_FILE = "profile/sample.parquet"
_AS_JSON = {"integer", "float", "boolean", "mixed", "nested"}
"""Types whose columns of Python objects Parquet would change or refuse: their sample is kept as JSON."""


@dataclasses.dataclass(frozen=True)
class ColumnProfile:
    """Summary of one column. What does not fit its type is None.

    Attributes:
        name: name of the column, or its position in an array.
        type: ``integer``, ``float``, ``decimal``, ``boolean``, ``string``, ``category``, ``datetime``, ``date``,
            ``duration``, ``binary``, ``nested`` (lists, dictionaries, arrays), ``mixed`` (values of several types),
            ``empty``.
        dtype: pandas' name of the type it had.
        count: values that are not missing.
        missing: values that are None, NaN, NaT or NA.
        distinct: different values, missing ones apart.
        infinite: numbers that are infinite; `min` to `quantiles` are of the others.
        min: smallest number; seconds for durations.
        max: largest number.
        mean: arithmetic mean.
        std: standard deviation of the sample (n - 1).
        quantiles: value at each of 15 quantiles, interpolated linearly, by the quantile as text (``"0.5"``).
        top: the most frequent values with their counts, in order.
        length: ``min``, ``max`` and ``mean`` of the number of characters, bytes or items.
        earliest: first date or time, ISO 8601.
        latest: last date or time, ISO 8601.
    """

    name: str | int
    type: str
    dtype: str
    count: int
    missing: int
    distinct: int
    infinite: int | None = None
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    std: float | None = None
    quantiles: dict[str, float] | None = None
    top: tuple[tuple[Any, int], ...] | None = None
    length: dict[str, float] | None = None
    earliest: str | None = None
    latest: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as JSON holds it, without what is None."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        found["top"] = None if self.top is None else [{"value": v, "count": n} for v, n in self.top]
        return {name: value for name, value in found.items() if value is not None}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ColumnProfile:
        """Rebuild a summary from `to_dict`; what a later release added is left out."""
        known = {field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values}
        if "top" in known:
            known["top"] = tuple((item["value"], item["count"]) for item in known["top"])
        return cls(**known)


class Profile:
    """Summary of reference data, column by column, with a sample of its rows.

    Attributes:
        rows: number of rows of the reference data.
        kind: what the data were: ``DataFrame``, ``Series`` or ``ndarray``.
        columns: summary of every column, by its name, in their order.
    """

    def __init__(
        self,
        rows: int,
        kind: str,
        columns: Mapping[str | int, ColumnProfile],
        sample: pd.DataFrame | Callable[[], pd.DataFrame],
    ) -> None:
        self.rows = rows
        self.kind = kind
        self.columns = dict(columns)
        self._sample = sample

    @property
    def sample(self) -> pd.DataFrame:
        """Up to 1,000 rows, in their order, with the columns of the data; read from the bundle on first use.

        Raises:
            BundleError: the file is missing or was changed.
        """
        if callable(self._sample):
            self._sample = self._sample()
        return self._sample

    def to_dict(self) -> dict[str, Any]:
        """Return the summary, without the sample, as ``profile.json`` holds it."""
        return {
            "format_version": FORMAT_VERSION,
            "rows": self.rows,
            "kind": self.kind,
            "columns": [column.to_dict() for column in self.columns.values()],
        }

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each column: type, counts, mean, quartiles, most frequent value."""
        return pd.DataFrame([_overview(column) for column in self.columns.values()]).set_index("column")

    def __repr__(self) -> str:
        return f"Profile({self.rows} rows, {len(self.columns)} columns)"

    def __str__(self) -> str:
        return f"{self.rows} rows, {len(self.columns)} columns\n{self.to_frame().to_string(na_rep='')}"

    def _repr_html_(self) -> str:
        return str(self.to_frame().to_html(na_rep="", escape=True))


def read_profile(entry: Mapping[str, Any], root: Path) -> Profile:
    """Read the profile that `write_profile` wrote; the sample only when it is asked for.

    Args:
        entry: what `write_profile` returned.
        root: directory of the bundle.

    Raises:
        BundleError: a file is missing or was changed.
    """
    _check(entry, root, SUMMARY_FILE)
    summary = json.loads((root / SUMMARY_FILE).read_text(encoding="utf-8"))
    columns = {column["name"]: ColumnProfile.from_dict(column) for column in summary["columns"]}
    return Profile(summary["rows"], summary["kind"], columns, partial(_read_sample, entry, root, columns))


def profile_reader(entry: Mapping[str, Any] | None, root: Path) -> Callable[[], Profile] | None:
    """Return what reads the profile when it is first asked for, or None if a bundle has none."""
    return None if entry is None else partial(read_profile, entry, root)


def is_kept_as_json(column: ColumnProfile) -> bool:
    return column.dtype == "object" and column.type in _AS_JSON


def _read_sample(
    entry: Mapping[str, Any], root: Path, columns: Mapping[str | int, ColumnProfile]
) -> pd.DataFrame:
    from pyarrow import parquet

    _check(entry, root, SAMPLE_FILE)
    # Few rows: threads, which may still run when the interpreter ends, are not worth it.
    with parquet.ParquetFile(root / SAMPLE_FILE, pre_buffer=False) as file:
        stored = file.read(use_threads=False).to_pandas(use_threads=False)
    found = {name: _restored(stored[str(name)], column) for name, column in columns.items()}
    return pd.DataFrame(found)


def _restored(values: pd.Series, column: ColumnProfile) -> pd.Series:
    if not is_kept_as_json(column):
        return values
    return pd.Series([json.loads(v) if isinstance(v, str) else None for v in values], dtype=object)


def _check(entry: Mapping[str, Any], root: Path, file: str) -> None:
    state = state_of(root, file, entry["files"].get(file, ""))
    if state != INTACT:
        raise BundleError(f"The profile cannot be read: {file} is {state}, save the bundle again.")


def _overview(column: ColumnProfile) -> dict[str, Any]:
    quantiles = column.quantiles or {}
    found = {
        "column": column.name,
        **{name: getattr(column, name) for name in ("type", "count", "missing", "distinct", "mean")},
        "min": column.earliest if column.min is None else column.min,
        **{f"{q}%": quantiles.get(f"{q / 100}") for q in (25, 50, 75)},
        "max": column.latest if column.max is None else column.max,
        "top": column.top[0][0] if column.top else None,
    }
    return {name: math.nan if value is None else value for name, value in found.items()}
