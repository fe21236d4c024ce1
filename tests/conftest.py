"""Fixtures for all tests: an environment of their own, models, and servers in temporary homes."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.home import Home

from .support import temporary_home
from .turns import turn

ACTOR = Path(__file__).parent / "actor.py"
STORES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_ID")
TURNS = pytest.StashKey[tempfile.TemporaryDirectory[str]]()
STORE_GLOBALS = (
    ("mlflow.tracking._tracking_service.utils", "_tracking_uri"),
    ("mlflow.tracking._model_registry.utils", "_registry_uri"),
    ("mlflow.tracking.fluent", "_active_experiment_id"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--hostile",
        choices=("short", "full"),
        default="short",
        help="how much tests/e2e/test_hostile.py sends: a few thousand requests, or 100,000",
    )
    parser.addoption(
        "--chaos",
        choices=("short", "full"),
        default="short",
        help="how long tests/e2e/test_chaos.py brings about each fault: a second, or a minute",
    )
    parser.addoption(
        "--state-kills",
        choices=("short", "full"),
        default="short",
        help="how often tests/e2e/test_state_kills.py kills the controller: a dozen times, or everywhere",
    )


def pytest_configure() -> None:
    """Let Ctrl-C reach what the tests start, also where the shell that runs them has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let a test that is marked ``alone`` run while none of another process does."""
    workers = getattr(item.config, "workerinput", None)
    if workers is None:
        return (yield)
    with turn(Path(workers["turns"]), alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give all processes of a run one folder for `turn`."""
    if TURNS not in node.config.stash:
        node.config.stash[TURNS] = folder = tempfile.TemporaryDirectory(prefix="turns-")
        node.config.add_cleanup(folder.cleanup)
    node.workerinput["turns"] = node.config.stash[TURNS].name


@pytest.fixture(scope="session", autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test sees the stores, the home or the settings of whoever runs it."""
    inherited = [k for k in os.environ if k.startswith("MLFLOW_RESTAURANT_") or k in STORES]
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


@contextlib.contextmanager
def stores_kept() -> Iterator[None]:
    """Forget stores and experiment that were chosen in the block: MLflow keeps them in globals and the environment."""
    before = {name: os.environ.get(name) for name in STORES}
    yield
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    for module, variable in STORE_GLOBALS:
        if module in sys.modules:
            vars(sys.modules[module])[variable] = None


@pytest.fixture(autouse=True)
def own_stores() -> Iterator[None]:
    """No test sees the stores or the experiment of one before it."""
    with stores_kept():
        yield


@pytest.fixture(scope="module", autouse=True)
def own_stores_of_a_module() -> Iterator[None]:
    """Nor those that the fixtures of another module have chosen."""
    with stores_kept():
        yield


@pytest.fixture(scope="session")
def actor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that does what its input says (see `actor.py`); it needs MLflow alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return save_actor(tmp_path_factory.mktemp("models") / "actor", ["mlflow"])


def save_actor(path: Path, requirements: list[str], example: str = "x") -> Path:
    """Save the actor, with an example of what it may be told to do; returns its path."""
    import mlflow.pyfunc
    import pandas as pd

    frame = pd.DataFrame({"do": [example]})
    mlflow.pyfunc.save_model(
        path,
        python_model=str(ACTOR),
        model_config={
            "name": "first",
            "at_load": "",
            "end_if_there": "",
            "fail_every": 1 << 62,
            "load_s": 0,
            "takes_s": 0,
            "sleeps_s": 0,
        },
        pip_requirements=requirements,
        input_example=frame,
        signature=mlflow.models.infer_signature(frame, ["x"]),
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
