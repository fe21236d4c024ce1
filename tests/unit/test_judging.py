"""Verdicts on a new revision, from counts of both sides."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_restaurant.control.judging import CHANCE, Limits, Scale, Side, at_least, judge, judge_latency
from mlflow_restaurant.gateway.sides import BUCKETS, FIRST_S, GROWTH, bucket_of

SCALE = Scale(FIRST_S, GROWTH)
LIMITS = Limits(max_error_rate_increase=0.02, max_latency_ratio=2, min_requests=50, min_agreement=0.9)


def side(requests: int, errors: int = 0, latencies_s: Any = None) -> Side:
    buckets = [0] * BUCKETS
    for took_s in latencies_s or [0.01] * requests:
        buckets[bucket_of(took_s)] += 1
    return Side(requests, errors, buckets)


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


def test_chance_is_small() -> None:
    assert CHANCE <= 0.01
