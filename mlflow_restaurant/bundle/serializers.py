"""How a step of a saved bundle is read; `saving.serializers` writes it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

from . import nested
from .files import CODE_FOLDER
from .hashes import checked_path, refusal
from .steps import reason_of

__all__ = [
    "THIS_PYTHON",
    "is_vetted",
    "may_import",
    "pickle_allowed",
    "read_skops",
    "read_step",
    "refuse_pickles",
]

ALLOW_PICKLE = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"
"""MLflow's environment variable; anything but ``true`` or ``1`` forbids loading pickles."""

THIS_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"

_VETTED_PACKAGES = {"numpy", "scipy", "sklearn"}


def read_step(entry: dict[str, Any], root: Path, label: str) -> Any:
    """Read one step.

    Args:
        entry: what `saving.serializers.write_step` returned.
        root: directory of the model.
        label: what messages call the step.

    Raises:
        MlflowException: the file is missing, lies outside the model, was changed, was written by a serializer that is
            not known here, or holds a pickle while pickles are forbidden.
    """
    read = _READERS.get(entry["serializer"])
    if read is None:
        raise refusal(
            f"{label} was written with '{entry['serializer']}', which this version cannot read "
            f"(it knows {', '.join(_READERS)}): upgrade mlflow-restaurant."
        )
    path = checked_path(entry, root, label)
    try:
        return read(path, entry, label)
    except Exception as error:
        if isinstance(error, MlflowException) and error.message.startswith(label):
            raise
        place = entry.get("file", entry.get("object"))
        raise refusal(f"{label} cannot be loaded from {place}: {reason_of(error)}") from error


def _read_code(path: Path, entry: dict[str, Any], label: str) -> Any:
    """The path: the bundle runs it."""
    return str(path)


def _read_import(path: Path, entry: dict[str, Any], label: str) -> Any:
    if not pickle_allowed() and not may_import(entry["object"], path):
        raise _forbidden(label, f"is {entry['object']}, a function that is not of the bundle's own code")
    module, _, name = entry["object"].partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _read_model(path: Path, entry: dict[str, Any], label: str) -> Any:
    refuse_pickles(entry, label)
    return nested.load(path, entry["flavor"])


def _read_skops(path: Path, entry: dict[str, Any], label: str) -> Any:
    """Read with the types listed in `entry`; without pickles allowed, only with types known to be harmless."""
    types = list(entry.get("skops_trusted_types") or [])
    root = path.parent.parent
    if not pickle_allowed() and (odd := [name for name in types if not is_vetted(name, root)]):
        raise _forbidden(label, f"lists types outside scikit-learn, NumPy and SciPy ({', '.join(odd)})")
    return read_skops(path, types)


def read_skops(path: Path, trusted: list[str]) -> Any:
    """Read an object, if it holds no other types than the usual and the trusted ones."""
    import skops.io

    return skops.io.load(path, trusted=trusted)


def _read_pickle(path: Path, entry: dict[str, Any], label: str) -> Any:
    if not pickle_allowed():
        raise _forbidden(label, "is pickled, and loading it could run any code")
    if entry.get("python", THIS_PYTHON) != THIS_PYTHON:
        raise refusal(
            f"{label} holds code compiled by Python {entry['python']}, and this is Python {THIS_PYTHON}: load it "
            "there (mlflow models serve --env-manager uv does), or save its code with code_paths."
        )
    import cloudpickle

    with path.open("rb") as file:
        return cloudpickle.load(file)


_READERS: dict[str, Callable[[Path, dict[str, Any], str], Any]] = {
    "code": _read_code,
    "import": _read_import,
    "mlflow": _read_model,
    "skops": _read_skops,
    "cloudpickle": _read_pickle,
}


def refuse_pickles(entry: dict[str, Any], label: str) -> None:
    """Refuse a directory that holds pickles, if loading them is forbidden.

    Raises:
        MlflowException: it is.
    """
    if entry.get("pickled") and not pickle_allowed():
        raise _forbidden(
            label, f"holds pickles ({', '.join(entry['pickled'])}), and loading them could run any code"
        )


def pickle_allowed() -> bool:
    """Whether MLflow's switch allows loading pickles."""
    return os.environ.get(ALLOW_PICKLE, "true").strip().lower() in {"true", "1"}


def _forbidden(label: str, why: str) -> MlflowException:
    return MlflowException(
        f"{label} {why}: set {ALLOW_PICKLE}=true to load it if you trust where the model comes from.",
        PERMISSION_DENIED,
    )


def is_vetted(type_name: str, root: Path) -> bool:
    """Whether a type that a skops file names may be built where pickles are forbidden."""
    module, _, name = type_name.rpartition(".")
    if module.partition(".")[0] not in _VETTED_PACKAGES:
        return _travels(module.partition(".")[0], root)
    try:
        return isinstance(getattr(importlib.import_module(module), name, None), type)
    except ImportError:
        return False


def _travels(package: str, root: Path) -> bool:
    """Whether a package is in the bundle's own code: what it holds is as good as the bundle's other code."""
    return (root / CODE_FOLDER / package).is_dir() or (root / CODE_FOLDER / f"{package}.py").is_file()


def may_import(name: str, root: Path) -> bool:
    """Whether a function may be a step by its name where pickles are forbidden: libraries have some that unpickle."""
    package = name.partition(":")[0].partition(".")[0]
    return package == "math" or _travels(package, root)
