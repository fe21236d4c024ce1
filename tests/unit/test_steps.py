"""Steps: keyword arguments, params, files of code, and errors that name column and value."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.compose import ColumnTransformer
from sklearn.preprocessing import StandardScaler

from mlflow_restaurant.bundle import Bundle, BundleError, StepError
from mlflow_restaurant.bundle.diagnosis import explain

if TYPE_CHECKING:
    from pathlib import Path

FRAME = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [3.0, 2.0, 1.0]})


def total(data: Any) -> Any:
    return np.asarray(data).sum(axis=1)


def scale(data: Any, by: float = 1.0) -> Any:
    return data * by


def scale_as_asked(data: Any, params: dict[str, Any]) -> Any:
    return data * params["factor"]


def keep_a(data: Any) -> Any:
    return data[["a"]]


def use_b(data: Any) -> Any:
    return data[["b"]]


def to_numbers(data: Any) -> Any:
    return data.astype(float)


def drop_missing(data: Any) -> Any:
    return data.dropna()


class TestKeywordArguments:
    @pytest.mark.parametrize("step", [(scale, {"by": 2.0}), functools.partial(scale, by=2.0)])
    def test_are_stored_beside_the_function(self, step: Any) -> None:
        bundle = Bundle(preprocess=step, model=total)

        assert list(bundle.predict(FRAME)) == [8.0, 8.0, 8.0]
        assert bundle.preprocess == [(scale, {"by": 2.0})]
        assert repr(bundle) == "Bundle(preprocess=[scale], model=total)"

    def test_of_the_model(self) -> None:
        assert list(Bundle(model=(scale, {"by": 2})).predict(FRAME["a"])) == [2.0, 4.0, 6.0]

    def test_unknown_ones_are_refused(self) -> None:
        with pytest.raises(
            BundleError, match="preprocess step 1 of 1: scale has no argument 'times': it has 'data'"
        ):
            Bundle(preprocess=(scale, {"times": 2}), model=total)

    def test_a_partial_with_positions_stays_as_it_is(self) -> None:
        assert list(Bundle(model=functools.partial(np.add, 1)).predict(FRAME["a"])) == [2.0, 3.0, 4.0]


class TestParams:
    def test_functions_that_take_them_get_them(self) -> None:
        bundle = Bundle(preprocess=scale_as_asked, model=total, params={"factor": 1.0})

        assert list(bundle.predict(FRAME)) == [4.0, 4.0, 4.0]
        assert list(bundle.predict(FRAME, {"factor": 10.0})) == [40.0, 40.0, 40.0]
        assert bundle.params == {"factor": 1.0}

    def test_a_function_cannot_change_the_defaults(self) -> None:
        def forget(data: Any, params: dict[str, Any]) -> Any:
            params.clear()
            return data

        bundle = Bundle(preprocess=[forget, scale_as_asked], model=total, params={"factor": 1.0})

        assert [list(bundle.predict(FRAME)) for _ in range(2)] == [[4.0, 4.0, 4.0]] * 2

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"factor": None}, "'factor' has no default"),
            ({"threshold": 0.5}, "give its default as threshold="),
        ],
    )
    def test_refused(self, params: dict[str, Any], message: str) -> None:
        with pytest.raises(BundleError, match=message):
            Bundle(model=total, params=params)

    def test_one_that_nothing_knows_is_ignored_with_a_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        assert len(Bundle(scale_as_asked, total).predict(FRAME, {"factor": 2.0})) == 3
        assert not caplog.records

        assert len(Bundle(model=total).predict(FRAME, {"tresh": 1})) == 3

        assert caplog.messages == ["There is no param 'tresh', so it is ignored: this bundle has none."]

    def test_one_warning_is_enough(self, caplog: pytest.LogCaptureFixture) -> None:
        bundle = Bundle(model=total)

        for params in ({"b": 1, "a": 1}, {"a": 2}, {"c": 1, "a": 1}):
            bundle.predict(FRAME, params)

        assert [text.partition(",")[0] for text in caplog.messages] == [
            "There is no param 'a'",
            "There is no param 'c'",
        ]


class TestData:
    @pytest.mark.parametrize("data", [FRAME, FRAME["a"], FRAME.to_numpy()])
    def test_is_no_step(self, data: Any) -> None:
        with pytest.raises(
            BundleError,
            match=r"preprocess step 1 of 2 is data \(a \w+\): give the function, transformer or model",
        ):
            Bundle([data, total], total)

    def test_is_no_model(self) -> None:
        with pytest.raises(BundleError, match=r"The model is data \(a DataFrame\): give the function"):
            Bundle(model=FRAME)

    def test_nothing_is_awaited(self) -> None:
        async def later(data: Any) -> Any:
            return data

        with pytest.raises(
            BundleError, match=r"preprocess step 1 of 1 is .*later.* has to be awaited: give a f"
        ):
            Bundle(later, total)
        with pytest.raises(
            BundleError, match=r"The model is .*later.* has to be awaited: give a function without"
        ):
            Bundle(model=later)


class TestCode:
    def test_a_file_sets_the_step(self, tmp_path: Path) -> None:
        file = tmp_path / "double.py"
        file.write_text(
            "import mlflow\n\n\ndef double(data):\n    return data * 2\n\n\nmlflow.models.set_model(double)\n"
        )

        bundle = Bundle(preprocess=str(file), model=total)

        assert list(bundle.predict(FRAME)) == [8.0, 8.0, 8.0]
        assert (bundle.steps[0].name, bundle.steps[0].source) == ("double", str(file))

    def test_no_such_file(self) -> None:
        with pytest.raises(BundleError, match=r"There is no file nothing\.py"):
            Bundle(preprocess="nothing.py", model=total)


class TestErrors:
    def failure(self, bundle: Bundle, data: Any) -> str:
        with pytest.raises(StepError) as caught:
            bundle.predict(data)
        return str(caught.value)

    def test_the_step_that_dropped_a_column_is_named(self) -> None:
        text = self.failure(Bundle([keep_a, to_numbers, use_b], total), FRAME)

        assert text.startswith("preprocess step 3 of 3 'use_b' failed: KeyError")
        assert text.endswith("has no column 'b' but 'a'; preprocess step 1 of 3 'keep_a' dropped 'b'")

    def test_a_column_transformer_lacks_a_column(self) -> None:
        columns = ColumnTransformer([("scale", StandardScaler(), ["a", "b"])]).fit(FRAME)

        text = self.failure(Bundle([keep_a, columns], total), FRAME)

        assert "preprocess step 2 of 2 'ColumnTransformer' failed" in text
        assert "keep_a' dropped 'b'" in text

    def test_the_value_and_its_place_are_named(self) -> None:
        text = self.failure(Bundle(to_numbers, total), pd.DataFrame({"x": ["1", "2"], "y": ["3", "abc"]}))

        assert text.endswith(
            "could not convert string to float: 'abc'; the value 'abc' is in column 'y', row 2"
        )

    def test_columns_with_missing_values_are_named(self) -> None:
        from sklearn.linear_model import LinearRegression

        model = LinearRegression().fit(FRAME, [1.0, 2.0, 3.0])

        text = self.failure(Bundle(model=model), FRAME.assign(b=[1.0, np.nan, 2.0]))

        assert text.endswith("; values are missing in column 'b'")

    def test_a_value_that_a_step_looks_up_is_no_column(self) -> None:
        def code_of(frame: Any) -> Any:
            return np.array([{"Oslo": 1}[city] for city in frame["city"]])

        text = self.failure(Bundle(code_of, total), pd.DataFrame({"city": ["Oslo", "Rome"]}))

        assert text.endswith("failed: KeyError: 'Rome'; the value 'Rome' is in column 'city', row 2")

    def test_a_value_that_a_step_looks_up_in_a_series_is_no_column_either(self) -> None:
        prices = pd.Series({"Oslo": 1.0})

        def price_of(frame: Any) -> Any:
            return frame.assign(price=[prices[city] for city in frame["city"]])

        text = self.failure(Bundle(price_of, total), pd.DataFrame({"city": ["Oslo", "Rome"]}))

        assert text.endswith("failed: KeyError: 'Rome'; the value 'Rome' is in column 'city', row 2")

    @pytest.mark.parametrize(
        ("data", "place"),
        [
            (pd.Series(["1", "abc"]), "row 2"),
            (["1", "abc"], "row 2"),
            (np.array(["1", "abc"]), "row 2"),
            (np.array([["1", "2"], ["3", "abc"]]), "column 1 (counted from 0), row 2"),
            ([["1", "2"], ["3", "abc"]], "column 1 (counted from 0), row 2"),
            ({"x": np.array(["1", "2"]), "y": ["3", "abc"]}, "column 'y', row 2"),
        ],
    )
    def test_a_value_is_found_in_data_of_any_kind(self, data: Any, place: str) -> None:
        def numbers(data: Any) -> Any:
            values = list(data.values()) if isinstance(data, dict) else data
            return np.asarray(values).astype(float)

        text = self.failure(Bundle(numbers, lambda data: data), data)

        assert text.endswith(f"; the value 'abc' is in {place}")

    @pytest.mark.parametrize(
        "data", [["a", None], pd.Series(["a", np.nan]), np.array(["a", None], dtype=object)]
    )
    def test_a_missing_text_is_found(self, data: Any) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        words = TfidfVectorizer(token_pattern=".").fit(["a b"])

        assert self.failure(Bundle(words, total), data).endswith("; the value in row 2 is missing")

    @pytest.mark.parametrize(
        ("table", "value", "what"),
        [
            (False, np.nan, "column 1 (counted from 0), row 2 is missing"),
            (False, np.inf, "column 1 (counted from 0), row 2 is infinite or too large"),
            (True, -np.inf, "column 'b', row 2 is infinite or too large"),
        ],
    )
    def test_numbers_that_no_model_takes_are_found(self, table: bool, value: float, what: str) -> None:
        from sklearn.linear_model import LinearRegression

        data = FRAME if table else FRAME.to_numpy()
        model = LinearRegression().fit(data, [1.0, 2.0, 3.0])
        bad = FRAME.to_numpy().copy()
        bad[1, 1] = value

        text = self.failure(Bundle(model=model), pd.DataFrame(bad, columns=["a", "b"]) if table else bad)

        assert text.endswith(f"; the value in {what}")

    @pytest.mark.filterwarnings("ignore:overflow")
    def test_a_number_too_large_for_32_bits_is_found(self) -> None:
        from sklearn.tree import DecisionTreeRegressor

        text = self.failure(
            Bundle(model=DecisionTreeRegressor().fit([[0.0], [1.0]], [0, 1])), [[1.0], [1e39]]
        )

        assert text.endswith("column 0 (counted from 0), row 2 is infinite or too large")

    @pytest.mark.parametrize(
        ("values", "told"),
        [([None], "'x' (object, with missing values)"), ([3], "'x' (int64)")],
    )
    def test_the_types_of_columns_are_told_where_an_operation_does_not_fit(
        self, values: list[Any], told: str
    ) -> None:
        def lower(frame: Any) -> Any:
            return [cell.lower() for cell in frame["x"]]

        text = self.failure(Bundle(lower, total), pd.DataFrame({"x": values}))

        assert text.endswith(f"; its input has the columns {told}")

    def test_what_fit_sets_was_not_set(self) -> None:
        class Own:
            def transform(self, frame: Any) -> Any:
                return frame * self.scale_  # type: ignore[attr-defined]

        text = self.failure(Bundle(Own(), total), FRAME)

        assert text.endswith(
            "has no attribute 'scale_'; fit sets such an attribute: call it before making the bundle"
        )

    def test_a_forgotten_return(self) -> None:
        text = self.failure(Bundle([keep_a, lambda frame: None], total), FRAME)

        assert text.startswith(
            "preprocess step 2 of 2 '<lambda>' failed: it returned None: does the function lack"
        )

    def test_a_changed_number_of_rows_is_named(self) -> None:
        text = self.failure(Bundle(drop_missing, total), FRAME.assign(a=[1.0, np.nan, 2.0]))

        assert text.startswith("preprocess step 1 of 1 'drop_missing' failed: it made 2 rows of 3")
        assert "row_wise=False" in text

    def test_a_model_that_was_said_to_be_row_wise_keeps_every_row(self) -> None:
        data = FRAME.assign(a=[1.0, np.nan, 2.0])
        few = lambda frame: frame.dropna()["a"]  # noqa: E731

        assert "model '<lambda>' failed: it made 2 rows of 3" in self.failure(
            Bundle(model=few, row_wise=True), data
        )
        assert len(Bundle(model=few).predict(data)) == 2

    def test_rows_may_change_where_that_is_wanted(self) -> None:
        bundle = Bundle(drop_missing, total, row_wise=False)

        assert len(bundle.predict(FRAME.assign(a=[1.0, np.nan, 2.0]))) == 2

    @pytest.mark.parametrize("data", [None, 3, [1, 2], np.zeros(3), {"a": 1}, csr_matrix([[1.0, np.nan]])])
    def test_data_of_any_kind_does_not_hide_the_error(self, data: Any) -> None:
        assert explain(KeyError("x"), data) == ""
        assert explain(ValueError("bad 'x' and NaN"), data) == ""
