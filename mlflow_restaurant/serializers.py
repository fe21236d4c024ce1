"""How a step of a bundle is written to a file and read back.

scikit-learn objects are written with skops, which runs no code of the file on loading; functions, and whatever skops
cannot write, with cloudpickle. Code that cannot be imported where the bundle will be loaded is pickled by value.

This module travels inside every saved bundle (see ``flavor.py``): nothing else of this package is imported here.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import pickle
import sys
import sysconfig
import zipfile
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, PERMISSION_DENIED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["SERIALIZERS", "pickle_allowed", "read_step", "write_step"]

ALLOW_PICKLE = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"
"""MLflow's environment variable; anything but ``true`` or ``1`` forbids loading pickles."""

_LIBRARY_FOLDERS = {"site-packages", "dist-packages"}
_STDLIB = {Path(os.path.realpath(sysconfig.get_path(name))) for name in ("stdlib", "platstdlib")}
_CHUNK_BYTES = 1 << 20
_VETTED_PACKAGES = {"numpy", "scipy", "sklearn"}


class CannotSerializeError(Exception):
    """A serializer cannot write an object so that it could be read back elsewhere."""


class Serializer(Protocol):
    """Writes an object to a file and reads it back."""

    suffix: str

    def write(self, target: Any, path: Path, code_paths: Sequence[str]) -> dict[str, Any]:
        """Write; return what reading will need to know. Raises CannotSerializeError."""

    def read(self, path: Path, entry: dict[str, Any], label: str) -> Any:
        """Read what `write` wrote; raises MlflowException where that is forbidden."""


class SkopsSerializer:
    """skops: the file names types and their state; only types trusted by skops or listed in MLmodel are built."""

    suffix = ".skops"

    def write(self, target: Any, path: Path, code_paths: Sequence[str]) -> dict[str, Any]:
        """Write a scikit-learn object, and read it back once to be sure."""
        if not _is_sklearn_object(target):
            raise CannotSerializeError(f"{type(target).__name__} is not a scikit-learn object")
        import skops.io

        try:
            # The format is verbose JSON: the fastest compression makes vocabularies twenty times smaller.
            skops.io.dump(target, path, compression=zipfile.ZIP_DEFLATED, compresslevel=1)
            types = sorted(set(skops.io.get_untrusted_types(file=path)))
            _refuse_local_types(types, code_paths)
            skops.io.load(path, trusted=types)
        except CannotSerializeError:
            raise
        except Exception as error:  # skops raises errors of many kinds for what it cannot write
            raise CannotSerializeError(f"{type(error).__name__}: {error}") from error
        return {"skops_trusted_types": types}

    def read(self, path: Path, entry: dict[str, Any], label: str) -> Any:
        """Read with the types listed in `entry`; without pickles allowed, only with types known to be harmless."""
        import skops.io

        types = list(entry.get("skops_trusted_types") or [])
        if not pickle_allowed() and (odd := [name for name in types if not _is_vetted(name)]):
            raise _forbidden(label, f"lists types outside scikit-learn, NumPy and SciPy ({', '.join(odd)})")
        return skops.io.load(path, trusted=types)


class CloudpickleSerializer:
    """cloudpickle: for functions and odd objects; loading runs code of the file, so it can be forbidden."""

    suffix = ".pkl"

    def write(self, target: Any, path: Path, code_paths: Sequence[str]) -> dict[str, Any]:
        """Pickle; by value what lives in modules that are not importable elsewhere."""
        import cloudpickle

        try:
            with _local_modules_by_value(code_paths):
                payload = cloudpickle.dumps(target, protocol=pickle.DEFAULT_PROTOCOL)
        except Exception as error:  # pickling runs __reduce__ and __getstate__ of any class
            raise CannotSerializeError(f"{type(error).__name__}: {error}") from error
        path.write_bytes(payload)
        return {}

    def read(self, path: Path, entry: dict[str, Any], label: str) -> Any:
        """Unpickle, unless MLflow's switch forbids it."""
        if not pickle_allowed():
            raise _forbidden(label, "is pickled, and loading it could run any code")
        import cloudpickle

        with path.open("rb") as file:
            return cloudpickle.load(file)


SERIALIZERS: dict[str, Serializer] = {"skops": SkopsSerializer(), "cloudpickle": CloudpickleSerializer()}
"""Tried in this order when writing."""


def write_step(
    target: Any, root: Path, stem: str, label: str, code_paths: Sequence[str] = ()
) -> dict[str, Any]:
    """Write one step with the first serializer that can.

    Args:
        target: a function, transformer or estimator.
        root: directory of the model.
        stem: path of the file below `root`, without its suffix.
        label: what messages call the step.
        code_paths: files and directories that are saved with the model: what they hold is pickled by reference.

    Returns:
        The step's part of MLmodel: ``serializer``, ``file``, ``sha256``, and what the serializer adds.

    Raises:
        MlflowException: no serializer can write it; the message names the step and says what each one met.
    """
    reasons = []
    for name, serializer in SERIALIZERS.items():
        file = f"{stem}{serializer.suffix}"
        path = root / file
        try:
            extra = serializer.write(target, path, code_paths)
        except CannotSerializeError as error:
            path.unlink(missing_ok=True)
            reasons.append(f"{name}: {error}")
            continue
        return {"serializer": name, "file": file, "sha256": _sha256(path), **extra}
    raise MlflowException(
        f"{label} cannot be saved ({'; '.join(reasons)}): use a function or class defined at the top level of a module "
        "that holds no open files, locks or connections.",
        INVALID_PARAMETER_VALUE,
    )


def read_step(entry: dict[str, Any], root: Path, label: str) -> Any:
    """Read one step.

    Args:
        entry: what `write_step` returned.
        root: directory of the model.
        label: what messages call the step.

    Raises:
        MlflowException: the file is missing, lies outside the model, was changed, was written by a serializer that is
            not known, is pickled while pickles are forbidden, or cannot be read.
    """
    serializer = SERIALIZERS.get(entry["serializer"])
    if serializer is None:
        raise MlflowException(
            f"{label} was written with '{entry['serializer']}', which this version cannot read: "
            f"it knows {', '.join(SERIALIZERS)}.",
            INVALID_PARAMETER_VALUE,
        )
    path = _checked_file(entry, root, label)
    try:
        return serializer.read(path, entry, label)
    except MlflowException:
        raise
    except Exception as error:
        raise MlflowException(
            f"{label} cannot be loaded from {entry['file']}: {type(error).__name__}: {error}",
            INVALID_PARAMETER_VALUE,
        ) from error


def pickle_allowed() -> bool:
    """Whether MLflow's switch allows loading pickles."""
    return os.environ.get(ALLOW_PICKLE, "true").strip().lower() in {"true", "1"}


def _checked_file(entry: dict[str, Any], root: Path, label: str) -> Path:
    path: Path = (root / entry["file"]).resolve()
    if not path.is_relative_to(root.resolve()):
        raise MlflowException(f"{label} points outside the model: {entry['file']}", INVALID_PARAMETER_VALUE)
    if not path.is_file():
        raise MlflowException(
            f"{label} cannot be loaded: {entry['file']} is missing", INVALID_PARAMETER_VALUE
        )
    if _sha256(path) != entry["sha256"]:
        raise MlflowException(
            f"{label} cannot be loaded: {entry['file']} was changed after it was saved (its SHA-256 differs)",
            INVALID_PARAMETER_VALUE,
        )
    return path


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


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
        module = _module_of(name)
        if module is None or _is_local(module, code_paths):
            raise CannotSerializeError(f"{name} cannot be imported elsewhere")


def _module_of(type_name: str) -> ModuleType | None:
    """The loaded module in which a type of that dotted name lives."""
    name = type_name
    while "." in name:
        name = name.rpartition(".")[0]
        if name in sys.modules:
            return sys.modules[name]
    return None


def _is_vetted(type_name: str) -> bool:
    module, _, name = type_name.rpartition(".")
    if module.partition(".")[0] not in _VETTED_PACKAGES:
        return False
    try:
        return isinstance(getattr(importlib.import_module(module), name, None), type)
    except ImportError:
        return False


@contextmanager
def _local_modules_by_value(code_paths: Sequence[str]) -> Iterator[None]:
    """Within, cloudpickle writes functions and classes of local modules by value."""
    import cloudpickle

    already = cloudpickle.list_registry_pickle_by_value()
    modules = [
        module
        for name, module in list(sys.modules.items())
        if name not in already and type(module) is ModuleType and module.__name__ == name
        if _is_local(module, code_paths)
    ]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _is_local(module: ModuleType, code_paths: Sequence[str]) -> bool:
    """Whether a module cannot be imported where the saved model will be loaded."""
    if module.__name__ == "__main__":
        return True
    package = module.__name__.partition(".")[0]
    if package == __name__.partition(".")[0]:
        return True  # a saved bundle must not need this package
    file = getattr(module, "__file__", None)
    if file is None:
        return False  # built into the interpreter
    path = Path(os.path.realpath(file))
    if _LIBRARY_FOLDERS.intersection(path.parts) or _STDLIB.intersection(path.parents):
        return False
    return not any(_provides(code_path, package, path) for code_path in code_paths)


def _provides(code_path: str, package: str, file: Path) -> bool:
    root = Path(os.path.realpath(code_path))
    return root.stem == package and file.is_relative_to(root)
