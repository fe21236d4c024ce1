"""Summaries of columns: every kind of value, and what is refused."""

from __future__ import annotations

import datetime
import decimal
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlflow_restaurant.bundle.profile import ColumnProfile
from mlflow_restaurant.saving.columns import TOP_VALUES, UnsupportedColumn, json_text, profile_column

DAY = datetime.date(2026, 1, 31)


def summary(values: Any, **arguments: Any) -> ColumnProfile:
    return profile_column("c", pd.Series(values, **arguments))


def objects(*values: Any) -> ColumnProfile:
    return summary(list(values), dtype=object)


class TestTypes:
    @pytest.mark.parametrize(
        ("values", "dtype", "expected"),
        [
            ([1, 2], None, "integer"),
            ([1, None], "Int64", "integer"),
            ([1.5, 2], None, "float"),
            ([True, False], None, "boolean"),
            ([True, None], "boolean", "boolean"),
            (["a", None], None, "string"),
            (["a", "b"], "category", "category"),
            ([pd.Timestamp(DAY)], None, "datetime"),
            ([pd.Timestamp(DAY, tz="Europe/Paris")], None, "datetime"),
            ([pd.Timedelta("1s")], None, "duration"),
            ([1, None], object, "integer"),
            ([1, 2.5], object, "float"),
            ([decimal.Decimal(1)], object, "decimal"),
            ([True, None], object, "boolean"),
            (["a", np.nan], object, "string"),
            ([b"a"], object, "binary"),
            ([DAY], object, "date"),
            ([datetime.datetime(2026, 1, 31), None], object, "datetime"),
            ([datetime.timedelta(1)], object, "duration"),
            ([[1], {"a": 1}, np.arange(2)], object, "nested"),
            ([1, "a"], object, "mixed"),
            ([1, True], object, "mixed"),
            ([[1], "a"], object, "mixed"),
            ([None, np.nan], object, "empty"),
            ([np.nan, np.nan], None, "float"),
        ],
    )
    def test_type(self, values: list[Any], dtype: Any, expected: str) -> None:
        found = summary(values, dtype=dtype)

        assert found.type == expected
        assert found.count + found.missing == len(values)
        assert ColumnProfile.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found

    @pytest.mark.parametrize(
        ("values", "match"),
        [
            ([1j], "complex"),
            ([object()], "objects of object"),
            ([pd.Period("2026")], "Period"),
            ([pd.Interval(0, 1)], "Interval"),
            ([[1, object()]], "objects of object"),
            ([1, {"a": {1j}}], "complex"),
        ],
    )
    def test_unsupported(self, values: list[Any], match: str) -> None:
        with pytest.raises(UnsupportedColumn, match=match):
            summary(values, dtype=object)


class TestNumbers:
    def test_statistics_are_those_of_pandas(self) -> None:
        values = pd.Series(np.random.default_rng(3).normal(size=500))
        values.iloc[:7] = np.nan

        found = profile_column("c", values)

        assert (found.count, found.missing, found.distinct, found.infinite) == (493, 7, 493, 0)
        assert found.mean == pytest.approx(values.mean())
        assert found.std == pytest.approx(values.std())
        assert (found.min, found.max) == (values.min(), values.max())
        assert found.quantiles is not None
        for name, value in found.quantiles.items():
            assert value == pytest.approx(values.quantile(float(name)))

    def test_infinite_numbers_are_counted_apart(self) -> None:
        found = summary([np.inf, 1.0, 3.0, -np.inf, np.nan])

        assert (found.count, found.infinite, found.min, found.max, found.mean) == (4, 2, 1.0, 3.0, 2.0)

    def test_only_infinite_numbers(self) -> None:
        found = summary([np.inf, np.inf])

        assert (found.infinite, found.min, found.quantiles) == (2, None, None)

    def test_one_number_has_no_deviation(self) -> None:
        assert summary([2.0]).std is None

    def test_numbers_near_the_largest_do_not_disturb(self) -> None:
        found = summary([1.7e308, 1.7e308, -1.7e308])

        assert found.max == 1.7e308
        json.dumps(found.to_dict(), allow_nan=False)

    def test_large_integers_keep_their_digits(self) -> None:
        assert summary([2**63 - 1, 5]).max == 2**63 - 1
        assert objects(10**30, 1, None).max == 10**30

    def test_durations_are_seconds(self) -> None:
        found = summary(pd.to_timedelta([1, 3], unit="min"))

        assert (found.min, found.mean, found.max) == (60.0, 120.0, 180.0)


class TestCategories:
    def test_the_most_frequent_come_first_and_ties_in_their_order(self) -> None:
        found = objects("b", "a", "c", "c", None)

        assert found.top == (("c", 2), ("b", 1), ("a", 1))
        assert found.distinct == 3
        assert found.length == {"min": 1, "max": 1, "mean": 1.0}

    def test_only_some_are_kept(self) -> None:
        found = summary([f"id {number}" for number in range(1000)])

        assert found.top is not None
        assert [value for value, _ in found.top] == [f"id {number}" for number in range(TOP_VALUES)]
        assert found.distinct == 1000

    def test_long_texts_are_no_categories(self) -> None:
        found = objects("x" * 5000, "x" * 5000, "y")

        assert found.top == (("y", 1),)
        assert found.length is not None
        assert found.length["max"] == 5000

    def test_booleans(self) -> None:
        assert summary([True, False, True]).top == ((True, 2), (False, 1))

    def test_unused_categories_are_left_out(self) -> None:
        found = summary(pd.Categorical([1, 2, 2], categories=[1, 2, 3]))

        assert (found.top, found.distinct) == (((2, 2), (1, 1)), 2)

    def test_categories_that_json_cannot_hold(self) -> None:
        assert summary(pd.Categorical([DAY, DAY])).top == (("2026-01-31", 2),)
        assert summary(pd.Categorical([float("inf")])).top == (("inf", 1),)

    def test_equal_values_of_different_types_are_different(self) -> None:
        found = objects(1, True, 1.0, "1", "1", None)

        assert (found.type, found.distinct, found.missing) == ("mixed", 4, 1)
        assert found.top == (("1", 2), (1, 1), (True, 1), (1.0, 1))


class TestOthers:
    def test_dates(self) -> None:
        found = objects(DAY, None, datetime.date(2025, 5, 1))

        assert (found.earliest, found.latest) == ("2025-05-01", "2026-01-31")

    def test_times_keep_their_zone(self) -> None:
        found = summary(pd.date_range("2026-01-01", periods=3, tz="Europe/Paris"))

        assert (found.earliest, found.latest) == ("2026-01-01T00:00:00+01:00", "2026-01-03T00:00:00+01:00")

    def test_nested_values(self) -> None:
        found = objects([1, 2], [1, 2], {"a": None}, np.arange(3), {3})

        assert found.distinct == 4
        assert found.length == {"min": 1, "max": 3, "mean": 1.8}

    def test_what_a_later_release_adds_is_left_out(self) -> None:
        stored = {**summary([1]).to_dict(), "entropy": 1.0}

        assert ColumnProfile.from_dict(stored) == summary([1])

    def test_json_of_odd_values(self) -> None:
        odd = [DAY, decimal.Decimal("1.5"), {2, 1}, np.float64(2), np.array([[1]]), pd.NA, datetime.time(1)]

        assert json.loads(json_text(odd)) == ["2026-01-31", 1.5, [1, 2], 2.0, [[1]], None, "01:00:00"]
