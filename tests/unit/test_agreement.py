"""How far two answers to one request agree."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlflow_restaurant.gateway.agreement import WORST, Agreement, total


def answer(*predictions: Any) -> tuple[int, bytes]:
    return 200, json.dumps({"predictions": list(predictions)}).encode()


def request(*rows: Any) -> bytes:
    return json.dumps({"dataframe_split": {"columns": ["x"], "data": [[row] for row in rows]}}).encode()


def compared(old: Any, new: Any) -> Agreement:
    found = Agreement()
    found.compare(request(0), answer(old), answer(new))
    return found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("spam", "spam"),
        (1, 1),
        (1.0, 1.005),
        (1.0, 1),
        (0.0, 0.0),
        (None, None),
        (float("nan"), float("nan")),
        (True, True),
        ({"a": 1.0, "b": "x"}, {"a": 1.001, "b": "x"}),
        ([1.0, 2.0], [1.0, 2.01]),
    ],
)
def test_what_agrees(old: Any, new: Any) -> None:
    found = compared(old, new)
    assert (found.rows, found.agreed, found.worst) == (1, 1, [])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("spam", "ham"),
        (1, 2),
        (1000, 1001),
        (1.0, 1.1),
        (True, 1),
        (None, 0.0),
        (0.0, float("nan")),
        ({"a": 1.0}, {"a": 2.0}),
        ({"a": 1.0}, {"b": 1.0}),
        ([1.0], [1.0, 2.0]),
    ],
)
def test_what_does_not(old: Any, new: Any) -> None:
    found = compared(old, new)
    assert (found.rows, found.agreed) == (1, 0)
    assert json.dumps(found.worst[0]["old"]) == json.dumps(old)
    assert found.worst[0]["input"] == request(0).decode()


def test_each_column_is_told_apart() -> None:
    found = compared({"p": 0.5, "label": "a"}, {"p": 0.75, "label": "a"})
    assert (found.columns["label"].compared, found.columns["label"].agreed) == (1, 1)
    assert (found.columns["p"].agreed, found.columns["p"].max_difference) == (0, 0.25)


def test_answers_that_failed_or_are_unlike_are_counted() -> None:
    found = Agreement()
    found.compare(request(0), answer(1), (400, b"{}"))
    found.compare(request(0), (400, b"{}"), answer(1))
    found.compare(request(0), (400, b"{}"), (500, b""))
    found.compare(request(0), answer(1), answer(1, 2))
    found.compare(request(0), answer(1), (200, b'{"predictions": 1}'))
    found.compare(request(0), (200, b"no json"), (200, b"no json"))
    assert (found.failed_new, found.failed_old, found.unlike, found.rows) == (1, 1, 3, 0)


def test_the_rows_that_differ_most_are_kept() -> None:
    found = Agreement()
    numbers = [float(n) for n in range(1, 31)]
    found.compare(request(*numbers), answer(*numbers), answer(*[2 * n for n in numbers]))
    found.compare(request("a"), answer("x"), answer("y"))
    assert [row["difference"] for row in found.worst] == [None, 30.0, 29.0, 28.0, 27.0]
    assert json.loads(found.worst[1]["input"])["dataframe_split"]["data"] == [[30.0]]
    assert len(found.worst) == WORST


def test_gateways_are_added_up() -> None:
    one, other = compared(1.0, 2.0), compared(1.0, 4.0)
    other.compare(request(0), answer("x"), answer("x"))
    found = total([one.to_json(), json.loads(json.dumps(other.to_json()))])
    assert (found.rows, found.agreed) == (3, 1)
    column = found.columns["prediction"]
    assert (column.compared, column.numbers, column.total_difference, column.max_difference) == (
        3,
        2,
        4.0,
        3.0,
    )
    assert [row["difference"] for row in found.worst] == [3.0, 1.0]
