"""MLflow models that a bundle takes in: where a loaded one came from, and which of its files are pickles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

__all__ = ["folder_of_pyfunc", "pickled_files"]

_PICKLES = {".joblib", ".pickle", ".pkl", ".pt", ".pth", ".skops"}
"""Files that MLflow's flavors load only where pickles are allowed; of skops, because MLmodel says which types to trust."""


def folder_of_pyfunc(target: Any) -> str:
    """Directory of a loaded pyfunc, fetched from where it was loaded.

    Raises:
        MlflowException: the model does not say where it came from.
    """
    from mlflow.tracking.artifact_utils import _download_artifact_from_uri

    meta = target.metadata
    uri = f"models:/{meta.model_id}" if getattr(meta, "model_id", None) else None
    if uri is None and meta.run_id and meta.artifact_path:
        uri = f"runs:/{meta.run_id}/{meta.artifact_path}"
    if uri is None:
        uri = _folder_of_artifacts(target)
    if uri is None:
        raise MlflowException(
            "A loaded pyfunc from a directory does not say where it came from: "
            "give the directory or the URI itself, Bundle(model='path/of/model').",
            INVALID_PARAMETER_VALUE,
        )
    return str(_download_artifact_from_uri(artifact_uri=uri))


def _folder_of_artifacts(target: Any) -> str | None:
    """Directory of a ``PythonModel`` with artifacts: the only kind that knows where some of its files are."""
    context = getattr(getattr(target, "_model_impl", None), "context", None)
    for path in (getattr(context, "artifacts", None) or {}).values():
        for folder in Path(path).parents:
            if (folder / MLMODEL_FILE_NAME).is_file():
                same = Model.load(str(folder)).model_uuid == target.metadata.model_uuid
                return str(folder) if same else None
    return None


def pickled_files(folder: Path) -> list[str]:
    """Files below a directory (or the file itself) that hold pickles, by their names."""
    if folder.is_file():
        return [folder.name] if _is_pickle(folder) else []
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [str(path.relative_to(folder)) for path in files if _is_pickle(path)]


def _is_pickle(path: Path) -> bool:
    """Told by the suffix, or by the first bytes."""
    if path.suffix in _PICKLES:
        return True
    with path.open("rb") as file:
        start = file.read(2)
    return len(start) == 2 and start[0] == 0x80 and 2 <= start[1] <= 5
