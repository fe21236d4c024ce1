"""Which values the rows of a request may have to be merged with others, by the signature of the model.

Pure: parsed JSON in, kinds of values out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from mlflow_restaurant.entities import BatchRoute
from mlflow_restaurant.gateway.layout import INPUTS, INSTANCES, RECORDS, SPLIT, Layout, strictly

Kinds = Mapping[type, tuple[float, float] | None]
Values = tuple[type, ...]
Common = tuple[type, tuple[str, ...] | None, Values]

# The fast parser reads integers beyond 64 bits as floats without a word: no float as large as those is merged.
FLOAT = (-9.2e18, 9.2e18)
INT64 = (-(2**63), 2**63 - 1)
NULL = type(None)
NUMBER: Kinds = {int: INT64, float: FLOAT}
TEXT: Kinds = {str: None, NULL: None}
TEXT_TOLD_APART: Kinds = {str: None, NULL: None}
"""`TEXT` where the replica is told which rows are of which request, so that a null stays what it is in its own."""

COLUMN_KINDS: Mapping[str, Kinds] = {
    "double": {**NUMBER, NULL: None},
    "float": {**NUMBER, NULL: None},
    "long": {int: INT64},
    "integer": {int: (-(2**31), 2**31 - 1)},
    "boolean": {bool: None},
    "string": TEXT,
}
"""For each type of column, the kinds of values that MLflow and pandas convert one by one, whatever stands beside them.

What is not here goes alone: missing values where they are an error, floats for integers (beyond the limits, numpy
converts them by whatever instructions the length of the column allows), and all that is converted by a guess.
"""
TENSOR_KINDS: Mapping[str, Kinds] = {
    "float64": NUMBER,
    "float32": NUMBER,
    "bool": {bool: None},
    **{f"int{bits}": {int: (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)} for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": {int: (0, 2 ** min(bits, 63) - 1)} for bits in (8, 16, 32, 64)},
}
KEPT_ORDERS = 64
KEPT_BOUNDS = 256


def joined(kind: type, allowed: Kinds) -> type:
    """Return the kind that a value counts as: among floats a null is NaN, which it is alone too.

    Not so among text, where pandas writes a missing value otherwise beside text than alone, unless the replica minds that;
    nor among integers, which a null beside them makes floats.
    """
    if kind is not NULL:
        return kind
    return float if float in allowed else str if allowed is TEXT_TOLD_APART else kind


def kind_of(values: Sequence[Any], allowed: Kinds) -> type | None:
    """Return the kind that all `values` have, or None when they differ, or may not be merged."""
    types = {type(values[0])} if len(values) == 1 else set(map(type, values))
    kinds = {joined(kind, allowed) for kind in types}
    if len(kinds) != 1 or not types <= allowed.keys():
        return None
    (kind,) = kinds
    bounds = allowed[kind]
    if bounds is not None:
        present = [value for value in values if value is not None] if NULL in types else values
        if present and not (bounds[0] <= min(present) and max(present) <= bounds[1]):
            return None
    return kind


class Table:
    """Columns in the order in which requests have them.

    Args:
        columns: their names.
        kinds: what is allowed in each.
    """

    def __init__(self, columns: tuple[str, ...], kinds: Sequence[Kinds]) -> None:
        self.columns, self.kinds = columns, kinds
        self.bounds: dict[Values, tuple[Values, list[tuple[int, float, float]]] | None] = {}

    def of_lists(self, rows: Sequence[Any]) -> Values | None:
        """Return the kind of each column's values, of rows that are lists."""
        width = len(self.columns)
        for row in rows:
            if type(row) is not list or len(row) != width:
                return None
        return self.of_columns(zip(*rows, strict=True)) if len(rows) > 1 else self.of_row(rows[0])

    def of_row(self, row: Sequence[Any]) -> Values | None:
        """Return the kind of each value: what `of_columns` returns for a single row, in less time."""
        kinds = tuple(map(type, row))
        try:
            bounds = self.bounds[kinds]
        except KeyError:
            if len(self.bounds) >= KEPT_BOUNDS:
                self.bounds.clear()
            bounds = self.bounds[kinds] = self._bounds(kinds)
        if bounds is None:
            return None
        together, numbers = bounds
        for at, low, high in numbers:
            if not low <= row[at] <= high:
                return None
        return together

    def _bounds(self, kinds: Values) -> tuple[Values, list[tuple[int, float, float]]] | None:
        """Return what the values of a row of these kinds count as, and where its numbers are and between what they must be."""
        found = []
        for at, (kind, allowed) in enumerate(zip(kinds, self.kinds, strict=True)):
            if kind not in allowed:
                return None
            bounds = allowed[kind]
            if bounds is not None:
                found.append((at, *bounds))
        together = tuple(joined(kind, allowed) for kind, allowed in zip(kinds, self.kinds, strict=True))
        return together, found

    def of_columns(self, columns: Iterable[Sequence[Any]]) -> Values | None:
        """Return the kind of each column's values."""
        found = []
        for values, allowed in zip(columns, self.kinds, strict=True):
            kind = kind_of(values, allowed)
            if kind is None:
                return None
            found.append(kind)
        return tuple(found)

    def of_records(self, records: Sequence[Any], text: bytes) -> Values | None:
        """Return the kind of each column's values, of rows that are objects; `text` is what they were parsed from."""
        for record in records:
            if type(record) is not dict or tuple(record) != self.columns:
                return None
        if not self.once_each(text, len(records)):
            return None
        if len(records) == 1:
            return self.of_row(list(records[0].values()))
        return self.of_columns(zip(*[record.values() for record in records], strict=True))

    def once_each(self, text: bytes, times: int) -> bool:
        """Tell whether so many objects that were parsed from `text` have no key twice, which the fast parser says nothing of.

        Each has all columns, and each key a colon behind it; so as many colons as columns in all objects leave none for
        a key more. Where there are more, they may stand in names or values, and the strict parser decides.
        """
        if text.count(b":") == times * len(self.columns):
            return True
        try:
            strictly(text)
        except (ValueError, RecursionError):
            return False
        return True


class Signature:
    """What a model's signature says of its input.

    Args:
        route: types of the columns, or of the one tensor.
    """

    def __init__(self, route: BatchRoute) -> None:
        types = route.columns or {}
        self.columns = {name: COLUMN_KINDS[t] for name, t in types.items() if t in COLUMN_KINDS}
        self.tensor: Kinds | None = None
        self.shape: tuple[int, ...] = ()
        if route.tensor is not None and all(size > 0 for size in route.tensor[1]):
            self.tensor, self.shape = TENSOR_KINDS.get(route.tensor[0]), route.tensor[1]
        self.known = bool(self.columns and len(self.columns) == len(types)) or self.tensor is not None
        self.told_apart = {
            name: TEXT_TOLD_APART if kinds is TEXT else kinds for name, kinds in self.columns.items()
        }
        self.tells_requests_apart = route.tells_requests_apart and TEXT in self.columns.values()
        self.tables: dict[tuple[tuple[str, ...], bool], Table | None] = {}

    def is_told_apart(self, form: str) -> bool:
        """Tell whether the replica is to be told which rows are of which request, where they are of that form."""
        return self.tells_requests_apart and form in (SPLIT, RECORDS)

    def table(self, columns: tuple[str, ...], form: str) -> Table | None:
        """Return the columns in this order; None when they are not those of the signature."""
        if len(columns) != len(self.columns) or not self.columns:
            return None
        key = columns, self.is_told_apart(form)
        try:
            return self.tables[key]
        except KeyError:
            if set(columns) != set(self.columns):
                return None
            if len(self.tables) >= KEPT_ORDERS:
                self.tables.clear()
            kinds = self.told_apart if key[1] else self.columns
            table = self.tables[key] = Table(columns, [kinds[name] for name in columns])
            return table

    def read(self, layout: Layout, content: Any, text: bytes) -> Common | None:
        """Return what the rows of a request must have in common with those of another to be merged with them.

        Args:
            layout: what stands around the rows.
            content: the rows, parsed from `text`.

        Returns:
            how the values are nested, the columns, where the rows name them, and the kind of value in each; None for
            rows that go alone.
        """
        if not content:
            return None
        values: Values | None = None
        columns: tuple[str, ...] | None = None
        if self.tensor is not None:
            if layout.form in (INSTANCES, INPUTS) and type(content) is list:
                values = _tensor(content, self.shape, self.tensor)
        elif layout.columns is not None:
            table = self.table(layout.columns, layout.form)
            values = table.of_lists(content) if table else None
        elif type(content) is dict:
            columns = tuple(content)
            values = self._by_column(layout, columns, content, text)
        elif type(content[0]) is dict:
            columns = tuple(content[0])
            table = self.table(columns, layout.form)
            values = table.of_records(content, text) if table else None
        elif layout.form in (INSTANCES, INPUTS) and len(self.columns) == 1:
            values = Table(("",), list(self.columns.values())).of_columns([content])
        if values is None:
            return None
        return type(content), columns, values

    def _by_column(
        self, layout: Layout, columns: tuple[str, ...], content: dict[str, Any], text: bytes
    ) -> Values | None:
        table, lists = self.table(columns, layout.form), list(content.values())
        if layout.form != INPUTS or table is None or not table.once_each(text, 1):
            return None
        if not all(type(values) is list and values for values in lists) or len(set(map(len, lists))) != 1:
            return None
        return table.of_columns(lists)


def _tensor(rows: list[Any], shape: tuple[int, ...], allowed: Kinds) -> Values | None:
    """Return the one kind of value in rows of the given inner shape."""
    level: list[Any] = rows
    for size in shape:
        if not all(type(item) is list and len(item) == size for item in level):
            return None
        level = list(chain.from_iterable(level))
    kind = kind_of(level, allowed)
    return None if kind is None else (kind,)
