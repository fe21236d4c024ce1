"""The models in a home: one directory for each content, kept for as long as something may need it."""

from __future__ import annotations

import contextlib
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Set
from pathlib import Path

MLMODEL_FILE = "MLmodel"
TEMPORARY_PREFIX = ".tmp-"
CACHED = re.compile(rf"[0-9a-f]{{32}}|{re.escape(TEMPORARY_PREFIX)}[0-9a-f]{{32}}")


class ModelCache:
    """Removes the models that nothing needs any more.

    Python writes its bytecode beside the code that it runs, and makes the directories above it again: so what a process
    may still load from stays until that process has ended.

    Args:
        models: the directory of the models.
        needed: returns the names of those that a revision may need, or a replica that has not ended.
    """

    def __init__(self, models: Path, needed: Callable[[], Set[str]]) -> None:
        self.models, self.needed = models, needed
        self._changes = 0

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Keep everything until the end of the block: it may fetch a model that no revision needs yet."""
        self._changes += 1
        try:
            yield
        finally:
            self._changes -= 1
            self.clean()

    def clean(self) -> None:
        """Remove the models that nothing needs, and what an interrupted download left; nothing else."""
        if self._changes:
            return
        with contextlib.suppress(OSError):
            needed = self.needed()
            for path in self.models.iterdir():
                if CACHED.fullmatch(path.name) and path.name not in needed:
                    _remove(path)


def temporary_in(models: Path) -> Path:
    """Return a path in the directory of the models for what is not one of them yet, or not any more."""
    return models / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"


def put(model: Path, cached: Path) -> None:
    """Move a model to its place in the cache, unless it is there already.

    Raises:
        OSError: it can't be moved.
    """
    if (cached / MLMODEL_FILE).is_file():
        return
    if cached.exists():  # what is left of one that was removed
        _remove(cached)
    try:
        model.rename(cached)
    except OSError:
        if not (cached / MLMODEL_FILE).is_file():  # else another download of this model was faster
            raise


def _remove(path: Path) -> None:
    """Remove a directory; a model is never seen without some of its files, whatever comes between."""
    if not path.name.startswith(TEMPORARY_PREFIX):
        removed = temporary_in(path.parent)
        path.rename(removed)
        path = removed
    shutil.rmtree(path, ignore_errors=True)
