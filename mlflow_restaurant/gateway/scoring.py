"""Merges scoring requests into one and splits the answer, so that each caller gets what it would have got alone.

Only what is provably equal is merged: requests of one format with the same columns in the same order, the same params,
and in each column the same kind of value (null, bool, integer of 64 bits, float or string; a null among floats is one of
them, and one among strings where the replica keeps each row what it is in its own request), where the signature gives that
column a type to which MLflow and pandas convert such values one by one. What the callers wrote is put together as text,
so that no number is read and written again on its way to the model or back; only ``inputs`` by column are, by a parser and a
writer that agree on every value that may be merged.

Pure: bytes in, bytes out. Form: MLflow's scoring protocol,
https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from mlflow_restaurant.entities import BatchRoute
from mlflow_restaurant.gateway.layout import FORMATS, INPUTS, PARAMS, SPLIT, Layout, Layouts
from mlflow_restaurant.gateway.values import Common, Signature, Values

MAX_BODY = 1 << 16
"""Larger bodies, in bytes, go alone without being read: what merging saves is little beside their rows."""
KEPT_KINDS = 1024
scan_value = json.JSONDecoder().raw_decode
BEFORE, BETWEEN, AFTER = b'{"predictions": [', b", ", b"]}"
"""What MLflow writes around and between predictions."""

VALUES = re.compile(rb'\s*\{\s*"(?:instances|inputs)"\s*:\s*(?=\[\s*["\dtfn-])')
COLUMNS = re.compile(rb'\s*\{\s*"inputs"\s*:\s*(?=\{)')
FIRST_ROW = re.compile(rb"\[\s*[\[{]")
END_OF_ROWS = re.compile(rb"[\]}]\s*\]")

STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
MISSING = re.compile(rb"null|NaN")


@dataclass(slots=True, eq=False)
class Kind:
    """What requests must have in common to be merged; there is one object for each.

    Attributes:
        told_apart: whether the replica is to be told which rows are of which request.
    """

    layout: Layout
    nesting: type
    columns: tuple[str, ...] | None
    values: Values
    told_apart: bool


@dataclass(slots=True, eq=False)
class Part:
    """A request that can be merged with others of the same `kind`.

    Attributes:
        count: how many rows it has.
        before: the text before its rows.
        rows: the text of its rows, in brackets.
        after: the text after them.
        columns: instead of the text, the values by column where the request has them so.
    """

    kind: Kind
    count: int
    before: bytes
    rows: bytes
    after: bytes
    columns: dict[str, list[Any]] | None = None


def merge(parts: Sequence[Part]) -> bytes:
    """Return one request with the rows of all `parts`, which must be of the same kind."""
    first = parts[0]
    if first.columns is not None:
        together = {name: [v for part in parts for v in (part.columns or {})[name]] for name in first.columns}
        return first.before + orjson.dumps(together) + first.after
    return b"".join([first.before, b"[", b",".join([part.rows[1:-1] for part in parts]), b"]", first.after])


def counts_of(parts: Sequence[Part]) -> bytes:
    """Return the rows of each part, where the replica must tell them apart; without a null they are all the same to it."""
    if not parts[0].kind.told_apart or not any(b"null" in part.rows for part in parts):
        return b""
    return b",".join([b"%d" % part.count for part in parts])


def split(answer: bytes, counts: Sequence[int]) -> list[bytes] | None:
    """Return the answer for each part of a merged request, or None when it is not one prediction for each row.

    Args:
        answer: what MLflow's server answered to the merged request.
        counts: rows of each part.
    """
    items = predictions_of(answer)
    if items is None or len(items) != sum(counts):
        return None
    if len(items) == len(counts):
        return [b'{"predictions": [%b]}' % item for item in items]
    answers, start = [], 0
    for count in counts:
        answers.append(BEFORE + BETWEEN.join(items[start : start + count]) + AFTER)
        start += count
    return answers


def has_missing(answer: bytes) -> bool:
    """Tell whether a prediction is, or has in it, a null or a number that is none."""
    if b"null" not in answer and b"NaN" not in answer:
        return False
    return b'"' not in answer or MISSING.search(STRING.sub(b"", answer)) is not None


class Reader:
    """Reads the requests to one revision.

    Args:
        route: the types of its model's signature.

    Attributes:
        own_code: see `BatchRoute`.
    """

    def __init__(self, route: BatchRoute) -> None:
        self.own_code = route.own_code
        self.signature = Signature(route)
        self.layouts = Layouts()
        self.kinds: dict[tuple[Layout, Common], Kind] = {}

    def parse(self, body: bytes) -> Part | None:
        """Return what a request can be merged by, or None when it must go to the model alone, byte for byte."""
        if len(body) > MAX_BODY or not self.signature.known:
            return None
        cut = _cut(body)
        if cut is None:
            return None
        start, end = cut
        before, rows, after = body[:start], body[start:end], body[end:]
        layout = self.layouts.read(before, after)
        if layout is None:
            return None
        try:
            content = orjson.loads(rows)
        except ValueError:
            return None
        read = self.signature.read(layout, content, rows)
        if read is None:
            return None
        kind = self._kind(layout, read)
        if type(content) is dict:
            return Part(kind, len(next(iter(content.values()))), before, rows, after, content)
        return Part(kind, len(content), before, rows, after)

    def _kind(self, layout: Layout, common: Common) -> Kind:
        key = (layout, common)
        kind = self.kinds.get(key)
        if kind is None:
            if len(self.kinds) >= KEPT_KINDS:
                self.kinds.clear()
            told_apart = self.signature.is_told_apart(layout.form)
            kind = self.kinds[key] = Kind(layout, *common, told_apart)
        return kind


def _cut(body: bytes) -> tuple[int, int] | None:
    """Guess where the rows of a request begin and end; what is read of the parts proves it right or wrong."""
    opening = VALUES.match(body) or COLUMNS.match(body)
    if opening is not None:
        end = body.rfind(b"]" if body[opening.end()] == 91 else b"}") + 1  # 91 is an opening bracket
        if body[opening.end()] == 123:  # an opening brace: the last but one closing brace ends the columns
            end = body.rfind(b"}", 0, end - 1) + 1
        return (opening.end(), end) if end > opening.end() else None
    opening = FIRST_ROW.search(body)
    if opening is None:
        return None
    end = max(body.rfind(b"]]"), body.rfind(b"}]")) + 2
    if end <= opening.start() + 1:
        for closing in END_OF_ROWS.finditer(body, opening.start()):
            end = closing.end()
    return (opening.start(), end) if end > opening.start() + 1 else None


def rows_of(body: bytes) -> list[bytes] | None:
    """Return one request for each row of a request, or None when its rows can't be told apart.

    Args:
        body: a JSON request in any of the four formats; its `params` go with every row.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(request, dict) or set(request) - {PARAMS} not in [{name} for name in FORMATS]:
        return None
    form = next(name for name in FORMATS if name in request)
    rows = _split_frame(request[form]) if form == SPLIT else _rows(form, request[form])
    if rows is None:
        return None
    return [json.dumps({**request, form: row}).encode() for row in rows]


def _rows(form: str, content: Any) -> list[Any] | None:
    if isinstance(content, list):
        return [[row] for row in content]
    if form == INPUTS and isinstance(content, dict) and content:
        if not any(isinstance(values, list) for values in content.values()):
            return [content]
        if all(isinstance(values, list) for values in content.values()):
            return _one_by_one(content)
    return None


def _split_frame(content: Any) -> list[Any] | None:
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        return None
    by_row = {name: content[name] for name in ("index", "data") if content.get(name) is not None}
    rows = _one_by_one(by_row) if all(isinstance(values, list) for values in by_row.values()) else None
    return None if rows is None else [{**content, **row} for row in rows]


def _one_by_one(columns: dict[str, list[Any]]) -> list[Any] | None:
    counts = {len(values) for values in columns.values()}
    if len(counts) != 1:
        return None
    return [{name: [values[i]] for name, values in columns.items()} for i in range(counts.pop())]


def predictions_of(answer: bytes) -> list[bytes] | None:
    """Return each item of the list of predictions, byte for byte as MLflow wrote it.

    Returns:
        None when the answer is anything but ``{"predictions": [...]}`` in the form in which MLflow's server writes it.
    """
    if not answer.startswith(BEFORE) or not answer.endswith(AFTER):
        return None
    inner = answer[len(BEFORE) : -len(AFTER)]
    if not inner:
        return []
    if not (b'"' in inner or b"[" in inner or b"]" in inner or b"{" in inner or b"}" in inner):
        return inner.split(BETWEEN)
    return _items(inner)


def _items(inner: bytes) -> list[bytes] | None:
    """Find the items with the standard library's scanner, which knows where a value ends."""
    try:
        text = inner.decode()
        items, at = [], 0
        while True:
            _, end = scan_value(text, at)
            items.append(text[at:end].encode())
            if end == len(text):
                return items
            if text[end : end + 2] != ", ":
                return None
            at = end + 2
    except (ValueError, RecursionError):
        return None
