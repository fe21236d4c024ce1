"""How far the predictions of two revisions for the same requests agree. Pure: answers in, counts out.

Texts, booleans, whole numbers and missing values agree when they are equal; numbers when they differ by no more than a
part of the larger one. A row agrees when all its columns do. The rows that differ most are kept with their input.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlflow_restaurant.gateway.scoring import rows_of

TOLERANCE = 0.01
"""Part of the larger of two numbers by which they may differ."""
WORST = 5
MAX_COLUMNS = 200
MAX_SHOWN = 500
ONLY = "prediction"
"""What the one column of predictions without columns is called."""


@dataclass
class Column:
    """The values of one output column, compared pair by pair."""

    compared: int = 0
    agreed: int = 0
    numbers: int = 0
    total_difference: float = 0.0
    max_difference: float = 0.0

    def add(self, old: Any, new: Any) -> float:
        """Compare two values; returns by how much they differ: 0 if they agree, infinity where that is no number."""
        self.compared += 1
        gap = _gap(old, new)
        if gap is not None:
            self.numbers += 1
            self.total_difference += gap
            self.max_difference = max(self.max_difference, gap)
        if _agree(old, new, gap):
            self.agreed += 1
            return 0.0
        return math.inf if gap is None else gap


@dataclass
class Agreement:
    """What was compared of one trial.

    Attributes:
        rows: rows of which both sides made a prediction; `agreed` of them agree.
        failed_new: requests that the new side alone failed at; `failed_old` the old one alone.
        skipped: copies that were not sent, since the new side was too slow to answer more.
        unlike: answers that can't be compared, for instance with another number of rows.
    """

    rows: int = 0
    agreed: int = 0
    failed_new: int = 0
    failed_old: int = 0
    skipped: int = 0
    unlike: int = 0
    columns: dict[str, Column] = field(default_factory=dict)
    worst: list[dict[str, Any]] = field(default_factory=list)

    def compare(self, request: bytes, old: tuple[int, bytes], new: tuple[int, bytes]) -> None:
        """Compare two answers, each status and body, to one request."""
        if old[0] != 200 or new[0] != 200:
            self.failed_old += old[0] != 200 and new[0] == 200
            self.failed_new += new[0] != 200 and old[0] == 200
            return
        if old[1] == new[1]:
            self._add_equal(old[1])
            return
        before, after = _rows(old[1]), _rows(new[1])
        if before is None or after is None or len(before) != len(after):
            self.unlike += 1
            return
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            self._add(request, number, one, other)

    def _add_equal(self, answer: bytes) -> None:
        rows = _rows(answer)
        if rows is None:
            self.unlike += 1
            return
        for number, row in enumerate(rows):
            self._add(b"", number, row, row)

    def _add(self, request: bytes, number: int, old: Any, new: Any) -> None:
        before, after = _columns(old), _columns(new)
        difference = 0.0
        for name in list(dict.fromkeys([*before, *after]))[:MAX_COLUMNS]:
            column = self.columns.setdefault(name, Column())
            difference = max(difference, column.add(before.get(name), after.get(name)))
        self.rows += 1
        if not difference:
            self.agreed += 1
        elif len(self.worst) < WORST or difference > _weight(self.worst[-1]):
            self._keep({"difference": _shown(difference), "old": old, "new": new, **_input(request, number)})

    def _keep(self, row: dict[str, Any]) -> None:
        self.worst = sorted([*self.worst, row], key=_weight, reverse=True)[:WORST]

    def merge(self, other: Mapping[str, Any]) -> None:
        """Add what another gateway counted, from its `to_json`."""
        for name in ("rows", "agreed", "failed_new", "failed_old", "skipped", "unlike"):
            setattr(self, name, getattr(self, name) + other[name])
        for name, values in other["columns"].items():
            column = self.columns.setdefault(name, Column())
            column.max_difference = max(column.max_difference, values["max_difference"])
            for count in ("compared", "agreed", "numbers", "total_difference"):
                setattr(column, count, getattr(column, count) + values[count])
        for row in other["worst"]:
            self._keep(row)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "columns": {name: vars(column) for name, column in self.columns.items()}}


def _gap(old: Any, new: Any) -> float | None:
    """Return how far two numbers are apart; None where one is none, or missing."""
    for value in (old, new):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return None
    return abs(float(old) - float(new))


def _agree(old: Any, new: Any, gap: float | None) -> bool:
    if gap is None or (isinstance(old, int) and isinstance(new, int)):
        return type(old) is type(new) and (bool(old == new) or (_is_nan(old) and _is_nan(new)))
    return gap <= TOLERANCE * max(abs(float(old)), abs(float(new)))


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _rows(answer: bytes) -> list[Any] | None:
    try:
        predictions = json.loads(answer)["predictions"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return predictions if isinstance(predictions, list) else None


def _columns(row: Any) -> dict[str, Any]:
    if isinstance(row, dict):
        return row
    if isinstance(row, list):
        return {str(number): value for number, value in enumerate(row)}
    return {ONLY: row}


def _input(request: bytes, number: int) -> dict[str, str]:
    """Return the input of a row as it was sent, where it can be told from the others and is short."""
    rows = rows_of(request)
    if rows is None or number >= len(rows):
        return {}
    text = rows[number].decode("utf-8", "replace")
    return {"input": text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"}


def _shown(difference: float) -> float | None:
    return difference if math.isfinite(difference) else None


def _weight(row: Mapping[str, Any]) -> float:
    return math.inf if row["difference"] is None else float(row["difference"])


def total(parts: Iterable[Mapping[str, Any]]) -> Agreement:
    """Return the agreement of several gateways together."""
    found = Agreement()
    for part in parts:
        found.merge(part)
    return found
