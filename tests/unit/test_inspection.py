"""Inspecting a bundle: what is told of it, also when it is broken, and that none of its code runs."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result
from mlflow.exceptions import MlflowException
from mlflow.models import Model, infer_signature
from mlflow.types.schema import ParamSchema, ParamSpec
from sklearn.linear_model import LogisticRegression

import mlflow_restaurant
from mlflow_restaurant import Bundle, flavor
from mlflow_restaurant.bundle.files import sha256_of
from mlflow_restaurant.cli import main
from mlflow_restaurant.errors import DoesNotExist, InvalidRequest
from mlflow_restaurant.inspection.report import inspect_bundle
from mlflow_restaurant.inspection.text import inspection_text, size_text
from tests.support import run_python

PINNED = ["pandas==3.0", "# a note", "", "scikit-learn==1.9"]
FRAME = pd.DataFrame({"a": [0.0, 1.0, 2.0, np.nan], "b": ["x", "y", "x", "x"]})


def numbers(frame: Any) -> Any:
    return frame[["a"]].fillna(0.0).to_numpy()


class Bomb:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("exploded"),)


def save(path: Path) -> Path:
    model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    flavor.save_model(
        Bundle(numbers, model),
        path,
        input_example=FRAME.head(2),
        reference_data=FRAME,
        pip_requirements=PINNED,
        metadata={"team": "mail"},
    )
    return path


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def saved(untouched: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(untouched, tmp_path / "model"))


def rewrite(path: Path, change: Any) -> None:
    content = yaml.safe_load((path / "MLmodel").read_text())
    change(content)
    (path / "MLmodel").write_text(yaml.safe_dump(content))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["inspect", *arguments])


class TestReport:
    def test_steps(self, untouched: Path) -> None:
        report = inspect_bundle(str(untouched))

        assert [(step["role"], step["name"], step["serializer"], step["pickled"]) for step in report["steps"]] == [
            ("preprocess", "numbers", "cloudpickle", True),
            ("model", "LogisticRegression", "skops", False),
        ]  # fmt: skip
        (file,) = report["steps"][1]["files"]
        assert file["file"] == "steps/model.skops"
        assert file["sha256"] == sha256_of(untouched / "steps" / "model.skops")
        assert file["size_bytes"] == (untouched / "steps" / "model.skops").stat().st_size
        assert (file["state"], report["intact"]) == ("ok", True)
        assert report["pickled"] == ["preprocess 'numbers'"]

    def test_the_rest(self, untouched: Path) -> None:
        report = inspect_bundle(str(untouched))

        assert [column["name"] for column in report["signature"]["inputs"]] == ["a", "b"]
        assert report["row_wise"] is Model.load(str(untouched)).flavors["restaurant"]["row_wise"]
        assert (report["has_example"], report["metadata"]) == (True, {"team": "mail"})
        assert report["mlflow_restaurant_version"] == mlflow_restaurant.__version__
        assert report["mlflow_version"] == mlflow.__version__
        assert {"pandas==3.0", "scikit-learn==1.9"} <= set(report["requirements"])
        assert report["size_bytes"] == sum(f.stat().st_size for f in untouched.rglob("*") if f.is_file())
        assert report["profile"]["rows"] == 4
        assert [column["name"] for column in report["profile"]["summary"]] == ["a", "b"]
        json.dumps(report, allow_nan=False)

    def test_params(self, untouched: Path, tmp_path: Path) -> None:
        params = ParamSchema([ParamSpec("threshold", "double", 0.5)])
        signature = infer_signature(FRAME[["a"]], np.array([[1.0]]))
        signature.params = params
        bundle = mlflow_restaurant.load_model(str(untouched))

        flavor.save_model(bundle, tmp_path / "m", signature=signature, pip_requirements=PINNED)

        report = inspect_bundle(str(tmp_path / "m"))
        assert report["signature"]["params"][0]["default"] == 0.5
        text = inspection_text(report)
        assert "threshold: double = 0.5" in text
        assert "a: double (optional)" in text
        assert "float64 tensor (-1, 1)" in text

    def test_no_code_is_run_nor_library_imported(self, saved: Path, tmp_path: Path) -> None:
        step = saved / "steps" / "preprocess_1.pkl"
        step.write_bytes(pickle.dumps(Bomb()))
        for module in (saved / "code").rglob("*.py"):
            module.write_text("raise SystemExit('code of the bundle was run')")
        source = (
            "import sys\n"
            "from mlflow_restaurant.inspection.report import inspect_bundle\n"
            "from mlflow_restaurant.inspection.text import inspection_text\n"
            f"inspection_text(inspect_bundle({str(saved)!r}))\n"
            "print([m for m in ('mlflow', 'pandas', 'numpy', 'sklearn', 'cloudpickle') if m in sys.modules])"
        )

        assert run_python("-c", source, folder=tmp_path).strip() == "[]"
        assert not (tmp_path / "exploded").exists()


class TestWhatIsWrong:
    def test_changed_and_missing(self, saved: Path) -> None:
        (saved / "steps" / "model.skops").write_bytes(b"other")
        (saved / "profile" / "profile.json").unlink()

        report = inspect_bundle(str(saved))

        assert report["intact"] is False
        assert report["steps"][1]["files"][0]["state"] == "changed"
        assert report["profile"]["summary"] is None
        text = inspection_text(report)
        assert "NOT as they were saved: steps/model.skops is changed," in text
        assert "profile/profile.json" in text
        assert "CHANGED" in text

    def test_added_code(self, saved: Path) -> None:
        (saved / "code" / "json.py").write_text("")

        report = inspect_bundle(str(saved))

        assert report["intact"] is False
        assert "code/json.py is added" in inspection_text(report)

    def test_code_added_to_a_model_inside(self, saved: Path) -> None:
        def nest(conf: Any) -> None:
            step = conf["flavors"]["restaurant"]["steps"][-1]
            step["files"] = {step["file"]: step.pop("sha256")}
            step["file"] = "steps"

        rewrite(saved, nest)
        (saved / "steps" / "code").mkdir()
        (saved / "steps" / "code" / "json.py").write_text("")

        report = inspect_bundle(str(saved))

        assert report["intact"] is False
        assert [file["file"] for file in report["steps"][-1]["files"] if file["state"] == "added"] == [
            "steps/code/json.py"
        ]
        assert "NOT as they were saved: steps/code/json.py is added" in inspection_text(report)

    def test_a_file_outside_is_not_read(self, saved: Path) -> None:
        secret = saved.parent / "secret"
        secret.write_text("x")

        def point_outside(content: dict[str, Any]) -> None:
            content["flavors"]["restaurant"]["steps"][1].update(file="../secret", sha256=sha256_of(secret))

        rewrite(saved, point_outside)

        (file,) = inspect_bundle(str(saved))["steps"][1]["files"]
        assert (file["state"], file["size_bytes"]) == ("outside the bundle", None)

    def test_another_model(self, tmp_path: Path) -> None:
        model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
        mlflow.sklearn.save_model(model, str(tmp_path / "sk"), pip_requirements=["pandas"])

        with pytest.raises(
            InvalidRequest,
            match=r"sk is no bundle but an MLflow model with the flavors python_function, sklearn\.",
        ):
            inspect_bundle(str(tmp_path / "sk"))

    def test_no_model(self, tmp_path: Path) -> None:
        with pytest.raises(DoesNotExist, match=r"There is no model at .*: it has no file MLmodel"):
            inspect_bundle(str(tmp_path))

    @pytest.mark.parametrize(
        ("content", "match"),
        [
            (b"a: [", "cannot be read"),
            (b"\xff", "cannot be read"),
            (b"just text", "it lists no flavors"),
            (b"flavors: {restaurant: {}}", "cannot be read as a bundle: KeyError: 'steps'"),
            (b"flavors: {restaurant: {steps: [1]}}", "cannot be read as a bundle"),
            (
                b"flavors: {restaurant: {steps: []}}\nsignature: {inputs: '['}",
                "cannot be read as a bundle: JSON",
            ),
            (b"flavors: {}", r"the flavors \(none\)"),
        ],
    )
    def test_a_broken_mlmodel(self, tmp_path: Path, content: bytes, match: str) -> None:
        (tmp_path / "MLmodel").write_bytes(content)

        with pytest.raises(InvalidRequest, match=match):
            inspect_bundle(str(tmp_path))


class TestText:
    def test_it_fits_a_terminal(self, untouched: Path) -> None:
        lines = inspection_text(inspect_bundle(str(untouched))).splitlines()

        assert max(map(len, lines[1:])) <= 80
        assert not any(line != line.rstrip() for line in lines)

    def test_what_it_tells(self, untouched: Path) -> None:
        text = inspection_text(inspect_bundle(str(untouched)))

        for expected in (
            "files           as they were saved (",
            "pickled         1 of 2 steps: preprocess 'numbers'; loading them runs code",
            "row-wise        ",
            "│ numbers                 ",
            "cloudpickle, pickled",
            "│ LogisticRegression      sklearn.linear_model",
            "input           a: double, b: string",
            "params          ",
            "profile         4 rows of 2 columns; 4 of them kept",
            "    a                  float     1 missing, 0 to 2, mean 1",
            "    b                  string    2 distinct: x (3), y (1)",
            "pandas==3.0",
        ):
            assert expected in text

    def test_nested_models_options_and_code(self, saved: Path) -> None:
        (saved / "steps" / "net").mkdir()
        names = [f"steps/net/{name}" for name in ("MLmodel", "a.pth", "b", "c")]
        for name in names:
            (saved / name).write_text(name)
        hashes = {name: sha256_of(saved / name) for name in names}

        def nest(content: dict[str, Any]) -> None:
            conf = content["flavors"]["restaurant"]
            conf["steps"][0].update(kwargs={"lower": True}, serializer="import", object="math:sqrt")
            for key in ("file", "sha256"):
                del conf["steps"][0][key]
                del conf["steps"][1][key]
            conf["steps"][1].update(
                serializer="mlflow",
                flavor="mlflow.pytorch",
                file="steps/net",
                files=hashes,
                pickled=["a.pth"],
            )
            code = {"code/helper.py": "0" * 64}
            conf.update(row_wise=True, row_wise_reason="checked", code_files=code, profile=None)
            conf["options"] = {"predict_method": "predict_proba", "labels": [[0, "ham"], [1, "spam"]]}

        rewrite(saved, nest)
        report = inspect_bundle(str(saved))
        text = inspection_text(report)

        assert report["pickled"] == ["model 'LogisticRegression'"]
        assert report["code"][0]["state"] == "missing"
        for expected in (
            "import math:sqrt",
            "lower=True",
            "     mlflow.pytorch, pickled: a.pth",
            "steps/net/  54 B in 4 files",
            "code/helper.py is missing",
            "row-wise        yes (checked)",
            "predict method  predict_proba",
            "labels          ham, spam",
            "profile         none",
        ):
            assert expected in text

    def test_nothing_pickled_and_many_columns(self, untouched: Path) -> None:
        report = inspect_bundle(str(untouched))
        column = {"name": "c\x1b", "type": "datetime", "count": 2, "missing": 0, "distinct": 2}
        report["profile"]["summary"] = [{**column, "earliest": "2026", "latest": "2027"}, column] * 15
        report["pickled"] = []
        report["signature"] = None

        text = inspection_text(report)

        assert "pickled         nothing" in text
        assert "    and 10 more columns" in text
        assert "2026 to 2027" in text
        assert "\x1b" not in text
        assert "input           not in the signature" in text

    @pytest.mark.parametrize(
        ("size", "expected"),
        [
            (None, "–"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (99_400, "99.4 kB"),
            (123_456, "123 kB"),
            (999_700, "1.0 MB"),
            (2_500_000_000, "2.5 GB"),
            (5_000_000_000_000, "5000 GB"),
        ],
    )
    def test_sizes(self, size: int | None, expected: str) -> None:
        assert size_text(size) == expected


class TestCommand:
    def test_text_and_json(self, untouched: Path) -> None:
        text, as_json = run(str(untouched)), run(str(untouched), "--json")

        assert (text.exit_code, as_json.exit_code) == (0, 0)
        assert text.output.startswith("Bundle ")
        assert json.loads(as_json.output) == inspect_bundle(str(untouched))

    def test_errors_are_one_line(self, tmp_path: Path) -> None:
        result = run(str(tmp_path / "nothing"))

        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1
        assert "There is no model at" in result.stderr


class TestFetched:
    @pytest.fixture(autouse=True)
    def tracking(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
        mlflow.set_experiment(
            experiment_id=mlflow.create_experiment(
                "tests", artifact_location=(tmp_path / "artifacts").as_uri()
            )
        )

    def test_from_the_registry_and_from_a_run(self, untouched: Path) -> None:
        bundle = mlflow_restaurant.load_model(str(untouched))
        with mlflow.start_run() as run_:
            info = mlflow_restaurant.log_model(
                bundle, name="m", registered_model_name="m", pip_requirements=PINNED
            )

        for uri in ("models:/m/1", f"runs:/{run_.info.run_id}/m", info.model_uri):
            report = inspect_bundle(uri)
            assert (report["uri"], report["intact"], len(report["steps"])) == (uri, True, 2)
            assert report["profile"]["rows"] == 4  # it stays when a bundle is logged again

        with pytest.raises(MlflowException, match="not found"):
            inspect_bundle("models:/other/1")
