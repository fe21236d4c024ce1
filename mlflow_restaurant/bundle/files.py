"""Files of a saved bundle: whether they are still what they were when it was saved."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "ADDED",
    "CHANGED",
    "CODE_FOLDER",
    "FLAVOR_NAME",
    "INTACT",
    "MISSING",
    "OUTSIDE",
    "SUMMARY_FILE",
    "added_files",
    "sha256_of",
    "state_of",
]

INTACT = "ok"
ADDED = "added"
CHANGED = "changed"
MISSING = "missing"
OUTSIDE = "outside the bundle"

FLAVOR_NAME = "restaurant"
"""Key of this flavor in MLmodel."""

SUMMARY_FILE = "profile/profile.json"

CODE_FOLDER = "code"
"""Where the code of a model lies, also of one inside the bundle; MLflow puts it there."""

_CHUNK_BYTES = 1 << 20
_UNCHECKED_HASH = 0b01


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def added_files(root: Path, folder: str, listed: Iterable[str]) -> list[str]:
    """Return the files below a folder of `root` that are not listed, by their paths from `root`.

    Bytecode that Python has left there is none of them, as far as Python compares it with its source.
    """
    found = [path.relative_to(root) for path in sorted((root / folder).rglob("*")) if path.is_file()]
    code = [path for path in found if not ("__pycache__" in path.parts and _is_compared(root / path))]
    known = set(listed)
    return [path.as_posix() for path in code if path.as_posix() not in known]


def _is_compared(path: Path) -> bool:
    """Whether Python uses bytecode only where it is of the source beside it (PEP 552)."""
    if path.suffix != ".pyc":
        return False
    with path.open("rb") as file:
        flags = int.from_bytes(file.read(8)[4:], "little")
    return flags != _UNCHECKED_HASH


def state_of(root: Path, file: str, sha256: str) -> str:
    """Compare a file with the hash that was recorded for it.

    Args:
        root: directory of the bundle.
        file: path below `root`.
        sha256: the hash in hexadecimal.

    Returns:
        `INTACT`, `CHANGED`, `MISSING`, or `OUTSIDE`: a path that leaves `root`, which is not read.
    """
    path = (root / file).resolve()
    if not path.is_relative_to(root.resolve()):
        return OUTSIDE
    if not path.is_file():
        return MISSING
    return INTACT if sha256_of(path) == sha256 else CHANGED
