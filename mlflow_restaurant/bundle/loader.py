"""Reads a saved bundle: what ``mlflow.pyfunc.load_model`` imports from inside the bundle."""

from __future__ import annotations

from collections import Counter
from inspect import signature
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.protos.databricks_pb2 import BAD_REQUEST, RESOURCE_DOES_NOT_EXIST

from .bundle import Bundle, BundleError, StepError
from .code_files import run_bundle
from .files import CODE_FOLDER, FLAVOR_NAME
from .hashes import check_code, checked_path, refusal
from .own_code import own_code
from .profile import profile_reader
from .serializers import read_step, refuse_pickles

__all__ = ["FORMAT_VERSION", "BundleModel", "load_bundle"]

FORMAT_VERSION = 1
"""Layout of the flavor's part of MLmodel; raised when older code could not read it."""

_UPGRADE = "upgrade mlflow-restaurant, or load it with mlflow.pyfunc.load_model."


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


def load_bundle(path: str | Path, model_config: dict[str, Any] | None = None) -> Bundle:
    """Read the bundle saved in a directory.

    Args:
        path: the directory.
        model_config: what ``mlflow.models.ModelConfig`` reads in the bundle's file of code, if it came from one.

    Raises:
        MlflowException: there is no bundle, it was written in a newer format, a file was changed, or a step cannot be
            read.
    """
    root = Path(path)
    conf = _flavor_conf(root)
    code = conf.get("code") or CODE_FOLDER
    try:
        check_code(conf.get("code_files") or {}, root, code, "The bundle's code cannot be loaded")
        with own_code(root / code):
            bundle = _run_source(conf, root, model_config) if conf.get("source") else _read_steps(conf, root)
    except BundleError as error:
        raise refusal(str(error)) from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise _damaged(root, f"{type(error).__name__}: {error}") from error
    bundle._row_wise_found = conf.get("row_wise")
    bundle._profile = profile_reader(conf.get("profile"), root)
    return bundle


def _damaged(root: Path, why: str) -> MlflowException:
    return refusal(f"The MLmodel file of {root} cannot be read as a bundle's ({why}): save the bundle again.")


def _run_source(conf: dict[str, Any], root: Path, model_config: dict[str, Any] | None) -> Bundle:
    """The bundle that its file of code makes."""
    source = conf["source"]
    file = checked_path(source, root, "The bundle")
    copies = {}
    for entry in source["opened"]:
        label = f"'{entry['names'][0]}', which {file.name} opens,"
        copies.update(dict.fromkeys(entry["names"], str(checked_path(entry, root, label))))
        refuse_pickles(entry, label)
    bundle, made_by = run_bundle(file, model_config, copies)
    bundle._source = made_by
    changed: Bundle = bundle.changed(**source["changes"])
    return changed


def _read_steps(conf: dict[str, Any], root: Path) -> Bundle:
    targets: dict[str, list[Any]] = {"preprocess": [], "model": [], "postprocess": []}
    counts = Counter(entry["role"] for entry in conf["steps"])
    for entry in conf["steps"]:
        role, position = entry["role"], len(targets[entry["role"]]) + 1
        place = "" if role == "model" else f" {position} of {counts[role]}"
        step = read_step(entry, root, f"{role} step{place} '{entry['name']}'")
        targets[entry["role"]].append((step, entry["kwargs"]) if entry.get("kwargs") else step)
    options: dict[str, Any] = dict(conf.get("options") or {})
    if unknown := options.keys() - signature(Bundle).parameters.keys():
        raise refusal(f"{root} was saved with {min(unknown)!r}, which this code does not know: {_UPGRADE}")
    if "labels" in options:
        options["labels"] = dict(options["labels"])
    return Bundle(**{**targets, "model": targets["model"][0]}, **options)


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> BundleModel:
    """Called by ``mlflow.pyfunc.load_model`` with the directory of the model."""
    return BundleModel(load_bundle(path, model_config))


def _flavor_conf(root: Path) -> dict[str, Any]:
    flavors = Model.load(str(root)).flavors
    conf: dict[str, Any] | None = flavors.get(FLAVOR_NAME)
    if conf is None:
        raise MlflowException(
            f"{root} holds no model of the flavor '{FLAVOR_NAME}' but one of {', '.join(sorted(flavors))}: "
            "load it with mlflow.pyfunc.load_model, or save it as Bundle(model=...).",
            RESOURCE_DOES_NOT_EXIST,
        )
    version = conf.get("format_version")
    if type(version) is not int:
        raise _damaged(root, f"format_version is {version!r}")
    if version > FORMAT_VERSION:
        raise refusal(
            f"{root} was saved in bundle format {version}, and this code reads up to {FORMAT_VERSION}: {_UPGRADE}"
        )
    return conf
