"""How requests are laid out around their rows, and what the strict parser refuses."""

from __future__ import annotations

import json

import pytest

from mlflow_restaurant.gateway.layout import MAX_TEXT, Layouts, strictly


class TestStrictly:
    def test_json_means_what_it_means(self) -> None:
        text = '{"a": [1, 2.5, null, true, "é"], "b": {"c": -0.0}}'

        assert strictly(text) == strictly(text.encode()) == json.loads(text)

    @pytest.mark.parametrize(
        "text",
        [
            b'{"a": 1, "a": 2}',
            b'[{"b": {"a": 1, "\\u0061": 1}}]',
            b"NaN",
            b"[Infinity]",
            b"",
            b"1 2",
            b"\xff",
            b"\xef\xbb\xbf1",
        ],
    )
    def test_what_is_refused(self, text: bytes) -> None:
        with pytest.raises(ValueError):  # noqa: PT011  (of several kinds)
            strictly(text)


def test_much_text_around_rows_is_not_read() -> None:
    layouts = Layouts()

    def read(name: str) -> object:
        return layouts.read(b'{"dataframe_split": {"columns": ["%b"], "data": ' % name.encode(), b"}}")

    assert read("a") is not None
    assert read("a" * MAX_TEXT) is None
