"""Files of Python code that make a step or a whole bundle: run when it is saved, and again whenever it is loaded.

What a bundle's file opens, such as models in a registry, is noted while it runs, travels inside the bundle, and is
found there on loading.
"""

from __future__ import annotations

import functools
import importlib
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from .steps import BundleError, describe

__all__ = ["Source", "globals_kept", "lock", "opened", "run", "run_bundle", "take_out", "unnoted"]

_PACKAGE = "mlflow_restaurant"
_OWN = __name__.rpartition(".")[0]
_PUBLIC = ("Bundle", "BundleError", "StepError")
_NOT_HERE = ("load_model", "log_model", "save_model")
lock = threading.RLock()
"""Of ``sys.modules`` and what of MLflow is exchanged while files run."""


@dataclass(frozen=True)
class Source:
    """The file that made a bundle.

    Attributes:
        file: the file.
        config: what ``mlflow.models.ModelConfig`` reads in it.
        opened: files and directories behind the URIs and paths that it names, and what was noted beside each.
        changes: arguments of `Bundle.changed` that came after the file.
    """

    file: Path
    config: dict[str, Any] | None = None
    opened: dict[str, str] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)


_running: ContextVar[Source | None] = ContextVar("running", default=None)


def run_bundle(file: Path, config: dict[str, Any] | None, copies: dict[str, str]) -> tuple[Any, Source]:
    """Run the file that makes a bundle.

    Args:
        file: the file.
        config: what ``mlflow.models.ModelConfig`` reads in it.
        copies: what stands for the URIs and paths that it opens.

    Returns:
        The bundle, and its source, with everything that was opened.

    Raises:
        BundleError: there is no such file, it fails, or it sets no bundle.
    """
    source = Source(file.absolute(), config, dict(copies))
    token = _running.set(source)
    try:
        with lock, _stand_in(), _noted_downloads():
            bundle = run(file, config)
    finally:
        _running.reset(token)
    # By name: a module that another bundle's code has imported may have made it.
    if not any(base.__name__ == "Bundle" for base in type(bundle).__mro__):
        raise BundleError(_no_bundle(file, describe(bundle)))
    return bundle, source


def run(file: str | Path, config: dict[str, Any] | None = None) -> Any:
    """Run a file; return what it gave to ``mlflow.models.set_model``.

    Raises:
        BundleError: there is no such file, it fails, or it sets nothing.
    """
    if not Path(file).is_file():
        raise BundleError(
            f"There is no file {file}: give the path of a file that calls mlflow.models.set_model."
        )
    from mlflow.exceptions import MlflowException
    from mlflow.models import model
    from mlflow.models.utils import _load_model_code_path

    outer = _running.get()
    with globals_kept():
        model.__mlflow_model__ = None
        try:
            return _load_model_code_path(str(file), config or (outer.config if outer else None))
        except SystemExit as error:
            raise BundleError(_failure(file, error)) from error
        except MlflowException as error:
            if error.__cause__ is None:
                raise BundleError(
                    f"The file {file} sets no model: end it with mlflow.models.set_model(...)."
                ) from error
            raise BundleError(_failure(file, error.__cause__)) from error.__cause__


def opened(name: Any, fetch: Callable[[], str]) -> str:
    """What stands for a URI or path: the copy inside the bundle whose file is being run, or what is fetched.

    Args:
        name: the URI or path, as it was named.
        fetch: brings it here; returns where it is.
    """
    source = _running.get()
    if source is None or any(Path(str(name)).is_relative_to(place) for place in source.opened.values()):
        return fetch()
    names = _names(str(name), source.file.parent)
    if (found := next((source.opened[key] for key in names if key in source.opened), None)) is not None:
        return found
    with unnoted():
        folder = fetch()
    source.opened.update(dict.fromkeys(names, str(Path(folder).absolute())))
    return folder


@contextmanager
def unnoted() -> Iterator[None]:
    """Within, nothing is noted: what is opened on the way is part of what was opened already."""
    token = _running.set(None)
    try:
        yield
    finally:
        _running.reset(token)


def _names(name: str, home: Path) -> list[str]:
    """A name as it was given, and of a path beside the file, as seen from there: the file moves into the bundle."""
    path = Path(name)
    beside = path.is_absolute() and path.is_relative_to(home)
    return [name, f"./{path.relative_to(home).as_posix()}"] if beside else [name]


@contextmanager
def globals_kept() -> Iterator[None]:
    """MLflow keeps the model and the config of a file that runs in two globals, and runs files inside files."""
    from mlflow.models import model, model_config

    before = model.__mlflow_model__, model_config.__mlflow_model_config__
    try:
        yield
    finally:
        model.__mlflow_model__, model_config.__mlflow_model_config__ = before


def _failure(file: str | Path, error: BaseException) -> str:
    from mlflow.models.model import SET_MODEL_ERROR

    if str(error) == SET_MODEL_ERROR:
        return _no_bundle(file, "something that MLflow does not take")
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    if isinstance(error, SyntaxError) and error.filename == str(file):
        lines.append(error.lineno)
    line = f" in line {lines[-1]}" if lines else ""
    advice = ""
    if isinstance(error, ModuleNotFoundError):
        advice = "; install it, or give the file or folder it is in as code_paths"
    return f"The file {file} failed{line}: {type(error).__name__}: {error}{advice}"


def _no_bundle(file: str | Path, given: str) -> str:
    return f"The file {file} sets no Bundle but {given}: end it with mlflow.models.set_model(Bundle(...))."


@contextmanager
def _stand_in() -> Iterator[None]:
    """Within, this package is what files import as mlflow_restaurant, whether or not one is installed."""
    if _OWN.partition(".")[0] == _PACKAGE:
        yield
        return
    installed = take_out({_PACKAGE})
    sys.modules.update(_stand_ins())
    try:
        yield
    finally:
        take_out({_PACKAGE})
        sys.modules.update(installed)


def take_out(packages: set[str]) -> dict[str, ModuleType]:
    """Remove modules of some top-level names from ``sys.modules``, and return them."""
    names = [name for name in sys.modules if name.partition(".")[0] in packages]
    return {name: sys.modules.pop(name) for name in names}


def _stand_ins() -> dict[str, ModuleType]:
    own, top = importlib.import_module(_OWN), ModuleType(_PACKAGE)
    top.__spec__, top.__path__ = ModuleSpec(_PACKAGE, None, is_package=True), []
    for name in _PUBLIC:
        setattr(top, name, getattr(own, name))
    for name in _NOT_HERE:
        setattr(top, name, _missing(name))
    top.bundle = own  # type: ignore[attr-defined]
    return {_PACKAGE: top, f"{_PACKAGE}.bundle": own}


def _missing(name: str) -> Callable[..., Any]:
    def stub(*args: Any, **kwargs: Any) -> Any:
        raise BundleError(f"{_PACKAGE}.{name} does not travel inside a bundle: call it outside of the file.")

    return stub


@contextmanager
def _noted_downloads() -> Iterator[None]:
    """Within, what MLflow's own load functions fetch is `opened`."""
    from mlflow.tracking import artifact_utils

    original = getattr(artifact_utils, "get_artifact_repository", None)
    if original is None:  # another version of MLflow: models named to Bundle(...) are noted all the same
        yield
        return

    def repository(artifact_uri: str, *args: Any, **kwargs: Any) -> Any:
        found = functools.partial(original, artifact_uri, *args, **kwargs)
        return found() if _running.get() is None else _Noted(artifact_uri, found)

    artifact_utils.get_artifact_repository = repository
    try:
        yield
    finally:
        artifact_utils.get_artifact_repository = original


class _Noted:
    """An artifact repository as far as downloads need one."""

    def __init__(self, root: str, repository: Callable[[], Any]) -> None:
        self.root = root
        self.repository = repository

    def download_artifacts(self, artifact_path: str, dst_path: str | None = None) -> str:
        name = "/".join(filter(None, (self.root.rstrip("/"), artifact_path)))
        return opened(name, lambda: str(self.repository().download_artifacts(artifact_path, dst_path)))
