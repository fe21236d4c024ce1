"""Builds the input of a model from parsed JSON at once, where it is known what MLflow would build of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from mlflow.pyfunc import PyFuncModel
from mlflow.types import DataType

from mlflow_restaurant.replica.arrays import block, takes_arrays

RECORDS, SPLIT, INSTANCES, INPUTS = "dataframe_records", "dataframe_split", "instances", "inputs"
FORMATS = frozenset({RECORDS, SPLIT, INSTANCES, INPUTS})

NUMBERS = frozenset({float, int, type(None)})
EXACT_INTEGERS = 1 << 53
"""Up to here every integer is a float of its own, so that it does not matter by way of which types it becomes one."""

Column = Callable[[tuple[Any, ...]], Any]


class NotCovered(Exception):
    """No shortcut is known to give MLflow's answer here."""


# -- columns ---------------------------------------------------------------------------------------------------------
# By way of `DataFrame(rows)` pandas makes float64 of a column of floats, int64 of one of integers, NaN of a null, and
# `astype` then makes the type of the signature of it. That is what numpy makes of the same values in one step, as
# long as each is a float, an integer that is exact in both, or null. Text, booleans among numbers and larger integers
# are converted, or refused, each in its own way: those are MLflow's.


def numbers(values: Any, kinds: set[type]) -> Any:
    """Return a float64 array of values, nested or not, whose types are `kinds`."""
    if not kinds <= NUMBERS:
        raise NotCovered
    array = np.array(values, dtype=np.float64)
    if int in kinds and (np.abs(array) > EXACT_INTEGERS).any():
        raise NotCovered
    return array


def double_column(values: tuple[Any, ...]) -> Any:
    return numbers(values, set(map(type, values)))


def float_column(values: tuple[Any, ...]) -> Any:
    return double_column(values).astype(np.float32)


def long_column(values: tuple[Any, ...]) -> Any:
    if set(map(type, values)) != {int}:
        raise NotCovered
    return np.array(values, dtype=np.int64)


def integer_column(values: tuple[Any, ...]) -> Any:
    array = long_column(values)
    narrow = array.astype(np.int32)
    if (narrow != array).any():
        raise NotCovered
    return narrow


def boolean_column(values: tuple[Any, ...]) -> Any:
    if set(map(type, values)) != {bool}:
        raise NotCovered
    return np.array(values, dtype=np.bool_)


def string_column(values: tuple[Any, ...]) -> Any:
    """Leave it to pandas what a column of text is; a column without any text is not one."""
    kinds = set(map(type, values))
    if str not in kinds or not kinds <= {str, type(None)}:
        raise NotCovered
    return list(values)


def beside_text() -> Any:
    """Return what pandas makes of a null beside text now, which a model may have set; where all are nulls, they stay."""
    return pd.DataFrame({"text": ["text", None]})["text"][1]


def text_column(values: tuple[Any, ...], counts: Sequence[int], missing: Any) -> Any:
    """Return a column of the texts of several requests, in which each null is what it is in its own request.

    Such a column is one of Python's objects; not every model takes it for the one that pandas makes of the texts of one
    request (see `texts`).

    Args:
        values: the texts, and nulls.
        counts: rows of each request.
        missing: see `beside_text`.

    Raises:
        NotCovered: there is something else than text.
        UnicodeEncodeError: half of a character is among it, which is an error to pandas.
    """
    kinds = set(map(type, values))
    if not kinds <= {str, type(None)}:
        raise NotCovered
    "".join([value for value in values if value]).encode()  # refuses halves of characters
    column = np.empty(len(values), dtype=object)
    column[:] = values
    if len(kinds) > 1 and len(counts) < len(values):
        end = 0
        for count in counts:
            start, end = end, end + count
            if count > 1 and set(map(type, values[start:end])) == kinds:
                column[start:end] = [missing if value is None else value for value in values[start:end]]
    return pd.Series(column, dtype=object, copy=False)


COLUMNS: Mapping[DataType, Column] = {
    DataType.double: double_column,
    DataType.float: float_column,
    DataType.long: long_column,
    DataType.integer: integer_column,
    DataType.boolean: boolean_column,
    DataType.string: string_column,
}


# -- tables ----------------------------------------------------------------------------------------------------------


class Table:
    """Builds the DataFrame that MLflow hands to a model whose signature has these columns."""

    enforced = True
    """Nothing is left for MLflow to check or to cast."""
    as_array = False
    """Whether `build` returns the array inside the table instead, for models that need no more (see `arrays`)."""
    text_as_objects = False
    """Whether text is always a column of objects, which takes less time, for models to which that is the same (see `texts`)."""

    def __init__(self, types: Mapping[str, DataType]) -> None:
        self.names = list(types)
        self.width = len(self.names)
        self.columns = [COLUMNS[kind] for kind in types.values()]
        self.all_doubles = set(types.values()) == {DataType.double}
        self.texts = [name for name, kind in types.items() if kind is DataType.string]
        self.index = pd.DataFrame({name: [] for name in self.names}).columns
        self.missing = beside_text()

    def build(self, form: str, content: Any, counts: Sequence[int] | None = None) -> Any:
        """Return the table for what a request says in the format `form`.

        Args:
            form: of MLflow's scoring protocol.
            content: what the request has under that name.
            counts: rows of each of the requests that were put together, where a null among texts is to be what it is in
                its own request.

        Raises:
            NotCovered: MLflow must decide.
            Exception: for instance of numpy; MLflow must decide too.
        """
        if counts is not None or (self.text_as_objects and form in (SPLIT, RECORDS)):
            return self._together(self._rows(form, content), counts)
        if form == SPLIT:
            return self._from_rows(self._split_rows(content))
        # With `inputs` and `instances` MLflow makes arrays of the signature's types first; of 64-bit floats they
        # become the same table, of others not always.
        if form == RECORDS or self.all_doubles:
            if type(content) is list:
                return self._from_rows(self._record_rows(content))
            if type(content) is dict and form != RECORDS:
                return self._from_columns(content)
        raise NotCovered

    def _rows(self, form: str, content: Any) -> list[Any]:
        if form == SPLIT:
            return self._split_rows(content)
        if form == RECORDS and type(content) is list:
            return self._record_rows(content)
        raise NotCovered

    def _split_rows(self, content: Any) -> list[list[Any]]:
        if type(content) is not dict or content.keys() != {"columns", "data"}:
            raise NotCovered
        names, rows = content["columns"], content["data"]
        if type(rows) is not list or set(map(type, rows)) != {list}:
            raise NotCovered
        if names == self.names:
            return rows
        if type(names) is not list or len(names) != self.width or set(names) != set(self.names):
            raise NotCovered
        if set(map(len, rows)) != {self.width}:
            raise NotCovered
        order = [names.index(name) for name in self.names]
        return [[row[place] for place in order] for row in rows]

    def _record_rows(self, content: list[Any]) -> list[list[Any]]:
        if set(map(type, content)) != {dict} or set(map(len, content)) != {self.width}:
            raise NotCovered
        return [[record[name] for name in self.names] for record in content]

    def _from_columns(self, content: dict[str, Any]) -> Any:
        if content.keys() != set(self.names) or set(map(type, content.values())) != {list}:
            raise NotCovered
        return self._from_rows(list(zip(*(content[name] for name in self.names), strict=True)))

    def _from_rows(self, rows: list[Any]) -> Any:
        if not rows:
            raise NotCovered
        if self.all_doubles:
            array = numbers(rows, set(map(type, chain.from_iterable(rows))))
            if array.shape != (len(rows), self.width):
                raise NotCovered
            return block(array) if self.as_array else self.frame(array)
        return self._by_column(rows, None)

    def _together(self, rows: list[Any], counts: Sequence[int] | None) -> Any:
        counts = [len(rows)] if counts is None else counts
        if not rows or len(rows) != sum(counts):
            raise NotCovered
        return self._by_column(rows, counts)

    def _by_column(self, rows: list[Any], counts: Sequence[int] | None) -> Any:
        """Return the table of rows; with `counts`, text as objects."""
        arrays = {
            name: column(values)
            if counts is None or column is not string_column
            else text_column(values, counts, self.missing)
            for name, column, values in zip(self.names, self.columns, zip(*rows, strict=True), strict=True)
        }
        return pd.DataFrame(arrays)

    def frame(self, array: Any) -> Any:
        """Return the table with an array of floats in it."""
        # One block with a row for each column, as pandas keeps it: sums must not come out in another order.
        return pd.DataFrame(array.T.copy().T, columns=self.index.copy(), copy=False)


class Tensor:
    """Builds the array that MLflow makes of JSON for a signature of one tensor without a name."""

    enforced = False
    as_array = False
    text_as_objects = False

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype

    def build(self, form: str, content: Any, counts: Sequence[int] | None = None) -> Any:
        """Return the array, which MLflow makes by the same call, of a deep copy of all the lists; see `Table.build`.

        Raises:
            NotCovered: MLflow must decide.
            Exception: for instance of numpy; MLflow must decide too.
        """
        if form not in (INPUTS, INSTANCES) or type(content) is not list or not content or counts is not None:
            raise NotCovered
        if dict in set(map(type, content)):
            raise NotCovered
        return np.array(content, dtype=self.dtype)


def inputs_of(model: Any) -> Table | Tensor:
    """Return what builds the input of a model.

    Raises:
        NotCovered: its signature has other things than named columns of plain types or one tensor without a name, or
            MLflow does more with the input than the signature says.
    """
    metadata = model.metadata
    if type(model) is not PyFuncModel or metadata._is_signature_from_type_hint():
        raise NotCovered
    if metadata._is_type_hint_from_example() or "dependencies_schemas" in (metadata.metadata or {}):
        raise NotCovered
    schema = metadata.get_input_schema()
    if schema is None:
        raise NotCovered
    if schema.is_tensor_spec() and len(schema.inputs) == 1 and not schema.has_input_names():
        return Tensor(schema.inputs[0].type)
    if schema.is_tensor_spec() or not schema.has_input_names():
        raise NotCovered
    types = dict(zip(schema.input_names(), schema.input_types(), strict=True))
    if len(types) != len(schema.inputs) or not all(kind in COLUMNS for kind in types.values()):
        raise NotCovered
    table = Table(types)
    table.as_array = table.all_doubles and takes_arrays(model, table.names, table.frame)
    return table
