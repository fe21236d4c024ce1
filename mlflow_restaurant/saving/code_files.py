"""Bundles that a file of code makes: read before saving, and their part of the saved directory."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from mlflow.utils.model_utils import _validate_and_get_model_config_from_file, _validate_pyfunc_model_config

from mlflow_restaurant.bundle import Bundle, BundleError
from mlflow_restaurant.bundle.code_files import Source, run_bundle
from mlflow_restaurant.bundle.hashes import refusal
from mlflow_restaurant.saving.hashes import hashed
from mlflow_restaurant.saving.models_inside import pickled_files

__all__ = ["bundle_of", "check_given", "write_source"]

_FOLDER = "opened"


def bundle_of(given: Any, model_config: Any = None) -> Bundle:
    """The bundle that was given, or that the file makes whose path was given.

    Args:
        given: a `Bundle`, or the path of a file that calls ``mlflow.models.set_model`` with one.
        model_config: what ``mlflow.models.ModelConfig`` reads in the file: a dictionary, or the path of a YAML file.

    Raises:
        MlflowException: it is neither, or there is no such file, or it fails.
    """
    check_given(given, model_config)
    if isinstance(given, Bundle):
        return given
    try:
        bundle, source = run_bundle(Path(given), _config(model_config), {})
    except BundleError as error:
        raise refusal(str(error)) from error
    if not isinstance(bundle, Bundle):
        raise refusal(f"The Bundle that {given} sets was made by other code than this package's.")
    bundle._source = source
    return bundle


def check_given(given: Any, model_config: Any = None) -> None:
    """Refuse what is neither a bundle nor the path of a file, before anything is started.

    Raises:
        MlflowException: it is neither, or a bundle with a `model_config` that nothing would read.
    """
    is_path = isinstance(given, os.PathLike) or (isinstance(given, str) and given.endswith(".py"))
    if not is_path and not isinstance(given, Bundle):
        if isinstance(given, str):
            raise refusal(
                f"Only a mlflow_restaurant.Bundle can be saved with this flavor, and {given!r:.80} is a string that "
                "names no .py file: give the bundle first, then the path."
            )
        raise refusal(
            f"Only a mlflow_restaurant.Bundle can be saved with this flavor, and this is a {type(given).__name__}: "
            "wrap it as Bundle(model=...), or give the path of a .py file that makes one."
        )
    if is_path and not Path(given).is_file():
        raise refusal(
            f"There is no file {given}: give the path of a file that calls mlflow.models.set_model(Bundle(...))."
        )
    if not is_path and model_config is not None:
        raise refusal("model_config is for a bundle given as a file of code: give its values to the steps.")


def _config(given: Any) -> dict[str, Any] | None:
    _validate_pyfunc_model_config(given)
    if given is None or isinstance(given, dict):
        return given
    config: dict[str, Any] = _validate_and_get_model_config_from_file(os.fspath(given))
    return config


def write_source(source: Source, root: Path, allow_pickle: bool) -> dict[str, Any]:
    """Copy the file that made a bundle, and what it opened; return the part of MLmodel that lists them.

    Raises:
        MlflowException: a file is gone by now, or holds a pickle while that is not allowed.
    """
    shutil.copyfile(source.file, root / source.file.name)
    places: dict[str, list[str]] = {}
    for name, place in source.opened.items():
        places.setdefault(place, []).append(name)
    opened = [
        _write_opened(Path(place), names, f"{_FOLDER}/{number}", root, source, allow_pickle)
        for number, (place, names) in enumerate(places.items(), 1)
    ]
    return {**hashed(root, source.file.name), "opened": opened, "changes": source.changes}


def _write_opened(
    place: Path, names: list[str], stem: str, root: Path, source: Source, allow_pickle: bool
) -> dict[str, Any]:
    file = f"{stem}{place.suffix if place.is_file() else ''}"
    (root / file).parent.mkdir(exist_ok=True)
    if place.is_dir():
        shutil.copytree(place, root / file, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(place, root / file)
    pickled = pickled_files(root / file)
    if pickled and not allow_pickle:
        raise refusal(
            f"'{names[0]}', which {source.file.name} opens, holds pickles ({', '.join(pickled)}), which "
            "allow_pickle=False forbids: save that model in another format."
        )
    return {"names": names, **hashed(root, file), **({"pickled": pickled} if pickled else {})}
