"""How a scoring request is laid out around its rows.

A request is cut into what comes before its rows, the rows, and what comes after. Callers of one kind send the same text
around their rows again and again, so that text is read once, by a strict parser, and remembered. The rows are valid
JSON of their own: put in the place of a value that is known to be the rows', they can't mean anything else.

Pure: bytes in, values out.
"""

from __future__ import annotations

import json
from typing import Any

SPLIT, RECORDS, INSTANCES, INPUTS = "dataframe_split", "dataframe_records", "instances", "inputs"
FORMATS = (SPLIT, RECORDS, INSTANCES, INPUTS)
PARAMS = "params"
KEPT_TEXTS = 512
"""Texts around rows that are remembered for one deployment; callers who send ever new ones only lose time."""
MAX_TEXT = 1 << 14
"""Length, in bytes, from which the text around rows is not read; the request goes alone."""

Described = tuple[str, tuple[str, ...] | None, str]


class Layout:
    """What a request says apart from its rows: its format, the columns where they are named apart, and the params.

    There is one object for each, so that two requests are alike when theirs is the same.
    """

    def __init__(self, form: str, columns: tuple[str, ...] | None, params: str) -> None:
        self.form, self.columns, self.params = form, columns, params


def strictly(text: str | bytes) -> Any:
    """Parse JSON as MLflow's server does, but refuse what it is silent about.

    Raises:
        ValueError: it is no JSON, names a key twice, or has a NaN or an infinite number.
    """
    return _STRICT.decode(text if isinstance(text, str) else text.decode())


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)


def read_text(before: bytes, after: bytes) -> Described | None:
    """Read the text around the rows, or return None when a request with it can't be merged.

    Two different values in the place of the rows must each be found where the rows belong: so that place is certain,
    and nothing else in the text depends on what stands there.
    """
    try:
        first = _described(strictly(before + b"null" + after), None)
        second = _described(strictly(before + b"true" + after), True)
    except (ValueError, RecursionError):
        return None
    return first if first == second else None


def _described(request: Any, rows: Any) -> Described | None:
    if not isinstance(request, dict):
        return None
    written = json.dumps(request[PARAMS]) if PARAMS in request else ""
    params = request.pop(PARAMS, {})
    if len(request) != 1 or not _plain(params):
        return None
    ((form, content),) = request.items()
    columns = None
    if form == SPLIT:
        columns = _columns(content)
        if columns is None:
            return None
        content = content["data"]
    if form not in FORMATS or content is not rows:
        return None
    return form, columns, written


def _plain(params: Any) -> bool:
    """Tell whether params can't be meant for certain rows, as lists could."""
    return isinstance(params, dict) and not any(isinstance(value, (dict, list)) for value in params.values())


def _columns(content: Any) -> tuple[str, ...] | None:
    if not isinstance(content, dict) or set(content) != {"columns", "data"}:
        return None
    columns = content["columns"]
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        return None
    return tuple(columns)


class Layouts:
    """The texts around rows that were read before."""

    def __init__(self) -> None:
        self.texts: dict[tuple[bytes, bytes], Layout | None] = {}
        self.layouts: dict[Described, Layout] = {}

    def read(self, before: bytes, after: bytes) -> Layout | None:
        """Return the layout that a text gives a request, or None when a request with it can't be merged."""
        text = (before, after)
        try:
            return self.texts[text]
        except KeyError:
            if len(before) + len(after) > MAX_TEXT:
                return None
            if len(self.texts) >= KEPT_TEXTS:
                self.texts.clear()
                self.layouts.clear()
            described = read_text(before, after)
            layout = None
            if described is not None:
                layout = self.layouts.setdefault(described, Layout(*described))
            self.texts[text] = layout
            return layout
