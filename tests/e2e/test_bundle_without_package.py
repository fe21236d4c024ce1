"""A saved bundle is served by MLflow from an environment that never saw this package."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
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
START_TIMEOUT_S = 600


def join_columns(frame: pd.DataFrame) -> Any:
    return (frame["subject"] + " " + frame["body"]).str.lower()


def shout(labels: Any) -> list[str]:
    return [f"{label}!" for label in labels]


@pytest.fixture(scope="module")
def bundle_path(folder: Path) -> Path:
    vectorizer = TfidfVectorizer().fit(join_columns(RAW))
    model = LogisticRegression().fit(vectorizer.transform(join_columns(RAW)), ["spam", "ham"] * 5)
    bundle = mlflow_restaurant.Bundle([join_columns, vectorizer], model, shout)
    mlflow_restaurant.save_model(bundle, folder / "bundle", input_example=RAW.head(2))
    return folder / "bundle"


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


ENV_MANAGERS = pytest.mark.parametrize("env_manager", ["uv", "local"])
ASKED = {"columns": ["subject", "body"], "data": [["win", "MONEY now"], ["lunch", "at noon"]]}
ANSWER = {"predictions": ["spam!", "ham!"]}


@ENV_MANAGERS
def test_models_serve(
    folder: Path, environment: dict[str, str], mlflow_command: str, bundle_path: Path, env_manager: str
) -> None:
    port = free_port()
    command = [mlflow_command, "models", "serve", "-m", str(bundle_path), "--env-manager", env_manager]

    with served([*command, "-h", "127.0.0.1", "-p", str(port)], environment, folder, port) as url:
        answer = post(url, {"dataframe_split": ASKED})

    assert answer == ANSWER
    if env_manager == "uv":
        installed = {path.name.partition("-")[0] for path in (folder / "envs").rglob("*.dist-info")}
        assert "scikit_learn" in installed
        assert "mlflow_restaurant" not in installed


@ENV_MANAGERS
def test_models_predict(
    folder: Path, environment: dict[str, str], mlflow_command: str, bundle_path: Path, env_manager: str
) -> None:
    asked, answered = folder / "asked.json", folder / f"answered-{env_manager}.json"
    asked.write_text(json.dumps({"dataframe_split": ASKED}))
    command = [mlflow_command, "models", "predict", "-m", str(bundle_path), "--env-manager", env_manager]

    subprocess.run(
        [*command, "-t", "json", "-i", str(asked), "-o", str(answered)],
        env=environment,
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=START_TIMEOUT_S,
    )

    assert json.loads(answered.read_text()) == ANSWER
