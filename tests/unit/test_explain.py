"""Explanations: effects of columns whose part in the prediction is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_restaurant import explain as module
from mlflow_restaurant.errors import InvalidRequest
from mlflow_restaurant.explain import MAX_BACKGROUND_ROWS, explain

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
numbers = st.floats(-1e3, 1e3).map(lambda x: round(x, 3))


def linear(frame: pd.DataFrame) -> list[float]:
    return [float(v) for v in 2 * frame["a"] - 3 * frame["b"]]


@unhurried
@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=MAX_BACKGROUND_ROWS))
def test_of_a_linear_model_it_is_the_slope_times_the_distance_to_the_others(
    rows: list[tuple[float, float]],
) -> None:
    frame = pd.DataFrame(rows, columns=["a", "b"])
    others = (frame.sum() - frame) / (len(frame) - 1)

    effects = explain(frame, linear)

    assert effects["a"].tolist() == pytest.approx((2 * (frame["a"] - others["a"])).tolist(), abs=1e-6)
    assert effects["b"].tolist() == pytest.approx((-3 * (frame["b"] - others["b"])).tolist(), abs=1e-6)


def test_a_column_that_plays_no_part_has_no_effect() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [0.0, 0.0, 0.0], "c": ["x", "y", "z"]})

    assert (explain(frame, linear)["c"] == 0).all()


def test_columns_and_index_are_those_of_the_frame() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, 5.0]}, index=["r", "s"])

    effects = explain(frame, linear)

    assert list(effects.columns) == ["a", "b"]
    assert list(effects.index) == ["r", "s"]


def test_of_labels_it_is_the_share_of_replacements_that_change_them() -> None:
    frame = pd.DataFrame({"a": [1, 1, 1, 9], "b": [0, 0, 0, 0]})

    effects = explain(frame, lambda rows: ["high" if a > 5 else "low" for a in rows["a"]])

    assert effects["a"].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1])
    assert effects["b"].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("wrap", [lambda p: [0.0, p], lambda p: {"score": p}, lambda p: {"s": [-1e9, p]}])
def test_numbers_in_lists_and_in_dicts_of_one_are_numbers(wrap: Any) -> None:
    frame = pd.DataFrame({"a": [10.0, 20.0], "b": [1.0, 2.0]})

    assert explain(frame, lambda rows: [wrap(p) for p in linear(rows)])["a"].tolist() == [-20, 20]


def test_the_values_keep_their_type() -> None:
    frame = pd.DataFrame({"a": pd.Categorical(["x", "y"]), "b": pd.to_datetime(["2026-01-01", "2026-01-02"])})
    types = []

    def predict(rows: pd.DataFrame) -> list[float]:
        types.append(list(rows.dtypes))
        return [0.0] * len(rows)

    explain(frame, predict)

    assert all(seen == list(frame.dtypes) for seen in types)


def test_of_many_rows_only_some_are_the_background_and_calls_stay_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_ROWS_A_CALL", 100)
    sizes: list[int] = []

    def predict(rows: pd.DataFrame) -> list[float]:
        sizes.append(len(rows))
        return linear(rows)

    rows = 50
    explain(pd.DataFrame({"a": np.arange(rows, dtype=float), "b": 0.0}), predict)

    assert max(sizes) <= 100
    assert sum(sizes) == rows + 2 * rows * MAX_BACKGROUND_ROWS


@pytest.mark.parametrize("frame", [pd.DataFrame({"a": [1.0]}), pd.DataFrame(), pd.DataFrame(index=[1, 2])])
def test_fewer_than_two_rows_or_no_columns_are_refused(frame: pd.DataFrame) -> None:
    with pytest.raises(InvalidRequest, match="at least two rows"):
        explain(frame, linear)


def test_predictions_that_are_not_one_a_row_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="1 predictions for 2 rows"):
        explain(pd.DataFrame({"a": [1.0, 2.0]}), lambda _: [1.0])


def test_the_frame_is_not_changed() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, 5.0]})
    before = frame.copy()

    explain(frame, linear)

    pd.testing.assert_frame_equal(frame, before)
