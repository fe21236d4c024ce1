"""How many requests a call may have, by how many failed lately."""

from __future__ import annotations

import math

from mlflow_restaurant.entities import BatchRoute
from mlflow_restaurant.gateway.calls import Batch, Call
from mlflow_restaurant.gateway.failures import Failures
from mlflow_restaurant.gateway.scoring import Reader

BODY = b'{"instances": [1.5]}'
PART = Reader(BatchRoute(max_rows=100, wait_ms=0, columns={"x": "double"})).parse(BODY)


def batch(calls: int) -> Batch:
    made = [Call([], BODY, "/invocations", "", lambda _: None) for _ in range(calls)]
    for call in made:
        call.part = PART
    return Batch(made)


def test_all_go_together_as_long_as_none_fails() -> None:
    failures = Failures()
    failures.saw(batch(128))

    assert failures.most_requests() == math.inf


def test_where_some_fail_fewer_go_together() -> None:
    failures = Failures()
    for _ in range(100):
        failures.saw(batch(5))
        failures.saw(batch(1), failed=True)

    assert 3 <= failures.most_requests() <= 5


def test_where_few_fail_all_go_together() -> None:
    failures = Failures()
    for _ in range(100):
        failures.saw(batch(31))
        failures.saw(batch(1), failed=True)

    assert failures.most_requests() == math.inf


def test_where_many_fail_each_goes_alone_until_they_do_no_more() -> None:
    failures = Failures()
    for _ in range(5):
        failures.saw(batch(1), failed=True)
    assert failures.most_requests() == 1

    calls = 0
    while failures.most_requests() < 100:
        calls += 1
        failures.saw(batch(int(failures.most_requests())))

    assert calls < 100


def test_one_that_fails_first_says_little() -> None:
    failures = Failures()
    failures.saw(batch(1), failed=True)

    assert failures.most_requests() > 4


def test_what_is_never_merged_does_not_count() -> None:
    failures = Failures()
    for _ in range(50):
        failures.saw(Batch([Call([], b"a,b", "/invocations", "", lambda _: None)]), failed=True)

    assert failures.most_requests() == math.inf
