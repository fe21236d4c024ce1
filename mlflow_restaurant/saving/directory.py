"""The parts of a saved bundle's directory: steps, the code that loads them, environment files."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
import sys
import uuid
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import yaml
from mlflow.exceptions import MlflowException
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS
from mlflow.utils.environment import (
    _CONDA_ENV_FILE_NAME,
    _CONSTRAINTS_FILE_NAME,
    _PYTHON_ENV_FILE_NAME,
    _REQUIREMENTS_FILE_NAME,
    _PythonEnv,
)

from mlflow_restaurant.bundle import loader, nested
from mlflow_restaurant.bundle.hashes import refusal
from mlflow_restaurant.bundle.steps import module_name
from mlflow_restaurant.saving.serializers import DISK_FULL, Target, remove, write_step

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from mlflow_restaurant.bundle import Bundle, Step

__all__ = [
    "check_code_paths",
    "nested_requirements",
    "new_directory",
    "no_bytecode",
    "options_of",
    "remove_bytecode",
    "steps_of_source",
    "write_environment",
    "write_loader_package",
    "write_steps",
]

_STEPS_FOLDER = "steps"
_NOT_IN_URIS = re.compile("#|%[0-9A-Fa-f]{2}")


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory to fill, which becomes `path` only if all goes well; of one that exists, the content."""
    with _told(path):
        _check_free(path)
        path = path.resolve()
        exists = path.is_dir()
        new_parents = [parent for parent in path.parents if not parent.exists()]
    # In a directory that exists, which may be a volume: beside it may be no room, or another file system.
    unfinished = (path if exists else path.parent) / f".{uuid.uuid4().hex[:8]}.unfinished"
    try:
        with _told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.mkdir()
        with _told(path, DISK_FULL):
            yield unfinished
        with _told(path):
            (_move_up if exists else _rename)(unfinished, path)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        for parent in new_parents:
            with suppress(OSError):  # it was not made, or something else is in it by now
                parent.rmdir()
        raise


def _check_free(path: Path) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise MlflowException(
            f"Path '{path}' already exists and is not empty: choose another one, or remove it first.",
            RESOURCE_ALREADY_EXISTS,
        )
    if _NOT_IN_URIS.search(str(path)):
        raise refusal(
            f"Path '{path}' has a '#' or a '%' with two digits in it, where MLflow cannot load a model from: choose "
            "another one."
        )


@contextmanager
def _told(path: Path, numbers: Collection[int] = ()) -> Iterator[None]:
    """Within, errors of the file system are told in one sentence: all of them, or those of the given numbers."""
    try:
        yield
    except OSError as error:
        if numbers and error.errno not in numbers:
            raise
        raise refusal(
            f"The bundle cannot be saved at '{path}': {error}. Make room there, or choose another path; nothing is left "
            "of it."
        ) from error


def _rename(unfinished: Path, path: Path) -> None:
    try:
        unfinished.replace(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise _filled(path) from error


def _move_up(unfinished: Path, path: Path) -> None:
    """Move the content into the directory above, MLmodel last: without it there is no model."""
    if any(other != unfinished for other in path.iterdir()):
        raise _filled(path)
    moved = []
    try:
        for part in sorted(unfinished.iterdir(), key=lambda part: part.name == MLMODEL_FILE_NAME):
            moved.append(part.replace(path / part.name))
        unfinished.rmdir()
    except BaseException:
        for part in moved:
            remove(part)
        raise


def _filled(path: Path) -> MlflowException:
    return MlflowException(
        f"Path '{path}' was filled while this bundle was being saved: choose another one, or remove it first.",
        RESOURCE_ALREADY_EXISTS,
    )


def write_steps(
    bundle: Bundle,
    root: Path,
    code_paths: list[str] | None,
    allow_pickle: bool,
    example: Callable[[], Any] | None = None,
) -> list[dict[str, Any]]:
    """Write every step; return the part of MLmodel that lists them.

    Args:
        bundle: the bundle.
        root: directory of the model.
        code_paths: files and directories that are saved with it.
        allow_pickle: whether pickles may be written.
        example: makes what the model is called with for the input example.

    Raises:
        MlflowException: a step cannot be written, or only as a pickle while that is not allowed.
    """
    (root / _STEPS_FOLDER).mkdir()
    return [_write_step(step, bundle, root, code_paths or [], allow_pickle, example) for step in bundle.steps]


def check_code_paths(code_paths: list[str] | None) -> None:
    """Refuse code that is not there, or that would be copied over other code.

    Raises:
        MlflowException: it is no list, a path names nothing, or two have the same name.
    """
    if isinstance(code_paths, (str, PurePath)):
        raise refusal(
            f"code_paths is {str(code_paths)!r}: give a list of files and folders, [{str(code_paths)!r}]."
        )
    names: dict[str, str] = {}
    for path in map(str, code_paths or ()):
        if not Path(path).exists():
            raise refusal(f"There is no {path!r}, which code_paths names: give files and folders that exist.")
        name = Path(path).absolute().name
        if name in names:
            raise refusal(
                f"code_paths names {names[name]!r} and {path!r}, and one would be copied over the other: rename one of "
                "them, or give a folder that holds both."
            )
        names[name] = path


def steps_of_source(bundle: Bundle, source: dict[str, Any]) -> list[dict[str, Any]]:
    """The part of MLmodel that lists the steps of a bundle that a file of code makes."""
    code = {"serializer": "code", "file": source["file"], "sha256": source["sha256"]}
    return [
        {
            "role": step.role,
            "name": step.name,
            "class": _class_name(step.target),
            **code,
            **({"kwargs": step.kwargs} if step.kwargs and _is_plain(step.kwargs) else {}),
        }
        for step in bundle.steps
    ]


def _write_step(
    step: Step,
    bundle: Bundle,
    root: Path,
    code_paths: list[str],
    allow_pickle: bool,
    example: Callable[[], Any] | None,
) -> dict[str, Any]:
    is_model = step.role == "model"
    stem = "model" if is_model else f"{step.role}_{step.position}"
    kwargs = {"kwargs": step.kwargs} if step.kwargs else {}
    value = step.target
    if odd := {name: value for name, value in step.kwargs.items() if not _is_plain(value)}:
        if not callable(step.target) or not allow_pickle:
            how = "" if allow_pickle else "without pickling, which allow_pickle=False forbids, "
            raise refusal(
                f"{step} cannot be saved {how}with its keyword arguments {odd}: give it strings, numbers, booleans and "
                "lists of them only."
            )
        kwargs, value = {}, partial(step.target, **step.kwargs)
    target = Target(
        value,
        code_paths,
        bundle.flavor if is_model else None,
        step.source,
        is_model,
        kwargs.get("kwargs"),
        example,
        allow_pickle,
    )
    written = write_step(target, root, f"{_STEPS_FOLDER}/{stem}", str(step))
    return {"role": step.role, "name": step.name, "class": _class_name(step.target), **written, **kwargs}


def _is_plain(value: Any) -> bool:
    """Whether YAML and JSON give a value back as it was."""
    try:
        return bool(json.loads(json.dumps(value)) == value) and _same_types(
            json.loads(json.dumps(value)), value
        )
    except (TypeError, ValueError):
        return False


def _same_types(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return all(_same_types(a[name], b[name]) for name in a)
    return not isinstance(a, list) or all(map(_same_types, a, b))


def _class_name(target: Any) -> str:
    named = target if hasattr(target, "__qualname__") else type(target)
    return f"{module_name(target)}.{named.__qualname__}"


def options_of(bundle: Bundle) -> dict[str, Any]:
    """What else the bundle was made with, as plain values."""
    options = {
        "predict_method": bundle.predict_method,
        "labels": None if bundle.labels is None else [list(pair) for pair in bundle.labels.items()],
        "threshold": bundle.threshold,
        "params": bundle.declared_params or None,
        "row_wise": bundle.row_wise,
    }
    return {name: value for name, value in options.items() if value is not None}


def write_loader_package(code: Path) -> str:
    """Copy the code that loads a bundle into a package named after its content; return its name."""
    source = Path(loader.__file__).parent
    files = {path.name: path.read_bytes() for path in sorted(source.glob("*.py"))}
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(name.encode() + b"\0" + content + b"\0")
    package = code / f"restaurant_bundle_{digest.hexdigest()[:8]}"
    package.mkdir(parents=True)
    for name, content in files.items():
        (package / name).write_bytes(content)
    return package.name


def nested_requirements(root: Path, steps: list[dict[str, Any]], source: dict[str, Any] | None) -> list[str]:
    """Requirements of the MLflow models inside, where they were saved with some."""
    models = [step for step in steps if step.get("flavor") == nested.PYFUNC]
    opened = source["opened"] if source else []
    files = [root / model["file"] / _REQUIREMENTS_FILE_NAME for model in (*models, *opened)]
    return [
        line for file in files if file.is_file() for line in file.read_text().splitlines() if line.strip()
    ]


def write_environment(
    root: Path, conda_env: dict[str, Any], requirements: list[str], constraints: list[str]
) -> None:
    """Write the files from which MLflow builds the environment of the model."""
    (root / _CONDA_ENV_FILE_NAME).write_text(yaml.safe_dump(conda_env, default_flow_style=False))
    if constraints:
        (root / _CONSTRAINTS_FILE_NAME).write_text("\n".join(constraints))
    (root / _REQUIREMENTS_FILE_NAME).write_text("\n".join(requirements))
    _PythonEnv.current().to_yaml(str(root / _PYTHON_ENV_FILE_NAME))


@contextmanager
def no_bytecode() -> Iterator[None]:
    """Within, Python writes no bytecode: MLflow loads what it logs, and would upload that too."""
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def remove_bytecode(root: Path) -> None:
    """Remove the bytecode that trying the model has left."""
    for folder in list(root.rglob("__pycache__")):
        shutil.rmtree(folder, ignore_errors=True)
