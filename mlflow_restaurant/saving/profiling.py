"""Makes and writes the reference profile of a bundle; what one is, and how it is read, is in ``bundle/profile.py``."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlflow_restaurant.bundle.bundle import BundleError
from mlflow_restaurant.bundle.files import SUMMARY_FILE, sha256_of
from mlflow_restaurant.bundle.profile import (
    SAMPLE_FILE,
    ColumnProfile,
    Profile,
    is_kept_as_json,
    read_profile,
)
from mlflow_restaurant.saving.columns import UnsupportedColumn, json_text, profile_column

__all__ = [
    "MAX_SAMPLE_CELLS",
    "SAMPLE_ROWS",
    "ColumnProfile",
    "Profile",
    "build_profile",
    "check_profile",
    "read_profile",
    "write_profile",
]

SAMPLE_ROWS = 1000
"""Rows of reference data that are kept, at most."""

MAX_SAMPLE_CELLS = 1_000_000
"""Of tables with more than a thousand columns fewer rows are kept, so that the sample stays small."""

SEED = 0
"""Of the choice of sample rows: the same data give the same sample."""

_LEAVE_OUT = "convert the column, or leave it out of reference_data"


def build_profile(reference_data: Any) -> Profile:
    """Summarise reference data: raw input as callers will send it, usually the training data.

    Args:
        reference_data: DataFrame, Series, or array of one or two dimensions, of at least one row.

    Raises:
        BundleError: something else, nothing in it, or a column that cannot be summarised; the message names it.
    """
    kind, frame = _as_frame(reference_data)
    columns: dict[str | int, ColumnProfile] = {
        name: _column(name, frame.iloc[:, at]) for at, name in enumerate(frame.columns)
    }
    profile = Profile(len(frame), kind, columns, _sample_of(frame))
    _sample_bytes(profile)  # what can't be written is refused here, where the caller is
    return profile


def check_profile(profile: Profile, signature: Any) -> None:
    """Refuse reference data that is not the raw input of a model.

    Args:
        profile: of the reference data.
        signature: ``ModelSignature`` of the model, or None.

    Raises:
        BundleError: a column that the signature requires is not there; columns beyond it are welcome.
    """
    inputs = getattr(signature, "inputs", None)
    if inputs is None or not inputs.has_input_names():
        return
    names = {str(name) for name in profile.columns}
    if absent := [name for name in inputs.required_input_names() if str(name) not in names]:
        raise BundleError(
            f"reference_data has no column {absent[0]!r}, which the signature requires: "
            f"give raw input, as callers send it. It has {', '.join(sorted(names))}."
        )


def write_profile(profile: Profile, root: Path) -> dict[str, Any]:
    """Write a profile into the directory of a bundle.

    Returns:
        The profile's part of MLmodel: ``rows``, ``columns`` (how many), and ``files`` with their SHA-256.
    """
    summary = json.dumps(profile.to_dict(), indent=1, allow_nan=False).encode()
    files = {SUMMARY_FILE: summary, SAMPLE_FILE: _sample_bytes(profile)}
    (root / "profile").mkdir()
    for file, content in files.items():
        (root / file).write_bytes(content)
    return {
        "rows": profile.rows,
        "columns": len(profile.columns),
        "sample_rows": len(profile.sample),
        "files": {file: sha256_of(root / file) for file in files},
    }


def _as_frame(data: Any) -> tuple[str, pd.DataFrame]:
    """The kind of some data, and the data as a table with names that are strings or integers."""
    if isinstance(data, pd.DataFrame):
        kind, frame = "DataFrame", data
    elif isinstance(data, pd.Series):
        kind, frame = "Series", data.to_frame(0 if data.name is None else data.name)
    elif isinstance(data, np.ndarray) and data.ndim in (1, 2):
        kind, frame = "ndarray", pd.DataFrame(data)
    else:
        shape = f" of shape {data.shape}" if isinstance(data, np.ndarray) else ""
        raise BundleError(
            f"reference_data is a {type(data).__name__}{shape}: give a DataFrame, a Series, "
            "or an array of one or two dimensions."
        )
    if 0 in frame.shape:
        rows, columns = frame.shape
        raise BundleError(
            f"reference_data has {rows} rows and {columns} columns: give some rows of raw input."
        )
    names = [_column_name(name) for name in frame.columns]
    _check_names(names)
    return kind, frame.set_axis(pd.Index(names, dtype=object), axis=1).reset_index(drop=True)


def _column_name(name: Any) -> str | int:
    if isinstance(name, np.integer):
        return int(name)
    if isinstance(name, (str, int)):
        return name
    raise BundleError(
        f"reference_data has a column named {name!r} ({type(name).__name__}): names must be strings or integers."
    )


def _check_names(names: list[str | int]) -> None:
    seen: set[str] = set()
    for name in map(str, names):
        if name in seen:
            raise BundleError(f"reference_data has two columns named {name!r}: rename or drop one.")
        seen.add(name)


def _column(name: str | int, values: pd.Series) -> ColumnProfile:
    try:
        return profile_column(name, _dense(values))
    except UnsupportedColumn as error:
        reason = str(error)
    except Exception as error:  # methods of any class may run here: comparing, hashing, converting
        reason = f"{type(error).__name__}: {error}"
    raise BundleError(f"Column {name!r} of reference_data cannot be summarised: {reason}; {_LEAVE_OUT}.")


def _dense(values: pd.Series) -> pd.Series:
    sparse: Any = values
    return sparse.sparse.to_dense() if isinstance(values.dtype, pd.SparseDtype) else values


def _sample_of(frame: pd.DataFrame) -> pd.DataFrame:
    size = min(len(frame), SAMPLE_ROWS, max(1, MAX_SAMPLE_CELLS // frame.shape[1]))
    chosen = np.random.default_rng(SEED).choice(len(frame), size, replace=False)
    return frame.iloc[np.sort(chosen)].reset_index(drop=True)


def _sample_bytes(profile: Profile) -> bytes:
    stored = pd.DataFrame({str(c.name): _stored(profile.sample[c.name], c) for c in profile.columns.values()})
    try:
        return _parquet(stored)
    except Exception as error:  # PyArrow has errors of its own for each kind of trouble
        name, reason = _culprit(stored) or ("", str(error))
    raise BundleError(f"Column {name!r} of reference_data cannot be kept as Parquet: {reason}; {_LEAVE_OUT}.")


def _stored(values: pd.Series, column: ColumnProfile) -> pd.Series:
    if not is_kept_as_json(column):
        return _dense(values)
    texts = [None if missing else json_text(v) for v, missing in zip(values, values.isna(), strict=True)]
    return pd.Series(texts, dtype=object)


def _parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _culprit(frame: pd.DataFrame) -> tuple[str, str] | None:
    for name in frame.columns:
        try:
            _parquet(frame[[name]])
        except Exception as error:
            return name, f"{type(error).__name__}: {error}"
    return None
