"""Serializers: which one is chosen, what is refused, and that code travels by value where it must."""

from __future__ import annotations

import importlib
import io
import math
import sys
import textwrap
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import cloudpickle
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from mlflow_restaurant import Bundle, flavor
from mlflow_restaurant.bundle.serializers import ALLOW_PICKLE, read_step
from mlflow_restaurant.emails import join_text
from mlflow_restaurant.saving.directory import write_loader_package
from mlflow_restaurant.saving.local_code import modules_by_value
from mlflow_restaurant.saving.serializers import Target, write_step
from tests.support import run_python

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

TEXTS = ["win money now", "lunch tomorrow", "money money", "see you at lunch"]
LABELS = ["spam", "ham", "spam", "ham"]


def shout(texts: Any) -> Any:
    return [text.upper() for text in texts]


class Shouter(BaseEstimator, TransformerMixin):  # type: ignore[misc]
    def fit(self, texts: Any, labels: Any = None) -> Shouter:
        return self

    def transform(self, texts: Any) -> Any:
        return shout(texts)


def write(target: Any, folder: Path, code_paths: list[str] | None = None) -> dict[str, Any]:
    return write_step(Target(target, code_paths or []), folder, "step", "model 'it'")


def read(entry: dict[str, Any], folder: Path) -> Any:
    return read_step(entry, folder, "model 'it'")


def text_pipeline() -> Any:
    return make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, LABELS)


def forest() -> Any:
    return RandomForestClassifier(n_estimators=3, random_state=0).fit([[0.0], [1.0], [2.0], [3.0]], LABELS)


@pytest.fixture
def helpers(tmp_path: Path) -> Any:
    """A module of the user's own, as two files in a folder that is on ``sys.path`` here and nowhere else."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "own_words.py").write_text(
        "SEPARATOR = '-'\n\n\ndef join(a, b):\n    return a + SEPARATOR + b\n"
    )
    (folder / "own_helpers.py").write_text(
        textwrap.dedent(
            """
            import own_words


            def decorate(text):
                return own_words.join('<', text)
            """
        )
    )
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("own_helpers")
    finally:
        sys.path.remove(str(folder))
        for name in ("own_helpers", "own_words"):
            sys.modules.pop(name, None)


class TestChoice:
    def test_text_pipeline_goes_to_skops(self, tmp_path: Path) -> None:
        entry = write(text_pipeline(), tmp_path)

        assert (entry["serializer"], entry["file"]) == ("skops", "step.skops")
        assert list(read(entry, tmp_path).predict(["money"])) == ["spam"]

    def test_types_of_libraries_are_listed(self, tmp_path: Path) -> None:
        entry = write(forest(), tmp_path)

        assert entry["serializer"] == "skops"
        assert "sklearn.tree._tree.Tree" in entry["skops_trusted_types"]
        assert len(read(entry, tmp_path).predict([[0.5]])) == 1

    @pytest.mark.parametrize("target", [shout, lambda texts: texts, FunctionTransformer(shout), Shouter()])
    def test_code_goes_to_cloudpickle(self, target: Any, tmp_path: Path) -> None:
        entry = write(target, tmp_path)

        assert (entry["serializer"], entry["file"]) == ("cloudpickle", "step.pkl")
        assert [path.name for path in tmp_path.iterdir()] == ["step.pkl"]

    def test_a_function_of_numpy_is_left_to_skops(self, tmp_path: Path) -> None:
        entry = write(FunctionTransformer(np.log1p), tmp_path)

        assert entry["serializer"] == "skops"
        np.testing.assert_allclose(read(entry, tmp_path).transform([[0.0]]), [[0.0]])

    def test_a_vocabulary_of_numpy_integers_is_written_in_a_moment(self, tmp_path: Path) -> None:
        vectorizer = TfidfVectorizer(vocabulary={f"word{i}": np.int64(i) for i in range(30_000)}).fit(TEXTS)

        entry = write(vectorizer, tmp_path)

        with zipfile.ZipFile(tmp_path / entry["file"]) as archive:  # skops by itself: a file for each integer
            assert len(archive.namelist()) < 10
        loaded = read(entry, tmp_path)
        assert loaded.vocabulary_ == vectorizer.vocabulary_
        assert {type(value) for value in vectorizer.vocabulary_.values()} == {np.int64}
        assert (loaded.transform(["word7 word9"]) != vectorizer.transform(["word7 word9"])).nnz == 0

    def test_skops_is_left_as_it_was(self, tmp_path: Path) -> None:
        general = importlib.import_module("skops.io._general")
        utils = importlib.import_module("skops.io._utils")

        write(text_pipeline(), tmp_path)

        assert utils._get_state.dispatch(dict) is general.dict_get_state

    def test_nothing_can_write_it(self, tmp_path: Path) -> None:
        with (tmp_path / "open").open("w") as file:

            def log(data: Any) -> Any:
                return file.write(str(data))

            with pytest.raises(
                MlflowException, match=r"model 'it' cannot be saved .*cloudpickle: PicklingError"
            ):
                write(log, tmp_path)

        assert [path.name for path in tmp_path.iterdir()] == ["open"]


class TestByValue:
    """The step is read in another process, which can import none of the modules it comes from."""

    def read_elsewhere(self, entry: dict[str, Any], folder: Path, call: str) -> str:
        source = (
            "import sys, json, pathlib\n"
            "sys.modules['mlflow_restaurant'] = None\n"
            f"from {write_loader_package(folder)} import serializers\n"
            f"step = serializers.read_step({entry!r}, pathlib.Path({str(folder)!r}), 'it')\n"
            f"print({call})\n"
        )
        return run_python("-c", source, folder=folder).strip()

    def test_functions_of_local_modules(self, helpers: ModuleType, tmp_path: Path) -> None:
        entry = write(helpers.decorate, tmp_path)

        assert self.read_elsewhere(entry, tmp_path, "step('a')") == "<-a"

    def test_functions_of_this_package(self, tmp_path: Path) -> None:
        entry = write(join_text, tmp_path)

        call = "list(step(__import__('pandas').DataFrame({'subject': ['A'], 'body': ['12']})))"
        assert "number" in self.read_elsewhere(entry, tmp_path, call)

    def test_shipped_code_is_named(self, helpers: ModuleType, tmp_path: Path) -> None:
        shipped = [helpers.__file__ or "", str(tmp_path / "project" / "own_words.py")]

        entry = write(helpers.decorate, tmp_path, shipped)

        assert entry == {"serializer": "import", "object": "own_helpers:decorate"}
        assert read(entry, tmp_path) is helpers.decorate

    def test_a_code_path_of_another_name_does_not_count(self, helpers: ModuleType, tmp_path: Path) -> None:
        entry = write(helpers.decorate, tmp_path, [str(tmp_path / "project")])

        assert read(entry, tmp_path) is not helpers.decorate

    @pytest.mark.parametrize("function", [pd.concat, math.sqrt])
    def test_library_functions_are_named(self, function: Any, tmp_path: Path) -> None:
        entry = write(function, tmp_path)

        assert entry["serializer"] == "import"
        assert read(entry, tmp_path) is function

    def test_registrations_are_undone(self, helpers: ModuleType, tmp_path: Path) -> None:
        before = set(cloudpickle.list_registry_pickle_by_value())

        write(helpers.decorate, tmp_path)

        assert set(cloudpickle.list_registry_pickle_by_value()) == before


class TestPickleForbidden:
    @pytest.fixture(autouse=True)
    def forbid(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(ALLOW_PICKLE, "false")

    def test_pickled_step_is_refused_by_name(self, tmp_path: Path) -> None:
        entry = write(shout, tmp_path)

        with pytest.raises(MlflowException, match=f"model 'it' is pickled.*set {ALLOW_PICKLE}=true"):
            read(entry, tmp_path)

    @pytest.mark.parametrize("make", [text_pipeline, forest])
    def test_skops_still_loads(self, make: Any, tmp_path: Path) -> None:
        assert read(write(make(), tmp_path), tmp_path) is not None

    @pytest.mark.parametrize("name", ["os.system", "numpy.testing.runstring", "sklearn.nothing.Here"])
    def test_listed_types_must_be_harmless(self, name: str, tmp_path: Path) -> None:
        entry = write(text_pipeline(), tmp_path)
        entry["skops_trusted_types"] = [name]

        with pytest.raises(MlflowException, match=rf"lists types outside scikit-learn.*{name}"):
            read(entry, tmp_path)


class TestReading:
    def test_changed_file_is_refused_by_name(self, tmp_path: Path) -> None:
        entry = write(shout, tmp_path)
        (tmp_path / "step.pkl").write_bytes(b"other")

        with pytest.raises(MlflowException, match=r"step\.pkl was changed after it was saved"):
            read(entry, tmp_path)

    def test_missing_file(self, tmp_path: Path) -> None:
        entry = write(shout, tmp_path)
        (tmp_path / "step.pkl").unlink()

        with pytest.raises(MlflowException, match=r"step\.pkl is missing"):
            read(entry, tmp_path)

    def test_file_outside_the_model(self, tmp_path: Path) -> None:
        entry = write(shout, tmp_path) | {"file": "../step.pkl"}

        with pytest.raises(MlflowException, match="points outside the model"):
            read(entry, tmp_path)

    def test_unknown_serializer(self, tmp_path: Path) -> None:
        entry = write(shout, tmp_path) | {"serializer": "xml"}

        with pytest.raises(MlflowException, match="written with 'xml', which this version cannot read"):
            read(entry, tmp_path)

    def test_missing_library(self, helpers: ModuleType, tmp_path: Path) -> None:
        entry = write(helpers.decorate, tmp_path, [helpers.__file__ or ""])
        del sys.modules["own_helpers"]
        sys.path_importer_cache.clear()
        (tmp_path / "project" / "own_helpers.py").unlink()

        with pytest.raises(
            MlflowException,
            match=r"cannot be loaded from own_helpers:decorate: it needs the library 'own_helpers', which",
        ):
            read(entry, tmp_path)


class TestWhatIsNotPickled:
    @pytest.mark.parametrize("mode", ["r", "rb", "w", "a", "r+b"])
    def test_an_open_file(self, mode: str, tmp_path: Path) -> None:
        (tmp_path / "secret.txt").write_text("SECRET")
        with (
            (tmp_path / "secret.txt").open(mode) as file,
            pytest.raises(
                MlflowException, match=r"model 'it' cannot be saved .*it holds the open file .*secret"
            ),
        ):
            write(lambda data: (file.closed, data)[1], tmp_path)

    def test_files_in_memory_are_data(self, tmp_path: Path) -> None:
        held = io.BytesIO(b"x")

        entry = write(lambda data: held.getvalue(), tmp_path)

        assert read(entry, tmp_path)(None) == b"x"

    def test_threads_do_not_disturb_each_other(self, helpers: Any) -> None:
        entered = threading.Event()

        def enter() -> None:
            with modules_by_value([]):
                entered.set()

        with ThreadPoolExecutor(1) as pool:
            with modules_by_value([]):
                waiting = pool.submit(enter)
                assert not entered.wait(0.2)
                assert helpers.__name__ in cloudpickle.list_registry_pickle_by_value()
            waiting.result(30)
        assert helpers.__name__ not in cloudpickle.list_registry_pickle_by_value()


class TestMissingLibrary:
    def test_of_a_model_given_by_its_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        xgboost = pytest.importorskip("xgboost")
        mlflow.xgboost.save_model(
            xgboost.XGBClassifier(n_estimators=2).fit([[0.0], [1.0]], [0, 1]),
            str(tmp_path / "inner"),
            pip_requirements=["mlflow"],
        )
        (tmp_path / "made.py").write_text(
            f"import mlflow\nfrom mlflow_restaurant import Bundle\nmlflow.models.set_model(Bundle(model={str(tmp_path / 'inner')!r}))\n"
        )
        for name, given in (("m", Bundle(model=str(tmp_path / "inner"))), ("n", tmp_path / "made.py")):
            flavor.save_model(given, tmp_path / name, pip_requirements=["mlflow"], check_example=False)
        for name in [name for name in sys.modules if name.partition(".")[0] == "xgboost"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.delitem(sys.modules, "mlflow.xgboost")
        monkeypatch.setitem(sys.modules, "xgboost", None)

        for load in (flavor.load_model, mlflow.pyfunc.load_model):
            for name in ("m", "n"):
                with pytest.raises(
                    MlflowException,
                    match=r"cannot be loaded: it needs the library 'xgboost', which is not.*: install it",
                ):
                    load(str(tmp_path / name))

    def test_of_a_pickled_function(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        entry = write(Shouter(), tmp_path)
        monkeypatch.setitem(sys.modules, "cloudpickle", None)

        with pytest.raises(
            MlflowException, match=r"needs the library 'cloudpickle', which is not installed here: install"
        ):
            read(entry, tmp_path)

    def test_of_skops(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        entry = write(forest(), tmp_path)
        monkeypatch.setitem(sys.modules, "skops.io", None)

        with pytest.raises(
            MlflowException, match=r"needs the library 'skops.*', which is not installed here: install"
        ):
            read(entry, tmp_path)


def test_where_another_library_is_inside_a_pipeline_the_advice_is_to_part_them(tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost")
    model = make_pipeline(StandardScaler(), xgboost.XGBClassifier(n_estimators=2)).fit([[0.0], [1.0]], [0, 1])

    with pytest.raises(MlflowException, match="give the parts of a pipeline as steps of their own"):
        write_step(Target(model, allow_pickle=False), tmp_path, "step", "model 'it'")
