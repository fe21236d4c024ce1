"""The MLflow flavor ``restaurant``: save, log and load a `Bundle`.

A saved bundle needs MLflow and the model's libraries, but not this package: the modules that load it travel in its
``code/`` directory, as a package named after a hash of their content. So bundles saved by different versions can be
loaded in one process, and each runs the code it was saved with.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import yaml
from mlflow import pyfunc
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.models.signature import _infer_signature_from_input_example
from mlflow.models.utils import _save_example
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_ALREADY_EXISTS
from mlflow.tracking._model_registry import DEFAULT_AWAIT_MAX_SLEEP_SECONDS
from mlflow.tracking.artifact_utils import _download_artifact_from_uri
from mlflow.utils.environment import (
    _CONDA_ENV_FILE_NAME,
    _CONSTRAINTS_FILE_NAME,
    _PYTHON_ENV_FILE_NAME,
    _REQUIREMENTS_FILE_NAME,
    _mlflow_conda_env,
    _process_conda_env,
    _process_pip_requirements,
    _PythonEnv,
    _validate_env_arguments,
)
from mlflow.utils.file_utils import get_total_file_size
from mlflow.utils.model_utils import _add_code_from_conf_to_system_path, _validate_and_copy_code_paths
from mlflow.utils.requirements_utils import _get_pinned_requirement
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from mlflow_restaurant import loader
from mlflow_restaurant._version import __version__
from mlflow_restaurant.bundle import Bundle, Step
from mlflow_restaurant.loader import FLAVOR_NAME, FORMAT_VERSION, load_bundle
from mlflow_restaurant.serializers import write_step

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

__all__ = [
    "FLAVOR_NAME",
    "get_default_conda_env",
    "get_default_pip_requirements",
    "load_model",
    "log_model",
    "save_model",
]

_CODE_FOLDER = "code"
_STEPS_FOLDER = "steps"
_TRAVELLING_MODULES = ("bundle.py", "loader.py", "serializers.py")
_NEVER_REQUIRED = {"mlflow-restaurant", "pytest"}
"""This package, which no saved bundle needs, and what SciPy imports only where tests run."""
_TRAVELLING_INIT = '"""Loads the bundle it was saved with."""\n'


def get_default_pip_requirements(include_cloudpickle: bool = True, include_skops: bool = True) -> list[str]:
    """Pinned requirements of every saved bundle, beside MLflow itself.

    Args:
        include_cloudpickle: a step is written with cloudpickle.
        include_skops: a step is written with skops, which also needs scikit-learn.
    """
    requirements = [_get_pinned_requirement("numpy"), _get_pinned_requirement("pandas")]
    if include_cloudpickle:
        requirements.append(_get_pinned_requirement("cloudpickle"))
    if include_skops:
        requirements.append(_get_pinned_requirement("scikit-learn", module="sklearn"))
        requirements.append(_get_pinned_requirement("skops"))
    return sorted(requirements)


def get_default_conda_env(include_cloudpickle: bool = True, include_skops: bool = True) -> dict[str, Any]:
    """The conda environment that `save_model` writes by default, with `get_default_pip_requirements` in it."""
    requirements = get_default_pip_requirements(include_cloudpickle, include_skops)
    env: dict[str, Any] = _mlflow_conda_env(additional_pip_deps=requirements)
    return env


def save_model(
    bundle: Bundle,
    path: str | os.PathLike[str],
    conda_env: dict[str, Any] | str | None = None,
    code_paths: list[str] | None = None,
    mlflow_model: Model | None = None,
    signature: Any = None,
    input_example: Any = None,
    pip_requirements: list[str] | str | None = None,
    extra_pip_requirements: list[str] | str | None = None,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Save a bundle to a directory.

    Args:
        bundle: the `Bundle`.
        path: directory to make; one that exists must be empty.
        conda_env: conda environment as a dictionary or the path of a YAML file. Excludes the two `pip` arguments.
        code_paths: files and directories whose code the steps import; copied into the model, and put on ``sys.path``
            when it is loaded.
        mlflow_model: the ``mlflow.models.Model`` this flavor is added to.
        signature: ``ModelSignature`` of the raw input and the predictions. By default it is inferred by running the
            whole bundle on `input_example`; ``False`` means none.
        input_example: a few rows of raw input. The bundle must be able to predict from it.
        pip_requirements: requirements of the model, or the path of a requirements file; by default inferred for all
            steps and pinned.
        extra_pip_requirements: requirements in addition to the inferred ones.
        metadata: custom metadata, kept in MLmodel.

    Raises:
        MlflowException: `bundle` is not a bundle, `path` is not empty, the example does not score, or a step cannot
            be saved. Nothing is left at `path` then.
    """
    _check_bundle(bundle)
    _validate_env_arguments(conda_env, pip_requirements, extra_pip_requirements)
    model = Model() if mlflow_model is None else mlflow_model
    with _new_directory(Path(path).absolute()) as root:
        _infer_or_check_signature(model, bundle, signature, _save_example(model, input_example, str(root)))
        if metadata is not None:
            model.metadata = metadata
        steps = _write_steps(bundle, root, code_paths)
        _validate_and_copy_code_paths(code_paths, str(root), _CODE_FOLDER)
        loader_package = _write_loader_package(root / _CODE_FOLDER)
        _add_flavors(model, steps, loader_package)
        model.model_size_bytes = get_total_file_size(str(root)) or None
        model.save(str(root / MLMODEL_FILE_NAME))
        _write_environment(root, steps, conda_env, pip_requirements, extra_pip_requirements)
        _remove_bytecode(root)


def log_model(
    bundle: Bundle,
    artifact_path: str | None = None,
    conda_env: dict[str, Any] | str | None = None,
    code_paths: list[str] | None = None,
    registered_model_name: str | None = None,
    signature: Any = None,
    input_example: Any = None,
    await_registration_for: int = DEFAULT_AWAIT_MAX_SLEEP_SECONDS,
    pip_requirements: list[str] | str | None = None,
    extra_pip_requirements: list[str] | str | None = None,
    metadata: dict[str, Any] | None = None,
    *,
    name: str | None = None,
    params: dict[str, Any] | None = None,
    tags: dict[str, Any] | None = None,
    model_type: str | None = None,
    step: int = 0,
    model_id: str | None = None,
    **kwargs: Any,
) -> Any:
    """Log a bundle to MLflow's tracking server, and register it if a name is given.

    Args:
        bundle: the `Bundle`.
        artifact_path: deprecated by MLflow: use `name`.
        conda_env: see `save_model`.
        code_paths: see `save_model`.
        registered_model_name: register the model as a new version under this name.
        signature: see `save_model`.
        input_example: see `save_model`.
        await_registration_for: seconds to wait for the new version to be ready; 0 or None: do not wait.
        pip_requirements: see `save_model`.
        extra_pip_requirements: see `save_model`.
        metadata: see `save_model`.
        name: name of the logged model.
        params: parameters of the logged model.
        tags: tags of the logged model.
        model_type: type of the logged model.
        step: step at which the model is logged.
        model_id: ID of a logged model to add the files to.
        kwargs: passed on to `save_model`.

    Returns:
        ``mlflow.models.model.ModelInfo`` of the logged model.

    Raises:
        MlflowException: as `save_model`.
    """
    _check_bundle(bundle)
    return Model.log(
        artifact_path=artifact_path,
        name=name,
        flavor=sys.modules[__name__],
        registered_model_name=registered_model_name,
        await_registration_for=await_registration_for,
        metadata=metadata,
        params=params,
        tags=tags,
        model_type=model_type,
        step=step,
        model_id=model_id,
        bundle=bundle,
        conda_env=conda_env,
        code_paths=code_paths,
        signature=signature,
        input_example=input_example,
        pip_requirements=pip_requirements,
        extra_pip_requirements=extra_pip_requirements,
        **kwargs,
    )


def load_model(model_uri: str, dst_path: str | None = None) -> Bundle:
    """Load a bundle.

    Args:
        model_uri: for example a path, ``runs:/RUN_ID/NAME``, ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        dst_path: existing directory into which to download; a temporary one by default.

    Returns:
        The `Bundle` itself, run by the code of the installed package. ``mlflow.pyfunc.load_model`` runs it by the code
        it was saved with.

    Raises:
        MlflowException: there is no bundle at the URI, or it cannot be loaded.
    """
    path = _download_artifact_from_uri(artifact_uri=str(model_uri), output_path=dst_path)
    _add_code_from_conf_to_system_path(path, loader._flavor_conf(Path(path)))
    return load_bundle(path)


_load_pyfunc = loader._load_pyfunc


def _check_bundle(bundle: Any) -> None:
    if not isinstance(bundle, Bundle):
        raise MlflowException(
            f"Only a mlflow_restaurant.Bundle can be saved with this flavor, and this is a {type(bundle).__name__}: "
            "wrap it as Bundle(model=...).",
            INVALID_PARAMETER_VALUE,
        )


@contextmanager
def _new_directory(path: Path) -> Iterator[Path]:
    """A directory to fill, which becomes `path` only if all goes well."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise MlflowException(
            f"Path '{path}' already exists and is not empty: choose another one, or remove it first.",
            RESOURCE_ALREADY_EXISTS,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.unfinished")
    unfinished.mkdir()
    try:
        yield unfinished
        unfinished.replace(path)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


class _ExampleRun:
    """Runs the bundle for MLflow's signature inference, and keeps the error that MLflow only logs."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.error: Exception | None = None

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        try:
            return self.bundle.predict(data, params)
        except Exception as error:
            self.error = error
            raise


def _infer_or_check_signature(model: Model, bundle: Bundle, signature: Any, example: Any) -> None:
    """Set the signature; an example is run through the bundle in any case."""
    run = _ExampleRun(bundle)
    inferred = None if example is None else _infer_signature_from_input_example(example, run)
    if run.error is not None:
        raise MlflowException(
            f"The bundle cannot predict from the input example: {run.error}. "
            "Give a few rows of raw input, as callers will send them.",
            INVALID_PARAMETER_VALUE,
        ) from run.error
    chosen = inferred if signature is None else signature
    if chosen:
        model.signature = chosen


def _write_steps(bundle: Bundle, root: Path, code_paths: list[str] | None) -> list[dict[str, Any]]:
    (root / _STEPS_FOLDER).mkdir()
    return [_write_step(step, root, code_paths or []) for step in bundle.steps]


def _write_step(step: Step, root: Path, code_paths: list[str]) -> dict[str, Any]:
    stem = "model" if step.role == "model" else f"{step.role}_{step.position}"
    written = write_step(step.target, root, f"{_STEPS_FOLDER}/{stem}", str(step), code_paths)
    return {"role": step.role, "name": step.name, "class": _class_name(step.target), **written}


def _class_name(target: Any) -> str:
    named = target if hasattr(target, "__qualname__") else type(target)
    return f"{named.__module__}.{named.__qualname__}"


def _write_loader_package(code: Path) -> str:
    """Copy the modules that load a bundle into a package named after their content; return its name."""
    source = Path(loader.__file__).parent
    files = {name: (source / name).read_bytes() for name in _TRAVELLING_MODULES}
    files["__init__.py"] = _TRAVELLING_INIT.encode()
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(name.encode() + b"\0" + content + b"\0")
    package = code / f"restaurant_bundle_{digest.hexdigest()[:8]}"
    package.mkdir(parents=True)
    for name, content in files.items():
        (package / name).write_bytes(content)
    return package.name


def _add_flavors(model: Model, steps: list[dict[str, Any]], loader_package: str) -> None:
    pyfunc.add_to_model(
        model,
        loader_module=f"{loader_package}.loader",
        code=_CODE_FOLDER,
        conda_env=_CONDA_ENV_FILE_NAME,
        python_env=_PYTHON_ENV_FILE_NAME,
    )
    model.add_flavor(
        FLAVOR_NAME,
        format_version=FORMAT_VERSION,
        mlflow_restaurant_version=__version__,
        code=_CODE_FOLDER,
        row_wise=None,
        steps=steps,
    )


def _write_environment(
    root: Path,
    steps: list[dict[str, Any]],
    conda_env: dict[str, Any] | str | None,
    pip_requirements: list[str] | str | None,
    extra_pip_requirements: list[str] | str | None,
) -> None:
    if conda_env is None:
        default = _infer_requirements(root, steps) if pip_requirements is None else None
        env, requirements, constraints = _process_pip_requirements(
            default, pip_requirements, extra_pip_requirements
        )
    else:
        env, requirements, constraints = _process_conda_env(conda_env)
    (root / _CONDA_ENV_FILE_NAME).write_text(yaml.safe_dump(env, default_flow_style=False))
    if constraints:
        (root / _CONSTRAINTS_FILE_NAME).write_text("\n".join(constraints))
    (root / _REQUIREMENTS_FILE_NAME).write_text("\n".join(requirements))
    _PythonEnv.current().to_yaml(str(root / _PYTHON_ENV_FILE_NAME))


def _infer_requirements(root: Path, steps: list[dict[str, Any]]) -> list[str]:
    """What loading the bundle and predicting from its example imports, pinned; never this package."""
    serializers = {step["serializer"] for step in steps}
    default = get_default_pip_requirements("cloudpickle" in serializers, "skops" in serializers)
    with _on_sys_path(root / _CODE_FOLDER):
        inferred = mlflow.models.infer_pip_requirements(str(root), FLAVOR_NAME, fallback=default)
    return sorted({line for line in inferred if _is_required(line)}.union(default))


@contextmanager
def _on_sys_path(folder: Path) -> Iterator[None]:
    # MLflow's inference imports the loader module in a child with our sys.path, before it adds the model's code.
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _is_required(requirement: str) -> bool:
    try:
        return canonicalize_name(Requirement(requirement).name) not in _NEVER_REQUIRED
    except InvalidRequirement:  # an option such as --extra-index-url
        return True


def _remove_bytecode(root: Path) -> None:
    for folder in list(root.rglob("__pycache__")):
        shutil.rmtree(folder, ignore_errors=True)
