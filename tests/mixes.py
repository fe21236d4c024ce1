"""Requests of many callers at once, good and bad, as hypothesis draws them; and what MLflow's functions answer to each."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel, scoring_server
from mlflow.types import DataType, ParamSchema, ParamSpec

from mlflow_restaurant.gateway.upstream import Answer

TYPES = ("double", "float", "long", "integer", "boolean", "string")
TYPED = {kind: kind for kind in TYPES}
"""A column of each type, named after it."""
PARAMS = ParamSchema([ParamSpec("p", DataType.double, 0.5)])
"""The params that requests may give."""


def respond(model: PyFuncModel, body: bytes) -> Answer:
    """Answer as MLflow's server does."""
    headers = [(b"content-type", b"application/json")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            answer = scoring_server.invocations(
                body, "application/json", model, model.metadata.get_input_schema()
            )
        except MlflowException as e:
            return Answer(e.get_http_status_code(), headers, e.serialize_as_json().encode())
        except Exception:
            return Answer(500, [], b"Internal Server Error")
    return Answer(answer.status, headers, answer.response.encode())


texts = st.text(max_size=5) | st.sampled_from(
    ["", "a", "1", "1.5", "NaN", "null", "\0", "a\0", "é", "😀", '"', "\\", "]]", "}]"]
)
good: dict[str, st.SearchStrategy[Any]] = {
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "float": st.floats(width=32, allow_nan=False, allow_infinity=False) | st.floats(-1e50, 1e50),
    "long": st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 5),
    "integer": st.integers(-(2**31), 2**31 - 1) | st.integers(-5, 5),
    "boolean": st.booleans(),
    "string": texts,
}
odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(-(2**66), 2**66),
    st.sampled_from([2**53 + 1, 2**63, 2**63 - 1, 2**64, -(2**63) - 1, 10**400, -0.0, 0.1, 1e308, 1e400]),
    st.floats(),
    texts,
    st.just([]),
    st.just({"a": 1}),
)


@st.composite
def values(draw: st.DrawFn, kind: str, style: str) -> Any:
    """Draw a value for a column: mostly one that suits it, of a kind that a request sticks to."""
    if style == "odd":
        return draw(odd)
    if style == "null" and kind in ("double", "float", "string"):
        return None
    if style == "gaps" and kind in ("double", "float", "string"):
        return draw(st.none() | good[kind])
    if style == "whole" and kind in ("double", "float"):
        return draw(st.integers(-(2**63), 2**63 - 1) | st.integers(-(2**54), 2**54))
    return draw(good[kind])


styles = st.sampled_from(["good"] * 24 + ["null"] * 4 + ["gaps"] * 8 + ["whole"] * 4 + ["odd"])
writers: list[Callable[[Any], str]] = [
    json.dumps,
    lambda payload: json.dumps(payload, separators=(",", ":"), ensure_ascii=False),
    lambda payload: json.dumps(payload, indent=1),
]


def payloads(names: list[str], rows: list[list[Any]]) -> list[Any]:
    """Return requests for the same rows, in each format."""
    records = [dict(zip(names, row, strict=True)) for row in rows]
    return [
        {"dataframe_split": {"columns": names, "data": rows}},
        {"dataframe_records": records},
        {"instances": records},
        {"inputs": records},
        {"inputs": {name: [row[i] for row in rows] for i, name in enumerate(names)}},
        {"dataframe_split": {"data": rows, "columns": names}},
        {"dataframe_split": {"index": list(range(len(rows))), "columns": names, "data": rows}},
        {"inputs": records[0]},
        {"instances": [value for row in rows for value in row[:1]]},
        {"inputs": [value for row in rows for value in row[:1]]},
    ]


FORMS = len(payloads([], [[]]))


@st.composite
def tables(draw: st.DrawFn, types: dict[str, str], kinds: dict[str, str], form: int) -> bytes:
    """Draw a request for a model whose input is a table; most are of the given kinds and form."""
    names = list(types)
    if not draw(st.integers(0, 9)):
        form = draw(st.integers(0, FORMS - 1))
        kinds = {name: draw(styles) for name in names}
        names = draw(st.permutations(names))
        if draw(st.booleans()):
            names = names[1:] if draw(st.booleans()) else [*names, "extra"]
    rows = [
        [draw(values(types.get(name, "string"), kinds.get(name, "good"))) for name in names]
        for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3])))
    ]
    return spoiled(draw, payloads(names, rows)[form])


@st.composite
def crowds(draw: st.DrawFn, types: dict[str, str]) -> list[bytes]:
    """Draw requests of many callers, many of whom send much the same."""
    kinds = {name: draw(styles) for name in types}
    form = draw(st.integers(0, FORMS - 1))
    bodies: list[bytes] = draw(st.lists(tables(types, kinds, form), min_size=2, max_size=8))
    return bodies


def spoiled(draw: st.DrawFn, payload: dict[str, Any]) -> bytes:
    """Write a request, some with params, a few with what no writer of JSON writes."""
    if draw(st.integers(0, 4)) == 0:
        payload = {
            **payload,
            "params": draw(st.sampled_from([{}, {"p": 0.25}, {"p": 0.5}, {"q": [1]}, None])),
        }
    text = draw(st.sampled_from(writers))(payload)
    if not draw(st.integers(0, 14)):
        old, new = draw(
            st.sampled_from(
                [
                    ("{", '{"a": 1, '),
                    (":", " :\t"),
                    ("0", "-0"),
                    ("1", "1e400"),
                    ("[[", "[ [\n"),
                    ("}", ', "x": 1}'),
                    (",", ",,"),
                ]
            )
        )
        text = text.replace(old, new, draw(st.integers(1, 2)))
    return bytes(text.encode("utf-8", "surrogatepass"))


@st.composite
def tensors(draw: st.DrawFn, shape: tuple[int, ...], item: st.SearchStrategy[Any]) -> bytes:
    """Draw a request for a model whose input is a tensor with rows of `shape`."""

    def row(sizes: tuple[int, ...]) -> Any:
        if not sizes:
            return draw(item)
        size = sizes[0] if draw(st.integers(0, 30)) else sizes[0] + 1
        return [row(sizes[1:]) for _ in range(size)]

    rows = [row(shape) for _ in range(draw(st.integers(1, 3)))]
    return spoiled(draw, {draw(st.sampled_from(["inputs", "instances"])): rows})
