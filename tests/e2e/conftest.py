"""The two command lines, clients of the shared server, and what the modules of this directory have in common."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from mlflow.deployments import get_deploy_client
from mlflow.models import ModelSignature
from mlflow.pyfunc import save_model
from uv import find_uv_bin

from mlflow_restaurant.deployments import RestaurantDeploymentClient
from mlflow_restaurant.home import Home

from ..support import PATIENCE_S
from .forked import run_mlflow

BIN = Path(sys.executable).parent
INSTALL_TIMEOUT_S = 600


@dataclass(frozen=True)
class Done:
    """What a command that has ended left: its exit status and what it printed."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line in which a command says why it failed."""
        assert self.status != 0, self.out
        assert self.err.count("\n") == 1, self.err
        assert self.err.endswith("\n")
        return self.err.strip()


def saved_from_code(code: str, path: Path, signature: ModelSignature) -> Path:
    """Save the pyfunc that a text of Python code sets with ``mlflow.models.set_model``."""
    source = path.with_suffix(".py")
    source.write_text(code)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_model(path, python_model=str(source), signature=signature, pip_requirements=["mlflow"])
    return path


def run(*command: object, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Done:
    """Run a command to its end; `env` is added to the environment of the tests."""
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S * 2,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


class Lines:
    """A command that goes on running; what it prints is collected line by line."""

    def __init__(self, *command: object, env: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        self.said = ""
        self._ended = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.said += line
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def line(self, containing: str) -> str:
        """Wait for a line that contains a text, and return it."""
        with self._news:
            self._news.wait_for(lambda: containing in self.said or self._ended, PATIENCE_S)
            assert containing in self.said, self.said
            return next(line for line in self.said.splitlines() if containing in line)

    def end(self, signum: int) -> int:
        """Send a signal to the command, as Ctrl-C and kill do, and return its exit status."""
        self.process.send_signal(signum)
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def running(*command: object, env: Mapping[str, str] | None = None) -> Iterator[Lines]:
    """Run a command for the time of the block."""
    lines = Lines(*command, env=env)
    try:
        yield lines
    finally:
        lines.close()


def mlflow(verb: str, home: Home, *arguments: object) -> Done:
    """Run ``mlflow deployments VERB -t restaurant:HOME ...``."""
    command = ["deployments", verb, "-t", f"restaurant:{home.path}", *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder)
        status = run_mlflow(command, os.environ, to, timeout_s=PATIENCE_S)
        return Done(status, (to / "out").read_text(), (to / "err").read_text())


def restaurant(home: Home, *arguments: object, env: Mapping[str, str] | None = None) -> Done:
    """Run ``mlflow-restaurant -t restaurant:HOME ...``."""
    return run(BIN / "mlflow-restaurant", "-t", f"restaurant:{home.path}", *arguments, env=env)


def own_client(home: Home) -> RestaurantDeploymentClient:
    """Return a client of the server of `home`."""
    client: RestaurantDeploymentClient = get_deploy_client(f"restaurant:{home.path}")
    return client


@contextlib.contextmanager
def borrowed(home: Home) -> Iterator[RestaurantDeploymentClient]:
    """Give a client of the server of `home`; what was not there before is deleted at the end."""
    client = own_client(home)
    endpoints = {e["name"] for e in client.list_endpoints()}
    deployments = {d["name"] for d in client.list_deployments()}
    yield client
    for endpoint in client.list_endpoints():
        if endpoint["name"] not in endpoints:
            client.delete_endpoint(endpoint["name"])
    for deployment in client.list_deployments():
        if deployment["name"] not in deployments:
            client.delete_deployment(deployment["name"])


@pytest.fixture
def client(shared_home: Home) -> Iterator[RestaurantDeploymentClient]:
    """A client of the shared server; whatever a test deploys is deleted again."""
    with borrowed(shared_home) as client:
        yield client


@pytest.fixture(scope="module")
def standing(shared_home: Home, actor: Path) -> Iterator[RestaurantDeploymentClient]:
    """A client of the shared server, where the actor stands as `standing` behind the endpoint `door`."""
    with borrowed(shared_home) as client:
        client.create_deployment("standing", str(actor), endpoint="door")
        yield client


@contextlib.contextmanager
def temporary_files() -> Iterator[tuple[Path, dict[str, str]]]:
    """Give a directory, and the variables that make a command keep its temporary files in it.

    At the end no process may run whose command line or directory lies in it.
    """
    with tempfile.TemporaryDirectory(prefix="mr-") as name:
        try:
            yield Path(name), {"TMPDIR": name}
        finally:
            left = processes_in(Path(name))
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
        assert not left, f"processes left behind: {left}"


def processes_in(directory: Path) -> list[psutil.Process]:
    """Return the processes that name `directory` in their command line, or work in it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            named = " ".join([*process.cmdline(), process.cwd()])
            if str(directory) in named and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.fixture(scope="session")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scikit-learn model of two numbers: ``2 a + 10 b``."""
    import mlflow.sklearn
    import pandas as pd
    from sklearn.linear_model import LinearRegression

    inputs = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "b": [0.0, 1.0, 0.0, 1.0]})
    model = LinearRegression().fit(inputs, 2 * inputs["a"] + 10 * inputs["b"])
    path = tmp_path_factory.mktemp("models") / "linear"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.sklearn.save_model(
            model,
            path,
            pip_requirements=["mlflow", "scikit-learn"],
            signature=mlflow.models.infer_signature(inputs, model.predict(inputs)),
        )
    return path


# MLflow alone, in a virtual environment of its own


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Everything goes in here: environments of some hundred megabytes, which pytest would keep for three runs."""
    with tempfile.TemporaryDirectory(prefix="without-package-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def environment(folder: Path) -> dict[str, str]:
    """The caller's environment, with every cache and store inside the folder, and without this package."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MLFLOW_") and name not in {"PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX"}
    }
    caches = {"UV_CACHE_DIR": str(folder / "uv-cache")} if "UV_CACHE_DIR" not in inherited else {}
    own = {
        "PATH": os.pathsep.join(
            [str(folder / "venv" / "bin"), str(Path(find_uv_bin()).parent), inherited["PATH"]]
        ),
        "MLFLOW_ENV_ROOT": str(folder / "envs"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    return inherited | caches | own


@pytest.fixture(scope="session")
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
