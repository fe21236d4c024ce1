"""Models that their own MLflow flavor writes: a directory inside the bundle.

A flavor is imported only when a model of its kind is there. This module travels inside every saved bundle.
"""

from __future__ import annotations

import importlib
import inspect
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from .models import libraries_of
from .steps import BundleError, describe

__all__ = ["PYFUNC", "flavor_of", "folder_of_pyfunc", "load", "open_model", "pickled_files", "save"]

PYFUNC = "mlflow.pyfunc"

_FLAVORS = {
    "catboost": "mlflow.catboost",
    "h2o": "mlflow.h2o",
    "keras": "mlflow.keras",
    "lightgbm": "mlflow.lightgbm",
    "onnx": "mlflow.onnx",
    "paddle": "mlflow.paddle",
    "pmdarima": "mlflow.pmdarima",
    "prophet": "mlflow.prophet",
    "sentence_transformers": "mlflow.sentence_transformers",
    "spacy": "mlflow.spacy",
    "statsmodels": "mlflow.statsmodels",
    "tensorflow": "mlflow.tensorflow",
    "torch": "mlflow.pytorch",
    "transformers": "mlflow.transformers",
    "xgboost": "mlflow.xgboost",
}
"""Which flavor writes the models of a library."""

_EXACT = {"catboost", "lightgbm", "xgboost"}
"""Their flavors bring back the library's own class: a class derived from it by the user is written otherwise."""

_OPTIONS = {"mlflow.pytorch": {"serialization_format": "pickle"}}
"""What flavors are told: PyTorch's other format traces the module, with one size of batch for ever."""

_PICKLES = {".joblib", ".pickle", ".pkl", ".pt", ".pth"}


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
            if library == "keras" and "tensorflow" in sys.modules:
                return _FLAVORS["tensorflow"]
            return _FLAVORS[library]
    return None


def _module_name(named: str) -> str:
    for name in (named, f"mlflow.{named}") if "." in named else (f"mlflow.{named}", named):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
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
    folder = Path(tempfile.mkdtemp(prefix="bundle-model-")) / "model"
    flavor = PYFUNC if named is None and "mlflow" in libraries_of(given) else flavor_of(given, named)
    if flavor is None:
        raise BundleError(
            f"No MLflow flavor is known for {describe(given)}: name it, Bundle(model=..., flavor=...)."
        )
    save(given, folder, flavor)
    return _loaded(str(folder))


def _loaded(uri: str) -> tuple[Any, str]:
    if "/" not in uri and not Path(uri).is_dir():
        raise BundleError(
            f"The model is {describe(uri)}, which has no predict method and is no URI of a model: "
            "give a fitted estimator, or a URI such as 'models:/spam/3' or a path."
        )
    import mlflow.pyfunc
    from mlflow.tracking.artifact_utils import _download_artifact_from_uri

    try:
        folder = _download_artifact_from_uri(artifact_uri=uri)
        return mlflow.pyfunc.load_model(folder), str(folder)
    except Exception as error:  # stores and flavors raise errors of many kinds
        raise BundleError(f"The model {uri} cannot be loaded: {type(error).__name__}: {error}") from error


def folder_of_pyfunc(target: Any) -> str:
    """Directory of a loaded pyfunc, fetched from where it was loaded.

    Raises:
        MlflowException: the model does not say where it came from.
    """
    from mlflow.tracking.artifact_utils import _download_artifact_from_uri

    meta = target.metadata
    uri = f"models:/{meta.model_id}" if getattr(meta, "model_id", None) else None
    if uri is None and meta.run_id and meta.artifact_path:
        uri = f"runs:/{meta.run_id}/{meta.artifact_path}"
    if uri is None:
        raise MlflowException(
            "A loaded pyfunc from a directory does not say where it came from: "
            "give the directory or the URI itself, Bundle(model='path/of/model').",
            INVALID_PARAMETER_VALUE,
        )
    return str(_download_artifact_from_uri(artifact_uri=uri))


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
    """Read what `save` wrote; the path itself for a pyfunc, which the bundle loads.

    Raises:
        MlflowException: a library it needs is not installed.
    """
    if flavor == PYFUNC:
        return str(folder)
    try:
        return importlib.import_module(flavor).load_model(str(folder))
    except ModuleNotFoundError as error:
        raise MlflowException(
            f"it needs the library '{error.name}', which is not installed here: install it, in the version that the "
            "model's requirements.txt names, or serve the model with --env-manager uv.",
            INVALID_PARAMETER_VALUE,
        ) from error


def pickled_files(folder: Path) -> list[str]:
    """Files below a directory that hold pickles, by their names: told by suffix, or by their first bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        str(path.relative_to(folder)) for path in files if path.suffix in _PICKLES or _starts_a_pickle(path)
    ]


def _starts_a_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(2)
    return len(start) == 2 and start[0] == 0x80 and 2 <= start[1] <= 5
