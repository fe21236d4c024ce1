"""Serializers: which one is chosen, what is refused, and that code travels by value where it must."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from mlflow_restaurant import serializers
from mlflow_restaurant.emails import join_text
from mlflow_restaurant.serializers import ALLOW_PICKLE, read_step, write_step

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
    return write_step(target, folder, "step", "model 'it'", code_paths or [])


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

    @pytest.mark.parametrize(
        "target", [shout, lambda texts: texts, math.sqrt, FunctionTransformer(shout), Shouter()]
    )
    def test_code_goes_to_cloudpickle(self, target: Any, tmp_path: Path) -> None:
        entry = write(target, tmp_path)

        assert (entry["serializer"], entry["file"]) == ("cloudpickle", "step.pkl")
        assert [path.name for path in tmp_path.iterdir()] == ["step.pkl"]

    def test_a_function_of_numpy_is_left_to_skops(self, tmp_path: Path) -> None:
        entry = write(FunctionTransformer(np.log1p), tmp_path)

        assert entry["serializer"] == "skops"
        np.testing.assert_allclose(read(entry, tmp_path).transform([[0.0]]), [[0.0]])

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
            "import sys, json, importlib.util, pathlib\n"
            "sys.modules['mlflow_restaurant'] = None\n"
            f"spec = importlib.util.spec_from_file_location('copied', {serializers.__file__!r})\n"
            "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
            f"step = module.read_step({entry!r}, pathlib.Path({str(folder)!r}), 'it')\n"
            f"print({call})\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", source],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def test_functions_of_local_modules(self, helpers: ModuleType, tmp_path: Path) -> None:
        entry = write(helpers.decorate, tmp_path)

        assert self.read_elsewhere(entry, tmp_path, "step('a')") == "<-a"

    def test_functions_of_this_package(self, tmp_path: Path) -> None:
        entry = write(join_text, tmp_path)

        call = "list(step(__import__('pandas').DataFrame({'subject': ['A'], 'body': ['12']})))"
        assert "number" in self.read_elsewhere(entry, tmp_path, call)

    def test_shipped_code_is_pickled_by_reference(self, helpers: ModuleType, tmp_path: Path) -> None:
        shipped = [helpers.__file__ or "", str(tmp_path / "project" / "own_words.py")]
        by_value = len((tmp_path / write(helpers.decorate, tmp_path)["file"]).read_bytes())

        entry = write(helpers.decorate, tmp_path, shipped)

        assert len((tmp_path / entry["file"]).read_bytes()) < by_value / 2
        assert read(entry, tmp_path) is helpers.decorate

    def test_a_code_path_of_another_name_does_not_count(self, helpers: ModuleType, tmp_path: Path) -> None:
        entry = write(helpers.decorate, tmp_path, [str(tmp_path / "project")])

        assert read(entry, tmp_path) is not helpers.decorate

    def test_library_functions_are_pickled_by_reference(self, tmp_path: Path) -> None:
        assert read(write(pd.concat, tmp_path), tmp_path) is pd.concat

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
            MlflowException, match=r"cannot be loaded from step\.pkl: ModuleNotFoundError.*own_helpers"
        ):
            read(entry, tmp_path)
