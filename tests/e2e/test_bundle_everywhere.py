"""A bundle works wherever MLflow takes a pyfunc: each use for real, against an MLflow server over HTTP."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.preprocessing import StandardScaler

import mlflow_restaurant
from mlflow_restaurant import Bundle

# What MLflow and its evaluator warn of is out of our hands.
pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]

RAW = pd.DataFrame({"size": np.arange(20.0), "noise": ["x"] * 20})
CLASSES = np.where(RAW["size"] > 9, "large", "small")
PRICES = RAW["size"] * 3 + 1
START_TIMEOUT_S = 120
EVALUATE = pytest.mark.parametrize(
    "evaluate", [mlflow.models.evaluate, mlflow.evaluate], ids=["models.evaluate", "evaluate"]
)


def keep_size(frame: pd.DataFrame) -> Any:
    return frame[["size"]]


def classifier() -> Bundle:
    scaler = StandardScaler().fit(RAW[["size"]])
    model = LogisticRegression().fit(scaler.transform(RAW[["size"]]), CLASSES)
    return Bundle([keep_size, scaler], model, threshold=0.5)


def regressor() -> Bundle:
    return Bundle(keep_size, LinearRegression().fit(RAW[["size"]], PRICES))


@pytest.fixture(scope="module")
def tracking_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``mlflow server`` on a free port, ended with all its children."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    stores = [
        "--backend-store-uri",
        f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, *stores], stdout=log, stderr=subprocess.STDOUT, start_new_session=True, cwd=folder
        )
        try:
            wait_until_healthy(f"http://127.0.0.1:{port}/health", process, folder / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, 15)
            process.wait(timeout=30)


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with opener.open(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture
def tracking(tracking_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_server)
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    mlflow.set_tracking_uri(tracking_server)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("models") / "sizes"
    mlflow_restaurant.save_model(classifier(), path, input_example=RAW.head(3))
    return str(path)


@pytest.mark.usefixtures("tracking")
class TestWithTrackingServer:
    def test_log_register_and_load_by_version_and_alias(self) -> None:
        info = mlflow_restaurant.log_model(
            classifier(), name="sizes", registered_model_name="sizes", input_example=RAW.head(3)
        )
        MlflowClient().set_registered_model_alias("sizes", "champion", str(info.registered_model_version))

        for uri in (
            info.model_uri,
            f"models:/sizes/{info.registered_model_version}",
            "models:/sizes@champion",
        ):
            model = mlflow.pyfunc.load_model(uri)
            assert list(model.predict(RAW)) == list(CLASSES)
            assert list(model.predict(RAW.head(1), {"predict_method": "predict_proba"})) == ["large", "small"]
        assert "restaurant" in mlflow.models.Model.load("models:/sizes@champion").flavors
        again = Bundle(model="models:/sizes@champion", postprocess=np.char.upper)
        assert list(again.predict(RAW.tail(1))) == ["LARGE"]

    @EVALUATE
    def test_evaluate_a_classifier(self, evaluate: Any, path: str) -> None:
        result = evaluate(
            path,
            RAW.assign(label=CLASSES),
            targets="label",
            model_type="classifier",
            evaluator_config={"log_model_explainability": False, "pos_label": "large"},
        )

        assert result.metrics["accuracy_score"] == 1.0

    @EVALUATE
    def test_evaluate_a_regressor(self, evaluate: Any, tmp_path: Path) -> None:
        mlflow_restaurant.save_model(regressor(), tmp_path / "m", pip_requirements=["mlflow"])

        result = evaluate(
            str(tmp_path / "m"),
            RAW.assign(price=PRICES),
            targets="price",
            model_type="regressor",
            evaluator_config={"log_model_explainability": False},
        )

        assert result.metrics["mean_absolute_error"] == pytest.approx(0, abs=1e-9)


def test_models_predict(path: str, tmp_path: Path) -> None:
    output = tmp_path / "predictions.json"

    mlflow.models.predict(path, RAW.tail(2), env_manager="local", output_path=str(output))

    assert "large" in output.read_text()


def test_model_dependencies(path: str) -> None:
    lines = Path(mlflow.pyfunc.get_model_dependencies(path)).read_text().splitlines()

    assert {line.partition("==")[0] for line in lines} >= {
        "mlflow",
        "scikit-learn",
        "skops",
        "pandas",
        "numpy",
    }
    assert not any("restaurant" in line for line in lines)


def test_generate_dockerfile(path: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "generate-dockerfile",
        "-m",
        path,
        "-d",
        str(tmp_path / "d"),
    ]

    subprocess.run([*command, "--env-manager", "virtualenv"], check=True, capture_output=True, timeout=300)

    assert (tmp_path / "d" / "Dockerfile").is_file()
    assert list((tmp_path / "d").rglob("restaurant_bundle_*"))
