"""Files of a saved bundle: whether they are still what they were when it was saved.

This module travels inside every saved bundle: it imports the standard library only.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["CHANGED", "INTACT", "MISSING", "OUTSIDE", "sha256_of", "state_of"]

INTACT = "ok"
CHANGED = "changed"
MISSING = "missing"
OUTSIDE = "outside the bundle"

_CHUNK_BYTES = 1 << 20


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


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
