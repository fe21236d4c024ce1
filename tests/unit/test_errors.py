"""The tree of errors: codes that MLflow knows, statuses that MLflow gives them, and the way to another process."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.exceptions import ERROR_CODE_TO_HTTP_STATUS
from mlflow.protos.databricks_pb2 import ErrorCode

from mlflow_restaurant import errors
from mlflow_restaurant.errors import QueueFull, RestaurantError, Unavailable, from_json, nearest, one_line

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def tree(cls: type[RestaurantError] = RestaurantError) -> Iterator[type[RestaurantError]]:
    yield cls
    for sub in cls.__subclasses__():
        if sub.__module__ == errors.__name__:
            yield from tree(sub)


CLASSES = list(tree())
OF_OUR_OWN = {"BodyTooLarge": 413, "HeadersTooLarge": 431, "RequestTimeout": 408, "QueueFull": 503}


@pytest.mark.parametrize("cls", CLASSES)
class TestEveryClass:
    def test_its_code_is_one_of_mlflow(self, cls: type[RestaurantError]) -> None:
        assert ErrorCode.Value(cls.error_code)

    def test_its_status_is_what_mlflow_gives_the_code(self, cls: type[RestaurantError]) -> None:
        of_mlflow = ERROR_CODE_TO_HTTP_STATUS.get(cls.error_code, cls.http_status)

        assert cls.http_status == OF_OUR_OWN.get(cls.__name__, of_mlflow)

    def test_it_comes_back_from_json(self, cls: type[RestaurantError]) -> None:
        error = cls("Something is wrong; mend it.")

        back = from_json(json.loads(json.dumps(error.to_json())), error.http_status)

        assert isinstance(error, type(back))
        assert (back.error_code, back.http_status, back.message) == (
            error.error_code,
            error.http_status,
            error.message,
        )

    def test_the_docstring_of_the_module_draws_it_as_it_is(self, cls: type[RestaurantError]) -> None:
        lines = [line.split() for line in (errors.__doc__ or "").splitlines()]

        assert any(line[-3:] == [cls.__name__, cls.error_code, str(cls.http_status)] for line in lines)

    def test_its_text_is_its_message(self, cls: type[RestaurantError]) -> None:
        assert str(cls("why")) == cls("why").message == "why"
        assert cls.__doc__


def test_classes_of_their_own_code_and_status_come_back_as_themselves() -> None:
    pairs = [(cls.error_code, cls.http_status) for cls in CLASSES]

    for cls, pair in zip(CLASSES, pairs, strict=True):
        if pairs.count(pair) == 1:
            assert type(from_json(cls("x").to_json(), cls.http_status)) is cls


@pytest.mark.parametrize(
    ("payload", "status"),
    [({}, 502), ({"error_code": "ODD", "message": ""}, 418), ({"error_code": "CANCELLED"}, 200)],
)
def test_an_unknown_error_is_still_an_error_with_a_message(payload: dict[str, str], status: int) -> None:
    error = from_json(payload, status)

    assert type(error) is RestaurantError
    assert str(status) in error.message


def test_a_full_queue_is_a_kind_of_unavailable_and_says_when_to_come_again() -> None:
    assert isinstance(QueueFull("x"), Unavailable)
    assert QueueFull("x").retry_after_s >= 1
    assert Unavailable("x", retry_after_s=7).retry_after_s == 7


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\n lines\t", "two lines"),
        ("\x1b[31mred\x07", "\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}"),
        ("a\u202eb", "a\N{REPLACEMENT CHARACTER}b"),
        ("half \ud800", "half \N{REPLACEMENT CHARACTER}"),
        ("می\u200cخواهم 👩\u200d🍳", "می\u200cخواهم 👩\u200d🍳"),
        ("x" * 501, "x" * 497 + "..."),
    ],
)
def test_one_line_that_leaves_the_terminal_alone(text: str, shown: str) -> None:
    assert one_line(text) == shown


class TestNearest:
    def test_a_slip_of_the_finger(self) -> None:
        assert nearest("replcas", ["replicas", "timeout_s"]) == "Did you mean 'replicas'?"

    def test_nothing_near_lists_what_is_known(self) -> None:
        assert nearest("zzz", ["b", "a"]) == "Known: a, b."

    @unhurried
    @given(st.text(), st.lists(st.text(min_size=1), min_size=1))
    def test_it_always_names_a_known_word(self, word: str, known: list[str]) -> None:
        assert any(k in nearest(word, known) for k in known)
