"""From a model URI to a resolved version and a local copy of the model.

A job of the fork server: the models in MLflow's stores are read here and in no other part of the server.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mlflow_restaurant.control.batching import facts_of
from mlflow_restaurant.control.model_cache import MLMODEL_FILE, put, temporary_in
from mlflow_restaurant.entities import ModelSignature
from mlflow_restaurant.errors import one_line

REGISTRY_META_FILE = "registered_model_meta"
EXAMPLE_FILE = "serving_input_example.json"
PYFUNC = "python_function"
CHUNK_BYTES = 1 << 20


class FetchError(Exception):
    """The model can't be deployed; `code` is an MLflow error code."""

    def __init__(self, message: str, code: str = "INVALID_PARAMETER_VALUE") -> None:
        super().__init__(message)
        self.code = code


def main(args: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> int:
    """Fetch a model into the cache and report what it is.

    Args:
        args: ``model_uri``, ``tracking_uri``, ``registry_uri``, ``models`` (cache directory), ``flavor`` (or None),
            ``env_manager`` as asked for.
        report: told ``{"result": {...}}`` with the fields of `entities.ModelArtifact`, or ``{"failed": reason,
            "code": MLflow error code}``.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    temporary = temporary_in(Path(args["models"]))
    try:
        result = _fetch(args, temporary, report)
    except BaseException as e:
        reason, code = _explain(e, args["model_uri"])
        report({"failed": reason, "code": code})
        with contextlib.suppress(OSError):  # the disk may be full
            traceback.print_exc()
        return 1
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    report({"result": result})
    return 0


def _fetch(args: dict[str, Any], temporary: Path, report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    from mlflow_restaurant.replica.environments import unsatisfied

    uri = args["model_uri"]
    version, concrete = _resolve(uri, args["tracking_uri"], args["registry_uri"])
    report({"progress": f"fetching {concrete}"})
    model = _download(concrete, temporary)
    described = describe(model, uri, args["flavor"])
    digest = tree_digest(model)
    cached = Path(args["models"]) / digest
    put(model, cached)
    manager, reason = args["env_manager"], "as asked for"
    if manager == "auto":
        lacking = unsatisfied(cached)
        manager = "uv" if lacking else "local"
        reason = lacking or "what is installed satisfies the model's requirements"
    return {
        **described,
        "digest": digest,
        "model_uri": uri,
        "model_version": version,
        "env_manager": manager,
        "env_reason": reason,
    }


def _resolve(uri: str, tracking_uri: str | None, registry_uri: str | None) -> tuple[str | None, str]:
    """Return the registry version of `uri`, if it names one, and a URI that always means this model."""
    if not uri.startswith("models:/"):
        set_stores(tracking_uri, registry_uri)
        return None, uri
    set_stores(tracking_uri, registry_uri)
    from mlflow.store.artifact.utils.models import _parse_model_uri, get_model_name_and_version
    from mlflow.tracking import MlflowClient

    if _parse_model_uri(uri).name is None:
        return None, uri
    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=registry_uri)
    name, version = get_model_name_and_version(client, uri)[:2]
    client.get_model_version(name, str(version))
    return str(version), f"models:/{name}/{version}"


def set_stores(tracking_uri: str | None, registry_uri: str | None) -> None:
    """Let this process use these stores; None leaves what there is."""
    import mlflow

    if tracking_uri:
        mlflow.set_tracking_uri(tracking_uri)
    if registry_uri:
        mlflow.set_registry_uri(registry_uri)


def local_path(uri: str) -> Path | None:
    """Return the path that a ``file:`` URI or a plain path names, or None for any other URI."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(uri) if not parts.scheme else None


def _download(uri: str, temporary: Path) -> Path:
    path = local_path(uri)
    if path is not None:
        if not path.exists():
            raise FetchError(f"There is no model at {path}.", "RESOURCE_DOES_NOT_EXIST")
        if not (path / MLMODEL_FILE).is_file():
            raise FetchError(f"{path} is no MLflow model: it has no {MLMODEL_FILE} file.")
        temporary.mkdir()  # without parents: a home that was removed meanwhile stays so
        shutil.copytree(path, temporary, dirs_exist_ok=True)
        _make_removable(temporary)
        return temporary
    from mlflow.artifacts import download_artifacts

    temporary.mkdir()
    model = Path(download_artifacts(artifact_uri=uri, dst_path=str(temporary)))
    if not (model / MLMODEL_FILE).is_file():
        raise FetchError(f"{uri} is no MLflow model: it has no {MLMODEL_FILE} file.")
    return model


def _make_removable(directory: Path) -> None:
    for path in (directory, *directory.rglob("*")):
        if path.is_dir():
            path.chmod(path.stat().st_mode | stat.S_IRWXU)


def describe(model: Path, uri: str, flavor: str | None) -> dict[str, Any]:
    """Return what the MLmodel file says.

    Raises:
        FetchError: it can't be read, the model is no pyfunc, or it has no such flavor.
    """
    from mlflow.models import Model

    try:
        metadata = Model.load(str(model / MLMODEL_FILE))
        flavors = dict(metadata.flavors)
        inputs = metadata.get_input_schema()
        signature = signature_of(metadata.signature)
    except Exception as e:
        reason = (str(e).splitlines() or [""])[0].replace(str(model), uri)
        raise FetchError(
            f"The {MLMODEL_FILE} file of {uri} can't be read: {type(e).__name__}: {reason}."
        ) from e
    if PYFUNC not in flavors:
        raise FetchError(
            f"{uri} can't be served: it has no {PYFUNC} flavor, only {', '.join(sorted(flavors)) or 'none'}."
        )
    if flavor is not None and flavor not in flavors:
        raise FetchError(f"{uri} has no flavor '{flavor}'; it has {', '.join(sorted(flavors))}.")
    return {
        "flavor": flavor or PYFUNC,
        "model_uuid": metadata.model_uuid,
        "model_id": getattr(metadata, "model_id", None),
        "has_example": (model / EXAMPLE_FILE).is_file(),
        "batch_facts": facts_of(flavors, inputs.to_dict() if inputs else None).model_dump(),
        "signature": signature.model_dump() if signature is not None else None,
    }


def signature_of(signature: Any) -> ModelSignature | None:
    """Return what MLflow's signature says of the input of a model; None when there is no signature."""
    if signature is None:
        return None
    return ModelSignature(
        inputs=signature.inputs.to_dict() if signature.inputs else None,
        params=signature.params.to_dict() if signature.params else None,
    )


def tree_digest(directory: Path) -> str:
    """Return a hash of the names and contents of all files below `directory`."""
    total = hashlib.sha256()
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        relative = path.relative_to(directory).as_posix()
        if relative == REGISTRY_META_FILE:
            continue
        content = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                content.update(chunk)
        total.update(f"{relative}\0{content.hexdigest()}\n".encode())
    return total.hexdigest()[:32]


def _explain(error: BaseException, uri: str) -> tuple[str, str]:
    from mlflow.exceptions import MlflowException

    if isinstance(error, FetchError):
        return str(error), error.code
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):
        text = str(error.args[0][0][-1])  # the first of the files that could not be copied
    else:
        text = (str(error).splitlines() or [""])[0] or type(error).__name__
    text = one_line(text)
    if isinstance(error, MlflowException):
        return f"{uri} can't be fetched: {text}", str(error.error_code)
    if isinstance(error, OSError):
        return f"{uri} can't be fetched: {error.strerror or text}.", "IO_ERROR"
    return f"{uri} can't be fetched: {type(error).__name__}: {text}", "INTERNAL_ERROR"
