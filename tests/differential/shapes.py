"""Shapes of tables, right and wrong, and what may stand beside the data at the top of a JSON body."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from .formats import (
    CSV,
    JSON_FORMATS,
    PARQUET,
    Request,
    Row,
    array,
    csv,
    frame,
    json_request,
    obj,
    parquet,
    records,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


def without(rows: list[Row], name: str) -> list[Row]:
    return [{key: cell for key, cell in row.items() if key != name} for row in rows]


def names_of(rows: list[Row]) -> str:
    return array(json.dumps(name) for name in rows[0])


def data_of(rows: list[Row]) -> str:
    return array(array(row.values()) for row in rows)


def table_shapes(rows: list[Row]) -> Iterator[Request]:
    """What a frame of named columns can look like, right and wrong."""
    yield from other_columns(rows)
    yield from other_rows(rows)
    yield from other_splits(rows)
    yield from other_containers(rows)
    yield from repeated_keys(rows)


def other_columns(rows: list[Row]) -> Iterator[Request]:
    first, last = next(iter(rows[0])), list(rows[0])[-1]
    tables = {
        "without_first": without(rows, first),
        "without_last": without(rows, last),
        "extra": [{**row, "extra": "1"} for row in rows],
        "extra_first": [{"extra": "null", **row} for row in rows],
        "replaced": [{("other" if key == first else key): cell for key, cell in row.items()} for row in rows],
        "upper_case": [{key.upper(): cell for key, cell in row.items()} for row in rows[:1]],
        "reversed": [dict(reversed(row.items())) for row in rows],
        "nulls": [dict.fromkeys(row, "null") for row in rows],
        "one_null_row": [rows[0], dict.fromkeys(rows[0], "null")],
    }
    for name, table in tables.items():
        if table[0]:
            for form in ("split", "records", "instances", "inputs"):
                yield json_request(f"{form}-{name}", JSON_FORMATS[form](table))
            if name != "upper_case":
                yield Request(f"csv-{name}", csv(table), CSV)
                yield Request(f"parquet-{name}", parquet(frame(table)), PARQUET)


def other_rows(rows: list[Row]) -> Iterator[Request]:
    """Rows that are not like the first."""
    first = next(iter(rows[0]))
    half = rows[0], {first: rows[1][first]}
    turned = rows[0], dict(reversed(rows[1].items()))
    for form in ("records", "instances", "inputs_records"):
        yield json_request(f"{form}-second_row_short", JSON_FORMATS[form](list(half)))
        yield json_request(f"{form}-second_row_turned", JSON_FORMATS[form](list(turned)))


def other_splits(rows: list[Row]) -> Iterator[Request]:
    names, cells = list(rows[0]), list(rows[0].values())
    first, columns, data = names[0], names_of(rows), data_of(rows)
    splits = {
        "no_rows": {"columns": columns, "data": "[]"},
        "empty_row": {"columns": columns, "data": "[[]]"},
        "no_columns_no_rows": {"columns": "[]", "data": "[]"},
        "columns_null": {"columns": "null", "data": data},
        "columns_text": {"columns": '"abc"', "data": data},
        "columns_numbers": {"columns": array(str(n) for n in range(len(names))), "data": data},
        "columns_twice": {"columns": array([json.dumps(first)] * len(names)), "data": data},
        "columns_objects": {"columns": array(["{}"] * len(names)), "data": data},
        "columns_lists": {"columns": array(["[1]"] * len(names)), "data": data},
        "too_few_columns": {"columns": array(["1"] * (len(names) - 1)), "data": data},
        "too_many_columns": {"columns": f'{columns[:-1]}, "more"]', "data": data},
        "first_twice": {
            "columns": f"{columns[:-1]}, {json.dumps(first)}]",
            "data": array([array([*cells, cells[0]])]),
        },
        "row_short": {"columns": columns, "data": array([array(cells), array(cells[:-1])])},
        "row_long": {"columns": columns, "data": array([array([*cells, "1"])])},
        "rows_uneven": {"data": array([array(cells), array(cells[:1])])},
        "flat": {"columns": columns, "data": array(cells)},
        "flat_one_column": {"columns": array([json.dumps(first)]), "data": array(cells)},
        "nested_rows": {"columns": columns, "data": array([array([array(cells)])])},
        "row_objects": {"columns": columns, "data": array(obj(row) for row in rows)},
        "row_nulls": {"columns": columns, "data": "[null]"},
        "data_null": {"columns": columns, "data": "null"},
        "data_number": {"columns": columns, "data": "1"},
        "data_text": {"columns": columns, "data": '"abc"'},
        "data_columns": {"data": obj({name: array([cell]) for name, cell in rows[0].items()})},
        "data_scalars": {"data": obj(rows[0])},
        "without_data": {"columns": columns},
        "index": {"columns": columns, "data": data, "index": array(str(9 - n) for n in range(len(rows)))},
        "index_text": {"columns": columns, "data": data, "index": array(f'"{n}"' for n in range(len(rows)))},
        "index_twice": {"columns": columns, "data": data, "index": array("1" for _ in rows)},
        "index_short": {"columns": columns, "data": data, "index": "[0]"},
        "index_null": {"columns": columns, "data": data, "index": "null"},
        "key_unknown": {"columns": columns, "data": data, "dtype": '"float"'},
        "key_name": {"columns": columns, "data": data, "name": "null"},
        "keys_turned": {"data": data, "columns": columns},
    }
    for name, parts in splits.items():
        yield json_request(f"split-{name}", obj({"dataframe_split": obj(parts)}))


def other_containers(rows: list[Row]) -> Iterator[Request]:
    """The other formats, with something else than the list or object that they ask for."""
    names, cells, row = list(rows[0]), list(rows[0].values()), obj(rows[0])
    last = names[-1]
    others = {
        "split-list": ("dataframe_split", array([row])),
        "split-text": ("dataframe_split", '"abc"'),
        "split-null": ("dataframe_split", "null"),
        "split-number": ("dataframe_split", "1"),
        "records-empty": ("dataframe_records", "[]"),
        "records-empty_row": ("dataframe_records", "[{}]"),
        "records-empty_second_row": ("dataframe_records", array([row, "{}"])),
        "records-object": ("dataframe_records", row),
        "records-lists": ("dataframe_records", array([array(cells)])),
        "records-scalars": ("dataframe_records", array(cells)),
        "records-nulls": ("dataframe_records", "[null]"),
        "records-null": ("dataframe_records", "null"),
        "records-text": ("dataframe_records", '"abc"'),
        "records-row_and_list": ("dataframe_records", array([row, array(cells)])),
        "instances-empty": ("instances", "[]"),
        "instances-empty_row": ("instances", "[{}]"),
        "instances-object": ("instances", row),
        "instances-scalar": ("instances", cells[0]),
        "instances-null": ("instances", "null"),
        "instances-flat": ("instances", array(cells)),
        "instances-nested": ("instances", array([array([array(cells)])])),
        "instances-row_and_list": ("instances", array([row, array(cells)])),
        "instances-list_and_row": ("instances", array([array(cells), row])),
        "instances-uneven": ("instances", array([array(cells), array(cells[:1])])),
        "instances-text": ("instances", '"abc"'),
        "inputs-empty": ("inputs", "[]"),
        "inputs-empty_object": ("inputs", "{}"),
        "inputs-scalar": ("inputs", cells[0]),
        "inputs-null": ("inputs", "null"),
        "inputs-flat": ("inputs", array(cells)),
        "inputs-nested": ("inputs", array([array([array(cells)])])),
        "inputs-text": ("inputs", '"abc"'),
        "inputs-path": ("inputs", '"/etc/hostname"'),
        "inputs-uneven": (
            "inputs",
            obj({n: array([c] * (2 if n == last else 1)) for n, c in rows[0].items()}),
        ),
        "inputs-empty_columns": ("inputs", obj(dict.fromkeys(names, "[]"))),
        "inputs-nested_columns": ("inputs", obj({n: array([array([c])]) for n, c in rows[0].items()})),
        "inputs-object_columns": ("inputs", obj({n: obj({"0": c}) for n, c in rows[0].items()})),
        "inputs-row_and_list": ("inputs", array([row, array(cells)])),
    }
    for name, (key, value) in others.items():
        yield json_request(name, obj({key: value}))


def repeated_keys(rows: list[Row]) -> Iterator[Request]:
    first, cell = next(iter(rows[0].items()))
    columns, data = names_of(rows), data_of(rows)
    repeated = f"{{{json.dumps(first)}: {cell}, {obj(rows[1])[1:]}"
    yield json_request("records-key_twice", obj({"dataframe_records": array([repeated])}))
    yield json_request("instances-key_twice", obj({"instances": array([repeated])}))
    yield json_request(
        "split-key_twice", f'{{"dataframe_split": {{"data": [], "columns": {columns}, "data": {data}}}}}'
    )
    yield json_request("top_key_twice", f'{{"dataframe_records": [], {records(rows)[1:]}')


def top_level_keys(good: str) -> Iterator[Request]:
    """`good` is the text of a request that works; around it come other keys, known and unknown."""
    inside = good[1:-1]
    bodies = {
        "unknown_key": f'{{{inside}, "unknown": 1}}',
        "unknown_key_first": f'{{"unknown": 1, {inside}}}',
        "unknown_key_null": f'{{{inside}, "": null}}',
        "signature_name": f'{{"signature_name": "serving_default", {inside}}}',
        "records_too": f'{{{inside}, "dataframe_records": []}}',
        "split_too": f'{{"dataframe_split": {{"data": []}}, {inside}}}',
        "instances_too": f'{{{inside}, "instances": [1]}}',
        "inputs_too": f'{{{inside}, "inputs": [1]}}',
        "all_four": '{"dataframe_split": {}, "dataframe_records": [], "instances": [], "inputs": []}',
        "params_null": f'{{{inside}, "params": null}}',
        "params_empty": f'{{{inside}, "params": {{}}}}',
        "params_first": f'{{"params": {{}}, {inside}}}',
        "params_list": f'{{{inside}, "params": [1]}}',
        "params_text": f'{{{inside}, "params": "a"}}',
        "params_number": f'{{{inside}, "params": 0}}',
        "params_unknown": f'{{{inside}, "params": {{"unknown": 1}}}}',
        "params_twice": f'{{{inside}, "params": {{"a": 1}}, "params": {{}}}}',
        "only_unknown": '{"unknown": 1}',
        "only_two_unknown": '{"unknown": 1, "data": [1]}',
        "only_params": '{"params": {}}',
        "no_key": "{}",
        "old_protocol": '{"columns": ["a"], "data": [[1]]}',
        "upper_case_key": '{"DATAFRAME_RECORDS": []}',
        "llm_messages": '{"messages": [{"role": "user", "content": "hi"}]}',
        "llm_messages_params": '{"messages": [], "temperature": 0.5, "params": {"a": 1}}',
        "llm_prompt": '{"prompt": "hi"}',
        "llm_prompts": '{"prompt": ["hi", "ho"], "n": 2}',
        "llm_input": '{"input": "hi"}',
        "llm_inputs": '{"input": ["hi", "ho"]}',
        "llm_null": '{"input": null}',
        "llm_beside_format": f'{{{inside}, "input": "hi"}}',
        "llm_before_format": f'{{"messages": [], {inside}}}',
    }
    for name, body in bodies.items():
        yield json_request(f"top-{name}", body)
