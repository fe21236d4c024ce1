"""Values of every kind, good and wrong, for one cell or a whole column."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from .formats import JSON_FORMATS, Request, Row, json_request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LITERALS: dict[str, str] = {
    "null": "null",
    "true": "true",
    "zero": "0",
    "one": "1",
    "minus_one": "-1",
    "one_point_zero": "1.0",
    "one_and_a_half": "1.5",
    "tenth": "0.1",
    "sum_of_tenths": "0.30000000000000004",
    "minus_zero": "-0.0",
    "exponent": "1e3",
    "capital_exponent": "1E-2",
    "over_float32": "3.5e38",
    "over_float64": "1e400",
    "under_float64": "1e-400",
    "nan": "NaN",
    "infinity": "Infinity",
    "minus_infinity": "-Infinity",
    "int32_max": "2147483647",
    "over_int32": "2147483648",
    "under_int32": "-2147483649",
    "over_2_53": "9007199254740993",
    "int64_max": "9223372036854775807",
    "over_int64": "9223372036854775808",
    "under_int64": "-9223372036854775809",
    "over_uint64": "18446744073709551616",
    "ten_to_40": "1" + "0" * 40,
    "empty_text": '""',
    "text": '"red"',
    "text_int": '"1"',
    "text_float": '"1.5"',
    "text_true": '"true"',
    "text_nan": '"nan"',
    "accents": '"é☃😀"',
    "escapes": r'"\u00e9\ud83d\ude00\n\t\"\\\/"',
    "lone_surrogate": r'"\ud800"',
    "nul": r'"\u0000"',
    "date": '"2026-01-02"',
    "date_day_first": '"13/02/2026"',
    "date_ambiguous": '"01/02/2026"',
    "time_utc": '"2026-01-02T03:04:05Z"',
    "time_offset": '"2026-01-02T03:04:05+02:00"',
    "nanoseconds": '"2026-01-02T03:04:05.123456789"',
    "far_date": '"9999-12-31"',
    "base64": '"aGVsbG8="',
    "not_base64": '"hello world!"',
    "array": "[1]",
    "empty_array": "[]",
    "object": '{"a": 1}',
}

GOOD_CELLS: dict[str, list[str]] = {
    "double": ["0.1", "-2.5", "1e300"],
    "float": ["0.5", "0.1", "-3.25"],
    "long": ["1", "-9007199254740993", "3"],
    "integer": ["7", "-2147483648", "0"],
    "boolean": ["true", "false", "true"],
    "string": ['"red"', '"é☃"', '"blue"'],
    "binary": ['"aGVsbG8="', '"AP8="', '""'],
    "datetime": ['"2026-01-02T03:04:05"', '"2025-12-31T00:00:00"', '"1970-01-01T00:00:00"'],
}


def good_rows(types: Iterable[str]) -> list[Row]:
    return [{name: GOOD_CELLS[name][row] for name in types} for row in range(3)]


def one_cell_changed(rows: list[Row], forms: dict[str, dict[str, str]]) -> Iterator[Request]:
    """One request for each column, literal and format; the changed cell is the last row's, beside the first row if two."""
    for form, literals in forms.items():
        render = JSON_FORMATS[form.removesuffix("_2")]
        count = 2 if form.endswith("_2") else 1
        for column, (name, literal) in itertools.product(rows[0], literals.items()):
            changed = [*rows[: count - 1], {**rows[count - 1], column: literal}]
            yield json_request(f"{form}-{column}-{name}", render(changed))


def some_literals(*names: str) -> dict[str, str]:
    return {name: LITERALS[name] for name in names}


TELLING = some_literals(
    "null",
    "true",
    "one",
    "one_point_zero",
    "one_and_a_half",
    "nan",
    "over_int32",
    "over_2_53",
    "over_int64",
    "text",
    "text_int",
    "array",
)
"""The literals that show most, for the formats and models that do not get all."""

WHOLE_COLUMNS: dict[str, dict[str, list[str]]] = {
    "double": {
        "ints": ["1", "2"],
        "null": ["null", "null"],
        "half_null": ["1.5", "null"],
        "int_float": ["1", "2.5"],
    },
    "float": {"ints": ["1", "2"], "half_null": ["1.5", "null"], "text": ['"1"', '"2"']},
    "long": {"half_null": ["1", "null"], "whole_floats": ["1.0", "2.0"], "bools": ["true", "false"]},
    "integer": {"half_null": ["1", "null"], "bools": ["true", "1"], "over": ["1", "4294967296"]},
    "boolean": {"half_null": ["true", "null"], "ints": ["0", "1"], "text": ['"true"', '"false"']},
    "string": {
        "half_null": ['"a"', "null"],
        "ints": ["1", "2"],
        "mixed": ['"a"', "1"],
        "null": ["null", "null"],
    },
    "binary": {"half_null": ['"YQ=="', "null"], "null": ["null", "null"]},
    "datetime": {
        "half_null": ['"2026-01-02"', "null"],
        "null": ["null", "null"],
        "day_first": ['"01/02/2026"', '"13/02/2026"'],
        "day_second": ['"13/02/2026"', '"01/02/2026"'],
        "two_forms": ['"2026-01-02"', '"2026-01-02T03:04:05"'],
        "numbers": ["0", "1000000000"],
    },
}


def whole_columns(types: Iterable[str]) -> Iterator[Request]:
    rows = good_rows(types)[:2]
    for column in rows[0]:
        for name, cells in WHOLE_COLUMNS[column].items():
            changed = [{**row, column: cell} for row, cell in zip(rows, cells, strict=True)]
            for form in ("split", "records", "inputs", "instances"):
                yield json_request(f"column-{form}-{column}-{name}", JSON_FORMATS[form](changed))
