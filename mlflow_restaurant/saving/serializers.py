"""How a step of a bundle is written into it; `bundle.serializers` reads it.

Functions that can be imported elsewhere are named; models of other libraries are written by their own MLflow flavor;
scikit-learn objects with skops, which runs no code of the file on loading; what is left with cloudpickle, by value
where its code cannot be imported where the bundle will be loaded.
"""

from __future__ import annotations

import errno
import inspect
import io
import pickle
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from mlflow_restaurant.bundle import nested
from mlflow_restaurant.bundle.serializers import THIS_PYTHON, is_vetted, may_import, read_skops
from mlflow_restaurant.saving import models_inside, skops_files, torch_export
from mlflow_restaurant.saving.hashes import hashed
from mlflow_restaurant.saving.local_code import import_path, is_local, module_of, modules_by_value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["DISK_FULL", "SERIALIZERS", "Target", "remove", "write_step"]


DISK_FULL = {errno.EDQUOT, errno.ENOSPC}

_FOREIGN = "types outside scikit-learn, NumPy and SciPy"
_PICKLES = "its flavor pickles"


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
        kwargs: keyword arguments that it is called with, if they are stored beside it.
        example: makes what it is called with for the bundle's input example.
        allow_pickle: whether pickles may be written.
    """

    def __init__(
        self,
        value: Any,
        code_paths: Sequence[str] = (),
        flavor: str | None = None,
        source: str | None = None,
        is_model: bool = False,
        kwargs: dict[str, Any] | None = None,
        example: Callable[[], Any] | None = None,
        allow_pickle: bool = True,
    ) -> None:
        self.value = value
        self.code_paths = code_paths
        self.flavor = flavor
        self.source = source
        self.is_model = is_model
        self.kwargs = kwargs or {}
        self.example = example
        self.allow_pickle = allow_pickle


class Serializer(Protocol):
    """Writes a step to a file or directory."""

    suffix: str

    def write(self, target: Target, path: Path) -> dict[str, Any]:
        """Write; return what reading will need to know. Raises CannotSerializeError."""


class CodeSerializer:
    """A file of Python code that makes the step: it is copied, and run on loading."""

    suffix = ".py"

    def write(self, target: Target, path: Path) -> dict[str, Any]:
        """Copy the file the step came from."""
        if target.source is None or not target.source.endswith(".py"):
            raise CannotSerializeError("it was not given as a file of code")
        shutil.copyfile(target.source, path)
        return {}


class ImportSerializer:
    """The name of a function of an installed library, or of code that is saved with the model."""

    suffix = ""

    def write(self, target: Target, path: Path) -> dict[str, Any]:
        """Write nothing; return the name."""
        name = import_path(target.value, target.code_paths)
        if name is None:
            raise CannotSerializeError("it cannot be imported elsewhere")
        return {"object": name}


class FlavorSerializer:
    """The MLflow flavor of the model's library: a directory with an MLmodel of its own."""

    suffix = ""

    def write(self, target: Target, path: Path) -> dict[str, Any]:
        """Let the flavor save the model, or copy the MLflow model it came from."""
        flavor, source = self._choose(target)
        with modules_by_value(target.code_paths):
            try:
                if source is None and not target.allow_pickle and torch_export.applies(target.value, flavor):
                    torch_export.save(target.value, path, target.example, target.kwargs)
                else:
                    nested.save(target.value, path, flavor, source)
            except MlflowException:
                raise
            except Exception as error:  # flavors raise errors of many kinds
                raise CannotSerializeError(f"{flavor}: {type(error).__name__}: {error}") from error
        pickled = models_inside.pickled_files(path)
        return {"flavor": flavor, **({"pickled": pickled} if pickled else {})}

    def _choose(self, target: Target) -> tuple[str, str | None]:
        if target.source is not None:
            return nested.PYFUNC, target.source
        if type(target.value).__name__ == "PyFuncModel":
            return nested.PYFUNC, models_inside.folder_of_pyfunc(target.value)
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
            read_skops(path, types)
        except CannotSerializeError:
            raise
        except Exception as error:  # skops raises errors of many kinds for what it cannot write
            raise CannotSerializeError(f"{type(error).__name__}: {error}") from error
        return {"skops_trusted_types": types}


class CloudpickleSerializer:
    """cloudpickle: for functions and odd objects; loading runs code of the file, so it can be forbidden."""

    suffix = ".pkl"

    def write(self, target: Target, path: Path) -> dict[str, Any]:
        """Pickle; by value what lives in modules that are not importable elsewhere."""
        try:
            with modules_by_value(target.code_paths):
                payload = _pickled(target.value)
        except Exception as error:  # pickling runs __reduce__ and __getstate__ of any class
            raise CannotSerializeError(f"{type(error).__name__}: {error}") from error
        path.write_bytes(payload)
        return {"python": THIS_PYTHON} if b"_make_function" in payload else {}


def _pickled(value: Any) -> bytes:
    """Pickle, without open files: cloudpickle would write what is in them."""
    import cloudpickle

    class Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]
        def reducer_override(self, part: Any) -> Any:
            if isinstance(part, (io.TextIOWrapper, io.BufferedIOBase, io.RawIOBase)) and not isinstance(
                part, io.BytesIO
            ):
                raise pickle.PicklingError(f"it holds the open file {getattr(part, 'name', '?')}")
            return super().reducer_override(part)

    buffer = io.BytesIO()
    Pickler(buffer, protocol=pickle.DEFAULT_PROTOCOL).dump(value)
    return buffer.getvalue()


SERIALIZERS: dict[str, Serializer] = {
    "code": CodeSerializer(),
    "import": ImportSerializer(),
    "mlflow": FlavorSerializer(),
    "skops": SkopsSerializer(),
    "cloudpickle": CloudpickleSerializer(),
}
"""Tried in this order when writing."""


def write_step(target: Target, root: Path, stem: str, label: str) -> dict[str, Any]:
    """Write one step with the first serializer that can.

    Args:
        target: the step.
        root: directory of the model.
        stem: path of the file below `root`, without its suffix.
        label: what messages call the step.

    Returns:
        The step's part of MLmodel: ``serializer``, and where there is a file, ``file`` and ``sha256`` (of a directory:
        ``files``, the hash of each), and what the serializer adds.

    The model's own code must be in `root` already.

    Raises:
        MlflowException: no serializer can write it; the message names the step and says what each one met.
    """
    reasons = []
    for name, serializer in SERIALIZERS.items():
        if name == "cloudpickle" and not target.allow_pickle:
            continue
        file = f"{stem}{serializer.suffix}"
        try:
            extra = serializer.write(target, root / file)
            if not target.allow_pickle:
                _refuse_pickles(extra, root)
        except CannotSerializeError as error:
            remove(root / file)
            if isinstance(cause := error.__cause__, OSError) and cause.errno in DISK_FULL:
                raise cause from error
            reasons.append(f"{name}: {error}")
            continue
        return {"serializer": name, **hashed(root, file), **extra}
    met = "; ".join(reversed(reasons))  # the last one came nearest
    if target.allow_pickle:
        advice = (
            f"({met}): use a function or class defined at the top level of a module that holds no open files, locks or "
            "connections."
        )
    else:
        advice = (
            f"without pickling it, which allow_pickle=False forbids ({met}): {_without_pickles(target, met)}."
        )
    raise MlflowException(f"{label} cannot be saved {advice}", INVALID_PARAMETER_VALUE)


def _without_pickles(target: Target, met: str) -> str:
    """What to give instead of what would be pickled."""
    if hasattr(target.value, "booster_") and _PICKLES in met:
        return "give model.booster_, whose file is text and which predicts probabilities, not classes, or allow_pickle=True"
    if _PICKLES in met:
        return "save that model in another format, or allow pickles with allow_pickle=True"
    if _FOREIGN in met:
        return (
            "give the parts of a pipeline as steps of their own, and the model of the other library as the model, which "
            "its MLflow flavor then writes"
        )
    file = "a file that calls mlflow.models.set_model and whose path is given as the step"
    if _is_made_by(target):
        return f"of a module in code_paths only functions and classes are found by name, so make it in {file}"
    return f"put its code into a module given in code_paths, or into {file}"


def _is_made_by(target: Target) -> bool:
    """Whether code that is saved with the model made an object, or has the method of one."""
    is_method = inspect.ismethod(target.value)
    if hasattr(target.value, "__qualname__") and not is_method:
        return False
    module = sys.modules.get((target.value if is_method else type(target.value)).__module__)
    return module is not None and is_local(module, ()) and not is_local(module, target.code_paths)


def _refuse_pickles(extra: dict[str, Any], root: Path) -> None:
    """Refuse what could not be loaded where pickles are forbidden."""
    if extra.get("pickled"):
        raise CannotSerializeError(f"{_PICKLES} ({', '.join(extra['pickled'])})")
    if "object" in extra and not may_import(extra["object"], root):
        raise CannotSerializeError(f"{extra['object']} is not of the bundle's own code")
    if odd := [name for name in extra.get("skops_trusted_types", ()) if not is_vetted(name, root)]:
        raise CannotSerializeError(f"it needs {_FOREIGN} ({', '.join(odd)})")


def remove(path: Path) -> None:
    """Remove a file or directory, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_sklearn_object(target: Any) -> bool:
    base = getattr(sys.modules.get("sklearn.base"), "BaseEstimator", None)
    return base is not None and isinstance(target, base)


def _refuse_local_types(types: list[str], code_paths: Sequence[str]) -> None:
    for name in types:
        module = module_of(name)
        if module is None or is_local(module, code_paths):
            raise CannotSerializeError(f"{name} cannot be imported elsewhere")
