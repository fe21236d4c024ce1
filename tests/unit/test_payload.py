"""Requests: from every type of input, and from what `mlflow deployments predict` makes of a file."""

from __future__ import annotations

import datetime
import decimal
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_restaurant.errors import InvalidRequest
from mlflow_restaurant.payload import dump, is_protocol, scoring_payload, undo_read_json

if TYPE_CHECKING:
    from pathlib import Path

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def sent(inputs: Any) -> Any:
    return json.loads(dump(scoring_payload(inputs)))


class TestInputs:
    def test_a_frame_goes_as_rows_with_its_columns(self) -> None:
        frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})

        assert sent(frame) == {"dataframe_split": {"columns": ["a", "b"], "data": [[1, "x"], [2, "y"]]}}

    @pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
    def test_a_missing_value_is_sent_as_one(self, missing: Any) -> None:
        [[value]] = sent(pd.DataFrame({"a": [missing]}))["dataframe_split"]["data"]

        assert pd.isna(value)

    def test_an_index_that_says_something_goes_along(self) -> None:
        frame = pd.DataFrame({"a": [1]}, index=["r"])

        assert sent(frame)["dataframe_split"] == {"index": ["r"], "columns": ["a"], "data": [[1]]}

    def test_an_empty_frame(self) -> None:
        assert sent(pd.DataFrame({"a": []})) == {"dataframe_split": {"columns": ["a"], "data": []}}

    def test_a_series_is_a_frame_of_one_column(self) -> None:
        assert sent(pd.Series([1, 2], name="a")) == {
            "dataframe_split": {"columns": ["a"], "data": [[1], [2]]}
        }

    @pytest.mark.parametrize("shape", [(3,), (2, 3), (1, 2, 2), (0, 2)])
    def test_an_array_of_any_shape(self, shape: tuple[int, ...]) -> None:
        array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)

        assert sent(array) == {"inputs": array.tolist()}

    @pytest.mark.parametrize(
        "make", [scipy.sparse.csr_matrix, scipy.sparse.csc_matrix, scipy.sparse.csr_array]
    )
    def test_a_sparse_matrix(self, make: Any) -> None:
        assert sent(make(np.array([[0, 1], [2, 0]]))) == {"inputs": [[0, 1], [2, 0]]}

    @pytest.mark.parametrize("inputs", [[1, 2], [[1], [2]], ["a"], [], "text", [{"a": 1}]])
    def test_lists_and_text(self, inputs: Any) -> None:
        assert sent(inputs) == {"inputs": inputs}

    def test_a_dict_of_columns(self) -> None:
        inputs = {"a": np.array([1, 2]), "b": ["x", "y"]}

        assert sent(inputs) == {"inputs": {"a": [1, 2], "b": ["x", "y"]}}

    @pytest.mark.parametrize("form", ["dataframe_split", "dataframe_records", "instances", "inputs"])
    def test_a_dict_in_the_form_of_the_protocol_goes_as_it_is(self, form: str) -> None:
        assert sent({form: [[1]]}) == {form: [[1]]}
        assert sent({form: [[1]], "params": {"k": 1}}) == {form: [[1]], "params": {"k": 1}}

    @pytest.mark.parametrize(
        "inputs", [{"params": [1]}, {"inputs": [1], "b": [2]}, {"inputs": [1], "instances": [1]}, {}]
    )
    def test_a_dict_that_only_looks_like_it_is_one_of_columns(self, inputs: dict[str, Any]) -> None:
        assert not is_protocol(inputs)
        assert sent(inputs) == {"inputs": inputs}

    @pytest.mark.parametrize("inputs", [None, 1, 1.5, object(), {1}, iter([1])])
    def test_other_types_are_refused_by_name(self, inputs: Any) -> None:
        with pytest.raises(InvalidRequest, match=type(inputs).__name__):
            scoring_payload(inputs)

    @pytest.mark.parametrize(
        ("value", "written"),
        [
            (np.int64(1), 1),
            (np.bool_(True), True),
            (pd.NA, None),
            (decimal.Decimal("1.5"), 1.5),
            (pd.Timestamp("2026-01-02T03:04:05"), "2026-01-02T03:04:05"),
            (datetime.datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05"),
            (b"ab", "YWI=\n"),
        ],
    )
    def test_values_of_numpy_and_pandas_are_written(self, value: Any, written: Any) -> None:
        assert sent({"a": [value]}) == {"inputs": {"a": [written]}}

    @pytest.mark.parametrize("value", [object(), {1, 2}, 1j])
    def test_what_json_cannot_hold_is_refused(self, value: Any) -> None:
        with pytest.raises(InvalidRequest, match="can't be written as JSON"):
            dump(scoring_payload({"a": [value]}))


cells = (
    st.integers(-(2**31), 2**31)
    | st.integers(-(2**20), 2**20).map(lambda eighths: eighths / 8)
    | st.text(max_size=5)
    | st.booleans()
    | st.none()
)
names = st.text("abcxyz_", min_size=1, max_size=5)


def read(request: dict[str, Any]) -> pd.DataFrame:
    frame = pd.read_json(io.StringIO(json.dumps(request)))
    assert isinstance(frame, pd.DataFrame)
    return frame


def as_sent_by_the_command(request: dict[str, Any]) -> Any:
    return sent(read(request))


def rows_of(columns: int) -> st.SearchStrategy[list[list[Any]]]:
    return st.lists(st.lists(cells, min_size=columns, max_size=columns), min_size=1, max_size=4)


class TestFilesOfTheCommand:
    @unhurried
    @given(
        st.lists(names, min_size=1, max_size=3, unique=True).flatmap(
            lambda c: st.tuples(st.just(c), rows_of(len(c)))
        )
    )
    def test_dataframe_split(self, columns_and_rows: tuple[list[str], list[list[Any]]]) -> None:
        columns, rows = columns_and_rows
        request = {"dataframe_split": {"columns": columns, "data": rows}}

        assert as_sent_by_the_command(request) == request

    def test_dataframe_split_with_an_index_and_params(self) -> None:
        request = {
            "dataframe_split": {"index": [3, 4], "columns": ["a"], "data": [[1], [None]]},
            "params": {"k": 1, "name": "x"},
        }

        assert as_sent_by_the_command(request) == request

    def test_columns_with_numbers_for_names(self) -> None:
        request = {"dataframe_split": {"columns": [0, 1], "data": [[1, 2]]}}

        assert as_sent_by_the_command(request) == request

    @unhurried
    @given(st.lists(st.dictionaries(names, cells, min_size=1, max_size=3), min_size=1, max_size=4))
    def test_dataframe_records(self, records: list[dict[str, Any]]) -> None:
        assert as_sent_by_the_command({"dataframe_records": records}) == {"dataframe_records": records}

    @pytest.mark.parametrize("form", ["inputs", "instances"])
    @pytest.mark.parametrize(
        "value",
        [
            [1, 2, 3],
            [1.5, 2.5],
            [[1, 2], [3, 4]],
            [[[1.5]], [[2.5]]],
            ["a", "b"],
            [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}],
            [True, False],
        ],
    )
    def test_lists(self, form: str, value: Any) -> None:
        assert as_sent_by_the_command({form: value}) == {form: value}

    @pytest.mark.parametrize("form", ["inputs", "instances"])
    @pytest.mark.parametrize(
        "value", [{"a": [1, 2], "b": ["x", "y"]}, {"text": "hello"}, {"a": [[1.5]], "b": [[2.5]]}]
    )
    def test_named_inputs(self, form: str, value: Any) -> None:
        assert as_sent_by_the_command({form: value}) == {form: value}

    def test_named_inputs_with_params(self) -> None:
        request = {"inputs": {"a": [1], "b": ["x"]}, "params": {"temperature": 0.5}}

        assert as_sent_by_the_command(request) == request

    def test_a_file_on_disk(self, tmp_path: Path) -> None:
        request = {"dataframe_split": {"columns": ["a"], "data": [[1.5]]}}
        (tmp_path / "in.json").write_text(json.dumps(request))

        assert sent(pd.read_json(tmp_path / "in.json")) == request


class TestTables:
    @pytest.mark.parametrize(
        "columns",
        [
            ["a", "b"],
            ["inputs", "label"],
            ["instances", "inputs"],
            ["params"],
            ["a", "params"],
            [0, 1],
            [("inputs", "a")],
        ],
    )
    def test_a_table_is_left_alone(self, columns: list[Any]) -> None:
        assert undo_read_json(pd.DataFrame([[1] * len(columns)], columns=columns)) is None

    @pytest.mark.parametrize("column", ["dataframe_split", "dataframe_records"])
    def test_a_column_named_like_a_form_but_with_values_is_a_table(self, column: str) -> None:
        frame = pd.DataFrame({column: ["a", "b"]})

        assert sent(frame) == {"dataframe_split": {"columns": [column], "data": [["a"], ["b"]]}}

    def test_a_table_with_columns_inputs_and_params_is_a_table(self) -> None:
        frame = pd.DataFrame({"inputs": [1.5, 2.5], "params": [3, 4]})

        assert sent(frame) == {
            "dataframe_split": {"columns": ["inputs", "params"], "data": [[1.5, 3], [2.5, 4]]}
        }

    def test_a_column_named_inputs_alone_can_be_read_either_way_and_gives_every_row(self) -> None:
        assert sent(pd.DataFrame({"inputs": ["a", "b"]})) in (
            {"inputs": ["a", "b"]},
            {"dataframe_split": {"columns": ["inputs"], "data": [["a"], ["b"]]}},
        )
