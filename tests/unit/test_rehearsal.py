"""A bundle is tried before it is saved: the example, a fresh process, JSON, rows alone and together."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import mlflow
import numpy as np
import pandas as pd
import psutil
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import Model, infer_signature
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from mlflow_restaurant import Bundle, StepError, flavor
from mlflow_restaurant.inspection.report import inspect_bundle

pytestmark = [
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
    pytest.mark.filterwarnings("ignore:Hint. Inferred schema contains integer column:UserWarning"),
]

RAW = pd.DataFrame({"a": [1.0, 2.0, 4.0], "b": ["x", "y", "z"]})
HERE = os.getpid()


def total(frame: pd.DataFrame) -> Any:
    return frame["a"].to_numpy() * 2


def other_elsewhere(frame: pd.DataFrame) -> Any:
    return frame["a"].to_numpy() * (2 if os.getpid() == HERE else 3)


def slow_elsewhere(frame: pd.DataFrame) -> Any:
    if os.getpid() != HERE:
        time.sleep(600)
    return frame["a"]


def ends_elsewhere(frame: pd.DataFrame) -> Any:
    if os.getpid() != HERE:
        os._exit(3)
    return frame["a"]


def share(frame: pd.DataFrame) -> Any:
    return frame["a"].to_numpy() / frame["a"].sum()


def of_objects(frame: pd.DataFrame) -> Any:
    return [object() for _ in range(len(frame))]


def needs_category(frame: pd.DataFrame) -> Any:
    return np.asarray(frame["b"].cat.codes)


def ones(frame: pd.DataFrame) -> Any:
    return np.ones(len(frame))


def month_of_a(frame: pd.DataFrame) -> Any:
    return np.asarray(frame["a"].dt.month)


def drop_last(frame: pd.DataFrame) -> Any:
    return frame.iloc[:-1]


def first_only(frame: pd.DataFrame) -> Any:
    if len(frame) == 1:
        raise ValueError("too few rows")
    return frame["a"].to_numpy()


def times_factor(frame: pd.DataFrame, params: dict[str, Any]) -> Any:
    return frame["a"].to_numpy() * params["factor"]


def saved(bundle: Bundle, path: Path, **arguments: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"input_example": RAW, "pip_requirements": ["mlflow"], "check_example": False}
    flavor.save_model(bundle, path, **{**options, **arguments})
    conf: dict[str, Any] = Model.load(str(path)).flavors["restaurant"]
    return conf


def refused(bundle: Bundle, folder: Path, match: str, **arguments: Any) -> None:
    with pytest.raises(MlflowException, match=match):
        saved(bundle, folder / "m", **arguments)
    assert list(folder.iterdir()) == []


def content_of(file: Path) -> str:
    """What another process writes into a file, once it has."""
    deadline = time.monotonic() + 120
    while not (file.is_file() and file.read_text()):
        assert time.monotonic() < deadline, f"nothing in {file}"
        time.sleep(0.05)
    return file.read_text()


class TestFreshProcess:
    def test_other_predictions(self, tmp_path: Path) -> None:
        refused(
            Bundle(model=other_elsewhere),
            tmp_path,
            r"loaded in a fresh process, it does not predict the same from its input example: row 1 is 3\.0, not 2\.0",
            check_example=True,
        )

    def test_too_slow(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT", "1")

        refused(
            Bundle(model=slow_elsewhere),
            tmp_path,
            "not load and predict within 1 s; set MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT to more seconds, or give",
            check_example=True,
        )

    def test_a_model_that_ends_the_process(self, tmp_path: Path) -> None:
        refused(
            Bundle(model=ends_elsewhere),
            tmp_path,
            "ended with status 3, so a step or the model may have ended it; it wrote: ",
            check_example=True,
        )

    def test_an_example_that_json_changes(self, tmp_path: Path) -> None:
        refused(
            Bundle(model=month_of_a),
            tmp_path,
            r"(?s)its input example does not survive the scoring server's JSON: .*accessor",
            input_example=RAW.assign(a=pd.Timestamp("2026-01-01")),
            signature=False,
            check_example=True,
        )

    def test_text_is_what_callers_send(self, tmp_path: Path) -> None:
        refused(
            Bundle(model=month_of_a),
            tmp_path,
            r"'month_of_a' failed: AttributeError.*Give a few rows of raw input, as callers will send them\.",
            input_example=pd.DataFrame({"a": ["x", None], "b": [1.5, None]}),
        )

    def test_a_step_that_needs_categories_which_no_caller_can_send(self, tmp_path: Path) -> None:
        refused(
            Bundle(model=needs_category),
            tmp_path,
            r"'needs_category' failed: AttributeError: .*'category' dtype; its input has the columns.*"
            r"Callers send plain values in 'b', .*first preprocess step\.",
            input_example=RAW.astype({"b": "category"}),
        )

    def test_predictions_that_json_cannot_hold(self, tmp_path: Path) -> None:
        refused(
            Bundle(model=of_objects),
            tmp_path,
            r"the scoring server cannot write its predictions \(list\) as JSON",
            check_example=True,
        )

    def test_two_columns_of_one_name(self, tmp_path: Path) -> None:
        refused(
            Bundle(model=lambda frame: pd.DataFrame(np.zeros((len(frame), 2)), columns=["p", "p"])),
            tmp_path,
            "predictions have two columns named 'p'",
            check_example=True,
        )

    def test_the_process_ends_with_the_one_that_waits_for_it(self, tmp_path: Path) -> None:
        source = (
            "import time, pandas as pd, mlflow_restaurant\n"
            "def slow(frame):\n"
            "    import pathlib, os, time\n"
            f"    file = pathlib.Path({str(tmp_path / 'pid')!r})\n"
            f"    if os.getppid() != {os.getpid()}:\n"
            "        file.write_text(str(os.getpid()))\n"
            "        time.sleep(600)\n"
            "    return frame['a']\n"
            "example = pd.DataFrame({'a': [1.0]})\n"
            f"mlflow_restaurant.save_model(mlflow_restaurant.Bundle(model=slow), {str(tmp_path / 'm')!r}, input_example=example)\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", source], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            child = psutil.Process(int(content_of(tmp_path / "pid")))
        finally:
            process.terminate()
            process.wait()

        child.wait(60)

    def test_params_of_the_example(self, tmp_path: Path) -> None:
        bundle = Bundle(model=times_factor, params={"factor": 2.0})

        saved(bundle, tmp_path / "m", input_example=(RAW, {"factor": 3.0}), check_example=True)

        schema = Model.load(str(tmp_path / "m")).signature.params.to_dict()
        assert [(spec["name"], spec["type"], spec["default"]) for spec in schema] == [
            ("factor", "double", 2.0)
        ]
        model = mlflow.pyfunc.load_model(str(tmp_path / "m"))
        assert list(model.predict(RAW)) == [2.0, 4.0, 8.0]
        assert list(model.predict(RAW, {"factor": 10.0})) == [10.0, 20.0, 40.0]


def month(frame: pd.DataFrame) -> pd.Series[int]:
    return frame["day"].dt.month


class TestSignature:
    def test_the_example_does_not_fit(self, tmp_path: Path) -> None:
        signature = infer_signature(RAW.assign(c=1.5), np.zeros(3))

        refused(
            Bundle(model=total),
            tmp_path,
            r"(?s)example does not fit the signature: .*'c'",
            signature=signature,
        )

    @pytest.mark.parametrize("values", [["p", "q", None], [1, 2, 1], [1, 2, None]])
    def test_categories_are_plain_values_in_json_and_so_for_the_bundle(
        self, values: list[Any], tmp_path: Path
    ) -> None:
        days = pd.date_range("2026-01-01", periods=3)
        example = pd.DataFrame({"day": days, "kind": pd.Categorical(values)})

        saved(Bundle(model=month), tmp_path / "m", input_example=example, check_example=True)

        types = [str(column.type) for column in Model.load(str(tmp_path / "m")).signature.inputs]
        plain = pd.Series(values).infer_objects().dtype.kind
        assert types == [
            "DataType.datetime",
            {"i": "DataType.long", "f": "DataType.double"}.get(plain, "DataType.string"),
        ]
        assert isinstance(example["kind"].dtype, pd.CategoricalDtype)

    def test_columns_that_may_lack_values_are_floats_where_one_does(self, tmp_path: Path) -> None:
        example = pd.DataFrame(
            {
                "a": pd.array([1.0, None, 3.0], dtype="Float64"),
                "whole": pd.array([1, 2, 3], dtype="Int64"),
                "some": pd.array([1, None, 3], dtype="Int64"),
                "yes": pd.array([True, None, False], dtype="boolean"),
                "text": pd.array(["x", None, "y"], dtype="string"),
            }
        )

        saved(Bundle(model=ones), tmp_path / "m", input_example=example, check_example=True)

        columns = Model.load(str(tmp_path / "m")).signature.inputs.inputs
        assert [(column.name, column.type.name, column.required) for column in columns] == [
            ("a", "double", False),
            ("whole", "long", True),
            ("some", "double", False),
            ("yes", "boolean", False),
            ("text", "string", False),
        ]
        assert str(example["whole"].dtype) == "Int64"

    def test_a_series_is_no_example(self, tmp_path: Path) -> None:
        refused(Bundle(model=total), tmp_path, r"Series, .* give its to_frame\(\)", input_example=RAW["a"])

    def test_where_none_can_be_inferred_a_warning_says_why(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        def failing(*_: Any) -> Any:
            raise ValueError("no type for\nthat")

        with mock.patch("mlflow.models.signature._infer_schema", failing):
            saved(Bundle(model=len), tmp_path / "m")

        assert Model.load(str(tmp_path / "m")).signature is None
        (warning,) = (record for record in caplog.records if "signature" in record.getMessage())
        assert "no type for" in warning.getMessage()
        assert "\n" not in warning.getMessage()

    def test_a_given_one_gets_the_params_that_the_bundle_declares(self, tmp_path: Path) -> None:
        signature = infer_signature(RAW, np.zeros(3))

        saved(Bundle(model=times_factor, params={"factor": 2.0}), tmp_path / "m", signature=signature)

        assert [spec.name for spec in Model.load(str(tmp_path / "m")).signature.params] == ["factor"]

    def test_a_step_changes_the_number_of_rows(self, tmp_path: Path) -> None:
        refused(Bundle(drop_last, total), tmp_path, "'drop_last' failed: it made 2 rows of 3")


class TestRows:
    @pytest.mark.parametrize(
        ("model", "example", "found", "why"),
        [
            (total, RAW, True, "the 3 rows of the input example predict the same"),
            (total, RAW.head(1), None, "fewer than two rows"),
            (share, RAW, False, r"alone, row 1 of the input example differs: row 1 is 1\.0, not 0\.14"),
            (first_only, RAW, False, "row 1 of the input example alone fails: .*too few rows"),
            (len, RAW, False, "no prediction for each of the 3 rows"),
            (np.sum, np.ones((2, 2)), False, "no prediction for each of the 2 rows"),
            (np.negative, np.eye(2), True, "predict the same"),
            (share, RAW.iloc[[0, 0]], False, "alone, row 1 of the input example differs"),
            (total, RAW.iloc[[0, 0]], None, "are all the same, which shows nothing"),
            (np.negative, np.ones((2, 2)), None, "are all the same"),
            (lambda items: items, [1, 2], True, "predict the same"),
            (lambda columns: columns["a"], {"a": np.arange(2.0).reshape(2, 1)}, True, "predict the same"),
        ],
    )
    def test_finding(self, model: Any, example: Any, found: bool | None, why: str, tmp_path: Path) -> None:
        conf = saved(Bundle(model=model), tmp_path / "m", input_example=example)

        assert conf["row_wise"] is found
        with pytest.raises(AssertionError, match=why):
            raise AssertionError(conf["row_wise_reason"])

    def test_as_many_predictions_as_rows_unless_it_is_said_otherwise(self, tmp_path: Path) -> None:
        words = TfidfVectorizer().fit(["a few words", "some words"])
        frame = pd.DataFrame({"text": ["few", "words", "some"]})

        refused(
            Bundle(model=words, postprocess=lambda matrix: matrix.toarray()),
            tmp_path,
            r"it makes 1 predictions of the 3 rows .* Give TfidfVectorizer .* row_wise=False if this is meant",
            input_example=frame,
        )
        conf = saved(
            Bundle(model=words, postprocess=lambda matrix: matrix.toarray()),
            tmp_path / "m",
            input_example=frame,
            row_wise=False,
        )
        assert conf["row_wise"] is False

    def test_a_method_that_requests_may_choose_counts(self, tmp_path: Path) -> None:
        features = np.arange(8.0).reshape(4, 2)
        model = RandomForestClassifier(3, random_state=0).fit(features, [[0, 1], [1, 0], [0, 0], [1, 1]])

        conf = saved(Bundle(model=model), tmp_path / "m", input_example=features)

        assert conf["row_wise"] is False
        assert (
            "by predict_proba, it predicts a list of 2 arrays, one for each output, each with all 4 rows: join"
            in conf["row_wise_reason"]
        )

    def test_several_outputs_are_to_be_joined(self, tmp_path: Path) -> None:
        features = np.arange(4.0).reshape(2, 2)
        model = RandomForestClassifier(3, random_state=0).fit(features, [[0, 1], [1, 0]])
        several = Bundle(model=model, predict_method="predict_proba")

        refused(
            several,
            tmp_path,
            r"not saved: it predicts a list of 2 arrays, .* each with all 2 rows: join them in a postprocess function",
            input_example=features,
        )
        joined = Bundle(
            model=model,
            postprocess=lambda found: np.hstack(found) if isinstance(found, list) else found,
            predict_method="predict_proba",
        )
        assert saved(joined, tmp_path / "m", input_example=features)["row_wise"] is True

    def test_of_a_large_example_the_first_rows_are_tried(self, tmp_path: Path) -> None:
        counts: list[int] = []

        def count(frame: Any) -> Any:
            counts.append(len(frame))
            return frame["a"].to_numpy()

        conf = saved(
            Bundle(model=count), tmp_path / "m", input_example=pd.DataFrame({"a": np.arange(1000.0)})
        )

        assert (conf["row_wise"], conf["row_wise_reason"]) == (
            True,
            "the first 50 rows of the input example predict the same alone and together",
        )
        assert (max(counts), counts.count(1), counts.count(50)) == (1000, 50, 1)

    def test_of_other_methods_a_few_rows_are_tried(self, tmp_path: Path) -> None:
        asked: list[int] = []

        class Counting:
            def predict(self, data: Any) -> Any:
                return np.arange(len(data)) * 0 + data[:, 0]

            def predict_proba(self, data: Any) -> Any:
                asked.append(len(data))
                return data

        conf = saved(Bundle(model=Counting()), tmp_path / "m", input_example=np.arange(60.0).reshape(30, 2))

        assert conf["row_wise"] is True
        assert asked == [10, *[1] * 10]

    def test_an_example_whose_first_rows_fail_without_the_others(self, tmp_path: Path) -> None:
        def many(frame: Any) -> Any:
            if len(frame) < 60:
                raise ValueError("too few")
            return frame["a"].to_numpy()

        conf = saved(Bundle(model=many), tmp_path / "m", input_example=pd.DataFrame({"a": np.arange(60.0)}))

        assert conf["row_wise"] is False
        assert (
            "the first 50 rows of the input example without the others fail: model 'many'"
            in conf["row_wise_reason"]
        )

    def test_predictions_that_nobody_asked_for_warn_of_nothing(
        self, tmp_path: Path, recwarn: pytest.WarningsRecorder
    ) -> None:
        class Loud:
            def predict(self, data: Any) -> Any:
                return data[:, 0]

            def predict_proba(self, data: Any) -> Any:
                warnings.warn("loud", UserWarning, stacklevel=1)
                return np.log(data - 1e9)

        saved(Bundle(model=Loud()), tmp_path / "m", input_example=np.arange(6.0).reshape(3, 2))

        assert not [
            warning for warning in recwarn if "loud" in str(warning.message) or "log" in str(warning.message)
        ]

    @pytest.mark.parametrize("given", [True, False])
    def test_given(self, given: bool, tmp_path: Path) -> None:
        conf = saved(Bundle(model=total), tmp_path / "m", row_wise=given)

        assert (conf["row_wise"], conf["row_wise_reason"]) == (given, "given")

    def test_without_example(self, tmp_path: Path) -> None:
        assert saved(Bundle(model=total), tmp_path / "m", input_example=None)["row_wise"] is None
        conf = saved(Bundle(model=total), tmp_path / "n", input_example=None, row_wise=True)
        assert conf["row_wise"] is True

    def test_the_example_shows_otherwise(self, tmp_path: Path) -> None:
        refused(Bundle(model=share), tmp_path, "The bundle is not row-wise: alone, row 1", row_wise=True)

    def test_a_model_that_was_found_row_wise_keeps_every_row(self, tmp_path: Path) -> None:
        conf = saved(Bundle(model=lambda frame: frame.dropna()["a"]), tmp_path / "m")
        assert conf["row_wise"] is True
        missing = RAW.assign(a=[1.0, None, 2.0])

        with pytest.raises(
            MlflowException, match="model '<lambda>' failed: it made 2 rows of 3, so that predictions"
        ):
            mlflow.pyfunc.load_model(str(tmp_path / "m")).predict(missing)
        bundle = flavor.load_model(str(tmp_path / "m"))
        with pytest.raises(StepError, match="it made 2 rows of 3"):
            bundle.predict(missing)
        assert len(bundle.changed(row_wise=False).predict(missing)) == 2

    def test_steps_may_change_rows_where_they_are_not_independent(self, tmp_path: Path) -> None:
        saved(Bundle(drop_last, total), tmp_path / "m", row_wise=False)

        assert len(mlflow.pyfunc.load_model(str(tmp_path / "m")).predict(RAW)) == 2


class TestPickles:
    def test_a_function_is_named_and_can_be_shipped_instead(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refused(
            Bundle(drop_last, total, row_wise=False),
            tmp_path,
            "preprocess step 1 of 1 'drop_last' cannot be saved without pickling it.*code_paths",
            allow_pickle=False,
        )
        file = tmp_path / "shipped_steps.py"
        file.write_text("def double(frame):\n    return frame['a'].to_numpy() * 2\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        import shipped_steps  # type: ignore[import-not-found]

        conf = saved(
            Bundle(model=shipped_steps.double), tmp_path / "m", allow_pickle=False, code_paths=[str(file)]
        )

        assert conf["steps"][0]["object"] == "shipped_steps:double"
        monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        assert list(mlflow.pyfunc.load_model(str(tmp_path / "m")).predict(RAW)) == [2.0, 4.0, 8.0]

    def test_a_file_of_code_needs_no_pickle(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = tmp_path / "double.py"
        file.write_text("import mlflow\n\nmlflow.models.set_model(lambda frame: frame['a'].to_numpy() * 2)\n")

        conf = saved(Bundle(model=str(file)), tmp_path / "m", allow_pickle=False)
        file.unlink()

        assert (conf["steps"][0]["serializer"], conf["steps"][0]["file"]) == ("code", "steps/model.py")
        monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        assert list(mlflow.pyfunc.load_model(str(tmp_path / "m")).predict(RAW)) == [2.0, 4.0, 8.0]

    def test_a_model_that_mlflow_loads_only_where_pickles_are_allowed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mlflow.sklearn.save_model(
            LogisticRegression().fit(RAW[["a"]], [0, 1, 0]),
            str(tmp_path / "inner"),
            pip_requirements=["mlflow"],
        )
        bundle = Bundle(lambda frame: frame[["a"]], model=str(tmp_path / "inner"))

        with pytest.raises(
            MlflowException, match=r"model 'PyFuncModel' cannot .*pickles \(model\.\w+\).*another format"
        ):
            saved(
                Bundle(model=str(tmp_path / "inner")),
                tmp_path / "m",
                allow_pickle=False,
                input_example=RAW[["a"]],
            )
        saved(bundle, tmp_path / "m", pip_requirements=["mlflow"])

        assert inspect_bundle(str(tmp_path / "m"))["pickled"] == [
            "preprocess '<lambda>'",
            "model 'PyFuncModel'",
        ]
        saved(Bundle(model=str(tmp_path / "inner")), tmp_path / "n", input_example=RAW[["a"]])
        monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        for load in (mlflow.pyfunc.load_model, flavor.load_model):
            with pytest.raises(
                MlflowException, match=r"model step 'PyFuncModel' holds pickles \(model\.\w+\)"
            ):
                load(str(tmp_path / "n"))

    def test_what_the_modules_of_code_paths_make_has_no_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "made_steps.py"
        file.write_text(
            "class Doubles:\n    def transform(self, frame):\n        return frame['a'] * 2\n\n    same = classmethod(transform)\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        import made_steps  # type: ignore[import-not-found]

        for step in (made_steps.Doubles(), made_steps.Doubles().transform, made_steps.Doubles.same):
            with pytest.raises(
                MlflowException,
                match=r"only functions and classes are found by name, so make it in a file that calls",
            ):
                saved(Bundle(step, ones), tmp_path / "m", allow_pickle=False, code_paths=[str(file)])

    @pytest.mark.parametrize("value", [("a", "b"), np.float64(2.0)])
    def test_keyword_arguments_are_plain_where_nothing_is_pickled(self, value: Any, tmp_path: Path) -> None:
        refused(
            Bundle((np.multiply, {"x2": 1, "where": value}), ones),
            tmp_path,
            r"allow_pickle=False forbids, with its keyword arguments \{'where': .*\}: give it strings, numbers",
            allow_pickle=False,
            input_example=None,
        )

    def test_library_functions_are_code_that_a_stranger_chose(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refused(
            Bundle(model=pd.read_pickle), tmp_path, "without pickling", allow_pickle=False, input_example=None
        )
        saved(Bundle(model=pd.read_pickle), tmp_path / "m", input_example=None)
        monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")

        with pytest.raises(
            MlflowException, match=r"model step 'read_pickle' is pandas.*not of the bundle's own code"
        ):
            mlflow.pyfunc.load_model(str(tmp_path / "m"))


class TestKeywordArguments:
    @pytest.mark.parametrize(
        ("value", "listed"),
        [(2.0, True), ([1, "a"], True), ((1, 2), False), (np.float64(2), False), ({1: 2}, False)],
    )
    def test_plain_ones_are_in_mlmodel(self, value: Any, listed: bool, tmp_path: Path) -> None:
        conf = saved(Bundle((with_option, {"option": value}), total), tmp_path / "m", input_example=None)

        assert conf["steps"][0].get("kwargs") == ({"option": value} if listed else None)
        loaded = flavor.load_model(str(tmp_path / "m"))
        assert list(loaded.predict(RAW)) == [2.0, 4.0, 8.0]
        found = loaded.preprocess[0][1]["option"]
        assert (found, type(found)) == (value, type(value))


def with_option(frame: pd.DataFrame, option: Any) -> Any:
    return frame


class TestIntegrity:
    def test_changed_code_is_named(self, tmp_path: Path) -> None:
        saved(Bundle(model=total), tmp_path / "m")
        file = next((tmp_path / "m" / "code").rglob("diagnosis.py"))
        file.write_text(file.read_text() + "\n")

        with pytest.raises(MlflowException, match=r"code/restaurant_bundle_\w+/diagnosis\.py was changed"):
            flavor.load_model(str(tmp_path / "m"))

    def test_labels_and_threshold_come_back(self, tmp_path: Path) -> None:
        from sklearn.linear_model import LogisticRegression

        data = RAW[["a"]]
        bundle = Bundle(
            model=LogisticRegression().fit(data, [0, 0, 1]),
            labels=["no", "yes"],
            threshold=0.9,
            params={"k": 1},
        )

        saved(bundle, tmp_path / "m", input_example=data, predict_method="predict_proba")

        loaded = flavor.load_model(str(tmp_path / "m"))
        assert (loaded.labels, loaded.threshold, loaded.predict_method) == (
            {0: "no", 1: "yes"},
            0.9,
            "predict_proba",
        )
        assert loaded.params == {"k": 1, "threshold": 0.9, "predict_method": "predict_proba"}
        assert list(loaded.predict(data)) == ["no", "yes"]

    def test_code_of_another_python_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from mlflow_restaurant.bundle import serializers

        saved(Bundle(model=total), tmp_path / "m")
        monkeypatch.setattr(serializers, "THIS_PYTHON", "3.99")

        with pytest.raises(MlflowException, match=r"model step 'total' holds code compiled by Python 3\.1\d"):
            flavor.load_model(str(tmp_path / "m"))
