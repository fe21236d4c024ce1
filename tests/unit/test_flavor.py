"""The flavor: what a saved bundle holds, how it is loaded, and what happens when saving fails."""

from __future__ import annotations

import errno
import importlib
import json
import os
import py_compile
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow.exceptions import MlflowException
from mlflow.models import Model, infer_signature
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import LogisticRegression

import mlflow_restaurant
from mlflow_restaurant import Bundle, BundleError, flavor
from mlflow_restaurant.bundle import loader
from mlflow_restaurant.bundle.serializers import ALLOW_PICKLE
from mlflow_restaurant.saving import directory as saving
from mlflow_restaurant.saving import rehearsal, requirements, skops_files
from tests.support import run_python

pytestmark = [
    # MLflow compares the columns of an input example with a range.
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
    # mlflow.pyfunc warns of its own type hints when it is imported.
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
    # MLflow's tables, with SQLAlchemy 2.1.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]

RAW = pd.DataFrame({"subject": ["WIN MONEY", "lunch"] * 5, "body": ["click now", "see you at noon"] * 5})
LABELS = ["spam", "ham"] * 5
PINNED = ["scikit-learn", "cloudpickle"]
"""Given as requirements where the test is not about them, because inferring them starts a process."""


def join_columns(frame: pd.DataFrame) -> Any:
    return (frame["subject"] + " " + frame["body"]).str.lower()


def to_upper(labels: Any) -> Any:
    return pd.Series(labels).str.upper()


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    vectorizer = TfidfVectorizer().fit(join_columns(RAW))
    model = LogisticRegression().fit(vectorizer.transform(join_columns(RAW)), LABELS)
    return Bundle([join_columns, vectorizer], model, to_upper)


@pytest.fixture
def saved(bundle: Bundle, tmp_path: Path) -> Path:
    path = tmp_path / "model"
    flavor.save_model(bundle, path, input_example=RAW.head(2), pip_requirements=PINNED, check_example=False)
    return path


def flavor_conf(path: Path) -> dict[str, Any]:
    conf: dict[str, Any] = Model.load(str(path)).flavors["restaurant"]
    return conf


def rewrite_conf(path: Path, **changes: Any) -> None:
    file = path / "MLmodel"
    content = yaml.safe_load(file.read_text())
    content["flavors"]["restaurant"].update(changes)
    file.write_text(yaml.safe_dump(content))


class TestPublicNames:
    def test_importing_is_cheap(self, tmp_path: Path) -> None:
        source = (
            "import sys, mlflow_restaurant\n"
            "print([m for m in ('mlflow', 'pandas', 'numpy', 'sklearn', 'starlette') if m in sys.modules])"
        )

        assert run_python("-c", source, folder=tmp_path).strip() == "[]"

    def test_names_are_loaded_on_use(self) -> None:
        assert all(getattr(mlflow_restaurant, name) is not None for name in mlflow_restaurant.__all__)
        assert dir(mlflow_restaurant) == sorted(mlflow_restaurant.__all__)

    def test_unknown_name(self) -> None:
        with pytest.raises(AttributeError, match="no attribute 'Waiter'"):
            _ = mlflow_restaurant.Waiter


class TestLoading:
    def test_native(self, saved: Path, bundle: Bundle) -> None:
        loaded = mlflow_restaurant.load_model(str(saved))

        assert isinstance(loaded, mlflow_restaurant.Bundle)
        assert repr(loaded) == repr(bundle)
        assert list(loaded.predict(RAW)) == list(bundle.predict(RAW))

    def test_pyfunc(self, saved: Path, bundle: Bundle) -> None:
        model = mlflow.pyfunc.load_model(str(saved))

        assert list(model.predict(RAW)) == list(bundle.predict(RAW))
        assert repr(model.get_raw_model()) == repr(bundle)

    def test_pyfunc_without_this_package(self, saved: Path, tmp_path: Path) -> None:
        source = (
            "import sys; sys.modules['mlflow_restaurant'] = None\n"
            "import json, mlflow, pandas as pd\n"
            f"model = mlflow.pyfunc.load_model({str(saved)!r})\n"
            "print(json.dumps(list(model.predict(pd.DataFrame({'subject': ['win'], 'body': ['money']})))))"
        )

        assert json.loads(run_python("-c", source, folder=tmp_path).strip()) == ["SPAM"]

    def test_each_bundle_keeps_the_code_it_was_saved_with(
        self, saved: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        newer = tmp_path / "newer"
        newer.mkdir()
        for path in Path(str(loader.__file__)).parent.glob("*.py"):
            shutil.copy(path, newer)
        source = newer / "bundle.py"
        source.write_text(source.read_text().replace('return f"Bundle(', 'return f"NewerBundle('))
        monkeypatch.setattr(loader, "__file__", str(newer / "loader.py"))
        flavor.save_model(bundle, tmp_path / "second", pip_requirements=PINNED)

        models = [
            mlflow.pyfunc.load_model(str(path)).get_raw_model()
            for path in (saved, tmp_path / "second", saved)
        ]

        assert [repr(model).partition("(")[0] for model in models] == ["Bundle", "NewerBundle", "Bundle"]
        assert all(list(model.predict(RAW.head(2))) == ["SPAM", "HAM"] for model in models)

    def test_forbidden_pickles_are_named(self, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(ALLOW_PICKLE, "false")

        with pytest.raises(MlflowException, match="preprocess step 1 of 2 'join_columns' is pickled"):
            mlflow_restaurant.load_model(str(saved))
        with pytest.raises(MlflowException, match="preprocess step 1 of 2 'join_columns' is pickled"):
            mlflow.pyfunc.load_model(str(saved))

    def test_changed_file_is_named(self, saved: Path) -> None:
        (saved / "steps" / "model.skops").write_bytes(b"other")

        with pytest.raises(MlflowException, match=r"steps/model\.skops was changed"):
            mlflow_restaurant.load_model(str(saved))

    def test_added_code_is_named(self, saved: Path) -> None:
        (saved / "code" / "json.py").write_text("")

        with pytest.raises(MlflowException, match=r"code/json\.py was added after it was saved"):
            flavor.load_model(str(saved))

    def test_planted_bytecode_is_named(self, saved: Path) -> None:
        source = next((saved / "code").rglob("steps.py"))
        py_compile.compile(str(source), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)

        with pytest.raises(
            MlflowException, match=r"__pycache__/steps\.\S+\.pyc was added after it was saved"
        ):
            flavor.load_model(str(saved))

    def test_a_loaded_bundle_can_be_loaded_with_the_bytecode_that_is_left(
        self, saved: Path, tmp_path: Path
    ) -> None:
        code = f"import mlflow; mlflow.pyfunc.load_model({str(saved)!r})"
        for _ in range(2):
            environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
            subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)

        assert list((saved / "code").rglob("*.pyc"))

    def test_newer_format(self, saved: Path) -> None:
        rewrite_conf(saved, format_version=99)

        with pytest.raises(MlflowException, match=r"bundle format 99.*upgrade mlflow-restaurant"):
            mlflow_restaurant.load_model(str(saved))

    def test_another_flavor(self, tmp_path: Path) -> None:
        model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
        mlflow.sklearn.save_model(model, str(tmp_path / "sk"), pip_requirements=PINNED)

        with pytest.raises(
            MlflowException, match=r"holds no model of the flavor 'restaurant' but one of .*sklearn: load it"
        ):
            mlflow_restaurant.load_model(str(tmp_path / "sk"))

    def test_error_in_a_step_is_named(self, saved: Path) -> None:
        with pytest.raises(
            mlflow_restaurant.StepError, match="preprocess step 1 of 2 'join_columns' failed: KeyError"
        ):
            mlflow_restaurant.load_model(str(saved)).predict(RAW[["subject"]])


class TestWhatIsSaved:
    def test_steps_are_listed(self, saved: Path) -> None:
        conf = flavor_conf(saved)

        assert conf["format_version"] == 1
        assert conf["mlflow_restaurant_version"] == mlflow_restaurant.__version__
        assert conf["row_wise"] is True
        assert [(step["role"], step["name"], step["serializer"], step["file"]) for step in conf["steps"]] == [
            ("preprocess", "join_columns", "cloudpickle", "steps/preprocess_1.pkl"),
            ("preprocess", "TfidfVectorizer", "skops", "steps/preprocess_2.skops"),
            ("model", "LogisticRegression", "skops", "steps/model.skops"),
            ("postprocess", "to_upper", "cloudpickle", "steps/postprocess_1.pkl"),
        ]
        assert conf["steps"][0]["class"] == f"{__name__}.join_columns"
        assert conf["steps"][2]["class"] == "sklearn.linear_model._logistic.LogisticRegression"
        assert all(len(step["sha256"]) == 64 for step in conf["steps"])

    def test_only_the_loading_code_travels(self, saved: Path) -> None:
        (package,) = (saved / "code").iterdir()

        assert package.name.startswith("restaurant_bundle_")
        assert {file.name for file in package.iterdir()} == {
            file.name for file in Path(str(loader.__file__)).parent.glob("*.py")
        }
        assert sum(file.stat().st_size for file in package.iterdir()) < 100_000
        assert "mlflow_restaurant" not in Model.load(str(saved)).flavors["python_function"]["loader_module"]

    def test_signature_is_of_the_raw_input(self, saved: Path) -> None:
        signature = Model.load(str(saved)).signature

        assert signature.inputs.input_names() == ["subject", "body"]
        assert signature.outputs.to_dict() == [{"type": "string", "required": True}]

    def test_a_given_signature_is_kept(self, bundle: Bundle, tmp_path: Path) -> None:
        signature = infer_signature(RAW, bundle.predict(RAW))

        flavor.save_model(bundle, tmp_path / "model", signature=signature, pip_requirements=PINNED)

        kept = Model.load(str(tmp_path / "model")).signature
        assert (kept.inputs, kept.outputs) == (signature.inputs, signature.outputs)
        assert {spec.name for spec in kept.params} == set(bundle.params)

    def test_a_given_signature_gets_the_params_it_lacks(self, bundle: Bundle, tmp_path: Path) -> None:
        signature = infer_signature(RAW, bundle.predict(RAW), {"predict_method": "predict_proba", "mine": 1})
        decided = Bundle(bundle.preprocess, bundle.model, threshold=1)

        flavor.save_model(decided, tmp_path / "m", signature=signature, pip_requirements=PINNED)

        params = Model.load(str(tmp_path / "m")).signature.params
        assert {spec.name: (spec.dtype.name, spec.default) for spec in params} == {
            "predict_method": ("string", "predict_proba"),
            "mine": ("long", 1),
            "threshold": ("double", 1.0),
        }

    @pytest.mark.parametrize("signature", ["abc", True, {"inputs": "x"}])
    def test_no_signature_at_all(self, signature: Any, bundle: Bundle, tmp_path: Path) -> None:
        with pytest.raises(MlflowException, match=r"signature is a .*: give a ModelSignature"):
            flavor.save_model(bundle, tmp_path / "m", signature=signature)
        assert list(tmp_path.iterdir()) == []

    def test_no_signature_on_request(self, bundle: Bundle, tmp_path: Path) -> None:
        flavor.save_model(
            bundle, tmp_path / "model", signature=False, input_example=RAW.head(1), pip_requirements=PINNED
        )

        assert Model.load(str(tmp_path / "model")).signature is None

    def test_without_an_example_there_are_params_and_a_warning(
        self, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        flavor.save_model(bundle, tmp_path / "m", pip_requirements=["mlflow"])

        assert "saved without input_example" in caplog.text
        signature = mlflow.models.Model.load(str(tmp_path / "m")).signature
        assert (signature.inputs, {spec.name for spec in signature.params}) == (None, set(bundle.params))

    def test_that_of_a_loaded_bundle_is_kept(self, saved: Path, tmp_path: Path) -> None:
        flavor.save_model(flavor.load_model(str(saved)), tmp_path / "again", pip_requirements=["mlflow"])

        before, after = (
            mlflow.models.Model.load(str(path)).signature for path in (saved, tmp_path / "again")
        )
        assert after == before

    def test_metadata(self, bundle: Bundle, tmp_path: Path) -> None:
        flavor.save_model(bundle, tmp_path / "model", metadata={"team": "mail"}, pip_requirements=PINNED)

        assert Model.load(str(tmp_path / "model")).metadata == {"team": "mail"}

    def test_code_paths(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "shipped_words.py").write_text(
            "def first_column(frame):\n    return frame[['a']].to_numpy()\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        first_column = importlib.import_module("shipped_words").first_column
        model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])

        flavor.save_model(
            Bundle(first_column, model),
            tmp_path / "model",
            code_paths=[str(tmp_path / "shipped_words.py")],
            pip_requirements=PINNED,
        )
        (tmp_path / "shipped_words.py").unlink()

        source = (
            "import mlflow, pandas as pd\n"
            f"model = mlflow.pyfunc.load_model({str(tmp_path / 'model')!r})\n"
            "import shipped_words; print(shipped_words.__file__)\n"
            "print(list(map(int, model.predict(pd.DataFrame({'a': [-5.0, 5.0]})))))"
        )
        file, predictions = run_python("-c", source, folder=tmp_path).strip().splitlines()
        assert Path(file) == tmp_path / "model" / "code" / "shipped_words.py"
        assert predictions == "[0, 1]"


class TestRequirements:
    def test_inferred_and_pinned(self, bundle: Bundle, tmp_path: Path) -> None:
        flavor.save_model(bundle, tmp_path / "model", input_example=RAW.head(2))

        lines = (tmp_path / "model" / "requirements.txt").read_text().splitlines()
        names = {line.partition("==")[0] for line in lines}
        assert {"mlflow", "scikit-learn", "skops", "cloudpickle", "pandas", "numpy"} <= names
        assert not names & {"mlflow-restaurant", "mlflow_restaurant", "pytest"}
        assert all("==" in line for line in lines)
        assert not list((tmp_path / "model").rglob("__pycache__"))

    def test_this_package_does_not_creep_in(self) -> None:
        lines = requirements.of_bundle(["mlflow_restaurant", "pytest", "scipy"], [{"serializer": "import"}])

        assert [line.partition("==")[0] for line in lines] == ["numpy", "pandas", "scipy"]

    def test_those_of_models_inside_count(self) -> None:
        lines = requirements.of_bundle(["pandas"], [], ["xgboost==1.0", "pandas==1.0", "--extra-index-url x"])

        assert {"xgboost==1.0", "--extra-index-url x"} <= set(lines)
        assert "pandas==1.0" not in lines

    def test_extra_requirements(
        self, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rehearsal, "rehearse", lambda root, run: [])

        flavor.save_model(bundle, tmp_path / "model", extra_pip_requirements=["wheel"])

        assert "wheel" in (tmp_path / "model" / "requirements.txt").read_text().splitlines()

    def test_conda_env(self, bundle: Bundle, tmp_path: Path) -> None:
        flavor.save_model(bundle, tmp_path / "model", conda_env=flavor.get_default_conda_env())

        text = (tmp_path / "model" / "conda.yaml").read_text()
        assert f"skops=={importlib.import_module('skops').__version__}" in text

    def test_defaults_follow_the_serializers(self) -> None:
        def names(requirements: list[str]) -> list[str]:
            return [line.partition("==")[0] for line in requirements]

        assert names(flavor.get_default_pip_requirements()) == [
            "cloudpickle",
            "numpy",
            "pandas",
            "scikit-learn",
            "skops",
        ]
        assert names(flavor.get_default_pip_requirements(False, False)) == ["numpy", "pandas"]


class TestFailures:
    """Nothing is left behind, and the message says what to do."""

    def refused(self, bundle: Any, path: Path, match: str, **arguments: Any) -> None:
        before = sorted(path.parent.iterdir())
        with pytest.raises(MlflowException, match=match):
            flavor.save_model(bundle, path, pip_requirements=PINNED, **arguments)
        assert sorted(path.parent.iterdir()) == before

    def test_not_a_bundle(self, tmp_path: Path) -> None:
        self.refused(
            LogisticRegression(), tmp_path / "m", r"this is a LogisticRegression: wrap it as Bundle\(model="
        )

    def test_the_path_before_the_bundle(self, bundle: Bundle, tmp_path: Path) -> None:
        with pytest.raises(
            MlflowException, match=r"is a string that names no \.py file: give the bundle first"
        ):
            flavor.save_model(str(tmp_path / "m"), bundle)  # type: ignore[arg-type]

    def test_code_that_is_not_there(self, bundle: Bundle, tmp_path: Path) -> None:
        with pytest.raises(MlflowException, match=r"There is no 'nix\.py', which code_paths names"):
            flavor.save_model(bundle, tmp_path / "m", code_paths=["nix.py"])
        assert list(tmp_path.iterdir()) == []

    def test_path_is_taken(self, bundle: Bundle, tmp_path: Path) -> None:
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "notes").write_text("mine")

        self.refused(bundle, tmp_path / "m", "already exists and is not empty")

        assert (tmp_path / "m" / "notes").read_text() == "mine"

    def test_path_is_a_file(self, bundle: Bundle, tmp_path: Path) -> None:
        (tmp_path / "m").write_text("mine")

        self.refused(bundle, tmp_path / "m", "already exists")

    @pytest.mark.parametrize("name", ["a#b", "a%20b"])
    def test_a_path_that_mlflow_cannot_load_from(self, name: str, bundle: Bundle, tmp_path: Path) -> None:
        self.refused(bundle, tmp_path / name, "where MLflow cannot load a model from")

    def test_parents_that_were_made_are_removed(self, bundle: Bundle, tmp_path: Path) -> None:
        with pytest.raises(
            MlflowException,
            match=r"The input example cannot be written as JSON: TypeError: .*Give a few rows",
        ):
            flavor.save_model(
                bundle, tmp_path / "new" / "deep" / "m", input_example=pd.DataFrame({"a": [pd.Timedelta(1)]})
            )
        assert list(tmp_path.iterdir()) == []

    def test_a_link_to_an_empty_directory_is_followed(self, bundle: Bundle, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "empty")

        flavor.save_model(bundle, tmp_path / "link", pip_requirements=PINNED)

        assert (tmp_path / "empty" / "MLmodel").is_file()

    def test_a_path_that_another_one_fills_meanwhile(
        self, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fill(*_: Any) -> None:
            (tmp_path / "m").mkdir()
            (tmp_path / "m" / "other").touch()

        monkeypatch.setattr(saving, "remove_bytecode", fill)

        with pytest.raises(MlflowException, match="was filled while this bundle was being saved"):
            flavor.save_model(bundle, tmp_path / "m", pip_requirements=PINNED)
        assert [path.name for path in (tmp_path / "m").iterdir()] == ["other"]

    def test_an_argument_that_cannot_be_stored(self, tmp_path: Path) -> None:
        model = GaussianProcessRegressor().fit([[0.0], [1.0]], [0.0, 1.0])
        self.refused(
            Bundle(model=(model, {"return_std": np.bool_(False)})),
            tmp_path / "m",
            "cannot be saved with its keyword arguments",
        )

    def test_an_unknown_method(self, bundle: Bundle, tmp_path: Path) -> None:
        with pytest.raises(MlflowException, match="has no method 'nope'"):
            flavor.save_model(bundle, tmp_path / "m", predict_method="nope")

    def test_an_empty_directory_is_used(self, bundle: Bundle, tmp_path: Path) -> None:
        (tmp_path / "m").mkdir()

        flavor.save_model(bundle, tmp_path / "m", pip_requirements=PINNED)

        assert (tmp_path / "m" / "MLmodel").is_file()

    def test_example_does_not_score(self, bundle: Bundle, tmp_path: Path) -> None:
        self.refused(
            bundle,
            tmp_path / "m",
            "cannot predict from the input example: preprocess step 1 of 2 'join_columns' failed: KeyError: 'body'",
            input_example=RAW[["subject"]],
        )

    def test_step_cannot_be_saved(self, bundle: Bundle, tmp_path: Path) -> None:
        lock = threading.Lock()

        def read_more(frame: Any) -> Any:
            with lock:
                return frame

        self.refused(
            Bundle(read_more, bundle.model),
            tmp_path / "m",
            "preprocess step 1 of 1 'read_more' cannot be saved",
        )

    @pytest.mark.parametrize("place", ["", "steps"])
    def test_the_disk_is_full(
        self, place: str, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*args: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(*((skops_files, "dump") if place else (saving, "write_environment")), full)

        self.refused(bundle, tmp_path / "m", "cannot be saved at '.*/m': .*No space left.*Make room there")

    def test_the_parent_cannot_be_written(self, bundle: Bundle, tmp_path: Path) -> None:
        (tmp_path / "taken").write_text("")

        with pytest.raises(MlflowException, match=r"cannot be saved at '.*/taken/m': .*choose another path"):
            flavor.save_model(bundle, tmp_path / "taken" / "m", pip_requirements=PINNED)

    def test_interrupted(self, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(*args: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(saving, "write_environment", interrupt)

        with pytest.raises(KeyboardInterrupt):
            flavor.save_model(bundle, tmp_path / "m", pip_requirements=PINNED)

        assert list(tmp_path.iterdir()) == []

    def test_unfitted_parts_never_get_this_far(self) -> None:
        with pytest.raises(BundleError, match="not fitted"):
            Bundle(model=LogisticRegression())


class TestLogging:
    @pytest.fixture(autouse=True)
    def tracking(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
        mlflow.set_experiment(
            experiment_id=mlflow.create_experiment(
                "tests", artifact_location=(tmp_path / "artifacts").as_uri()
            )
        )

    def test_log_register_and_load(self, bundle: Bundle) -> None:
        with mlflow.start_run() as run:
            info = mlflow_restaurant.log_model(
                bundle,
                name="spam",
                registered_model_name="spam-filter",
                input_example=RAW.head(2),
                pip_requirements=PINNED,
                params={"depth": 2},
                tags={"team": "mail"},
            )

        assert info.registered_model_version == 1
        assert info.signature is not None
        logged = mlflow.get_logged_model(info.model_id)
        assert (logged.params["depth"], logged.tags["team"], logged.source_run_id) == (
            "2",
            "mail",
            run.info.run_id,
        )
        for uri in (info.model_uri, "models:/spam-filter/1"):
            assert isinstance(mlflow_restaurant.load_model(uri), Bundle)
            np.testing.assert_array_equal(mlflow.pyfunc.load_model(uri).predict(RAW), bundle.predict(RAW))

    def test_download_folder(self, bundle: Bundle, tmp_path: Path) -> None:
        info = mlflow_restaurant.log_model(bundle, name="spam", pip_requirements=PINNED)
        (tmp_path / "here").mkdir()

        mlflow_restaurant.load_model(info.model_uri, dst_path=str(tmp_path / "here"))

        assert list((tmp_path / "here").rglob("MLmodel"))

    def test_not_a_bundle(self) -> None:
        with pytest.raises(MlflowException, match=r"Only a mlflow_restaurant\.Bundle can be saved"):
            mlflow_restaurant.log_model("spam", name="spam")
