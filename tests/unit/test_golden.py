"""Golden answers: which are kept, and what is another one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlflow_restaurant.control.golden import MAX_SIZE, golden_of, strays


def answer(*predictions: Any) -> bytes:
    return json.dumps({"predictions": list(predictions)}).encode()


def test_what_is_always_the_same_is_golden() -> None:
    assert golden_of([answer(1.5, "a")] * 3) == answer(1.5, "a").decode()


@pytest.mark.parametrize("answers", [[], [answer(1), answer(2)], [answer("x" * MAX_SIZE)] * 2], ids=len)
def test_what_is_not_or_is_too_long_is_none(answers: list[bytes]) -> None:
    assert golden_of(answers) is None


@pytest.mark.parametrize("again", [answer(1.5, None), answer(1.5 * (1 + 1e-12), None)])
def test_numbers_may_differ_in_the_last_places(again: bytes) -> None:
    assert strays(answer(1.5, None).decode(), again) == ""


@pytest.mark.parametrize(
    ("again", "words"),
    [
        (answer(1.5, 3), "row 2 is 3, not 2"),
        (answer(1.5), "has 1 items, not 2"),
        (b"no json", "can't be compared"),
        (b'{"error": 1}', "can't be compared"),
    ],
)
def test_another_answer_is_told(again: bytes, words: str) -> None:
    assert words in strays(answer(1.5, 2).decode(), again)
