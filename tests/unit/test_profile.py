"""The reference profile: what is kept of reference data, in a bundle and out of it."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import Model, infer_signature

import mlflow_restaurant
from mlflow_restaurant import Bundle, BundleError, flavor
from mlflow_restaurant.bundle.profile import profile_reader
from mlflow_restaurant.saving.profiling import (
    MAX_SAMPLE_CELLS,
    SAMPLE_ROWS,
    Profile,
    build_profile,
    check_profile,
    read_profile,
    write_profile,
)
from tests.support import run_python

PINNED = ["pandas"]
ROWS = 50
FRAME = pd.DataFrame(
    {
        "age": np.linspace(18, 80, ROWS),
        "city": ["Paris", "Lagos", None, "Lima", "Paris"] * 10,
        "since": pd.date_range("2026-01-01", periods=ROWS),
        "active": [True, False] * 25,
        "visits": pd.array([1, None] * 25, dtype="Int64"),
        "plan": pd.Categorical(["basic", "pro"] * 25),
        "day": [datetime.date(2026, 1, 1)] * ROWS,
        "price": [decimal.Decimal("1.25")] * ROWS,
        "tags": [["a", {"b": None}], []] * 25,
        "odd": [1, "a", True, 1.5, None] * 10,
        "answers": pd.Series([True, None] * 25, dtype=object),
        "huge": pd.Series([10**30, 1] * 25, dtype=object),
        "none": pd.Series([None] * ROWS, dtype=object),
        7: 1.5,
    }
).set_axis(range(100, 100 + ROWS))


def total(frame: Any) -> Any:
    return frame.sum(axis=1)


class Constant:
    def predict(self, data: Any) -> Any:
        return np.zeros(len(data))


def stored(profile: Profile, root: Path) -> Profile:
    return read_profile(write_profile(profile, root), root)


class TestBuilding:
    def test_every_column_is_summarised(self) -> None:
        profile = build_profile(FRAME)

        assert (profile.rows, profile.kind, list(profile.columns)) == (ROWS, "DataFrame", list(FRAME))
        assert profile.columns["city"].top == (("Paris", 20), ("Lagos", 10), ("Lima", 10))
        assert (profile.columns["city"].count, profile.columns["city"].missing) == (40, 10)
        assert profile.columns["since"].latest == "2026-02-19T00:00:00"
        assert [column.type for column in profile.columns.values()][-3:] == ["integer", "empty", "float"]

    def test_a_series(self) -> None:
        assert list(build_profile(pd.Series(["a"], name="text")).columns) == ["text"]
        assert build_profile(pd.Series(["a"])).columns[0].type == "string"

    def test_arrays(self) -> None:
        profile = build_profile(np.arange(6.0).reshape(3, 2))

        assert (profile.kind, list(profile.columns), profile.rows) == ("ndarray", [0, 1], 3)
        assert build_profile(np.array(["a", "b"])).columns[0].type == "string"

    def test_names_that_are_numbers(self) -> None:
        frame = pd.DataFrame([[1.5, "a"]], columns=pd.Index([np.int64(4), "b"], dtype=object))

        assert [type(name) for name in build_profile(frame).columns] == [int, str]

    def test_sparse_columns(self) -> None:
        frame = pd.DataFrame({"a": pd.arrays.SparseArray([0, 1, 0])})

        profile = build_profile(frame)

        assert profile.columns["a"].type == "integer"
        assert profile.columns["a"].mean == pytest.approx(1 / 3)

    @pytest.mark.parametrize(
        ("data", "match"),
        [
            (pd.DataFrame(), "0 rows and 0 columns: give some rows"),
            (FRAME.head(0), "0 rows and 14 columns"),
            (pd.DataFrame(index=[1, 2]), "2 rows and 0 columns"),
            (np.zeros((2, 3, 4)), r"a ndarray of shape \(2, 3, 4\): give a DataFrame"),
            ([[1, 2]], "reference_data is a list: give a DataFrame"),
            (pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns named 'a'"),
            (pd.DataFrame([[1, 2]], columns=["1", 1]), "two columns named '1'"),
            (pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])), r"named \('a', 'b'\) \(tuple\)"),
            (pd.DataFrame({"a": [1j]}), "Column 'a' of reference_data cannot be summarised: .* leave it out"),
            (pd.DataFrame({"a": [Constant()]}), "Column 'a' .* it holds objects of .*Constant"),
            (pd.DataFrame({"a": [10**400]}, dtype=object), "Column 'a' .* cannot be summarised: OverflowError: .* leave it out"),
            (pd.DataFrame({"b": [1], "a": pd.Series(["\ud800"], dtype=object)}), "Column 'a' of reference_data cannot be kept as Parquet"),
        ],
    )  # fmt: skip
    def test_refused(self, data: Any, match: str) -> None:
        with pytest.raises(BundleError, match=match):
            build_profile(data)

    def test_text(self) -> None:
        profile = build_profile(FRAME)

        assert repr(profile) == "Profile(50 rows, 14 columns)"
        assert str(profile).startswith("50 rows, 14 columns\n")
        assert "Paris" in str(profile)
        assert "None" not in str(profile)
        assert "None" not in profile._repr_html_()

    def test_html_is_escaped(self) -> None:
        html = build_profile(pd.DataFrame({"<script>": ["<b>"]}))._repr_html_()

        assert "<script>" not in html
        assert "<b>" not in html


class TestSample:
    def test_small_data_is_kept_as_it_is(self) -> None:
        sample = build_profile(FRAME).sample

        pd.testing.assert_frame_equal(sample, FRAME.reset_index(drop=True), check_column_type=False)

    def test_a_thousand_rows_in_their_order_and_always_the_same(self) -> None:
        frame = pd.DataFrame({"a": range(5000)})

        first, second = build_profile(frame).sample, build_profile(frame).sample

        assert len(first) == SAMPLE_ROWS
        assert first["a"].is_monotonic_increasing
        assert first["a"].is_unique
        pd.testing.assert_frame_equal(first, second)

    def test_fewer_rows_of_wide_data(self) -> None:
        profile = build_profile(pd.DataFrame(np.zeros((600, 2000))))

        assert len(profile.columns) == 2000
        assert len(profile.sample) == MAX_SAMPLE_CELLS // 2000


class TestStored:
    def test_what_is_read_is_what_was_written(self, tmp_path: Path) -> None:
        profile = build_profile(FRAME)

        read = stored(profile, tmp_path)

        assert read.to_dict() == profile.to_dict()
        assert read.columns == profile.columns
        pd.testing.assert_frame_equal(read.sample, profile.sample, check_dtype=False, check_column_type=False)
        for name in ("tags", "odd", "answers", "huge", "none", "price", "day"):
            before, after = profile.sample[name].tolist(), read.sample[name].tolist()
            assert [type(value) for value in after] == [type(value) for value in before]

    def test_the_entry_names_files_and_hashes(self, tmp_path: Path) -> None:
        entry = write_profile(build_profile(FRAME), tmp_path)

        assert (entry["rows"], entry["columns"], entry["sample_rows"]) == (ROWS, 14, ROWS)
        assert list(entry["files"]) == ["profile/profile.json", "profile/sample.parquet"]
        assert all(len(sha256) == 64 for sha256 in entry["files"].values())

    def test_the_same_data_give_the_same_summary(self, tmp_path: Path) -> None:
        written = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            write_profile(build_profile(FRAME), tmp_path / name)
            written.append((tmp_path / name / "profile" / "profile.json").read_bytes())

        assert written[0] == written[1]
        assert json.loads(written[0])["format_version"] == 1

    @pytest.mark.parametrize("file", ["profile.json", "sample.parquet"])
    def test_changed_or_missing(self, tmp_path: Path, file: str) -> None:
        entry = write_profile(build_profile(FRAME), tmp_path)
        path = tmp_path / "profile" / file
        path.write_bytes(path.read_bytes() + b" ")
        with pytest.raises(BundleError, match=f"profile/{file} is changed"):
            _ = read_profile(entry, tmp_path).sample

        path.unlink()
        with pytest.raises(BundleError, match=f"profile/{file} is missing"):
            _ = read_profile(entry, tmp_path).sample

    def test_none(self, tmp_path: Path) -> None:
        assert profile_reader(None, tmp_path) is None


class TestSignature:
    def test_what_the_model_needs_must_be_there(self) -> None:
        signature = infer_signature(pd.DataFrame({"a": [1.0], "b": ["x"]}))

        check_profile(build_profile(pd.DataFrame({"b": ["x"], "a": [1.0], "label": [0]})), signature)
        with pytest.raises(BundleError, match=r"has no column 'b', which the signature requires.*It has a\."):
            check_profile(build_profile(pd.DataFrame({"a": [1.0]})), signature)

    def test_nothing_to_compare_with(self) -> None:
        profile = build_profile(np.zeros((2, 2)))

        check_profile(profile, None)
        check_profile(profile, infer_signature(np.zeros((2, 2))))


class TestInABundle:
    DATA = pd.DataFrame({"a": np.arange(20.0), "b": np.arange(20.0)})

    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        path = tmp_path / "model"
        flavor.save_model(
            Bundle(total, Constant()),
            path,
            input_example=self.DATA.head(2),
            reference_data=self.DATA,
            pip_requirements=PINNED,
        )
        return path

    def test_a_bundle_made_here_has_none(self) -> None:
        assert Bundle(total, Constant()).profile is None

    def test_saved_and_loaded(self, saved: Path) -> None:
        profile = mlflow_restaurant.load_model(str(saved)).profile

        assert profile is not None
        assert profile.columns["a"].max == 19
        pd.testing.assert_frame_equal(profile.sample, self.DATA, check_column_type=False)
        entry = Model.load(str(saved)).flavors["restaurant"]["profile"]
        assert list(entry["files"]) == ["profile/profile.json", "profile/sample.parquet"]

    def test_it_is_read_only_when_asked_for(self, saved: Path) -> None:
        (saved / "profile" / "profile.json").unlink()

        bundle = mlflow_restaurant.load_model(str(saved))

        assert list(bundle.predict(self.DATA.head(1))) == [0.0]
        with pytest.raises(BundleError, match="is missing"):
            _ = bundle.profile

    def test_it_is_read_once(self, saved: Path) -> None:
        bundle = mlflow_restaurant.load_model(str(saved))

        assert bundle.profile is bundle.profile

    def test_it_stays_when_the_bundle_is_saved_again(self, saved: Path, tmp_path: Path) -> None:
        bundle = mlflow_restaurant.load_model(str(saved))

        flavor.save_model(bundle, tmp_path / "again", pip_requirements=PINNED)

        again = mlflow_restaurant.load_model(str(tmp_path / "again")).profile
        assert again is not None
        assert bundle.profile is not None
        assert again.to_dict() == bundle.profile.to_dict()

    def test_without_this_package(self, saved: Path, tmp_path: Path) -> None:
        source = (
            "import sys; sys.modules['mlflow_restaurant'] = None\n"
            "import mlflow\n"
            f"profile = mlflow.pyfunc.load_model({str(saved)!r}).get_raw_model().profile\n"
            "print(profile.columns['a'].max, len(profile.sample))"
        )
        assert run_python("-c", source, folder=tmp_path).split() == ["19.0", "20"]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"age": "old"}, r"does not fit the signature in column 'age': .*\. Give raw input"),
            ({"city": 3.5}, "does not fit the signature in column 'city'"),
        ],
    )
    def test_other_types_than_the_signature_has(
        self, changes: dict[str, Any], message: str, tmp_path: Path
    ) -> None:
        example = FRAME[["age", "city"]].head(2)

        with pytest.raises(MlflowException, match=message):
            flavor.save_model(
                Bundle(model=Constant()),
                tmp_path / "m",
                input_example=example,
                reference_data=FRAME.assign(**changes),
                pip_requirements=PINNED,
                check_example=False,
            )
        assert list(tmp_path.iterdir()) == []

    def test_missing_values_are_those_of_any_type(self, tmp_path: Path) -> None:
        example = pd.DataFrame(
            {"n": [1, 2], "f": [1.0, 2.5], "b": [True, False], "i": pd.array([1, 2], dtype="Int64")}
        )

        flavor.save_model(
            Bundle(model=Constant()),
            tmp_path / "m",
            input_example=example,
            reference_data=pd.DataFrame(
                {
                    "n": [1.0, None],
                    "f": [1, 2],
                    "b": pd.Series([True, None], dtype=object),
                    "i": pd.array([1, None], dtype="Int64"),
                }
            ),
            pip_requirements=PINNED,
            check_example=False,
        )

        profile = mlflow_restaurant.load_model(str(tmp_path / "m")).profile
        assert profile is not None
        assert profile.columns["n"].missing == 1

    def test_without_reference_data(self, tmp_path: Path) -> None:
        flavor.save_model(Bundle(total, Constant()), tmp_path / "model", pip_requirements=PINNED)

        assert not (tmp_path / "model" / "profile").exists()
        assert mlflow_restaurant.load_model(str(tmp_path / "model")).profile is None
        assert mlflow.pyfunc.load_model(str(tmp_path / "model")).get_raw_model().profile is None

    @pytest.mark.parametrize(
        ("data", "match"),
        [
            (pd.DataFrame({"a": [1.0]}), "reference_data has no column 'b'"),
            (pd.DataFrame({"a": [1j], "b": [1.0]}), "Column 'a' of reference_data"),
        ],
    )
    def test_what_does_not_fit_is_refused_and_nothing_left(
        self, data: Any, match: str, tmp_path: Path
    ) -> None:
        with pytest.raises(MlflowException, match=match):
            flavor.save_model(
                Bundle(total, Constant()),
                tmp_path / "model",
                input_example=self.DATA.head(2),
                reference_data=data,
                pip_requirements=PINNED,
            )

        assert list(tmp_path.iterdir()) == []
