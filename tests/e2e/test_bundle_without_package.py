"""A saved bundle is served by MLflow from an environment that never saw this package."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from uv import find_uv_bin

import mlflow_restaurant

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]

RAW = pd.DataFrame({"subject": ["WIN MONEY", "Lunch"] * 5, "body": ["click now 99", "see you at noon"] * 5})
INSTALL_TIMEOUT_S = 600
START_TIMEOUT_S = 600


def join_columns(frame: pd.DataFrame) -> Any:
    return (frame["subject"] + " " + frame["body"]).str.lower()


def shout(labels: Any) -> list[str]:
    return [f"{label}!" for label in labels]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Everything goes in here: environments of some hundred megabytes, which pytest would keep for three runs."""
    with tempfile.TemporaryDirectory(prefix="bundle-without-package-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def environment(folder: Path) -> dict[str, str]:
    """The caller's environment, with every cache and store inside the folder, and without this package."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MLFLOW_") and name not in {"PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX"}
    }
    caches = {"UV_CACHE_DIR": str(folder / "uv-cache")} if "UV_CACHE_DIR" not in inherited else {}
    return (
        inherited
        | caches
        | {
            "PATH": os.pathsep.join(
                [str(folder / "venv" / "bin"), str(Path(find_uv_bin()).parent), inherited["PATH"]]
            ),
            "MLFLOW_ENV_ROOT": str(folder / "envs"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
    )


@pytest.fixture(scope="module")
def mlflow_command(folder: Path, environment: dict[str, str]) -> str:
    """MLflow, alone in a virtual environment."""
    version = importlib.metadata.version("mlflow")
    uv(environment, folder, "venv", "--python", sys.executable, "venv")
    python = str(folder / "venv" / "bin" / "python")
    uv(environment, folder, "pip", "install", "--python", python, f"mlflow=={version}")
    found = subprocess.run(
        [python, "-c", "import mlflow_restaurant"], cwd=folder, capture_output=True, check=False
    )
    assert found.returncode != 0
    return str(folder / "venv" / "bin" / "mlflow")


@pytest.fixture(scope="module")
def bundle_path(folder: Path) -> Path:
    vectorizer = TfidfVectorizer().fit(join_columns(RAW))
    model = LogisticRegression().fit(vectorizer.transform(join_columns(RAW)), ["spam", "ham"] * 5)
    bundle = mlflow_restaurant.Bundle([join_columns, vectorizer], model, shout)
    mlflow_restaurant.save_model(bundle, folder / "bundle", input_example=RAW.head(2))
    return folder / "bundle"


def uv(environment: dict[str, str], folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [find_uv_bin(), "--quiet", *arguments],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=INSTALL_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(command: list[str], environment: dict[str, str], folder: Path, port: int) -> Iterator[str]:
    """Run a server in a process group of its own, until it answers; end the whole group afterwards."""
    log = folder / "serve.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_until_it_answers(process, port, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            end_group(process)


def wait_until_it_answers(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with opener().open(f"http://127.0.0.1:{port}/ping", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def end_group(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def post(url: str, payload: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{url}/invocations", json.dumps(payload).encode(), {"Content-Type": "application/json"}
    )
    with opener().open(request, timeout=60) as response:
        return json.load(response)


def test_models_serve(
    folder: Path, environment: dict[str, str], mlflow_command: str, bundle_path: Path
) -> None:
    port = free_port()
    command = [
        mlflow_command,
        "models",
        "serve",
        "-m",
        str(bundle_path),
        "--env-manager",
        "uv",
        "-h",
        "127.0.0.1",
    ]
    raw = {"columns": ["subject", "body"], "data": [["win", "MONEY now"], ["lunch", "at noon"]]}

    with served([*command, "-p", str(port)], environment, folder, port) as url:
        answer = post(url, {"dataframe_split": raw})

    assert answer == {"predictions": ["spam!", "ham!"]}
    installed = {path.name.partition("-")[0] for path in (folder / "envs").rglob("*.dist-info")}
    assert "scikit_learn" in installed
    assert "mlflow_restaurant" not in installed
