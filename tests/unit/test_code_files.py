"""Bundles that a file of code makes: the file is run when it is saved and when it is loaded, and nothing is pickled."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from sklearn.linear_model import LogisticRegression

import mlflow_restaurant
from mlflow_restaurant import Bundle, BundleError, flavor
from mlflow_restaurant.bundle import code_files
from mlflow_restaurant.bundle.serializers import ALLOW_PICKLE
from mlflow_restaurant.inspection.report import inspect_bundle
from mlflow_restaurant.inspection.text import inspection_text
from tests.support import run_python

# What MLflow warns of is out of our hands.
pytestmark = pytest.mark.filterwarnings("ignore")

DATA = pd.DataFrame({"a": np.arange(20.0), "b": np.arange(20.0) % 3})
TARGET = (DATA["a"] > 9).astype(int)
PINNED = ["mlflow"]

STEPS = """
import mlflow
from mlflow_restaurant import Bundle


def double(frame):
    return frame * 2


def total(frame):
    return frame.sum(axis=1)


mlflow.models.set_model(Bundle(double, total))
"""

CONFIGURED = """
import mlflow
from mlflow.models import ModelConfig
from mlflow_restaurant.bundle import Bundle

config = ModelConfig(development_config={"factor": 1000})
mlflow.models.set_model(Bundle("step.py", lambda frame: frame["a"].to_numpy() * config.get("factor")))
config = ModelConfig(development_config={"factor": 1000})
"""

STEP = """
import mlflow
from mlflow.models import ModelConfig

offset = ModelConfig().get("offset")
mlflow.models.set_model(lambda frame: frame + offset)
"""


def written(folder: Path, code: str, name: str = "bundle.py") -> Path:
    file = folder / name
    file.write_text(code)
    return file


def saved(file: Path, path: Path, **arguments: Any) -> dict[str, Any]:
    options: dict[str, Any] = {
        "pip_requirements": PINNED,
        "check_example": False,
        "input_example": DATA.head(3),
    }
    flavor.save_model(file, path, **{**options, **arguments})
    conf: dict[str, Any] = Model.load(str(path)).flavors["restaurant"]
    return conf


def elsewhere(path: Path, folder: Path, installed: bool = False) -> Any:
    """Predictions of a bundle in another process and directory, by default without this package and any registry."""
    hidden = "" if installed else "import sys; sys.modules['mlflow_restaurant'] = None\n"
    source = (
        f"{hidden}import json, mlflow, pandas as pd\n"
        f"mlflow.set_tracking_uri({f'sqlite:///{folder}/nothing.db'!r})\n"
        f"model = mlflow.pyfunc.load_model({str(path)!r})\n"
        f"data = pd.DataFrame({DATA.head(3).to_dict('list')!r})\n"
        "print(json.dumps([float(value) for value in model.predict(data)]))\n"
        "print(type(model.get_raw_model()).__module__)"
    )
    (folder / "elsewhere").mkdir(exist_ok=True)
    predictions, module = run_python("-c", source, folder=folder / "elsewhere").splitlines()
    assert module.startswith("restaurant_bundle_")
    return json.loads(predictions)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    mlflow.set_experiment(
        experiment_id=mlflow.create_experiment("tests", artifact_location=(tmp_path / "artifacts").as_uri())
    )


def a_model() -> Any:
    return LogisticRegression().fit(DATA, TARGET)


class TestFile:
    def test_is_kept_listed_and_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        conf = saved(written(tmp_path, STEPS), tmp_path / "m", allow_pickle=False)

        assert (tmp_path / "m" / "bundle.py").read_text() == STEPS
        assert not (tmp_path / "m" / "steps").exists()
        assert [(s["role"], s["name"], s["class"], s["serializer"], s["file"]) for s in conf["steps"]] == [
            ("preprocess", "double", "bundle.double", "code", "bundle.py"),
            ("model", "total", "bundle.total", "code", "bundle.py"),
        ]
        assert all(len(step["sha256"]) == 64 for step in conf["steps"])
        assert conf["row_wise"] is True
        assert Model.load(str(tmp_path / "m")).signature.inputs.input_names() == ["a", "b"]
        monkeypatch.setenv(ALLOW_PICKLE, "false")
        for model in (
            mlflow_restaurant.load_model(str(tmp_path / "m")),
            mlflow.pyfunc.load_model(str(tmp_path / "m")),
        ):
            assert list(model.predict(DATA.head(3))) == [0.0, 4.0, 8.0]

    def test_is_tried_in_a_fresh_process(self, tmp_path: Path) -> None:
        saved(written(tmp_path, STEPS), tmp_path / "m", check_example=True, pip_requirements=None)

        names = {
            line.partition("==")[0] for line in (tmp_path / "m" / "requirements.txt").read_text().splitlines()
        }
        assert names == {"mlflow", "numpy", "pandas"}
        assert not list((tmp_path / "m").rglob("__pycache__"))

    def test_runs_by_the_code_it_was_saved_with(self, tmp_path: Path) -> None:
        saved(written(tmp_path, STEPS), tmp_path / "m")

        assert elsewhere(tmp_path / "m", tmp_path) == [0.0, 4.0, 8.0]
        assert elsewhere(tmp_path / "m", tmp_path, installed=True) == [0.0, 4.0, 8.0]
        bundle = mlflow.pyfunc.load_model(str(tmp_path / "m")).get_raw_model()
        assert type(bundle) is not Bundle
        assert sys.modules["mlflow_restaurant"] is mlflow_restaurant

    def test_changed_file_is_named(self, tmp_path: Path) -> None:
        saved(written(tmp_path, STEPS), tmp_path / "m")
        written(tmp_path / "m", STEPS + "\n")

        with pytest.raises(MlflowException, match=r"The bundle cannot be loaded: bundle\.py was changed"):
            mlflow.pyfunc.load_model(str(tmp_path / "m"))

    def test_code_beside_it_travels_as_code_paths(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        helpers = "from mlflow_restaurant import Bundle\nmade = Bundle(model=lambda frame: frame['a'] + 1)\n"
        file = written(tmp_path, helpers, "bundle_helpers.py")
        code = "import mlflow, bundle_helpers\nmlflow.models.set_model(bundle_helpers.made)\n"
        monkeypatch.syspath_prepend(str(tmp_path))

        saved(written(tmp_path, code), tmp_path / "m", code_paths=[str(file)])
        file.unlink()

        assert elsewhere(tmp_path / "m", tmp_path) == [1.0, 2.0, 3.0]
        assert list(mlflow.pyfunc.load_model(str(tmp_path / "m")).predict(DATA.head(2))) == [1.0, 2.0]

    def test_a_file_that_saves_itself_is_loaded_all_the_same(self, tmp_path: Path) -> None:
        code = STEPS.replace("import Bundle", "import Bundle, save_model")

        saved(written(tmp_path, code), tmp_path / "m")

        assert elsewhere(tmp_path / "m", tmp_path) == [0.0, 4.0, 8.0]

    def test_saving_is_no_part_of_what_travels(self, tmp_path: Path) -> None:
        saved(written(tmp_path, STEPS), tmp_path / "m")
        bundle = mlflow.pyfunc.load_model(str(tmp_path / "m")).get_raw_model()
        stand_in = sys.modules[type(bundle).__module__.rpartition(".")[0] + ".code_files"]._stand_ins()

        with pytest.raises(
            ValueError, match=r"mlflow_restaurant\.save_model does not travel inside a bundle"
        ):
            stand_in["mlflow_restaurant"].save_model()

    def test_arguments_of_saving_come_after_the_file(self, tmp_path: Path) -> None:
        code = STEPS.replace("return frame * 2", "return frame.tail(1)")

        conf = saved(written(tmp_path, code), tmp_path / "m", row_wise=False)

        assert conf["source"]["changes"] == {"row_wise": False}
        assert list(mlflow.pyfunc.load_model(str(tmp_path / "m")).predict(DATA)) == [20.0]

    def test_a_loaded_one_can_be_saved_again(self, tmp_path: Path) -> None:
        saved(written(tmp_path, STEPS), tmp_path / "m", reference_data=DATA)

        flavor.save_model(
            mlflow_restaurant.load_model(str(tmp_path / "m")), tmp_path / "n", pip_requirements=PINNED
        )

        assert (tmp_path / "n" / "bundle.py").read_text() == STEPS
        again = mlflow_restaurant.load_model(str(tmp_path / "n"))
        assert again.profile is not None
        assert list(again.predict(DATA.head(2))) == [0.0, 4.0]

    def test_inspected_and_printed(self, tmp_path: Path) -> None:
        saved(written(tmp_path, STEPS), tmp_path / "m")

        report = inspect_bundle(str(tmp_path / "m"))

        assert report["intact"]
        assert report["pickled"] == []
        assert "bundle.py" in inspection_text(report)
        assert "function of bundle" in str(mlflow_restaurant.load_model(str(tmp_path / "m")))


class TestModelConfig:
    @pytest.fixture
    def path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        written(tmp_path, STEP, "step.py")
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump({"factor": 3, "offset": 1}))
        saved(written(tmp_path, CONFIGURED), tmp_path / "m", model_config=config)
        (tmp_path / "step.py").unlink()
        return tmp_path / "m"

    def test_is_kept(self, path: Path) -> None:
        conf = Model.load(str(path)).flavors["python_function"]

        assert conf["config"] == {"factor": 3, "offset": 1}
        assert elsewhere(path, path.parent) == [3.0, 6.0, 9.0]
        assert list(mlflow_restaurant.load_model(str(path)).predict(DATA.head(2))) == [3.0, 6.0]

    def test_is_overridden_on_loading(self, path: Path) -> None:
        given = {"factor": 5}

        model = mlflow.pyfunc.load_model(str(path), model_config=given)
        native = mlflow_restaurant.load_model(str(path), model_config=given)

        assert list(model.predict(DATA.head(2))) == list(native.predict(DATA.head(2))) == [5.0, 10.0]

    def test_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

        with pytest.raises(
            MlflowException, match=r"bundle\.py failed in line 6: FileNotFoundError: Config file"
        ):
            saved(written(tmp_path, CONFIGURED), tmp_path / "m")

    def test_nothing_would_read_it(self, tmp_path: Path) -> None:
        with pytest.raises(MlflowException, match="model_config is for a bundle given as a file of code"):
            flavor.save_model(Bundle(model=sum), tmp_path / "m", model_config={"a": 1})

    @pytest.mark.parametrize("given", ["no.yaml", {"a": object()}, {1: 2}])
    def test_unusable(self, given: Any, tmp_path: Path) -> None:
        with pytest.raises(MlflowException, match="model_config"):
            saved(written(tmp_path, STEPS), tmp_path / "m", model_config=given)


class TestWhatItOpens:
    @pytest.mark.usefixtures("registry")
    @pytest.mark.parametrize("opening", ["Bundle(model=URI)", "Bundle(model=mlflow.sklearn.load_model(URI))"])
    def test_a_registered_model_travels(self, opening: str, tmp_path: Path) -> None:
        mlflow.sklearn.log_model(
            a_model(), name="m", registered_model_name="spam", pip_requirements=["wheel==0.45.0"]
        )
        code = f"import mlflow\nfrom mlflow_restaurant import Bundle\nURI = 'models:/spam/1'\nmlflow.models.set_model({opening})\n"

        with_skops = hasattr(mlflow.sklearn, "SERIALIZATION_FORMAT_SKOPS")  # not in old versions of MLflow
        file = f"model.{'skops' if with_skops else 'pkl'}"

        conf = saved(written(tmp_path, code), tmp_path / "m", pip_requirements=None)

        (opened,) = conf["source"]["opened"]
        assert (opened["names"], opened["pickled"]) == (["models:/spam/1"], [file])
        assert f"opened/1/{file}" in opened["files"]
        assert "wheel==0.45.0" in (tmp_path / "m" / "requirements.txt").read_text()
        assert elsewhere(tmp_path / "m", tmp_path) == [0.0, 0.0, 0.0]
        report = inspect_bundle(str(tmp_path / "m"))
        assert report["intact"]
        assert report["pickled"] == ["models:/spam/1"]
        assert "opens           models:/spam/1: opened/1" in inspection_text(report)
        with pytest.raises(
            MlflowException, match=rf"models:/spam/1', which bundle\.py opens, holds pickles \({file}"
        ):
            saved(written(tmp_path, code), tmp_path / "n", allow_pickle=False)

    def test_a_directory_travels(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        mlflow.sklearn.save_model(a_model(), "inner", pip_requirements=PINNED)
        code = (
            "import mlflow\nfrom pathlib import Path\nfrom mlflow_restaurant import Bundle\n"
            "beside = mlflow.pyfunc.load_model(str(Path(__file__).parent / 'inner'))\n"
            "mlflow.models.set_model(Bundle(beside.predict, model='inner', postprocess=lambda codes: codes + 5))\n"
        ).replace("Bundle(beside.predict, ", "Bundle(lambda frame: frame.assign(b=beside.predict(frame)), ")

        conf = saved(written(tmp_path, code), tmp_path / "m")
        (tmp_path / "inner").rename(tmp_path / "gone")

        (opened,) = conf["source"]["opened"]
        assert opened["names"] == [str(tmp_path / "inner"), "./inner", "inner"]
        assert elsewhere(tmp_path / "m", tmp_path) == [5.0, 5.0, 5.0]
        flavor.save_model(
            mlflow_restaurant.load_model(str(tmp_path / "m")), tmp_path / "n", pip_requirements=PINNED
        )
        assert elsewhere(tmp_path / "n", tmp_path) == [5.0, 5.0, 5.0]

    @pytest.fixture
    def pickled(self, tmp_path: Path) -> Path:
        mlflow.sklearn.save_model(
            a_model(), str(tmp_path / "inner"), pip_requirements=PINNED, serialization_format="cloudpickle"
        )
        code = f"import mlflow\nfrom mlflow_restaurant import Bundle\nmlflow.models.set_model(Bundle(model={str(tmp_path / 'inner')!r}))\n"
        return written(tmp_path, code)

    def test_pickles_are_refused(self, pickled: Path, tmp_path: Path) -> None:
        with pytest.raises(
            MlflowException, match=r"inner', which bundle\.py opens, holds pickles \(model\.pkl\)"
        ):
            saved(pickled, tmp_path / "m", allow_pickle=False)
        assert not (tmp_path / "m").exists()

    def test_pickles_are_not_loaded(
        self, pickled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        saved(pickled, tmp_path / "m")
        assert inspect_bundle(str(tmp_path / "m"))["pickled"] == [str(tmp_path / "inner")]
        monkeypatch.setenv(ALLOW_PICKLE, "false")

        with pytest.raises(MlflowException, match=r"which bundle\.py opens, holds pickles.*set MLFLOW_ALLOW"):
            mlflow.pyfunc.load_model(str(tmp_path / "m"))

    def test_changed_copy_is_named(self, pickled: Path, tmp_path: Path) -> None:
        saved(pickled, tmp_path / "m")
        (tmp_path / "m" / "opened" / "1" / "model.pkl").write_bytes(b"other")

        with pytest.raises(MlflowException, match=r"opened/1/model\.pkl was changed"):
            mlflow.pyfunc.load_model(str(tmp_path / "m"))


class TestErrors:
    """Each says in a sentence what is wrong, and nothing is left behind."""

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("x = 1\n", r"bundle\.py sets no model: end it with mlflow\.models\.set_model"),
            ("import mlflow\nmlflow.models.set_model(sum)\n", r"sets no Bundle but <built-in function sum>"),
            (
                "import mlflow\nmlflow.models.set_model(1)\n",
                r"sets no Bundle but something that MLflow does not",
            ),
            ("x = 1\ny = 1 / 0\n", r"bundle\.py failed in line 2: ZeroDivisionError: division by zero$"),
            ("x = 1\nx = = 2\n", r"failed in line 2: SyntaxError"),
            (
                "import no_such_module_here\n",
                r"line 1: ModuleNotFoundError: .*; install it, or give .* code_paths$",
            ),
            ("import sys\nsys.exit(3)\n", r"failed in line 2: SystemExit: 3$"),
            (STEPS.replace("double, total", ""), r"failed in line 14: BundleError: A bundle needs a model"),
        ],
    )
    def test_file_at_fault(self, code: str, message: str, tmp_path: Path) -> None:
        file = written(tmp_path, code)

        with pytest.raises(MlflowException, match=message):
            saved(file, tmp_path / "m")

        # Some versions of MLflow import the file, and Python then leaves its bytecode there.
        assert [path for path in tmp_path.iterdir() if path.name != "__pycache__"] == [file]

    @pytest.mark.parametrize("name", ["nothing.py", "folder.py"])
    def test_no_file(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "folder.py").mkdir()
        for save in (
            lambda: saved(tmp_path / name, tmp_path / "m"),
            lambda: mlflow_restaurant.log_model(str(tmp_path / name), name="m"),
        ):
            with pytest.raises(MlflowException, match=rf"There is no file .*{name}: give the path"):
                save()

    def test_fails_on_loading(self, tmp_path: Path) -> None:
        (tmp_path / "words.txt").write_text("a\n")
        code = f"open({str(tmp_path / 'words.txt')!r})\n{STEPS}"
        saved(written(tmp_path, code), tmp_path / "m")
        (tmp_path / "words.txt").unlink()

        with pytest.raises(MlflowException, match=r"m/bundle\.py failed in line 1: FileNotFoundError"):
            mlflow.pyfunc.load_model(str(tmp_path / "m"))

    def test_a_step_that_sets_nothing(self, tmp_path: Path) -> None:
        file = written(tmp_path, "x = 1\n", "step.py")

        with pytest.raises(BundleError, match=r"step\.py sets no model"):
            Bundle(str(file), sum)


@pytest.mark.usefixtures("registry")
def test_logged_and_registered(tmp_path: Path) -> None:
    with mlflow.start_run() as run:
        info = mlflow_restaurant.log_model(
            str(written(tmp_path, STEPS)),
            name="total",
            registered_model_name="total",
            input_example=DATA.head(2),
            model_config={"depth": 2},
            pip_requirements=PINNED,
        )

    assert mlflow.get_run(run.info.run_id).data.params["depth"] == "2"
    for uri in (info.model_uri, "models:/total/1"):
        assert list(mlflow_restaurant.load_model(uri).predict(DATA.head(2))) == [0.0, 4.0]
        assert list(mlflow.pyfunc.load_model(uri).predict(DATA.head(2))) == [0.0, 4.0]


def test_another_version_of_mlflow_may_fetch_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import artifact_utils

    monkeypatch.setattr(artifact_utils, "get_artifact_repository", None)

    with code_files._noted_downloads():
        assert artifact_utils.get_artifact_repository is None
