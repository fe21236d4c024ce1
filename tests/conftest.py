"""Fixtures for all tests: an environment of their own, models, and servers in temporary homes."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.home import Home

from .support import temporary_home

ACTOR = Path(__file__).parent / "actor.py"


def pytest_configure() -> None:
    """Let Ctrl-C reach what the tests start, also where the shell that runs them has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test sees the stores, the home or the settings of whoever runs it."""
    inherited = {k: v for k, v in os.environ.items() if k.startswith("MLFLOW_RESTAURANT_")}
    own = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_RESTAURANT_PORT": "0",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in inherited:
            patch.delenv(name)
        for name, value in own.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def actor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that does what its input says (see `actor.py`); it needs MLflow alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return save_actor(tmp_path_factory.mktemp("models") / "actor", ["mlflow"])


def save_actor(path: Path, requirements: list[str]) -> Path:
    """Save the actor; returns its path."""
    import mlflow.pyfunc
    import pandas as pd

    example = pd.DataFrame({"do": ["pid"]})
    mlflow.pyfunc.save_model(
        path,
        python_model=str(ACTOR),
        model_config={"name": "first", "at_load": "", "end_if_there": ""},
        pip_requirements=requirements,
        input_example=example,
        signature=mlflow.models.infer_signature(example, ["1"]),
    )
    return path


@pytest.fixture
def home() -> Iterator[Home]:
    """A home of its own for a test that disturbs its server."""
    with temporary_home() as own:
        yield own


@pytest.fixture(scope="session")
def shared_home() -> Iterator[Home]:
    """A home with a running server, for tests that leave it as they found it."""
    with temporary_home() as own:
        ControlClient(own).ensure_running()
        yield own
