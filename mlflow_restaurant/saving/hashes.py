"""SHA-256 of the files of a bundle, as MLmodel lists them; `bundle.hashes` compares them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow_restaurant.bundle.files import sha256_of

__all__ = ["files_below", "hashed", "sha256_of_files"]


def hashed(root: Path, file: str) -> dict[str, Any]:
    """Path and hash of a file, or hashes of all files in a directory; nothing if there is neither."""
    path = root / file
    if path.is_dir():
        return {"file": file, "files": sha256_of_files(root, file)}
    return {"file": file, "sha256": sha256_of(path)} if path.is_file() else {}


def sha256_of_files(root: Path, folder: str) -> dict[str, str]:
    """Hash of every file below a folder of `root`, by its path from `root`; bytecode left out."""
    return {file: sha256_of(root / file) for file in files_below(root, folder)}


def files_below(root: Path, folder: str) -> list[str]:
    """Return the files below a folder of `root`, by their paths from `root`; bytecode left out."""
    paths = [path.relative_to(root) for path in sorted((root / folder).rglob("*")) if path.is_file()]
    return [path.as_posix() for path in paths if "__pycache__" not in path.parts]
