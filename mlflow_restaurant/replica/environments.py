"""The environment of a model, through MLflow's own machinery: `local`, `uv`, `virtualenv`, `conda`.

MLflow's environment builder is called here and nowhere else.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

REQUIREMENTS_FILE = "requirements.txt"
BUILDING_MARK = ".building"
MAX_ERROR_CHARACTERS = 600


def unsatisfied(model: Path) -> str | None:
    """Return why this Python can't serve the model with what is installed, or None when it can.

    Args:
        model: directory of the model, with ``requirements.txt`` and ``python_env.yaml``.
    """
    python = _python_version(model)
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if python is not None and ".".join(python.split(".")[:2]) != here:
        return f"the model was saved with Python {python}, this is {here}"
    for line in _requirements(model):
        reason = _missing(line)
        if reason is not None:
            return reason
    return None


def _python_version(model: Path) -> str | None:
    import yaml

    try:
        content = yaml.safe_load((model / "python_env.yaml").read_text(encoding="utf-8"))
        return str(content["python"])
    except (OSError, KeyError, TypeError, yaml.YAMLError):
        return None


def _requirements(model: Path) -> Iterator[str]:
    file = model / REQUIREMENTS_FILE
    if not file.exists():
        return
    from mlflow.utils.requirements_utils import _parse_requirements

    for parsed in _parse_requirements(str(file), is_constraint=False):
        if not parsed.is_constraint:
            yield parsed.req_str


def _missing(line: str) -> str | None:
    try:
        requirement = Requirement(line)
    except InvalidRequirement:
        return f"whether {line} is installed can't be told"
    if requirement.url is not None:
        return f"whether {line} is installed can't be told"
    if requirement.marker is not None and not requirement.marker.evaluate():
        return None
    try:
        installed = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    with contextlib.suppress(InvalidVersion):
        version = Version(installed)
        allowed = (requirement.specifier.contains(v, prereleases=True) for v in (version, version.public))
        if not any(allowed):
            return f"the model needs {requirement}, {installed} is installed"
    return None


def main(args: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> int:
    """Build the environment of a model, unless it is there, and report ``{"activate": [commands]}``.

    Args:
        args: ``model`` (directory), ``env_manager``, ``locks`` (directory for lock files).
        report: told ``{"activate": [...]}`` or ``{"failed": reason}``.
    """
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    manager, model, log = args["env_manager"], Path(args["model"]), Path(args["log"])
    before = log.stat().st_size
    try:
        with _locked(Path(args["locks"]) / "environments.lock"):
            activate = _activate(manager, model, Path(args["locks"]))
    except BaseException as e:
        report({"failed": _failure(e, manager, log, before)})
        with contextlib.suppress(OSError):  # the disk may be full
            traceback.print_exc()
        return 1
    report({"activate": activate})
    return 0


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock: MLflow takes an environment that another process is still filling for a complete one."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _activate(manager: str, model: Path, marks: Path) -> list[str]:
    from mlflow.pyfunc import FLAVOR_NAME
    from mlflow.pyfunc.backend import PyFuncBackend

    config = _flavor_config(model, FLAVOR_NAME)
    with _whole_or_not_at_all(manager, model, marks):
        environment = PyFuncBackend(config, env_manager=manager).prepare_env(str(model))
    activate = environment.get_activate_command()
    return [str(command) for command in activate]


def _flavor_config(model: Path, flavor: str) -> dict[str, Any]:
    from mlflow.models import Model

    config: dict[str, Any] = Model.load(str(model)).flavors[flavor]
    return config


@contextlib.contextmanager
def _whole_or_not_at_all(manager: str, model: Path, marks: Path) -> Iterator[None]:
    """Remove an environment whose building was cut off by a kill; MLflow would take it for complete."""
    directory = _virtualenv_directory(manager, model)
    if directory is None:
        yield
        return
    mark = marks / (directory.name + BUILDING_MARK)
    if mark.exists():
        shutil.rmtree(directory, ignore_errors=True)
    mark.touch()
    yield
    mark.unlink()


def _virtualenv_directory(manager: str, model: Path) -> Path | None:
    if manager not in ("uv", "virtualenv"):
        return None
    from mlflow.utils import virtualenv

    name: str = virtualenv._get_virtualenv_name(virtualenv._get_python_env(model), model, None)
    return Path(virtualenv._get_mlflow_virtualenv_root()) / name


def _failure(error: BaseException, manager: str, log: Path, before: int) -> str:
    """Return one sentence for an environment that could not be built.

    Args:
        log: where the installer's output went.
        before: size of the log, in bytes, when the building began.
    """
    text = str(error) or type(error).__name__
    if manager == "conda" and "conda" in text.lower() and ("find" in text.lower() or "found" in text.lower()):
        return "conda was not found; install it, or choose env_manager uv."
    with log.open("rb") as file:
        file.seek(before if before <= log.stat().st_size else 0)  # it may have been rotated meanwhile
        printed = file.read().decode("utf-8", "replace").splitlines()
    return _installer_error(printed) or text.splitlines()[0]


def _installer_error(printed: Sequence[str]) -> str:
    """Return what uv or pip said of the error, on one line."""
    starts = [i for i, line in enumerate(printed) if line.lstrip().lower().startswith(("error", "×"))]
    if not starts:
        return ""
    said = []
    for line in printed[starts[0] :]:
        if line.startswith(("Traceback", "20")):
            break
        said.append(line.strip().lstrip("×╰─▶│ "))
    return " ".join(part for part in said if part)[:MAX_ERROR_CHARACTERS]
