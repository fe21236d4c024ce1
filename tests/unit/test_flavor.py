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
from collections.abc import Iterator
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
NUMBERS = pd.DataFrame({"a": [1.0]})
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

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"steps": []}, "cannot be read as a bundle's .*: save the bundle again"),
            ({"steps": "x"}, "cannot be read as a bundle's .*TypeError"),
            ({"steps": [{"role": "model"}]}, "cannot be read as a bundle's .*KeyError: 'name'"),
            ({"code_files": ["x"]}, "cannot be read as a bundle's .*AttributeError"),
            ({"format_version": "1"}, "cannot be read as a bundle's .*format_version is '1'"),
            ({"format_version": None}, "cannot be read as a bundle's .*format_version is None"),
            ({"options": {"later": 1}}, "was saved with 'later', which this code does not know: upgrade"),
        ],
    )
    def test_a_damaged_mlmodel(self, changes: dict[str, Any], message: str, saved: Path) -> None:
        rewrite_conf(saved, **changes)

        for load in (mlflow_restaurant.load_model, mlflow.pyfunc.load_model):
            with pytest.raises(MlflowException, match=message):
                load(str(saved))

    def test_a_step_whose_file_is_a_number(self, saved: Path) -> None:
        steps = flavor_conf(saved)["steps"]
        steps[0]["file"] = 3
        rewrite_conf(saved, steps=steps)

        with pytest.raises(MlflowException, match=r"cannot be read as a bundle's .*TypeError"):
            mlflow_restaurant.load_model(str(saved))

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
            "predict_method": ("string", "predict"),
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

    def test_the_method_at_saving_is_the_default_of_requests(self, saved: Path, tmp_path: Path) -> None:
        loaded = flavor.load_model(str(saved))
        bundle = Bundle(loaded.preprocess, loaded.model)
        flavor.save_model(
            bundle, tmp_path / "a", input_example=RAW.head(2), pip_requirements=PINNED, check_example=False
        )
        kept = Model.load(str(tmp_path / "a")).signature

        again = flavor.load_model(str(tmp_path / "a"))
        flavor.save_model(again, tmp_path / "b", predict_method="predict_proba", pip_requirements=PINNED)
        chosen = Bundle(loaded.preprocess, loaded.model, predict_method="predict_proba")
        flavor.save_model(chosen, tmp_path / "c", signature=kept, pip_requirements=PINNED)
        flavor.save_model(
            chosen, tmp_path / "d", signature=kept, input_example=RAW.head(2), pip_requirements=PINNED
        )

        for name in "bcd":
            model = mlflow.pyfunc.load_model(str(tmp_path / name))
            assert list(model.predict(RAW)) == ["ham", "spam"]
            signature = model.metadata.signature
            assert signature.inputs == kept.inputs
            assert {spec.name: spec.default for spec in signature.params} == {
                "predict_method": "predict_proba"
            }
            assert (signature.outputs is None) == (name != "d")

    def test_outputs_that_the_bundle_does_not_predict(
        self, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name, outputs in (("a", bundle.predict(RAW)), ("b", np.ones(len(RAW)))):
            flavor.save_model(
                bundle,
                tmp_path / name,
                signature=infer_signature(RAW, outputs),
                input_example=RAW.head(2),
                pip_requirements=PINNED,
                check_example=False,
            )

        (message,) = [text for text in caplog.messages if "outputs of the given signature" in text]
        assert "the output is float64 in it, and the bundle predicts string. Leave" in message

    def test_that_of_a_loaded_bundle_is_kept(self, saved: Path, tmp_path: Path) -> None:
        flavor.save_model(flavor.load_model(str(saved)), tmp_path / "again", pip_requirements=["mlflow"])

        before, after = (
            mlflow.models.Model.load(str(path)).signature for path in (saved, tmp_path / "again")
        )
        assert after == before

    def test_so_is_what_was_found_of_its_rows(
        self, saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        flavor.save_model(flavor.load_model(str(saved)), tmp_path / "again", pip_requirements=["mlflow"])

        conf = flavor_conf(tmp_path / "again")
        assert (conf["row_wise"], conf["row_wise_reason"]) == (True, "found when it was saved before")
        assert "row_wise" not in conf["options"]
        (message,) = [text for text in caplog.messages if "without input_example" in text]
        assert message.endswith("was not tried, and its signature is the one it was saved with before.")

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


class TestCodeOfTheSameName:
    """Bundles that each have a module of one name; every step has functions of its own bundle's."""

    @pytest.fixture
    def loads(self, request: pytest.FixtureRequest) -> Any:
        return {"native": mlflow_restaurant.load_model, "pyfunc": mlflow.pyfunc.load_model}[request.param]

    @pytest.fixture(autouse=True)
    def forget(self) -> Iterator[None]:
        before, modules = list(sys.path), set(sys.modules)
        yield
        sys.path[:] = before
        for name in set(sys.modules) - modules:
            if name.partition(".")[0] == "twin":
                del sys.modules[name]

    def save(self, folder: Path, files: dict[str, str], step: str = "twin.step", **arguments: Any) -> str:
        """Save in another process, as somebody else would."""
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
        top = folder / next(iter(files)).partition("/")[0]
        source = (
            f"import sys; sys.path.insert(0, {str(folder)!r})\n"
            f"import mlflow_restaurant, {step.rpartition('.')[0]}\n"
            f"bundle = mlflow_restaurant.Bundle({step}, lambda data: data['a'])\n"
            f"mlflow_restaurant.save_model(bundle, {str(folder / 'm')!r}, code_paths=[{str(top)!r}],"
            " pip_requirements=['mlflow'], check_example=False)\n"
        )
        run_python("-c", source, folder=folder)
        return str(folder / "m")

    def module(self, number: int) -> str:
        return f"FACTOR = {number}\n\n\ndef step(data):\n    return data * FACTOR\n"

    @pytest.mark.parametrize("loads", ["native", "pyfunc"], indirect=True)
    def test_modules(self, loads: Any, tmp_path: Path) -> None:
        paths = [self.save(tmp_path / str(n), {"twin.py": self.module(n)}) for n in (2, 3)]

        models = [loads(path) for path in (*paths, paths[0])]

        assert [list(model.predict(NUMBERS)) for model in models] == [[2.0], [3.0], [2.0]]
        assert sys.modules["twin"].FACTOR == 2

    @pytest.mark.parametrize("loads", ["native", "pyfunc"], indirect=True)
    def test_packages_whose_difference_is_not_imported_yet(self, loads: Any, tmp_path: Path) -> None:
        paths = [
            self.save(
                tmp_path / str(n),
                {"twin/__init__.py": "", "twin/inner.py": self.module(n)},
                "twin.inner.step",
            )
            for n in (2, 3)
        ]
        sys.path.insert(0, str(tmp_path / "2"))
        twin = importlib.import_module("twin")

        models = [loads(path) for path in reversed(paths)]

        assert [list(model.predict(NUMBERS)) for model in models] == [[3.0], [2.0]]
        assert sys.modules["twin"] is twin

    def test_objects_of_their_classes(self, tmp_path: Path) -> None:
        code = (
            "from sklearn.base import BaseEstimator, TransformerMixin\n\n\n"
            "class {}(TransformerMixin, BaseEstimator):\n"
            "    def fit(self, data, target=None):\n        return self\n\n"
            "    def transform(self, data):\n        return data * {}\n\n\n"
            "class Plain:\n    def transform(self, data):\n        return data * {}\n"
        )
        paths = [
            self.save(tmp_path / str(n), {"twin.py": code.format("Own", n, n + 10)}, step)
            for n, step in ((2, "twin.Own()"), (3, "twin.Own()"), (4, "twin.Plain()"), (5, "twin.Plain()"))
        ]

        kinds = [flavor_conf(Path(path))["steps"][0]["serializer"] for path in paths]
        models = [mlflow_restaurant.load_model(path) for path in paths]

        assert kinds == ["skops", "skops", "cloudpickle", "cloudpickle"]
        assert [list(model.predict(NUMBERS)) for model in models] == [[2.0], [3.0], [14.0], [15.0]]

    def test_what_is_the_same_stays(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = self.save(tmp_path, {"twin.py": self.module(2)})
        monkeypatch.syspath_prepend(str(tmp_path))
        twin = importlib.import_module("twin")

        loaded = mlflow_restaurant.load_model(path)

        assert loaded.preprocess == [twin.step]
        assert sys.modules["twin"] is twin


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

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"allow_pickle": "no"}, "allow_pickle is 'no': give True or False"),
            ({"check_example": None}, "check_example is None: give True or False"),
            (
                {"code_paths": "helpers"},
                r"code_paths is 'helpers': give a list of files and folders, \['helpers'\]",
            ),
            ({"predict_method": "fit"}, "has no method 'fit' to predict with"),
            ({"predict_method": "get_params"}, "has no method 'get_params' to predict with"),
        ],
    )
    def test_arguments(
        self,
        arguments: dict[str, Any],
        message: str,
        bundle: Bundle,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(saving, "new_directory", None)  # nothing is begun

        self.refused(bundle, tmp_path / "m", message, **arguments)

    def test_code_that_would_be_copied_over_other_code(self, bundle: Bundle, tmp_path: Path) -> None:
        files = [tmp_path / folder / "same.py" for folder in ("a", "b")]
        for file in files:
            file.parent.mkdir()
            file.touch()

        self.refused(
            bundle, tmp_path / "m", "one would be copied over the other", code_paths=list(map(str, files))
        )

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

    @pytest.mark.parametrize("path", [Path("/proc/nothing/m"), Path("x" * 300), Path("a", "y" * 300, "m")])
    def test_there_can_be_no_such_directory(self, path: Path, bundle: Bundle, tmp_path: Path) -> None:
        with pytest.raises(MlflowException, match=r"cannot be saved at '.*(m|x)': .*choose another path"):
            flavor.save_model(bundle, tmp_path / path, pip_requirements=PINNED)
        assert list(tmp_path.iterdir()) == []

    def test_a_long_name(self, bundle: Bundle, tmp_path: Path) -> None:
        flavor.save_model(bundle, tmp_path / ("x" * 250), pip_requirements=PINNED)

        assert (tmp_path / ("x" * 250) / "MLmodel").is_file()

    def test_an_error_of_the_users_code_is_left_alone(
        self, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def denied(*args: Any) -> None:
            raise PermissionError(errno.EACCES, "of somebody's own", "notes")

        monkeypatch.setattr(saving, "write_environment", denied)

        with pytest.raises(PermissionError, match="of somebody's own"):
            flavor.save_model(bundle, tmp_path / "m", pip_requirements=PINNED)
        assert list(tmp_path.iterdir()) == []

    def test_a_volume_is_filled_from_inside(
        self, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Only a directory that exists can be written, and it cannot be replaced, as where a volume is mounted."""
        volume = tmp_path / "m"
        volume.mkdir()
        replace, mkdir = Path.replace, Path.mkdir
        moved: list[str] = []

        def replaced(path: Path, target: Path) -> Path:
            if target == volume:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            moved.append(target.name)
            return replace(path, target)

        def made(path: Path, *args: Any, **kwargs: Any) -> None:
            if path.parent == tmp_path and path != volume:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            mkdir(path, *args, **kwargs)

        monkeypatch.setattr(Path, "replace", replaced)
        monkeypatch.setattr(Path, "mkdir", made)

        flavor.save_model(bundle, volume, pip_requirements=PINNED)

        assert moved[-1] == "MLmodel"
        assert {path.name for path in volume.iterdir()} == set(moved)
        assert list(flavor.load_model(str(volume)).predict(RAW.head(2))) == ["SPAM", "HAM"]

    def test_an_empty_directory_that_is_filled_meanwhile(
        self, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "m").mkdir()
        monkeypatch.setattr(saving, "remove_bytecode", lambda root: (tmp_path / "m" / "other").touch())

        with pytest.raises(MlflowException, match="was filled while this bundle was being saved"):
            flavor.save_model(bundle, tmp_path / "m", pip_requirements=PINNED)
        assert [path.name for path in (tmp_path / "m").iterdir()] == ["other"]

    def test_an_empty_directory_in_which_nothing_can_be_moved(
        self, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "m").mkdir()
        replace = Path.replace

        def replaced(path: Path, target: Path) -> Path:
            if path.name == "MLmodel":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return replace(path, target)

        monkeypatch.setattr(Path, "replace", replaced)

        with pytest.raises(MlflowException, match=r"cannot be saved at .*choose another path"):
            flavor.save_model(bundle, tmp_path / "m", pip_requirements=PINNED)
        assert list((tmp_path / "m").iterdir()) == []

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
