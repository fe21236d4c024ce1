"""A request, and how the same rows are written in every format that MLflow takes.

A cell is written as JSON text (`1.0`, `NaN`, `"a"`), so that what is sent is what is read in the tables.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

JSON = (("Content-Type", "application/json"),)
CSV = (("Content-Type", "text/csv"),)
PARQUET = (("Content-Type", "application/vnd.apache.parquet"),)

Headers = tuple[tuple[str, str], ...]
Row = dict[str, str]
"""Column -> cell, as JSON text."""


@dataclass(frozen=True)
class Case:
    model: str
    name: str
    body: bytes = b""
    headers: Headers = ()
    method: str = "POST"
    path: str = "/invocations"

    def __str__(self) -> str:
        return f"{self.model}-{self.name}"


@dataclass(frozen=True)
class Request:
    """A case before it is given to a model."""

    name: str
    body: bytes
    headers: Headers = JSON
    method: str = "POST"
    path: str = "/invocations"

    def to(self, model: str) -> Case:
        return Case(model, self.name, self.body, self.headers, self.method, self.path)


def json_request(name: str, text: str) -> Request:
    return Request(name, text.encode("utf-8", "surrogatepass"))


def array(items: Iterable[str]) -> str:
    return f"[{', '.join(items)}]"


def obj(items: dict[str, str]) -> str:
    return "{" + ", ".join(f"{json.dumps(key)}: {value}" for key, value in items.items()) + "}"


def split(rows: list[Row]) -> str:
    names = array(json.dumps(name) for name in rows[0])
    data = array(array(row.values()) for row in rows)
    return obj({"dataframe_split": obj({"columns": names, "data": data})})


def split_unnamed(rows: list[Row]) -> str:
    return obj({"dataframe_split": obj({"data": array(array(row.values()) for row in rows)})})


def records(rows: list[Row]) -> str:
    return obj({"dataframe_records": array(obj(row) for row in rows)})


def instances(rows: list[Row]) -> str:
    return obj({"instances": array(obj(row) for row in rows)})


def instances_unnamed(rows: list[Row]) -> str:
    return obj({"instances": array(array(row.values()) for row in rows)})


def inputs(rows: list[Row]) -> str:
    return obj({"inputs": obj({name: array(row[name] for row in rows) for name in rows[0]})})


def inputs_scalars(rows: list[Row]) -> str:
    return obj({"inputs": obj(rows[0])})


def inputs_records(rows: list[Row]) -> str:
    return obj({"inputs": array(obj(row) for row in rows)})


def inputs_unnamed(rows: list[Row]) -> str:
    return obj({"inputs": array(array(row.values()) for row in rows)})


JSON_FORMATS = {
    form.__name__: form
    for form in (
        split,
        split_unnamed,
        records,
        instances,
        instances_unnamed,
        inputs,
        inputs_scalars,
        inputs_records,
        inputs_unnamed,
    )
}


def frame(rows: list[Row]) -> pd.DataFrame:
    table: pd.DataFrame = pd.DataFrame(
        [{name: json.loads(cell) for name, cell in row.items()} for row in rows]
    )
    return table


def csv(rows: list[Row]) -> bytes:
    text: str = frame(rows).to_csv(index=False)
    return text.encode()


def parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    return buffer.getvalue()


def with_params(body: str, params: str) -> str:
    return f'{body[:-1]}, "params": {params}' + "}"


def good_in_every_format(rows: list[Row]) -> Iterator[Request]:
    for count in (1, len(rows)):
        for name, form in JSON_FORMATS.items():
            yield json_request(f"good-{name}-{count}", form(rows[:count]))
        yield Request(f"good-csv-{count}", csv(rows[:count]), CSV)
        yield Request(f"good-parquet-{count}", parquet(frame(rows[:count])), PARQUET)
