"""Replicas in environments of their own, built by MLflow's machinery from the package index."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from mlflow.deployments import get_deploy_client
from mlflow.exceptions import MlflowException

from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.deployments import RestaurantDeploymentClient
from mlflow_restaurant.home import Home

from ..conftest import save_actor
from ..support import do, eventually, records, temporary_home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

MLFLOW = importlib.metadata.version("mlflow")
Actors = Callable[..., Path]


@pytest.fixture(scope="module")
def actors(tmp_path_factory: pytest.TempPathFactory) -> Actors:
    """Saves actors that need given requirements beside MLflow's smallest distribution."""

    def save(*requirements: str) -> Path:
        path = tmp_path_factory.mktemp("models") / "actor"
        needed = [
            f"mlflow-skinny=={MLFLOW}",
            f"pandas=={importlib.metadata.version('pandas')}",
            *requirements,
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return save_actor(path, needed)

    return save


@pytest.fixture(scope="module")
def env_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("envs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ENV_ROOT", str(root))
        patch.setenv("MLFLOW_EXPERIMENT_ID", "4711")  # as a process that logs a run has it
        yield root
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def client(env_root: Path) -> Iterator[RestaurantDeploymentClient]:
    with temporary_home() as home:
        yield get_deploy_client(f"restaurant:{home.path}")


def test_two_versions_of_scikit_learn_side_by_side(
    client: RestaurantDeploymentClient, actors: Actors
) -> None:
    versions = ("1.6.1", "1.7.2")
    models = {f"v{v}": actors(f"scikit-learn=={v}") for v in versions}
    with ThreadPoolExecutor(2) as pool:
        created = list(
            pool.map(
                lambda m: client.create_deployment(m[0], str(m[1]), config={"timeout_s": 30}), models.items()
            )
        )
    for deployment, version in zip(created, versions, strict=True):
        assert deployment["env_manager"]["chosen"] == "uv"
        assert f"needs scikit-learn=={version}" in deployment["env_manager"]["reason"]
        assert do(deployment["url"], "version:sklearn").predictions == [version]
    (replica,) = created[0]["replicas"]
    os.kill(replica["pid"], signal.SIGKILL)
    assert do(created[0]["url"], "version:sklearn").predictions == ["1.6.1"]
    for name in models:
        client.delete_deployment(name)
    assert records(client.home, "replica") == []


def test_local_is_as_asked_for_whatever_is_installed(
    client: RestaurantDeploymentClient, actors: Actors
) -> None:
    model = actors("scikit-learn==1.6.1")
    deployment = client.create_deployment("here", str(model), config={"env_manager": "local"})
    assert do(deployment["url"], "version:sklearn").predictions == [
        importlib.metadata.version("scikit-learn")
    ]
    updated = client.update_deployment("here", config={"env_manager": "uv"})
    assert updated["env_manager"]["chosen"] == "uv"
    assert updated["model_uri"] == str(model)
    assert do(updated["url"], "version:sklearn").predictions == ["1.6.1"]
    client.delete_deployment("here")


def test_requirements_that_can_not_be_installed(client: RestaurantDeploymentClient, actors: Actors) -> None:
    model = actors("scikit-learn==0.0.99")
    with pytest.raises(
        MlflowException, match=r"the uv environment could not be built: .*scikit-learn==0\.0\.99"
    ):
        client.create_deployment("no", str(model))
    assert client.list_deployments() == []


def test_an_environment_that_was_cut_off_is_built_again(
    client: RestaurantDeploymentClient, actors: Actors, env_root: Path
) -> None:
    model = actors("scikit-learn==1.6.1")
    deployment = client.create_deployment("a", str(model))
    (mark,) = [m for m in _marks(client.home, env_root) if m.parent.exists()]
    client.delete_deployment("a")
    python_packages = next(iter((env_root / mark.stem).glob("lib/python*/site-packages/mlflow")))
    shutil.rmtree(python_packages)
    mark.touch()
    ControlClient(client.home).down()
    deployment = client.create_deployment("a", str(model))
    assert do(deployment["url"], "version:sklearn").predictions == ["1.6.1"]
    assert not mark.exists()
    client.delete_deployment("a")


@pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="MLflow 2 needs libraries that have no wheels for 3.13"
)
@pytest.mark.parametrize("version", ["2.20.4", "2.22.5"], ids=["flask", "fastapi"])
def test_a_model_of_an_older_mlflow_is_served_by_it(
    client: RestaurantDeploymentClient, tmp_path: Path, version: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = save_actor(tmp_path / "actor", [f"mlflow=={version}"])
    deployment = client.create_deployment("old", str(model))
    assert do(deployment["url"], "version:mlflow").predictions == [version]
    (replica,) = deployment["replicas"]
    client.update_deployment("old", config={"replicas": 2})
    eventually(lambda: not psutil.pid_exists(replica["pid"]), "the old replica is stopped")
    client.delete_deployment("old")


def _marks(home: Home, env_root: Path) -> list[Path]:
    """Where the mark of an unfinished environment lies, for each environment with scikit-learn 1.6.1."""
    found = [p for p in env_root.iterdir() if list(p.glob("lib/python*/site-packages/scikit_learn-1.6.1*"))]
    return [home.run / f"{p.name}.building" for p in found]


def test_conda_is_missed_in_one_sentence(client: RestaurantDeploymentClient, actor: Path) -> None:
    if shutil.which("conda"):
        pytest.skip("conda is installed here")
    with pytest.raises(MlflowException, match="conda was not found; install it, or choose env_manager uv"):
        client.create_deployment("c", str(actor), config={"env_manager": "conda"})


def test_virtualenv_builds_with_pyenv_or_misses_it_in_one_sentence(
    client: RestaurantDeploymentClient, actors: Actors
) -> None:
    model = actors()
    config = {"env_manager": "virtualenv"}
    if shutil.which("pyenv") and platform.python_version() in _pyenv_versions():
        deployment = client.create_deployment("v", str(model), config=config)
        assert do(deployment["url"], "version:mlflow").predictions == [MLFLOW]
        client.delete_deployment("v")
    else:
        with pytest.raises(MlflowException, match="pyenv"):
            client.create_deployment("v", str(model), config=config)
    eventually(lambda: not records(client.home, "replica"), "nothing is left")


def _pyenv_versions() -> list[str]:
    done = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True, check=True)
    return done.stdout.split()
