"""The requests for models of more than columns: nested values, params, tensors, type hints, and outputs."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

from .formats import (
    JSON_FORMATS,
    Request,
    Row,
    array,
    good_in_every_format,
    inputs,
    inputs_scalars,
    instances,
    json_request,
    obj,
    records,
    split,
    with_params,
)
from .protocol import protocol
from .pyfuncs.outputs import KINDS
from .shapes import table_shapes, top_level_keys
from .values import LITERALS, TELLING, one_cell_changed

if TYPE_CHECKING:
    from collections.abc import Iterator

NESTED_GOOD: Row = {
    "array": "[1.5, 2.5]",
    "arrays": "[[1, 2], [3]]",
    "object": '{"name": "a", "age": 3}',
    "objects": '[{"name": "a"}, {"name": "b", "age": 4}]',
    "map": '{"x": true, "y": false}',
    "any": '{"what": ["ever", 1, null]}',
    "optional": '["a"]',
}

NESTED_LITERALS: dict[str, str] = {
    **TELLING,
    "empty_array": "[]",
    "empty_object": "{}",
    "arrays": "[[1], [2]]",
    "arrays_empty": "[[]]",
    "array_null": "[null]",
    "array_mixed": '[1, "a"]',
    "array_floats": "[1.5]",
    "array_ints": "[1, 2]",
    "array_bools": "[true]",
    "array_text": '["a", "b"]',
    "array_big": "[9223372036854775808]",
    "object_named": '{"name": "a"}',
    "object_turned": '{"age": 1, "name": "a"}',
    "object_extra": '{"name": "a", "more": 1}',
    "object_wrong": '{"name": 1, "age": "x"}',
    "object_null": '{"name": null, "age": null}',
    "object_float": '{"name": "a", "age": 1.5}',
    "objects": '[{"name": "a"}]',
    "objects_missing": '[{"name": "a"}, {}]',
    "map_bool": '{"a": true}',
    "map_text": '{"a": "b"}',
    "map_null": '{"a": null}',
}


def echo_nested() -> Iterator[Request]:
    required = {name: cell for name, cell in NESTED_GOOD.items() if name not in ("any", "optional")}
    rows: list[Row] = [
        NESTED_GOOD,
        {**NESTED_GOOD, "array": "[]", "map": "{}"},
        {**NESTED_GOOD, "any": "null"},
    ]
    for count in (1, len(rows)):
        for name, form in JSON_FORMATS.items():
            yield json_request(f"good-{name}-{count}", form(rows[:count]))
    yield json_request("required_only-split", split([required]))
    yield json_request("required_only-inputs", inputs_scalars([required]))
    forms = {"split": NESTED_LITERALS, "inputs_scalars": NESTED_LITERALS, "records_2": TELLING}
    yield from one_cell_changed(rows, forms)


PARAMS = ("flag", "count", "small", "ratio", "single", "word", "maybe", "since", "items", "object")

PARAM_LITERALS: dict[str, str] = {
    **LITERALS,
    "array_text": '["a"]',
    "array_floats": "[1.5]",
    "array_null": "[null]",
    "array_2d": "[[1]]",
    "object_text": '{"a": "b"}',
    "object_empty": "{}",
}


def echo_params() -> Iterator[Request]:
    good = '{"dataframe_records": [{"x": 1.5}]}'
    yield from good_in_every_format([{"x": "1.5"}, {"x": "2.5"}])
    yield from top_level_keys(good)
    for param, (name, literal) in itertools.product(PARAMS, PARAM_LITERALS.items()):
        yield json_request(f"param-{param}-{name}", with_params(good, obj({param: literal})))
    every = {"flag": "true", "count": "9", "ratio": "0.25", "word": '"é"', "items": "[5]"}
    for name, form in JSON_FORMATS.items():
        yield json_request(f"params-{name}", with_params(form([{"x": "1.5"}]), obj(every)))
    bodies = {
        "with_unknown": '{"count": 4, "unknown": 1}',
        "two_wrong": '{"count": "a", "flag": "b"}',
        "twice": '{"count": 4, "count": 5}',
        "case": '{"COUNT": 4}',
        "empty_name": '{"": 4}',
    }
    for name, params in bodies.items():
        yield json_request(f"params-{name}", with_params(good, params))
    yield json_request("params-llm", '{"messages": [], "count": 5, "x": 1.5}')
    yield json_request("params-llm_x", '{"prompt": "a", "word": "b", "x": [1.5], "params": {"count": 1}}')


TENSOR_BODIES: dict[str, str] = {
    "good": "[[1, 2, 3]]",
    "floats": "[[0.1, 2.5, 3.0], [4, 5, 6]]",
    "flat": "[1, 2, 3]",
    "scalar": "1",
    "short": "[[1, 2]]",
    "long": "[[1, 2, 3, 4]]",
    "uneven": "[[1, 2, 3], [1]]",
    "deep": "[[[1, 2, 3]]]",
    "empty": "[]",
    "empty_row": "[[]]",
    "null": "null",
    "row_null": "[null]",
    "cell_null": "[[1, 2, null]]",
    "text": '[["1", "2", "3"]]',
    "word": '[["a", "b", "c"]]',
    "bool": "[[true, false, true]]",
    "nan": "[[NaN, Infinity, -Infinity]]",
    "big": "[[9223372036854775808, 1e39, 1e400]]",
    "objects": '[{"a": 1}]',
    "object": '{"a": [1]}',
    "named": '{"pair": [[1, 2, 3]]}',
}


def echo_tensor() -> Iterator[Request]:
    rows: list[Row] = [{"a": "1.5", "b": "2", "c": "3"}, {"a": "4", "b": "5", "c": "6"}]
    yield from good_in_every_format(rows)
    yield from table_shapes(rows)
    yield from top_level_keys('{"inputs": [[1, 2, 3]]}')
    for key, (name, body) in itertools.product(("inputs", "instances"), TENSOR_BODIES.items()):
        yield json_request(f"tensor-{key}-{name}", f'{{"{key}": {body}}}')
    column: list[Row] = [{"a": "[1, 2, 3]"}, {"a": "[4.5, 5, 6]"}]
    for name, form in JSON_FORMATS.items():
        yield json_request(f"one_column-{name}", form(column))


TENSOR_ROWS: list[Row] = [
    {"pair": "[0.5, 1]", "number": "1", "image": "[[1, 2], [3, 4]]", "word": '"a"'},
    {"pair": "[2, 3]", "number": "-2", "image": "[[0, 255], [7, 8]]", "word": '"bcd"'},
]

TENSOR_CELLS: dict[str, str] = {
    **TELLING,
    "pair": "[1.5, 2.5]",
    "one": "[1]",
    "nested": "[[1, 2]]",
    "image": "[[1, 2], [3, 4]]",
    "image_flat": "[1, 2, 3, 4]",
    "image_over": "[[256, -1], [0, 1.5]]",
    "text": '["a", "b"]',
}


def echo_tensors() -> Iterator[Request]:
    for count in (1, len(TENSOR_ROWS)):
        for name, form in JSON_FORMATS.items():
            yield json_request(f"good-{name}-{count}", form(TENSOR_ROWS[:count]))
    yield from one_cell_changed(
        TENSOR_ROWS, {"inputs": TENSOR_CELLS, "instances_2": TENSOR_CELLS, "split": TENSOR_CELLS}
    )
    for column in TENSOR_ROWS[0]:
        without = [{name: cell for name, cell in row.items() if name != column} for row in TENSOR_ROWS]
        yield json_request(f"inputs-without-{column}", inputs(without))
        yield json_request(f"instances-without-{column}", instances(without))
    yield json_request("inputs-extra", inputs([{**TENSOR_ROWS[0], "extra": "1"}]))
    yield json_request(
        "inputs-uneven",
        '{"inputs": {"pair": [[1, 2]], "number": [1, 2], "image": [[[1, 2], [3, 4]]], "word": ["a"]}}',
    )


def type_hints(good: list[str], bad: dict[str, str]) -> Iterator[Request]:
    body = f'{{"inputs": {array(good)}}}'
    yield from top_level_keys(body)
    for number, item in enumerate(good):
        yield json_request(f"item-{number}", f'{{"inputs": [{item}]}}')
    for key in ("inputs", "instances", "dataframe_records"):
        yield json_request(f"all-{key}", f'{{"{key}": {array(good)}}}')
        yield json_request(f"bare-{key}", f'{{"{key}": {good[0]}}}')
    for name, item in {**LITERALS, **bad}.items():
        yield json_request(f"bad-{name}", f'{{"inputs": [{item}]}}')
        yield json_request(f"second-{name}", f'{{"inputs": [{good[0]}, {item}]}}')
    for name, value in {
        "empty": "[]",
        "null": "null",
        "scalar": "1",
        "text": '"a"',
        "nested": "[[1]]",
    }.items():
        yield json_request(f"whole-{name}", f'{{"inputs": {value}}}')
    yield json_request("split", split([{"a": "1"}]))


def hints_ints() -> Iterator[Request]:
    yield from type_hints(["1", "-5", "9007199254740993"], {})
    yield from protocol('{"inputs": [1, 2]}')


def hints_dicts() -> Iterator[Request]:
    yield from type_hints(
        ['{"a": 1.5}', '{"a": 1, "b": 2}', "{}"],
        {
            "text_value": '{"a": "x"}',
            "text_number": '{"a": "1.5"}',
            "null_value": '{"a": null}',
            "bool": '{"a": true}',
        },
    )


def hints_pydantic() -> Iterator[Request]:
    yield from type_hints(
        [
            '{"customer": "é", "total": 1.5, "paid": true}',
            '{"customer": "b", "total": 2, "paid": false, "at": "2026-01-02T03:04:05", "lines": [{"product": "x"}]}',
            '{"customer": "c", "total": 0.1, "paid": true, "lines": [{"product": "y", "count": 3}], "notes": {"k": "v"}}',
        ],
        {
            "missing": '{"customer": "a"}',
            "extra": '{"customer": "a", "total": 1, "paid": true, "more": 1}',
            "wrong_total": '{"customer": "a", "total": "x", "paid": true}',
            "text_total": '{"customer": "a", "total": "1.5", "paid": "yes"}',
            "wrong_line": '{"customer": "a", "total": 1, "paid": true, "lines": [{"count": 1}]}',
            "wrong_notes": '{"customer": "a", "total": 1, "paid": true, "notes": {"k": 1}}',
            "wrong_time": '{"customer": "a", "total": 1, "paid": true, "at": "soon"}',
            "two_wrong": '{"customer": 1, "total": "x", "paid": 3}',
        },
    )


def outputs() -> Iterator[Request]:
    for kind in [*KINDS, "unknown kind"]:
        cell = json.dumps(kind)
        yield json_request(f"output-{kind}", records([{"kind": cell}]))
        yield json_request(f"llm-{kind}", f'{{"messages": [], "kind": {cell}}}')
