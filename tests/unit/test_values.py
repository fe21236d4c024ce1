"""Which values may be merged, by the signature."""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

import pytest

from mlflow_restaurant.gateway import values
from mlflow_restaurant.gateway.values import NUMBER, Table

MANY = tuple(f"column_{i}" for i in range(2000))


class Text(bytes):
    """Text that knows how often something was looked for in it."""

    searches = 0

    def count(self, *args: Any) -> int:
        Text.searches += 1
        return super().count(*args)


class TestKeys:
    def table(self, *columns: str) -> Table:
        return Table(columns, [NUMBER] * len(columns))

    def test_many_columns_are_looked_for_together(self) -> None:
        text = Text(json.dumps(dict.fromkeys(MANY, 1.5)).encode())
        Text.searches = 0

        with mock.patch.object(values, "strictly") as strictly:
            assert self.table(*MANY).once_each(text, 1)

        assert Text.searches == 1
        strictly.assert_not_called()

    def test_one_of_many_that_is_there_twice(self) -> None:
        text = json.dumps(dict.fromkeys(MANY, 1.5)).encode()

        assert not self.table(*MANY).once_each(text[:-1] + b', "column_7": 1.5}', 1)

    @pytest.mark.parametrize(
        ("text", "once"),
        [
            (b'[{"a": 1, "b": 2}, {"a": 3, "b": 4}]', True),
            (b'[{"a": 1, "b": 2}, {"a": 3, "b": 4, "a": 5}]', False),
            (b'[{"a": "x: y", "b": 2}, {"a": 3, "b": 4}]', True),
            (b'[{"a": "x: y", "b": 2}, {"a": 3, "b": 4, "\\u0061": 5}]', False),
            (b'[{"a": "x\\u003a y", "b": 2}, {"a": 3, "b": 4, "\\u0061": 5}]', False),
        ],
    )
    def test_colons_elsewhere(self, text: bytes, once: bool) -> None:
        assert self.table("a", "b").once_each(text, 2) is once
