"""Models of other libraries, for real: saved by their own flavor, loaded, the same predictions."""

from __future__ import annotations

import gc
import importlib.util
import inspect
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ParamSchema, ParamSpec
from sklearn.preprocessing import StandardScaler

from mlflow_restaurant import Bundle, BundleError, flavor, load_model
from mlflow_restaurant.bundle import StepError, nested
from mlflow_restaurant.bundle.serializers import ALLOW_PICKLE
from tests.support import run_python

# The libraries warn of each other's newest releases.
pytestmark = pytest.mark.filterwarnings("ignore")

DATA = pd.DataFrame({"a": np.arange(20.0), "b": np.arange(20.0) % 3})
TARGET = (DATA["a"] > 9).astype(int)
PINNED = ["mlflow"]


def library(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed: pip install mlflow-restaurant[models]")


def saved(bundle: Bundle, path: Path, **arguments: Any) -> dict[str, Any]:
    """Save without a fresh process; return the model's part of MLmodel."""
    options: dict[str, Any] = {
        "pip_requirements": PINNED,
        "check_example": False,
        "input_example": DATA.head(4),
    }
    flavor.save_model(bundle, path, **{**options, **arguments})
    steps: list[dict[str, Any]] = Model.load(str(path)).flavors["restaurant"]["steps"]
    return next(step for step in steps if step["role"] == "model")


def same_after_loading(bundle: Bundle, path: Path, params: dict[str, Any] | None = None) -> None:
    expected = np.asarray(bundle.predict(DATA, params))
    for loaded in (load_model(str(path)), mlflow.pyfunc.load_model(str(path))):
        found = np.asarray(loaded.predict(DATA, params))
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(found, expected, rtol=1e-6)
        else:
            np.testing.assert_array_equal(found, expected)


class TestXGBoost:
    def test_classifier_with_labels_and_threshold(self, tmp_path: Path) -> None:
        model = library("xgboost").XGBClassifier(n_estimators=5).fit(DATA, TARGET)
        bundle = Bundle(model=model, labels=["low", "high"], threshold=0.4)

        step = saved(bundle, tmp_path / "m", allow_pickle=False)

        assert (step["serializer"], step["flavor"]) == ("mlflow", "mlflow.xgboost")
        assert all(len(digest) == 64 for digest in step["files"].values())
        assert set(bundle.predict(DATA)) == {"low", "high"}
        same_after_loading(bundle, tmp_path / "m")
        same_after_loading(bundle, tmp_path / "m", {"predict_method": "predict_proba"})
        same_after_loading(bundle, tmp_path / "m", {"threshold": 0.9})

    def test_booster(self, tmp_path: Path) -> None:
        xgboost = library("xgboost")
        model = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(DATA, label=TARGET), 3)

        saved(Bundle(model=model), tmp_path / "m")

        same_after_loading(Bundle(model=model), tmp_path / "m")

    def test_requirements_are_its_own(self, tmp_path: Path) -> None:
        model = library("xgboost").XGBClassifier(n_estimators=1).fit(DATA, TARGET)

        saved(Bundle(model=model), tmp_path / "m", pip_requirements=None)

        lines = (tmp_path / "m" / "requirements.txt").read_text().splitlines()
        names = {line.partition("==")[0] for line in lines}
        assert names == {"mlflow", "numpy", "pandas", "scikit-learn", "scipy", "xgboost"}

    def test_not_fitted(self) -> None:
        with pytest.raises(BundleError, match="XGBClassifier is not fitted yet"):
            Bundle(model=library("xgboost").XGBClassifier())

    def test_changed_file_is_named(self, tmp_path: Path) -> None:
        model = library("xgboost").XGBClassifier(n_estimators=1).fit(DATA, TARGET)
        saved(Bundle(model=model), tmp_path / "m")
        (file,) = (tmp_path / "m" / "steps" / "model").glob("model.*")  # its suffix is MLflow's business
        file.write_bytes(b"other")

        with pytest.raises(MlflowException, match=rf"steps/model/{file.name} was changed"):
            load_model(str(tmp_path / "m"))

    def test_missing_library_at_load(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model = library("xgboost").XGBClassifier(n_estimators=1).fit(DATA, TARGET)
        saved(Bundle(model=model), tmp_path / "m")
        for name in [name for name in sys.modules if name.partition(".")[0] == "xgboost"]:
            monkeypatch.setitem(sys.modules, name, None)

        with pytest.raises(
            MlflowException, match=r"model step 'XGBClassifier' cannot be loaded.*library 'xgboost"
        ):
            load_model(str(tmp_path / "m"))


class TestLightGBM:
    @pytest.mark.parametrize("sklearn_api", [True, False])
    def test_round_trip(self, sklearn_api: bool, tmp_path: Path) -> None:
        lightgbm = library("lightgbm")
        options: dict[str, Any] = {"min_child_samples": 1, "verbose": -1}
        if sklearn_api:
            model = lightgbm.LGBMClassifier(n_estimators=5, **options).fit(DATA, TARGET)
        else:
            model = lightgbm.train(
                {"objective": "binary", **options}, lightgbm.Dataset(DATA, label=TARGET), 5
            )

        step = saved(Bundle(model=model), tmp_path / "m")

        assert step["flavor"] == "mlflow.lightgbm"
        same_after_loading(Bundle(model=model), tmp_path / "m")

    def test_without_pickles_the_booster(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model = library("lightgbm").LGBMClassifier(n_estimators=5, min_child_samples=1, verbose=-1)
        model.fit(DATA, TARGET)

        with pytest.raises(
            MlflowException,
            match=r"model 'LGBMClassifier' .*its flavor pickles.*: give model\.booster_, whose file",
        ):
            saved(Bundle(model=model), tmp_path / "m", allow_pickle=False)
        step = saved(Bundle(model=model.booster_), tmp_path / "m", allow_pickle=False)

        assert "pickled" not in step
        monkeypatch.setenv(ALLOW_PICKLE, "false")
        same_after_loading(Bundle(model=model.booster_), tmp_path / "m")


def test_catboost(tmp_path: Path) -> None:
    options: dict[str, Any] = {"iterations": 3, "verbose": 0, "allow_writing_files": False}
    bundle = Bundle(model=library("catboost").CatBoostClassifier(**options).fit(DATA, TARGET))

    step = saved(bundle, tmp_path / "m", allow_pickle=False)

    assert step["flavor"] == "mlflow.catboost"
    same_after_loading(bundle, tmp_path / "m")
    same_after_loading(bundle, tmp_path / "m", {"predict_method": "predict_proba"})


def test_statsmodels(tmp_path: Path) -> None:
    bundle = Bundle(model=library("statsmodels.api").OLS(TARGET, DATA).fit())

    step = saved(bundle, tmp_path / "m")

    assert (step["flavor"], step["pickled"]) == ("mlflow.statsmodels", ["model.statsmodels"])
    same_after_loading(bundle, tmp_path / "m")
    with pytest.raises(MlflowException, match=r"cannot be saved without pickling.*its flavor pickles"):
        saved(bundle, tmp_path / "n", allow_pickle=False)


class TestPyTorch:
    def module(self) -> Any:
        torch = library("torch")
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Dropout(0.5), torch.nn.Linear(3, 1))

    def test_round_trip(self, tmp_path: Path) -> None:
        bundle = Bundle(model=self.module())

        step = saved(bundle, tmp_path / "m")

        assert step["flavor"] == "mlflow.pytorch"
        assert bundle.predict(DATA).shape == (20, 1)
        assert bundle.predict(DATA).dtype == np.float32
        same_after_loading(bundle, tmp_path / "m")

    @pytest.mark.parametrize(
        "data", [DATA.to_numpy(), DATA.to_numpy("float32"), DATA.to_numpy().tolist(), DATA.astype(int)]
    )
    def test_input_of_many_kinds(self, data: Any) -> None:
        bundle = Bundle(model=self.module())

        np.testing.assert_allclose(bundle.predict(data), bundle.predict(DATA), rtol=1e-6)

    def test_a_class_of_the_users_own(self, tmp_path: Path) -> None:
        torch = library("torch")

        class Twin(torch.nn.Module):  # type: ignore[misc,name-defined]
            def forward(self, x: Any) -> Any:
                return {"sum": x.sum(axis=1), "parts": (x, x)}

        saved(Bundle(model=Twin(), postprocess=first_part), tmp_path / "m")

        same_after_loading(Bundle(model=Twin(), postprocess=first_part), tmp_path / "m")

    def test_pickles_are_refused_by_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        saved(Bundle(model=self.module()), tmp_path / "m")
        monkeypatch.setenv(ALLOW_PICKLE, "false")
        with pytest.raises(MlflowException, match="model step 'Sequential' holds pickles"):
            load_model(str(tmp_path / "m"))

    @pytest.mark.parametrize("rows", [1, 3])
    def test_exported_where_pickles_are_not_allowed(
        self, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        needs_export()
        bundle = Bundle(StandardScaler().fit(DATA), self.module())

        step = saved(bundle, tmp_path / "m", allow_pickle=False, input_example=DATA.head(rows))

        assert "pickled" not in step
        assert "steps/model/data/model.pt2" in step["files"]
        monkeypatch.setenv(ALLOW_PICKLE, "false")
        same_after_loading(bundle, tmp_path / "m")
        loaded = load_model(str(tmp_path / "m"))
        for count in (1, 2, 7):
            np.testing.assert_allclose(
                loaded.predict(DATA.head(count)), bundle.predict(DATA.head(count)), rtol=1e-5
            )

    def test_what_cannot_be_exported_says_what_to_do(self, tmp_path: Path) -> None:
        needs_export()
        torch = library("torch")

        class Lonely(torch.nn.Module):  # type: ignore[misc,name-defined]
            def forward(self, x: Any) -> Any:
                return x if x.shape[0] == 1 else x * 2

        class Choosy(torch.nn.Module):  # type: ignore[misc,name-defined]
            def forward(self, x: Any, twice: bool = False) -> Any:
                return x if x.sum() > 1 else x * 2

        for model, example, message in [
            (self.module(), None, "exported from an example: give input_example"),
            (Lonely(), DATA.head(2), "predicts otherwise for 1 rows: make its forward method"),
            (Choosy(), DATA.head(2), "mlflow.pytorch: "),
            ((Choosy(), {"twice": True}), DATA.head(2), "exported without keyword arguments"),
        ]:
            with pytest.raises(MlflowException, match=f"cannot be saved without pickling it.*{message}"):
                saved(Bundle(model=model), tmp_path / "m", allow_pickle=False, input_example=example)
            assert list(tmp_path.iterdir()) == []


def needs_export() -> None:
    """Skip where MLflow writes PyTorch modules as pickles only."""
    library("torch")
    import mlflow.pytorch

    if "serialization_format" not in inspect.signature(mlflow.pytorch.save_model).parameters:
        pytest.skip("this MLflow writes PyTorch modules as pickles only")


class TestKeras:
    """In processes of their own: Keras chooses once what it runs on, and brings much along."""

    SOURCE = """
import sys
import keras, mlflow, numpy as np, pandas as pd
import mlflow_restaurant

data = pd.DataFrame({"a": np.arange(20.0), "b": np.arange(20.0) % 3})
layers = [keras.layers.Input((2,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)]
bundle = mlflow_restaurant.Bundle(lambda frame: frame * 2, keras.Sequential(layers), lambda found: found[:, 0])
mlflow_restaurant.save_model(bundle, sys.argv[1], input_example=data.head(3), pip_requirements=["mlflow"])
"""
    LOADED = """
import sys
import mlflow, numpy as np, pandas as pd

model = mlflow.pyfunc.load_model(sys.argv[1])
print(len(model.predict(pd.DataFrame({"a": np.arange(7.0), "b": np.arange(7.0)}))), sys.modules["keras"].backend.backend())
"""

    @pytest.mark.timeout(900)
    @pytest.mark.parametrize(
        ("backend", "flavor_name"), [("torch", "mlflow.keras"), ("tensorflow", "mlflow.tensorflow")]
    )
    def test_round_trip(self, backend: str, flavor_name: str, tmp_path: Path) -> None:
        for name in ("keras", backend):
            if importlib.util.find_spec(name) is None:
                pytest.skip(f"{name} is not installed: pip install keras and {backend}")
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment.pop("KERAS_BACKEND", None)

        self.run(self.SOURCE, tmp_path / "m", {**environment, "KERAS_BACKEND": backend})

        steps = Model.load(str(tmp_path / "m")).flavors["restaurant"]["steps"]
        assert [step.get("flavor") for step in steps] == [None, flavor_name, None]
        assert "pickled" not in steps[1]
        assert self.run(self.LOADED, tmp_path / "m", environment).splitlines()[-1] == f"7 {backend}"

    def run(self, source: str, path: Path, environment: dict[str, str]) -> str:
        return run_python("-c", source, str(path), folder=path.parent, env=environment)


def first_part(result: Any) -> Any:
    return result["sum"]


SHIFTED = """
import mlflow


class Shifted(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input["a"].to_numpy() + (params or {}).get("by", 1.0)


mlflow.models.set_model(Shifted())
"""


class Shifted(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        return model_input["a"].to_numpy() + (params or {}).get("by", 1.0)


class Unshifted(Shifted):
    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        return model_input["a"].to_numpy()


class TestPyfunc:
    @pytest.fixture
    def inner(self, tmp_path: Path) -> str:
        path, code = tmp_path / "inner", tmp_path / "shifted.py"
        code.write_text(SHIFTED)
        signature = mlflow.models.infer_signature(DATA, DATA["a"].to_numpy(), {"by": 1.0})
        mlflow.pyfunc.save_model(
            path, python_model=str(code), signature=signature, pip_requirements=["mlflow", "wheel==0.45.0"]
        )
        return str(path)

    def test_by_uri_with_its_params_and_requirements(self, inner: str, tmp_path: Path) -> None:
        bundle = Bundle(model=inner)

        step = saved(bundle, tmp_path / "m", pip_requirements=None, check_example=True)

        assert step["flavor"] == "mlflow.pyfunc"
        assert bundle.params == {"by": 1.0}
        same_after_loading(bundle, tmp_path / "m")
        same_after_loading(bundle, tmp_path / "m", {"by": 5.0})
        assert "wheel==0.45.0" in (tmp_path / "m" / "requirements.txt").read_text()

    def test_its_params_keep_their_declared_types(self, tmp_path: Path) -> None:
        declared = ParamSchema(
            [
                ParamSpec("by", "float", None),
                ParamSpec("many", "long", [1, 2], shape=(-1,)),
                ParamSpec("other", "long", 1),
            ]
        )
        inputs = mlflow.models.infer_signature(DATA).inputs
        mlflow.pyfunc.save_model(
            str(tmp_path / "inner"),
            python_model=Unshifted(),
            signature=ModelSignature(inputs, params=declared),
            pip_requirements=["mlflow"],
        )
        bundle = Bundle(model=str(tmp_path / "inner"), params={"other": 5, "mine": "a"})

        saved(bundle, tmp_path / "m")

        specs = Model.load(str(tmp_path / "m")).signature.params.params
        assert [(spec.name, spec.dtype.name, spec.default, spec.shape) for spec in specs] == [
            ("by", "float", None, None),
            ("many", "long", [1, 2], (-1,)),
            ("other", "long", 5, None),
            ("mine", "string", "a", None),
        ]

    def test_code_added_to_it_is_named(self, inner: str, tmp_path: Path) -> None:
        saved(Bundle(model=inner), tmp_path / "m")
        (tmp_path / "m" / "steps" / "model" / "code").mkdir(exist_ok=True)
        (tmp_path / "m" / "steps" / "model" / "code" / "json.py").write_text("")

        with pytest.raises(
            MlflowException, match=r"model step 'PyFuncModel' .*code/json\.py was added after"
        ):
            load_model(str(tmp_path / "m"))

    def test_a_bundle_is_told_how_to_be_inside(self, inner: str, tmp_path: Path) -> None:
        saved(Bundle(model=inner), tmp_path / "m")

        with pytest.raises(BundleError, match="The model is a Bundle: give the URI or directory"):
            Bundle(model=load_model(str(tmp_path / "m")))

    def test_a_loaded_bundle_can_be_saved_again(self, inner: str, tmp_path: Path) -> None:
        saved(Bundle(model=inner), tmp_path / "m")

        saved(load_model(str(tmp_path / "m")), tmp_path / "again")

        same_after_loading(Bundle(model=inner), tmp_path / "again")

    def test_a_python_model(self, tmp_path: Path) -> None:
        bundle = Bundle(model=Shifted())

        saved(bundle, tmp_path / "m")

        same_after_loading(bundle, tmp_path / "m")

    def test_a_bundle_inside_chooses_its_method_itself(self, tmp_path: Path) -> None:
        from sklearn.linear_model import LogisticRegression

        inner = Bundle(
            model=LogisticRegression().fit(DATA, TARGET > 0),
            predict_method="predict_proba",
            labels=["no", "yes"],
        )
        saved(inner, tmp_path / "inner")

        bundle = Bundle(lambda frame: frame, str(tmp_path / "inner"))
        assert bundle.params == {"predict_method": "predict_proba"}
        assert list(bundle.predict(DATA).columns) == ["no", "yes"]
        assert set(bundle.predict(DATA, {"predict_method": "predict"})) == {"no", "yes"}
        with pytest.raises(StepError, match="predict_method is 'fit'"):
            bundle.predict(DATA, {"predict_method": "fit"})
        assert saved(bundle, tmp_path / "m")["flavor"] == "mlflow.pyfunc"
        same_after_loading(bundle, tmp_path / "m")

        other = bundle.changed(predict_method="predict")
        assert set(other.predict(DATA)) == {"no", "yes"}
        saved(other, tmp_path / "other")
        same_after_loading(other, tmp_path / "other")

    def test_loaded_from_a_directory_it_does_not_know_where(self, inner: str, tmp_path: Path) -> None:
        bundle = Bundle(model=mlflow.pyfunc.load_model(inner))

        assert len(bundle.predict(DATA)) == 20
        with pytest.raises(MlflowException, match="give the directory or the URI itself"):
            saved(bundle, tmp_path / "m")

    def test_loaded_from_a_directory_with_artifacts(self, tmp_path: Path) -> None:
        (tmp_path / "words.txt").write_text("a\n")
        artifacts = {"words": str(tmp_path / "words.txt")}
        mlflow.pyfunc.save_model(
            str(tmp_path / "inner"), python_model=Shifted(), artifacts=artifacts, pip_requirements=["mlflow"]
        )
        bundle = Bundle(model=mlflow.pyfunc.load_model(str(tmp_path / "inner")))

        step = saved(bundle, tmp_path / "m")

        assert "steps/model/artifacts/words.txt" in step["files"]
        same_after_loading(bundle, tmp_path / "m")

    def test_a_wrapped_model_leaves_nothing_behind(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "scratch").mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))

        bundle = Bundle(model=Shifted())
        assert len(list((tmp_path / "scratch").glob("bundle-model-*"))) == 1
        del bundle
        gc.collect()
        assert list((tmp_path / "scratch").glob("bundle-model-*")) == []

        monkeypatch.setattr(nested, "_pyfunc", lambda folder, uri: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Bundle(model=Shifted())
        assert list((tmp_path / "scratch").glob("bundle-model-*")) == []

    @pytest.mark.parametrize("uri", ["models:/nothing/1", "/no/such/folder"])
    def test_nothing_there(self, uri: str) -> None:
        with pytest.raises(BundleError, match=f"The model {uri} cannot be loaded"):
            Bundle(model=uri)


class TestFlavors:
    def test_named(self) -> None:
        assert nested.flavor_of(object(), "sklearn") == "mlflow.sklearn"
        assert nested.flavor_of(object(), "mlflow.onnx") == "mlflow.onnx"
        assert nested.flavor_of(object()) is None

    def test_unknown(self) -> None:
        with pytest.raises(BundleError, match="flavor is 'sushi', and there is no such module"):
            nested.flavor_of(object(), "sushi")

    def test_of_a_library_that_is_missing(self) -> None:
        missing = ModuleNotFoundError("No module named 'keras'", name="keras")

        with (
            mock.patch("importlib.import_module", side_effect=missing),
            pytest.raises(
                BundleError, match=r"mlflow.keras needs keras, which is not installed: pip install keras\."
            ),
        ):
            nested.flavor_of(object(), "keras")

    def test_used(self, tmp_path: Path) -> None:
        from sklearn.linear_model import LinearRegression

        bundle = Bundle(model=LinearRegression().fit(DATA, TARGET), flavor="sklearn")

        assert saved(bundle, tmp_path / "m")["flavor"] == "mlflow.sklearn"
        same_after_loading(bundle, tmp_path / "m")
