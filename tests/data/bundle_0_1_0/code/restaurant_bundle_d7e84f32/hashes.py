"""SHA-256 of files: written when a bundle is saved, compared when it is loaded.

This module travels inside every saved bundle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from .files import CHANGED, MISSING, OUTSIDE, sha256_of, state_of

__all__ = ["check_files", "checked_path", "hashed", "sha256_of_files"]

_PROBLEMS = {
    CHANGED: "was changed after it was saved (its SHA-256 differs)",
    MISSING: "is missing",
    OUTSIDE: "points outside the model",
}


def hashed(root: Path, file: str) -> dict[str, Any]:
    """Path and hash of a file, or hashes of all files in a directory; nothing if there is neither."""
    path = root / file
    if path.is_dir():
        return {"file": file, "files": sha256_of_files(root, file)}
    return {"file": file, "sha256": sha256_of(path)} if path.is_file() else {}


def sha256_of_files(root: Path, folder: str) -> dict[str, str]:
    """Hash of every file below a folder of `root`, by its path from `root`; bytecode left out."""
    files = (path for path in sorted((root / folder).rglob("*")) if path.is_file())
    return {
        path.relative_to(root).as_posix(): sha256_of(path)
        for path in files
        if "__pycache__" not in path.parts
    }


def checked_path(entry: dict[str, Any], root: Path, label: str) -> Path:
    """Path of what an entry of MLmodel names, after a look at its hashes.

    Raises:
        MlflowException: it is missing, was changed, or lies outside `root`.
    """
    if "file" not in entry:
        return root
    files = entry["files"] if "files" in entry else {entry["file"]: entry["sha256"]}
    check_files(files, root, f"{label} cannot be loaded")
    path: Path = root / entry["file"]
    return path


def check_files(files: dict[str, str], root: Path, label: str) -> None:
    """Compare files with their hashes.

    Raises:
        MlflowException: one is missing, was changed, or lies outside `root`; the message names it.
    """
    for file, expected in files.items():
        if problem := _PROBLEMS.get(state_of(root, file, expected)):
            raise MlflowException(f"{label}: {file} {problem}", INVALID_PARAMETER_VALUE)
