"""What a saved bundle holds, told without running any of its code.

Only MLmodel, JSON and text files are read, and the files that MLmodel lists are hashed; nothing is unpickled or
imported. So it is safe for a model that nobody trusts yet.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mlflow_restaurant.bundle.files import (
    ADDED,
    CODE_FOLDER,
    FLAVOR_NAME,
    INTACT,
    OUTSIDE,
    SUMMARY_FILE,
    added_files,
    state_of,
)
from mlflow_restaurant.errors import DoesNotExist, InvalidRequest

__all__ = ["inspect_bundle"]

PICKLES = {"cloudpickle"}
"""Serializers whose files run code on loading; an MLflow model inside a bundle lists its pickles itself."""

_MLMODEL = "MLmodel"
_REQUIREMENTS = "requirements.txt"
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*:/", re.IGNORECASE)
_OF_MODEL = ("model_uuid", "model_id", "run_id", "utc_time_created", "mlflow_version")
_OF_FLAVOR = ("mlflow_restaurant_version", "format_version", "row_wise", "row_wise_reason", "options")
_PROGRESS_BAR = "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"


def inspect_bundle(uri: str) -> dict[str, Any]:
    """Describe a saved bundle.

    Args:
        uri: a path, or a URI that MLflow can fetch, such as ``models:/NAME/VERSION`` or ``runs:/RUN_ID/NAME``.

    Returns:
        What JSON can hold: ``uri``, versions, ``size_bytes``, ``row_wise`` with its reason, ``options``, ``steps`` (each
        with its ``files``: hash, size, and ``state``), ``opened`` (what its file of code opens), ``intact`` (whether every file is what it was), ``pickled`` (labels of
        the steps that are), ``signature``, ``profile``, ``requirements``, ``code``.

    Raises:
        DoesNotExist: there is no model.
        InvalidRequest: it is no bundle, or its MLmodel cannot be read.
        MlflowException: it cannot be fetched.
    """
    with _local_copy(uri) as root:
        model = _read_mlmodel(uri, root)
        flavors = model["flavors"]
        if FLAVOR_NAME not in flavors:
            raise InvalidRequest(
                f"{uri} is no bundle but an MLflow model with the flavors {', '.join(sorted(flavors)) or '(none)'}."
            )
        return _report(uri, root, model, flavors[FLAVOR_NAME])


@contextlib.contextmanager
def _local_copy(uri: str) -> Iterator[Path]:
    if not _REMOTE.match(uri):
        yield Path(uri)
        return
    from mlflow.tracking.artifact_utils import _download_artifact_from_uri

    os.environ.setdefault(_PROGRESS_BAR, "false")
    with tempfile.TemporaryDirectory(prefix="inspect-") as folder:
        yield Path(_download_artifact_from_uri(artifact_uri=uri, output_path=folder))


def _read_mlmodel(uri: str, root: Path) -> dict[str, Any]:
    file = root / _MLMODEL
    if not file.is_file():
        raise DoesNotExist(f"There is no model at {uri}: it has no file {_MLMODEL}.")
    try:
        model = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{uri}/{_MLMODEL} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(model, dict) or not isinstance(model.get("flavors"), dict):
        raise InvalidRequest(f"{uri}/{_MLMODEL} cannot be read: it lists no flavors.")
    return model


def _report(uri: str, root: Path, model: Mapping[str, Any], conf: Mapping[str, Any]) -> dict[str, Any]:
    try:
        steps = [_step(entry, root) for entry in conf["steps"]]
        profile = _profile(conf.get("profile"), root)
        code = _code(conf, root)
        opened = [_opened(entry, root) for entry in (conf.get("source") or {}).get("opened", ())]
        listed = [file for part in (*steps, *opened, profile or {}) for file in part.get("files", ())]
        signature = _signature(model.get("signature"))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidRequest(
            f"{uri}/{_MLMODEL} cannot be read as a bundle: {type(error).__name__}: {error}"
        ) from error
    files = [path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {
        "uri": uri,
        **{key: model.get(key) for key in _OF_MODEL},
        **{key: conf.get(key) for key in _OF_FLAVOR},
        "python_version": (model["flavors"].get("python_function") or {}).get("python_version"),
        "size_bytes": sum(path.stat().st_size for path in files),
        "file_count": len(files),
        "intact": all(file["state"] == INTACT for file in (*listed, *code)),
        "pickled": [part["label"] for part in (*steps, *opened) if part["pickled"]],
        "steps": steps,
        "opened": opened,
        "code": code,
        "signature": signature,
        "has_example": bool(model.get("saved_input_example_info")),
        "profile": profile,
        "requirements": _requirements(root),
        "metadata": model.get("metadata"),
    }


def _step(entry: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """A step of MLmodel, with the files it names as they are now."""
    kept = {key: value for key, value in entry.items() if key not in {"file", "sha256", "files"}}
    return {
        **kept,
        "label": f"{entry['role']} '{entry['name']}'",
        "file": entry.get("file"),
        "pickled": entry.get("serializer") in PICKLES or bool(entry.get("pickled")),
        "pickles": list(entry.get("pickled") or ()),
        "files": _files_of(entry, root),
    }


def _opened(entry: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """What stands for a URI or path that the bundle's file of code opens."""
    pickles = list(entry.get("pickled") or ())
    return {
        "label": str(entry["names"][0]),
        "names": list(entry["names"]),
        "file": entry.get("file"),
        "pickled": bool(pickles),
        "pickles": pickles,
        "files": _files_of(entry, root),
    }


def _hashes(entry: Mapping[str, Any]) -> Mapping[str, str]:
    return entry.get("files") or ({entry["file"]: entry["sha256"]} if entry.get("file") else {})


def _files_of(entry: Mapping[str, Any], root: Path) -> list[dict[str, Any]]:
    """The files of a step or of what was opened, and those that were added to its code."""
    hashes = _hashes(entry)
    inside = bool(entry.get("file")) and (root / entry["file"]).resolve().is_relative_to(root.resolve())
    return _files(hashes, root) + (_added(root, f"{entry['file']}/{CODE_FOLDER}", hashes) if inside else [])


def _files(hashes: Mapping[str, str], root: Path) -> list[dict[str, Any]]:
    found = []
    for file, sha256 in hashes.items():
        state = state_of(root, file, sha256)
        path = root / file
        size = path.stat().st_size if state != OUTSIDE and path.is_file() else None
        found.append({"file": file, "sha256": sha256, "state": state, "size_bytes": size})
    return found


def _code(conf: Mapping[str, Any], root: Path) -> list[dict[str, Any]]:
    """The files of the bundle's code, and those that were added to it."""
    hashes = conf.get("code_files") or {}
    return _files(hashes, root) + _added(root, conf.get("code") or CODE_FOLDER, hashes)


def _added(root: Path, folder: str, hashes: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {"file": file, "sha256": None, "state": ADDED, "size_bytes": (root / file).stat().st_size}
        for file in added_files(root, folder, hashes)
    ]


def _signature(signature: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Inputs, outputs and params: lists, as MLflow writes them; None where there are none."""
    if not signature:
        return None
    return {part: json.loads(signature.get(part) or "null") for part in ("inputs", "outputs", "params")}


def _profile(entry: Mapping[str, Any] | None, root: Path) -> dict[str, Any] | None:
    """The profile's part of MLmodel, and its summary unless it was changed."""
    if not entry:
        return None
    files = _files(entry["files"], root)
    intact = any(file["file"] == SUMMARY_FILE and file["state"] == INTACT for file in files)
    summary = json.loads((root / SUMMARY_FILE).read_text(encoding="utf-8")) if intact else {}
    return {**entry, "files": files, "summary": summary.get("columns")}


def _requirements(root: Path) -> list[str]:
    file = root / _REQUIREMENTS
    if not file.is_file() or not file.resolve().is_relative_to(root.resolve()):
        return []
    lines = (line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
    return [line for line in lines if line and not line.startswith("#")]
