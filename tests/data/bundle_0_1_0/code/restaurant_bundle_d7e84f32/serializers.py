"""How a step of a bundle is written into the bundle and read back.

Functions that can be imported elsewhere are named; models of other libraries are written by their own MLflow flavor;
scikit-learn objects with skops, which runs no code of the file on loading; what is left with cloudpickle, by value
where its code cannot be imported where the bundle will be loaded.

This module travels inside every saved bundle.
"""

from __future__ import annotations

import importlib
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, PERMISSION_DENIED

from . import nested, skops_files
from .hashes import checked_path, hashed
from .local_code import import_path, is_local, module_of, modules_by_value

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SERIALIZERS", "Target", "pickle_allowed", "read_step", "write_step"]

ALLOW_PICKLE = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"
"""MLflow's environment variable; anything but ``true`` or ``1`` forbids loading pickles."""

_VETTED_PACKAGES = {"numpy", "scipy", "sklearn"}
_CODE_FOLDER = "code"
_THIS_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


class CannotSerializeError(Exception):
    """A serializer cannot write an object so that it could be read back elsewhere."""


class Target:
    """A step as serializers want it.

    Args:
        value: the function, transformer or model.
        code_paths: files and directories that are saved with the model: what they hold is imported, not pickled.
        flavor: module of the MLflow flavor that the user named for the model.
        source: file of code, or directory of the MLflow model, that the value came from.
        is_model: whether it is the bundle's model.
    """

    def __init__(
        self,
        value: Any,
        code_paths: Sequence[str] = (),
        flavor: str | None = None,
        source: str | None = None,
        is_model: bool = False,
    ) -> None:
        self.value = value
        self.code_paths = code_paths
        self.flavor = flavor
        self.source = source
        self.is_model = is_model


class Serializer(Protocol):
    """Writes a step to a file or directory, and reads it back."""

    suffix: str

    def write(self, target: Target, path: Path) -> dict[str, Any]:
        """Write; return what reading will need to know. Raises CannotSerializeError."""

    def read(self, path: Path, entry: dict[str, Any], label: str) -> Any:
        """Read what `write` wrote; raises MlflowException where that is forbidden."""


class CodeSerializer:
    """A file of Python code that makes the step: it is copied, and run on loading."""

    suffix = ".py"

    def write(self, target: Target, path: Path) -> dict[str, Any]:
        """Copy the file the step came from."""
        if target.source is None or not target.source.endswith(".py"):
            raise CannotSerializeError("it was not given as a file of code")
        shutil.copyfile(target.source, path)
        return {}

    def read(self, path: Path, entry: dict[str, Any], label: str) -> Any:
        """The path: the bundle runs it."""
        return str(path)


class ImportSerializer:
    """The name of a function of an installed library, or of code that is saved with the model."""

    suffix = ""

    def write(self, target: Target, path: Path) -> dict[str, Any]:
        """Write nothing; return the name."""
        name = import_path(target.value, target.code_paths)
        if name is None:
            raise CannotSerializeError("it cannot be imported elsewhere")
        return {"object": name}

    def read(self, path: Path, entry: dict[str, Any], label: str) -> Any:
        """Import."""
        if not pickle_allowed() and not _may_import(entry["object"], path):
            raise _forbidden(label, f"is {entry['object']}, a function that is not of the bundle's own code")
        module, _, name = entry["object"].partition(":")
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return found


class FlavorSerializer:
    """The MLflow flavor of the model's library: a directory with an MLmodel of its own."""

    suffix = ""

    def write(self, target: Target, path: Path) -> dict[str, Any]:
        """Let the flavor save the model, or copy the MLflow model it came from."""
        flavor, source = self._choose(target)
        with modules_by_value(target.code_paths):
            try:
                nested.save(target.value, path, flavor, source)
            except MlflowException:
                raise
            except Exception as error:  # flavors raise errors of many kinds
                raise CannotSerializeError(f"{flavor}: {type(error).__name__}: {error}") from error
        pickled = nested.pickled_files(path)
        return {"flavor": flavor, **({"pickled": pickled} if pickled else {})}

    def read(self, path: Path, entry: dict[str, Any], label: str) -> Any:
        """Let the flavor load the model, unless it would unpickle and that is forbidden."""
        if entry.get("pickled") and not pickle_allowed():
            raise _forbidden(
                label, f"holds pickles ({', '.join(entry['pickled'])}), and loading them could run any code"
            )
        return nested.load(path, entry["flavor"])

    def _choose(self, target: Target) -> tuple[str, str | None]:
        if target.source is not None:
            return nested.PYFUNC, target.source
        if type(target.value).__name__ == "PyFuncModel":
            return nested.PYFUNC, nested.folder_of_pyfunc(target.value)
        flavor = nested.flavor_of(target.value, target.flavor) if target.is_model else None
        if flavor is None:
            raise CannotSerializeError("no MLflow flavor is known for it")
        return flavor, None


class SkopsSerializer:
    """skops: the file names types and their state; only types trusted by skops or listed in MLmodel are built."""

    suffix = ".skops"

    def write(self, target: Target, path: Path) -> dict[str, Any]:
        """Write a scikit-learn object, and read it back once to be sure."""
        if not _is_sklearn_object(target.value):
            raise CannotSerializeError(f"{type(target.value).__name__} is not a scikit-learn object")
        try:
            skops_files.dump(target.value, path)
            types = skops_files.untrusted_types(path)
            _refuse_local_types(types, target.code_paths)
            skops_files.load(path, types)
        except CannotSerializeError:
            raise
        except Exception as error:  # skops raises errors of many kinds for what it cannot write
            raise CannotSerializeError(f"{type(error).__name__}: {error}") from error
        return {"skops_trusted_types": types}

    def read(self, path: Path, entry: dict[str, Any], label: str) -> Any:
        """Read with the types listed in `entry`; without pickles allowed, only with types known to be harmless."""
        types = list(entry.get("skops_trusted_types") or [])
        root = path.parent.parent
        if not pickle_allowed() and (odd := [name for name in types if not _is_vetted(name, root)]):
            raise _forbidden(label, f"lists types outside scikit-learn, NumPy and SciPy ({', '.join(odd)})")
        return skops_files.load(path, types)


class CloudpickleSerializer:
    """cloudpickle: for functions and odd objects; loading runs code of the file, so it can be forbidden."""

    suffix = ".pkl"

    def write(self, target: Target, path: Path) -> dict[str, Any]:
        """Pickle; by value what lives in modules that are not importable elsewhere."""
        import cloudpickle

        try:
            with modules_by_value(target.code_paths):
                payload = cloudpickle.dumps(target.value, protocol=pickle.DEFAULT_PROTOCOL)
        except Exception as error:  # pickling runs __reduce__ and __getstate__ of any class
            raise CannotSerializeError(f"{type(error).__name__}: {error}") from error
        path.write_bytes(payload)
        return {"python": _THIS_PYTHON} if b"_make_function" in payload else {}

    def read(self, path: Path, entry: dict[str, Any], label: str) -> Any:
        """Unpickle, unless MLflow's switch forbids it."""
        if not pickle_allowed():
            raise _forbidden(label, "is pickled, and loading it could run any code")
        if entry.get("python", _THIS_PYTHON) != _THIS_PYTHON:
            raise MlflowException(
                f"{label} holds code compiled by Python {entry['python']}, and this is Python {_THIS_PYTHON}: load it "
                "there (mlflow models serve --env-manager uv does), or save its code with code_paths.",
                INVALID_PARAMETER_VALUE,
            )
        import cloudpickle

        with path.open("rb") as file:
            return cloudpickle.load(file)


SERIALIZERS: dict[str, Serializer] = {
    "code": CodeSerializer(),
    "import": ImportSerializer(),
    "mlflow": FlavorSerializer(),
    "skops": SkopsSerializer(),
    "cloudpickle": CloudpickleSerializer(),
}
"""Tried in this order when writing."""


def write_step(
    target: Target, root: Path, stem: str, label: str, allow_pickle: bool = True
) -> dict[str, Any]:
    """Write one step with the first serializer that can.

    Args:
        target: the step.
        root: directory of the model.
        stem: path of the file below `root`, without its suffix.
        label: what messages call the step.
        allow_pickle: whether pickles may be written.

    Returns:
        The step's part of MLmodel: ``serializer``, and where there is a file, ``file`` and ``sha256`` (of a directory:
        ``files``, the hash of each), and what the serializer adds.

    The model's own code must be in `root` already.

    Raises:
        MlflowException: no serializer can write it; the message names the step and says what each one met.
    """
    reasons = []
    for name, serializer in SERIALIZERS.items():
        if name == "cloudpickle" and not allow_pickle:
            continue
        file = f"{stem}{serializer.suffix}"
        try:
            extra = serializer.write(target, root / file)
            if not allow_pickle:
                _refuse_pickles(extra, root)
        except CannotSerializeError as error:
            _remove(root / file)
            reasons.append(f"{name}: {error}")
            continue
        return {"serializer": name, **hashed(root, file), **extra}
    raise MlflowException(f"{label} cannot be saved{_advice(allow_pickle, reasons)}", INVALID_PARAMETER_VALUE)


def _advice(allow_pickle: bool, reasons: list[str]) -> str:
    met = "; ".join(reasons)
    if allow_pickle:
        return (
            f" ({met}): use a function or class defined at the top level of a module "
            "that holds no open files, locks or connections."
        )
    return (
        f" without pickling it, which allow_pickle=False forbids ({met}): put its code into a module given in "
        "code_paths, or into a file that calls mlflow.models.set_model and whose path is given as the step."
    )


def _refuse_pickles(extra: dict[str, Any], root: Path) -> None:
    """Refuse what could not be loaded where pickles are forbidden."""
    if extra.get("pickled"):
        raise CannotSerializeError(f"its flavor pickles ({', '.join(extra['pickled'])})")
    if "object" in extra and not _may_import(extra["object"], root):
        raise CannotSerializeError(f"{extra['object']} is not of the bundle's own code")
    if odd := [name for name in extra.get("skops_trusted_types", ()) if not _is_vetted(name, root)]:
        raise CannotSerializeError(f"it needs types outside scikit-learn, NumPy and SciPy ({', '.join(odd)})")


def read_step(entry: dict[str, Any], root: Path, label: str) -> Any:
    """Read one step.

    Args:
        entry: what `write_step` returned.
        root: directory of the model.
        label: what messages call the step.

    Raises:
        MlflowException: the file is missing, lies outside the model, was changed, was written by a serializer that is
            not known here, or holds a pickle while pickles are forbidden.
    """
    serializer = SERIALIZERS.get(entry["serializer"])
    if serializer is None:
        raise MlflowException(
            f"{label} was written with '{entry['serializer']}', which this version cannot read "
            f"(it knows {', '.join(SERIALIZERS)}): upgrade mlflow-restaurant.",
            INVALID_PARAMETER_VALUE,
        )
    path = checked_path(entry, root, label)
    try:
        return serializer.read(path, entry, label)
    except Exception as error:
        if isinstance(error, MlflowException) and error.message.startswith(label):
            raise
        raise MlflowException(
            f"{label} cannot be loaded from {entry.get('file', entry.get('object'))}: {_reason(error)}",
            INVALID_PARAMETER_VALUE,
        ) from error


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, MlflowException) else f"{type(error).__name__}: {error}"


def pickle_allowed() -> bool:
    """Whether MLflow's switch allows loading pickles."""
    return os.environ.get(ALLOW_PICKLE, "true").strip().lower() in {"true", "1"}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _forbidden(label: str, why: str) -> MlflowException:
    return MlflowException(
        f"{label} {why}: set {ALLOW_PICKLE}=true to load it if you trust where the model comes from.",
        PERMISSION_DENIED,
    )


def _is_sklearn_object(target: Any) -> bool:
    base = getattr(sys.modules.get("sklearn.base"), "BaseEstimator", None)
    return base is not None and isinstance(target, base)


def _refuse_local_types(types: list[str], code_paths: Sequence[str]) -> None:
    for name in types:
        module = module_of(name)
        if module is None or is_local(module, code_paths):
            raise CannotSerializeError(f"{name} cannot be imported elsewhere")


def _is_vetted(type_name: str, root: Path) -> bool:
    module, _, name = type_name.rpartition(".")
    if module.partition(".")[0] not in _VETTED_PACKAGES:
        return _travels(module.partition(".")[0], root)
    try:
        return isinstance(getattr(importlib.import_module(module), name, None), type)
    except ImportError:
        return False


def _travels(package: str, root: Path) -> bool:
    """Whether a package is in the bundle's own code: what it holds is as good as the bundle's other code."""
    return (root / _CODE_FOLDER / package).is_dir() or (root / _CODE_FOLDER / f"{package}.py").is_file()


def _may_import(name: str, root: Path) -> bool:
    """Whether a function may be a step by its name where pickles are forbidden: libraries have some that unpickle."""
    package = name.partition(":")[0].partition(".")[0]
    return package == "math" or _travels(package, root)
