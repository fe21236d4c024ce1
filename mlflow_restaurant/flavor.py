"""The MLflow flavor ``restaurant``: save, log and load a `Bundle`.

A saved bundle needs MLflow and the model's libraries, but not this package: the modules that load it travel in its
``code/`` directory, as a package named after a hash of their content. So bundles saved by different versions can be
loaded in one process, and each runs the code it was saved with.
"""

from __future__ import annotations

import logging
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow import pyfunc
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.models.utils import _save_example
from mlflow.tracking._model_registry import DEFAULT_AWAIT_MAX_SLEEP_SECONDS
from mlflow.tracking.artifact_utils import _download_artifact_from_uri
from mlflow.utils.environment import (
    _CONDA_ENV_FILE_NAME,
    _PYTHON_ENV_FILE_NAME,
    _process_conda_env,
    _process_pip_requirements,
    _validate_env_arguments,
)
from mlflow.utils.file_utils import get_total_file_size
from mlflow.utils.model_utils import (
    _add_code_from_conf_to_system_path,
    _get_overridden_pyfunc_model_config,
    _validate_and_copy_code_paths,
)

from mlflow_restaurant._version import __version__
from mlflow_restaurant.bundle import Bundle, BundleError, loader
from mlflow_restaurant.bundle.files import CODE_FOLDER, FLAVOR_NAME
from mlflow_restaurant.bundle.hashes import refusal
from mlflow_restaurant.bundle.loader import FORMAT_VERSION, load_bundle
from mlflow_restaurant.saving import directory, rehearsal, requirements
from mlflow_restaurant.saving.code_files import bundle_of, check_given, write_source
from mlflow_restaurant.saving.examples import as_callers_send, check_reference, columns_made_plain
from mlflow_restaurant.saving.hashes import sha256_of_files
from mlflow_restaurant.saving.profiling import build_profile, check_profile, write_profile
from mlflow_restaurant.saving.rehearsal import ExampleRun
from mlflow_restaurant.saving.rows import row_wise_finding
from mlflow_restaurant.saving.signature import check_signature, set_signature, signature_told

if TYPE_CHECKING:
    import os

__all__ = [
    "FLAVOR_NAME",
    "get_default_conda_env",
    "get_default_pip_requirements",
    "load_model",
    "log_model",
    "save_model",
]

_logger = logging.getLogger(__name__)

NO_EXAMPLE = (
    "The bundle is saved without input_example: whether it predicts the same elsewhere was not tried, and %s."
)

get_default_pip_requirements = requirements.defaults
get_default_conda_env = requirements.conda_env


def save_model(
    bundle: Bundle | str | os.PathLike[str],
    path: str | os.PathLike[str],
    conda_env: dict[str, Any] | str | None = None,
    code_paths: list[str] | None = None,
    mlflow_model: Model | None = None,
    signature: Any = None,
    input_example: Any = None,
    pip_requirements: list[str] | str | None = None,
    extra_pip_requirements: list[str] | str | None = None,
    metadata: dict[str, Any] | None = None,
    *,
    predict_method: str | None = None,
    row_wise: bool | None = None,
    allow_pickle: bool = True,
    check_example: bool = True,
    reference_data: Any = None,
    model_config: dict[str, Any] | str | os.PathLike[str] | None = None,
) -> None:
    """Save a bundle to a directory.

    Args:
        bundle: the `Bundle`, or the path of a ``.py`` file that makes one and gives it to
            ``mlflow.models.set_model``. The file is kept, and run whenever the bundle is loaded; models that it opens
            by URI or path travel inside the bundle, and nothing else it makes is stored.
        path: directory to make; one that exists must be empty.
        conda_env: conda environment as a dictionary or the path of a YAML file. Excludes the two `pip` arguments.
        code_paths: files and directories whose code the steps import; copied into the model, and put on ``sys.path``
            when it is loaded. Functions in them are stored by name, not pickled.
        mlflow_model: the ``mlflow.models.Model`` this flavor is added to.
        signature: ``ModelSignature`` of the raw input and the predictions. By default it is inferred by running the
            whole bundle on `input_example`; without one, it is that of the saved bundle this one was loaded from.
            ``False`` means none.
        input_example: a few rows of raw input, or a tuple of them and the params of a request. The bundle must be able
            to predict from it, here and loaded back in a fresh process, and from its way through JSON.
        pip_requirements: requirements of the model, or the path of a requirements file; by default inferred for all
            steps and pinned.
        extra_pip_requirements: requirements in addition to the inferred ones.
        metadata: custom metadata, kept in MLmodel.
        predict_method: the method of the model that requests get which name none, instead of the bundle's.
        row_wise: whether rows are predicted independently of each other, so that requests may be merged. None: found
            out by predicting the rows of the example alone and together. False also allows steps to change the number
            of rows.
        allow_pickle: False refuses a step that can only be pickled, and names it.
        check_example: False saves without comparing predictions in a fresh process: for models that are random.
        reference_data: raw input that is typical of what the model will get, usually its training data. A summary of
            every column and up to 1,000 rows are kept in the bundle, where ``bundle.profile`` reads them. Its columns
            must be of the signature's types, missing values apart. By default a bundle keeps the profile it was loaded with.
        model_config: what ``mlflow.models.ModelConfig`` reads in the file of code: a dictionary, or the path of a YAML
            file. ``mlflow.pyfunc.load_model(..., model_config=...)`` overrides its keys.

    Raises:
        MlflowException: `bundle` is not a bundle, `path` is not empty, the example does not score or scores otherwise
            in a fresh process, or a step cannot be saved. Nothing is left at `path` then.
    """
    _validate_env_arguments(conda_env, pip_requirements, extra_pip_requirements)
    _check_switches(allow_pickle=allow_pickle, check_example=check_example)
    directory.check_code_paths(code_paths)
    bundle = _changed(bundle_of(bundle, model_config), predict_method, row_wise)
    check_signature(signature)
    model = Model() if mlflow_model is None else mlflow_model
    with directory.new_directory(Path(path).absolute()) as root:
        example = _written_example(model, input_example, root)
        run = (
            None
            if example is None
            else rehearsal.run_example(bundle, example, signature, columns_made_plain(input_example))
        )
        set_signature(model, bundle, signature, run)
        if example is None and check_example:
            _logger.warning(NO_EXAMPLE, signature_told(model, signature))
        if metadata is not None:
            model.metadata = metadata
        profile = _write_profile(bundle, reference_data, model.signature, root)
        _validate_and_copy_code_paths(code_paths, str(root), CODE_FOLDER)
        steps, source = _write_steps(bundle, root, code_paths, allow_pickle, run)
        loader_package = directory.write_loader_package(root / CODE_FOLDER)
        _add_flavors(model, bundle, run, steps, source, profile, root, loader_package)
        model.model_size_bytes = get_total_file_size(str(root)) or None
        model.save(str(root / MLMODEL_FILE_NAME))
        infers = conda_env is None and pip_requirements is None
        modules = _rehearse(root, run, check_example, infers)
        inferred = None
        if infers:
            inside = directory.nested_requirements(root, steps, source)
            inferred = requirements.of_bundle(modules, steps, inside)
        _write_environment(root, conda_env, inferred, pip_requirements, extra_pip_requirements)
        directory.remove_bytecode(root)


def log_model(
    bundle: Bundle | str | os.PathLike[str],
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
    reference_data: Any = None,
    model_config: dict[str, Any] | str | os.PathLike[str] | None = None,
    **kwargs: Any,
) -> Any:
    """Log a bundle to MLflow's tracking server, and register it if a name is given.

    Args:
        bundle: the `Bundle`, or the path of a ``.py`` file that makes one; see `save_model`.
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
        reference_data: see `save_model`.
        model_config: see `save_model`.
        kwargs: passed on to `save_model`: `predict_method`, `row_wise`, `allow_pickle`, `check_example`.

    Returns:
        ``mlflow.models.model.ModelInfo`` of the logged model.

    Raises:
        MlflowException: as `save_model`.
    """
    check_given(bundle, model_config)
    with directory.no_bytecode():
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
            reference_data=reference_data,
            model_config=model_config,
            **kwargs,
        )


def load_model(
    model_uri: str, dst_path: str | None = None, model_config: dict[str, Any] | None = None
) -> Bundle:
    """Load a bundle.

    Args:
        model_uri: for example a path, ``runs:/RUN_ID/NAME``, ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        dst_path: existing directory into which to download; a temporary one by default.
        model_config: overrides keys of the ``model_config`` it was saved with.

    Returns:
        The `Bundle` itself, run by the code of the installed package. ``mlflow.pyfunc.load_model`` runs it by the code
        it was saved with.

    Raises:
        MlflowException: there is no bundle at the URI, or it cannot be loaded.
    """
    path = _download_artifact_from_uri(artifact_uri=str(model_uri), output_path=dst_path)
    _add_code_from_conf_to_system_path(path, loader._flavor_conf(Path(path)))
    model = Model.load(path)
    saved = model.flavors[pyfunc.FLAVOR_NAME].get(pyfunc.MODEL_CONFIG)
    bundle = load_bundle(path, _get_overridden_pyfunc_model_config(saved, model_config, _logger))
    bundle._signature = model.signature
    return bundle


_load_pyfunc = loader._load_pyfunc


def _check_switches(**switches: Any) -> None:
    for name, given in switches.items():
        if not isinstance(given, bool):
            raise refusal(f"{name} is {given!r}: give True or False.")


def _changed(bundle: Bundle, predict_method: str | None, row_wise: bool | None) -> Bundle:
    try:
        return bundle.changed(predict_method, row_wise)
    except BundleError as error:
        raise refusal(str(error)) from error


def _written_example(model: Model, input_example: Any, root: Path) -> Any:
    """Write the example as MLflow does."""
    try:
        return _save_example(model, as_callers_send(input_example), str(root))
    except MlflowException:
        raise
    except Exception as error:  # values of any kind are written as JSON
        raise refusal(
            f"The input example cannot be written as JSON: {type(error).__name__}: {error}. Give a few rows of strings, "
            "numbers, booleans and dates, as callers will send them."
        ) from error


def _write_steps(
    bundle: Bundle, root: Path, code_paths: list[str] | None, allow_pickle: bool, run: ExampleRun | None
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Write the steps, or the file of code that makes them; their entries in MLmodel, and that of the file."""
    if bundle._source is not None:
        source = write_source(bundle._source, root, allow_pickle)
        return directory.steps_of_source(bundle, source), source
    made = None if run is None else partial(rehearsal.model_input, bundle, run)
    return directory.write_steps(bundle, root, code_paths, allow_pickle, made), None


def _rehearse(root: Path, run: ExampleRun | None, check_example: bool, infers: bool) -> list[str]:
    """Load the saved bundle in a fresh process, if there is anything to learn from that."""
    compared = run if check_example else None
    if compared is None and not infers:
        return []
    return rehearsal.rehearse(root, compared)


def _write_environment(
    root: Path,
    conda_env: dict[str, Any] | str | None,
    inferred: list[str] | None,
    given: list[str] | str | None,
    extra: list[str] | str | None,
) -> None:
    """Write the files that describe the environment, from a conda environment or from requirements."""
    if conda_env is None:
        files = _process_pip_requirements(inferred, given, extra)
    else:
        files = _process_conda_env(conda_env)
    directory.write_environment(root, *files)


def _write_profile(bundle: Bundle, reference_data: Any, signature: Any, root: Path) -> dict[str, Any] | None:
    """Write the profile of reference data, or the one the bundle was loaded with."""
    try:
        profile = bundle.profile if reference_data is None else build_profile(reference_data)
        if profile is None:
            return None
        check_profile(profile, signature)
        check_reference(reference_data, signature)
        return write_profile(profile, root)
    except BundleError as error:
        raise refusal(str(error)) from error


def _add_flavors(
    model: Model,
    bundle: Bundle,
    run: ExampleRun | None,
    steps: list[dict[str, Any]],
    source: dict[str, Any] | None,
    profile: dict[str, Any] | None,
    root: Path,
    loader_package: str,
) -> None:
    row_wise, why = row_wise_finding(bundle, run)
    pyfunc.add_to_model(
        model,
        loader_module=f"{loader_package}.loader",
        code=CODE_FOLDER,
        conda_env=_CONDA_ENV_FILE_NAME,
        python_env=_PYTHON_ENV_FILE_NAME,
        model_config=None if bundle._source is None else bundle._source.config,
        model_code_path=None if source is None else source["file"],
    )
    model.add_flavor(
        FLAVOR_NAME,
        format_version=FORMAT_VERSION,
        mlflow_restaurant_version=__version__,
        code=CODE_FOLDER,
        row_wise=row_wise,
        row_wise_reason=why,
        options=directory.options_of(bundle),
        steps=steps,
        source=source,
        code_files=sha256_of_files(root, CODE_FOLDER),
        profile=profile,
    )
