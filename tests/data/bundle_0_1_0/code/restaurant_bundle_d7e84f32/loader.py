"""Reads a saved bundle: what ``mlflow.pyfunc.load_model`` imports from inside the bundle.

This module travels inside every saved bundle, with the modules it imports: nothing else of this
package is imported here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST

from .bundle import Bundle, StepError
from .hashes import check_files
from .profile import profile_reader
from .serializers import read_step

__all__ = ["FLAVOR_NAME", "FORMAT_VERSION", "BundleModel", "load_bundle"]

FLAVOR_NAME = "restaurant"
"""Key of this flavor in MLmodel."""

FORMAT_VERSION = 1
"""Layout of the flavor's part of MLmodel; raised when older code could not read it."""


class BundleModel:
    """A bundle as MLflow's pyfunc wants it."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def get_raw_model(self) -> Bundle:
        """The bundle itself."""
        return self.bundle

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        """Predict from raw data; see `Bundle.predict`.

        Raises:
            MlflowException: a step failed; MLflow's scoring server passes its message on to the caller.
        """
        try:
            return self.bundle.predict(data, params)
        except StepError as e:
            raise MlflowException(str(e), BAD_REQUEST) from e


def load_bundle(path: str | Path) -> Bundle:
    """Read the bundle saved in a directory.

    Raises:
        MlflowException: there is no bundle, it was written in a newer format, a file was changed, or a step cannot be
            read.
    """
    root = Path(path)
    conf = _flavor_conf(root)
    check_files(conf.get("code_files") or {}, root, "The bundle's code cannot be loaded")
    targets: dict[str, list[Any]] = {"preprocess": [], "model": [], "postprocess": []}
    for entry in conf["steps"]:
        step = read_step(entry, root, f"{entry['role']} step '{entry['name']}'")
        targets[entry["role"]].append((step, entry["kwargs"]) if entry.get("kwargs") else step)
    options: dict[str, Any] = dict(conf.get("options") or {})
    if "labels" in options:
        options["labels"] = dict(options["labels"])
    bundle = Bundle(
        targets["preprocess"],
        targets["model"][0],
        targets["postprocess"],
        **options,
    )
    bundle._profile = profile_reader(conf.get("profile"), root)
    return bundle


def _load_pyfunc(path: str) -> BundleModel:
    """Called by ``mlflow.pyfunc.load_model`` with the directory of the model."""
    return BundleModel(load_bundle(path))


def _flavor_conf(root: Path) -> dict[str, Any]:
    conf: dict[str, Any] | None = Model.load(str(root)).flavors.get(FLAVOR_NAME)
    if conf is None:
        raise MlflowException(f"{root} holds no model of the flavor '{FLAVOR_NAME}'", RESOURCE_DOES_NOT_EXIST)
    if conf["format_version"] > FORMAT_VERSION:
        raise MlflowException(
            f"{root} was saved in bundle format {conf['format_version']}, and this code reads up to {FORMAT_VERSION}: "
            "upgrade mlflow-restaurant, or load it with mlflow.pyfunc.load_model.",
            INVALID_PARAMETER_VALUE,
        )
    return conf
