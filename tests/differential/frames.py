"""The requests for models of columns: what becomes a frame."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .formats import (
    CSV,
    JSON_FORMATS,
    PARQUET,
    Request,
    Row,
    csv,
    good_in_every_format,
    instances_unnamed,
    json_request,
    parquet,
    split,
)
from .models import COLUMN_TYPES, FLOWER, MIXED_TYPES
from .protocol import protocol
from .shapes import table_shapes, top_level_keys
from .values import LITERALS, TELLING, good_rows, one_cell_changed, whole_columns

if TYPE_CHECKING:
    from collections.abc import Iterator

FLOWER_ROWS: list[Row] = [
    dict(zip(FLOWER, cells, strict=True))
    for cells in (["5.1", "3.5", "1.4", "0.2"], ["6.25", "2.9", "4.3", "1.3"], ["7.7", "3.8", "6.7", "2.2"])
]


def many_flowers(count: int) -> Iterator[Request]:
    """Single rows, each with numbers of its own: an answer that reaches the wrong caller is seen."""
    random = np.random.default_rng(5)
    for number in range(count):
        row = dict(zip(FLOWER, (repr(float(x)) for x in random.uniform(0.1, 8, len(FLOWER))), strict=True))
        form = ("split", "records", "inputs", "instances")[number % 4]
        yield json_request(f"own-{form}-{number}", JSON_FORMATS[form]([row]))


def wide_and_long() -> Iterator[Request]:
    random = np.random.default_rng(6)
    table = pd.DataFrame(random.uniform(0.1, 8, (500, len(FLOWER))), columns=FLOWER)
    rows = [dict(zip(FLOWER, map(repr, row), strict=True)) for row in table.to_numpy().tolist()]
    for form in ("split", "records", "inputs", "instances"):
        yield json_request(f"long-{form}", JSON_FORMATS[form](rows))
    yield json_request("very_long-split", split(rows * 20))
    yield Request("long-csv", csv(rows), CSV)
    yield Request("long-parquet", parquet(table), PARQUET)


def sklearn_floats() -> Iterator[Request]:
    good = split(FLOWER_ROWS[:1])
    yield from good_in_every_format(FLOWER_ROWS)
    yield from table_shapes(FLOWER_ROWS)
    yield from top_level_keys(good)
    yield from protocol(good)
    yield from many_flowers(96)
    yield from wide_and_long()
    last = {FLOWER[-1]: FLOWER_ROWS[0][FLOWER[-1]]}
    for form, literals in {
        "split": LITERALS,
        "records": LITERALS,
        "inputs": TELLING,
        "instances": TELLING,
    }.items():
        for request in one_cell_changed([last], {form: literals}):
            column, literal = request.name.removeprefix(f"{form}-").split("-")
            row = {**FLOWER_ROWS[0], column: literals[literal]}
            yield json_request(request.name, JSON_FORMATS[form]([row]))


def sklearn_flowers() -> Iterator[Request]:
    """For the other models of four named floats: formats, and rows of their own."""
    yield from good_in_every_format(FLOWER_ROWS)
    yield from many_flowers(32)


def sklearn_arrays() -> Iterator[Request]:
    """For the models of four floats that are not named."""
    yield from sklearn_flowers()
    yield from table_shapes(FLOWER_ROWS)
    yield from top_level_keys(instances_unnamed(FLOWER_ROWS))
    for form in ("split_unnamed", "instances_unnamed", "inputs_unnamed"):
        for name, literal in TELLING.items():
            row = {**FLOWER_ROWS[0], FLOWER[0]: literal}
            yield json_request(f"{form}-{name}", JSON_FORMATS[form]([row]))
            yield json_request(f"{form}_2-{name}", JSON_FORMATS[form]([FLOWER_ROWS[0], row]))


def sklearn_mixed() -> Iterator[Request]:
    rows = good_rows(MIXED_TYPES)
    yield from good_in_every_format(rows)
    yield from table_shapes(rows)
    yield from whole_columns(MIXED_TYPES)
    yield from one_cell_changed(rows, {"split": LITERALS, "records": TELLING})


def echo_columns() -> Iterator[Request]:
    rows = good_rows(COLUMN_TYPES)
    yield from good_in_every_format(rows)
    yield from table_shapes(rows)
    yield from whole_columns(COLUMN_TYPES)
    forms = {"split": LITERALS, "split_2": TELLING, "inputs": TELLING, "inputs_scalars": TELLING}
    yield from one_cell_changed(rows, forms)
    yield from typed_csv()
    yield from typed_parquet()


def typed_csv() -> Iterator[Request]:
    header = ",".join(COLUMN_TYPES)
    good = ["0.5", "1.5", "1", "2", "True", "red", "aGVsbG8=", "2026-01-02"]
    cells = ["", "NA", "nan", "1", "1.5", "true", "word", '"a,b"', "é", "1e400", "9223372036854775808"]
    yield Request("csv-typed-good", f"{header}\n{','.join(good)}\n".encode(), CSV)
    for (position, name), (number, cell) in itertools.product(enumerate(COLUMN_TYPES), enumerate(cells)):
        row = ",".join([*good[:position], cell, *good[position + 1 :]])
        yield Request(f"csv-{name}-{number}", f"{header}\n{row}\n".encode(), CSV)


def typed_parquet() -> Iterator[Request]:
    typed = pd.DataFrame(
        {
            "double": [0.5],
            "float": np.array([1.5], dtype=np.float32),
            "long": [1],
            "integer": np.array([2], dtype=np.int32),
            "boolean": [True],
            "string": ["red"],
            "binary": [b"\x00\xff"],
            "datetime": pd.to_datetime(["2026-01-02"]),
        }
    )
    yield Request("parquet-typed-good", parquet(typed), PARQUET)
    changed = {
        "aware": typed.assign(datetime=pd.to_datetime(["2026-01-02"]).tz_localize("UTC")),
        "milliseconds": typed.assign(datetime=pd.to_datetime(["2026-01-02"]).as_unit("ms")),
        "no_time": typed.assign(datetime=pd.array([None], dtype="datetime64[ns]")),
        "float_as_double": typed.assign(float=[0.1]),
        "int_as_double": typed.assign(double=[2]),
        "small_int": typed.assign(long=np.array([1], dtype=np.int8)),
        "unsigned": typed.assign(long=np.array([1], dtype=np.uint64)),
        "long_for_integer": typed.assign(integer=[2]),
        "null_string": typed.assign(string=pd.Series([None], dtype=object)),
        "category": typed.assign(string=pd.Categorical(["red"])),
        "nullable_int": typed.assign(long=pd.array([None], dtype="Int64")),
        "nullable_bool": typed.assign(boolean=pd.array([None], dtype="boolean")),
        "text_binary": typed.assign(binary=["text"]),
        "list": typed.assign(string=pd.Series([[1]], dtype=object)),
    }
    for name, table in changed.items():
        yield Request(f"parquet-typed-{name}", parquet(table), PARQUET)


def echo_one_column() -> Iterator[Request]:
    rows: list[Row] = [{"only": "1"}, {"only": "-2"}, {"only": "3"}]
    yield from good_in_every_format(rows)
    yield from table_shapes([{**row} for row in rows])
    yield from top_level_keys('{"inputs": [1, 2]}')
    for key, (name, literal) in itertools.product(("inputs", "instances"), LITERALS.items()):
        yield json_request(f"{key}-value-{name}", f'{{"{key}": {literal}}}')
        yield json_request(f"{key}-list-{name}", f'{{"{key}": [{literal}]}}')
        yield json_request(f"{key}-second-{name}", f'{{"{key}": [1, {literal}]}}')


def echo_unnamed() -> Iterator[Request]:
    rows: list[Row] = [{"a": "1", "b": '"x"', "c": "0.5"}, {"a": "2", "b": '"é"', "c": "1"}]
    yield from good_in_every_format(rows)
    yield from table_shapes(rows)
    yield from one_cell_changed(
        rows, {"split_unnamed": LITERALS, "inputs_unnamed": TELLING, "split": TELLING}
    )


def echo_no_signature() -> Iterator[Request]:
    rows = good_rows(COLUMN_TYPES)
    good = split(rows[:1])
    yield from good_in_every_format(rows)
    yield from table_shapes(rows)
    yield from whole_columns(COLUMN_TYPES)
    yield from top_level_keys(good)
    yield from protocol(good)
    for key, (name, literal) in itertools.product(("inputs", "instances"), LITERALS.items()):
        yield json_request(f"{key}-value-{name}", f'{{"{key}": {literal}}}')
        yield json_request(f"{key}-list-{name}", f'{{"{key}": [1, {literal}]}}')
    yield from one_cell_changed(
        [{"a": "1"}, {"a": "2"}], {"split": LITERALS, "split_2": TELLING, "records_2": TELLING}
    )
