"""Models that their own MLflow flavor writes: a directory inside the bundle. A flavor is imported only where one is."""

from __future__ import annotations

import importlib
import inspect
import os
import shutil
import sys
import tempfile
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any

from .calling import libraries_of
from .code_files import globals_kept, opened, unnoted
from .steps import BundleError, describe, reason_of

__all__ = ["PYFUNC", "flavor_of", "load", "open_model", "save"]

PYFUNC = "mlflow.pyfunc"

_NAMES = (
    "catboost h2o keras lightgbm onnx paddle pmdarima prophet sentence_transformers spacy statsmodels tensorflow "
    "transformers xgboost"
)
_FLAVORS = {name: f"mlflow.{name}" for name in _NAMES.split()} | {"torch": "mlflow.pytorch"}
"""Which flavor writes the models of a library."""

_EXACT = {"catboost", "lightgbm", "xgboost"}
"""Their flavors bring back the library's own class: a class derived from it by the user is written otherwise."""

_OPTIONS = {"mlflow.pytorch": {"serialization_format": "pickle"}}
"""What flavors are told: PyTorch's other format traces the module, with one size of batch for ever."""


def flavor_of(target: Any, named: str | None = None) -> str | None:
    """The module of the MLflow flavor that writes a model, or None.

    Args:
        target: the model.
        named: a flavor the user named: ``onnx``, ``mlflow.onnx``, or any module with ``save_model``.

    Raises:
        BundleError: there is no such flavor.
    """
    if named is not None:
        return _module_name(named)
    libraries = libraries_of(target)
    for library in libraries:
        if library in _FLAVORS and not (library in _EXACT and library != libraries[0]):
            if library == "keras" and _keras_backend() == "tensorflow":
                return _FLAVORS["tensorflow"]
            return _FLAVORS[library]
    return None


def _keras_backend() -> str:
    backend: Any = getattr(sys.modules.get("keras"), "backend", None)
    return str(backend.backend()) if hasattr(backend, "backend") else "tensorflow"


def _module_name(named: str) -> str:
    for name in (named, f"mlflow.{named}") if "." in named else (f"mlflow.{named}", named):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if name.startswith("mlflow.") and not name.startswith(str(error.name)):
                raise BundleError(
                    f"flavor is {named!r}, and {name} needs {error.name}, which is not installed: pip install {error.name}."
                ) from error
            continue
        if hasattr(module, "save_model") and hasattr(module, "load_model"):
            return name
    raise BundleError(f"flavor is {named!r}, and there is no such module with save_model and load_model.")


def open_model(given: Any, named: str | None) -> tuple[Any, str | None]:
    """Load a model that was given as a URI, or needs MLflow's wrapper to be called.

    Returns:
        The model, and the directory it was loaded from, if any.

    Raises:
        BundleError: there is no model at the URI, or it cannot be loaded.
    """
    if isinstance(given, (str, Path)):
        return _loaded(str(given))
    if type(given).__name__ == "PyFuncModel":
        return given, None
    flavor = PYFUNC if named is None and "mlflow" in libraries_of(given) else flavor_of(given, named)
    if flavor is None:
        raise BundleError(
            f"No MLflow flavor is known for {describe(given)}: name it, Bundle(model=..., flavor=...)."
        )
    scratch = tempfile.mkdtemp(prefix="bundle-model-")
    try:
        folder = Path(scratch, "model")
        save(given, folder, flavor)
        model = _pyfunc(str(folder), str(folder))
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    weakref.finalize(model, _remove, scratch, os.getpid())  # at exit at the latest
    return model, str(folder)


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked child has the model too, and may end first
        shutil.rmtree(folder, ignore_errors=True)


def _loaded(uri: str) -> tuple[Any, str]:
    folder = opened(uri, lambda: _downloaded(uri))
    return _pyfunc(folder, uri), folder


def _downloaded(uri: str) -> str:
    if "/" not in uri and not Path(uri).is_dir():
        raise BundleError(
            f"The model is {describe(uri)}, which has no predict method and is no URI of a model: "
            "give a fitted estimator, or a URI such as 'models:/spam/3' or a path."
        )
    from mlflow.tracking.artifact_utils import _download_artifact_from_uri

    try:
        return str(_download_artifact_from_uri(artifact_uri=uri))
    except Exception as error:  # stores raise errors of many kinds
        raise _failure(uri, error) from error


def _failure(uri: str, error: Exception) -> BundleError:
    return BundleError(f"The model {uri} cannot be loaded: {reason_of(error)}")


def _pyfunc(folder: str, uri: str) -> Any:
    import mlflow.pyfunc

    try:
        with unnoted(), globals_kept():
            return mlflow.pyfunc.load_model(folder)
    except Exception as error:  # flavors raise errors of many kinds
        raise _failure(uri, error) from error


def save(target: Any, folder: Path, flavor: str, source: str | None = None) -> None:
    """Write a model into a new directory with its flavor; one that came from a directory is copied."""
    if source is not None:
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__"))
        return
    module: ModuleType = importlib.import_module(flavor)
    if flavor == PYFUNC:
        module.save_model(path=str(folder), python_model=target, pip_requirements=[])
        return
    accepted = inspect.signature(module.save_model).parameters
    # The bundle has requirements of its own: inferring the model's would take seconds more.
    wanted: dict[str, Any] = {"path": str(folder), "pip_requirements": [], **_OPTIONS.get(flavor, {})}
    options = {name: value for name, value in wanted.items() if name in accepted}
    module.save_model(target, *([] if "path" in options else [str(folder)]), **options)


def load(folder: Path, flavor: str) -> Any:
    """Read what `save` wrote; the path itself for a pyfunc, which the bundle loads."""
    if flavor == PYFUNC:
        return str(folder)
    if flavor == _FLAVORS["keras"]:
        _choose_keras_backend(folder)
    return importlib.import_module(flavor).load_model(str(folder))


def _choose_keras_backend(folder: Path) -> None:
    """Keras asks the environment, once, what it is to run on; unasked, TensorFlow, which need not be installed."""
    from mlflow.models import Model

    if backend := Model.load(str(folder)).flavors["keras"].get("keras_backend"):
        os.environ.setdefault("KERAS_BACKEND", backend)
