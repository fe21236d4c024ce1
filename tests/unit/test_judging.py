"""Verdicts on a new revision, from counts of both sides."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_restaurant.control.judging import (
    CHANCE,
    Limits,
    Scale,
    Side,
    at_least,
    judge,
    judge_latency,
    leaves_unanswered,
    milliseconds,
)
from mlflow_restaurant.gateway.sides import BUCKETS, FIRST_S, GROWTH, bucket_of

SCALE = Scale(FIRST_S, GROWTH)
LIMITS = Limits(max_error_rate_increase=0.02, max_latency_ratio=2, min_requests=50, min_agreement=0.9)


def side(requests: int, errors: int = 0, latencies_s: Any = None, under_way_s: Any = ()) -> Side:
    return Side(requests, errors, bucketed(latencies_s or [0.01] * requests), bucketed(under_way_s))


def bucketed(times_s: Any) -> list[int]:
    buckets = [0] * BUCKETS
    for time_s in times_s:
        buckets[bucket_of(time_s)] += 1
    return buckets


def verdict(old: Side, new: Side, agreement: Any = None, **changes: Any) -> str:
    limits = Limits(**{**vars(LIMITS), **changes})
    return judge(old, new, agreement, limits) or judge_latency(old, new, limits, SCALE)


class TestErrors:
    def test_a_fifth_of_the_first_fifty_is_enough(self) -> None:
        found = verdict(side(950), side(50, 10))
        assert found.startswith("20.0% of its 50 requests failed, and 0.0% of the 950 of the revision before")

    @pytest.mark.parametrize(("errors", "requests"), [(0, 50), (1, 50), (2, 50), (20, 1000), (10, 49)])
    def test_what_may_be_chance_is_none(self, errors: int, requests: int) -> None:
        assert verdict(side(1000), side(requests, errors)) == ""

    def test_callers_who_send_nonsense_to_both_speak_against_neither(self) -> None:
        assert verdict(side(1000, 300), side(1000, 310)) == ""
        assert verdict(side(1000, 300), side(1000, 400)) != ""

    def test_the_first_failure_counts_where_none_may_be(self) -> None:
        assert verdict(side(1000), side(1000, 1), max_error_rate_increase=0) != ""

    def test_a_good_revision_is_hardly_ever_called_back(self) -> None:
        draw = random.Random(1)
        for _ in range(300):
            new = sum(draw.random() < 0.02 for _ in range(200))
            old = sum(draw.random() < 0.02 for _ in range(2000))
            assert verdict(side(2000, old), side(200, new)) == ""


class TestLatency:
    def test_three_times_as_long_is_too_long(self) -> None:
        found = verdict(side(200), side(60, latencies_s=[0.03] * 60))
        assert "its p95 is" in found
        assert "max_latency_ratio=2" in found

    def test_a_little_longer_is_not(self) -> None:
        assert verdict(side(200), side(60, latencies_s=[0.018] * 60)) == ""

    def test_a_few_slow_ones_may_be_chance(self) -> None:
        assert verdict(side(200), side(60, latencies_s=[0.01] * 55 + [1.0] * 5)) == ""
        assert verdict(side(200), side(60, latencies_s=[0.01] * 45 + [1.0] * 15)) != ""

    def test_nothing_is_said_before_both_answered_enough(self) -> None:
        assert verdict(side(49), side(60, latencies_s=[1.0] * 60)) == ""


class TestUnanswered:
    def test_those_that_are_waited_for_too_long_count_as_so_slow(self) -> None:
        found = verdict(side(1000), side(0, under_way_s=[4.0] * 60))
        assert found.startswith("its p95 is 4,")
        assert found.endswith("; 60 of its 60 requests have no answer yet")
        assert verdict(side(1000), side(40, under_way_s=[4.0] * 10)) != ""

    @pytest.mark.parametrize(
        "new",
        [
            side(0, under_way_s=[4.0] * 49),
            side(0, under_way_s=[0.01] * 60),
            side(1000, under_way_s=[4.0] * 60),
        ],
    )
    def test_nor_do_few_or_quick_ones_speak_against_it(self, new: Side) -> None:
        assert verdict(side(1000), new) == ""

    def test_what_keeps_both_from_answering_speaks_against_neither(self) -> None:
        assert verdict(side(60, under_way_s=[4.0] * 16), side(60, under_way_s=[4.0] * 16)) == ""
        assert verdict(side(60, under_way_s=[0.01] * 16), side(60, under_way_s=[4.0] * 16)) != ""

    @pytest.mark.parametrize(
        ("old", "new", "share", "expected"),
        [
            (side(500), side(0, under_way_s=[4.0]), 0.05, True),
            (side(500), side(49, under_way_s=[4.0]), None, True),
            (side(500), side(50, under_way_s=[4.0]), 0.05, False),
            (side(500), side(10, under_way_s=[0.01]), 0.05, False),
            (side(0), side(0, under_way_s=[0.5] * 3), 0.5, False),
            (side(0), side(0, under_way_s=[4.0] * 3), 0.5, True),
            (side(1000), side(20), 0.05, True),
            (side(1000), side(30), 0.05, False),
            (side(900), side(0), 0.05, False),
            (side(100_000), side(0), None, False),
            (side(0), side(0), 1.0, False),
        ],
    )
    def test_whether_it_is_asked_and_does_not_answer(
        self, old: Side, new: Side, share: float | None, expected: bool
    ) -> None:
        assert leaves_unanswered(old, new, share, LIMITS, SCALE) is expected


class TestAgreement:
    def test_rows_that_disagree_call_it_back(self) -> None:
        found = verdict(side(100), side(100), {"rows": 100, "agreed": 60})
        assert found.startswith("it agrees with the revision before on 60.0% of 100 rows (min_agreement=0.9)")

    @pytest.mark.parametrize(("rows", "agreed"), [(100, 95), (100, 88), (49, 0), (1000, 900)])
    def test_what_may_be_chance_does_not(self, rows: int, agreed: int) -> None:
        assert verdict(side(100), side(100), {"rows": rows, "agreed": agreed}) == ""

    def test_zero_only_reports(self) -> None:
        assert verdict(side(100), side(100), {"rows": 100, "agreed": 0}, min_agreement=0.0) == ""


@pytest.mark.parametrize(
    ("count", "of", "share", "expected"),
    [(1, 1, 0.5, 0.5), (0, 5, 0.1, 1.0), (2, 2, 0.5, 0.25), (1, 3, 0.5, 0.875), (5, 5, 1.0, 1.0)],
)
def test_tails_of_the_binomial_distribution(count: int, of: int, share: float, expected: float) -> None:
    assert at_least(count, of, share) == pytest.approx(expected)


@given(st.integers(0, 400), st.integers(1, 400), st.floats(0.001, 0.999))
def test_tails_are_probabilities_that_fall(count: int, of: int, share: float) -> None:
    assert 0 <= at_least(count + 1, of, share) <= at_least(count, of, share) + 1e-9 <= 1 + 2e-9


@given(st.lists(st.floats(0.0002, 50), min_size=1, max_size=60))
def test_quantiles_are_right_within_a_tenth(latencies: list[float]) -> None:
    found = SCALE.quantile(side(len(latencies), latencies_s=latencies), 0.95)
    rank = max(0, -(-len(latencies) * 95 // 100) - 1)
    exact = sorted(latencies)[rank]
    assert found is not None
    assert exact <= found * 1.0001
    assert found <= exact * 1.11


@pytest.mark.parametrize(("time_s", "text"), [(0.01234, "12.3 ms"), (0.0004, "0.4 ms"), (63.2, "63,200 ms")])
def test_times_in_words(time_s: float, text: str) -> None:
    assert milliseconds(time_s) == text


def test_chance_is_small() -> None:
    assert CHANCE <= 0.01
