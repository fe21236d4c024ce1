"""SHA-256 of files: compared when a bundle is loaded; `saving.hashes` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from .files import CHANGED, CODE_FOLDER, MISSING, OUTSIDE, added_files, state_of

__all__ = ["check_code", "check_files", "checked_path", "refusal"]

_PROBLEMS = {
    CHANGED: "was changed after it was saved (its SHA-256 differs)",
    MISSING: "is missing",
    OUTSIDE: "points outside the model",
}


def refusal(why: str) -> MlflowException:
    """The error that says why something is not saved or loaded."""
    return MlflowException(why, INVALID_PARAMETER_VALUE)


def checked_path(entry: dict[str, Any], root: Path, label: str) -> Path:
    """Path of what an entry of MLmodel names, after a look at its hashes.

    Raises:
        MlflowException: it is missing, was changed, lies outside `root`, or got a file among its code.
    """
    if "file" not in entry:
        return root
    path: Path = root / entry["file"]
    if not path.resolve().is_relative_to(root.resolve()):
        raise refusal(f"{label} cannot be loaded: {entry['file']} {_PROBLEMS[OUTSIDE]}")
    files = entry["files"] if "files" in entry else {entry["file"]: entry["sha256"]}
    check_code(files, root, f"{entry['file']}/{CODE_FOLDER}", f"{label} cannot be loaded")
    return path


def check_code(files: dict[str, str], root: Path, folder: str, label: str) -> None:
    """Compare files with their hashes; there may be no other in the folder of code, all of which can be imported.

    Raises:
        MlflowException: as `check_files`, or there is one more.
    """
    check_files(files, root, label)
    if added := added_files(root, folder, files):
        raise refusal(f"{label}: {added[0]} was added after it was saved")


def check_files(files: dict[str, str], root: Path, label: str) -> None:
    """Compare files with their hashes.

    Raises:
        MlflowException: one is missing, was changed, or lies outside `root`; the message names it.
    """
    for file, expected in files.items():
        if problem := _PROBLEMS.get(state_of(root, file, expected)):
            raise refusal(f"{label}: {file} {problem}")
