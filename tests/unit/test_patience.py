"""How many rows a call may have, and how long it may take, by what rows took lately."""

from __future__ import annotations

import math

import pytest

from mlflow_restaurant.entities import BatchRoute
from mlflow_restaurant.gateway.calls import Batch, Call
from mlflow_restaurant.gateway.patience import Patience, rows_in
from mlflow_restaurant.gateway.scoring import Reader

READER = Reader(BatchRoute(max_rows=100, wait_ms=0, columns={"x": "double"}))


def call(rows: int = 1) -> Call:
    body = b'{"instances": [%b]}' % b", ".join([b"1.5"] * rows)
    made = Call([], body, "/invocations", "", lambda _: None)
    made.part = READER.parse(body)
    return made


def batch(calls: int, *, suspect: bool = False) -> Batch:
    return Batch([call() for _ in range(calls)], suspect=suspect)


def patience(*seen: tuple[int, float]) -> Patience:
    made = Patience()
    for calls, seconds in seen:
        made.saw(batch(calls), seconds)
    return made


class TestRows:
    def test_as_many_as_take_a_quarter_of_the_time(self) -> None:
        assert patience((1, 0.1)).most_rows(8) == pytest.approx(20)

    def test_as_long_as_nobody_knows(self) -> None:
        assert Patience().most_rows(8) == math.inf

    def test_what_one_call_takes_by_itself_is_soon_known_from_what_rows_take(self) -> None:
        slow_start = patience((1, 5.0))
        for _ in range(4):
            rows = int(max(1, min(128, slow_start.most_rows(60))))
            slow_start.saw(batch(rows), 0.003)

        assert slow_start.most_rows(60) > 128

    def test_one_slow_request_is_forgotten(self) -> None:
        seen = patience((1, 10.0), *[(1, 0.01)] * 100)

        assert seen.row_s == pytest.approx(0.01, rel=0.1)

    def test_what_nobody_has_read_teaches_nothing(self) -> None:
        seen = Patience()
        seen.saw(Batch([Call([], b"a,b", "/invocations", "", lambda _: None)]), 9.0)

        assert seen.row_s == 0

    def test_a_large_request_counts_by_its_rows(self) -> None:
        seen = Patience()
        seen.saw(Batch([call(rows=50)]), 5.0)

        assert seen.row_s == pytest.approx(0.1)
        assert rows_in(Batch([call(rows=50), call()])) == 51

    @pytest.mark.parametrize("row_s", [0.05, 0.1, 0.5, 3.0])
    @pytest.mark.parametrize("timeout_s", [1.0, 8.0, 60.0])
    def test_calls_that_are_given_up_end(self, row_s: float, timeout_s: float) -> None:
        """Rows that take far longer than all before: after some calls no more of them go together than can be answered."""
        seen, rows, given_up = patience(*[(100, 0.01)] * 50), 100, 0
        while rows > 1:
            rows = int(max(1, min(100, seen.most_rows(timeout_s))))
            limit_s = seen.limit_s(batch(rows), timeout_s)
            if rows * row_s <= limit_s:
                break
            given_up += 1
            seen.gave_up(batch(rows), limit_s)

        assert given_up <= 7

    def test_one_request_that_is_given_up_teaches_nothing(self) -> None:
        seen = patience((1, 0.1))
        seen.gave_up(batch(1, suspect=True), 20)

        assert seen.row_s == pytest.approx(0.1)

    def test_one_that_is_given_up_early_teaches_nothing_less(self) -> None:
        seen = patience((2, 2.0))
        seen.gave_up(batch(2), 0.1)

        assert seen.row_s == pytest.approx(1)


class TestTime:
    def test_unlimited_as_long_as_nobody_knows(self) -> None:
        assert Patience().limit_s(batch(2), 60) == math.inf
        assert Patience().limit_s(batch(1, suspect=True), 60) == math.inf

    def test_one_request_has_its_own_time(self) -> None:
        assert patience((1, 0.1)).limit_s(batch(1), 60) == math.inf

    @pytest.mark.parametrize(
        ("row_s", "timeout_s", "limit_s"),
        [
            (0.001, 60, 15),  # a quarter
            (0.001, 2, 1),  # a second
            (0.001, 1, 0.5),  # half
            (0.5, 60, 20),  # four times what is expected of ten rows
            (1.5, 60, 30),  # half
        ],
    )
    def test_several(self, row_s: float, timeout_s: float, limit_s: float) -> None:
        assert patience((1, row_s)).limit_s(batch(10), timeout_s) == pytest.approx(limit_s)

    def test_one_that_may_hang_keeps_the_others_waiting_for_a_quarter(self) -> None:
        assert patience((1, 1.5)).limit_s(batch(1, suspect=True), 60) == 15

    def test_after_all_that_is_given_up_there_is_time_for_the_others(self) -> None:
        """A row that hangs among others, after a slow request: the call, then the row alone, then all others."""
        seen = patience((1, 0.003), (1, 1.0))
        first = batch(int(seen.most_rows(8)))
        spent = seen.limit_s(first, 8)
        seen.gave_up(first, spent)
        spent += seen.limit_s(batch(1, suspect=True), 8)

        assert spent <= 6
