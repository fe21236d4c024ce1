"""skops, and what it does badly: all that is known of its inside is here.

This module travels inside every saved bundle: nothing else of this package is imported here.
"""

from __future__ import annotations

import threading
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["dump", "load", "untrusted_types"]

_lock = threading.Lock()


def dump(target: Any, path: Path) -> None:
    """Write an object; its integers in dictionaries come back as Python's where they were NumPy's."""
    import skops.io

    with _lock, _plain_integers_in_dictionaries():
        # The format is verbose JSON: the fastest compression makes vocabularies twenty times smaller.
        skops.io.dump(target, path, compression=zipfile.ZIP_DEFLATED, compresslevel=1)


def load(path: Path, trusted: list[str]) -> Any:
    """Read an object, if it holds no other types than the usual and the trusted ones."""
    import skops.io

    return skops.io.load(path, trusted=trusted)


def untrusted_types(path: Path) -> list[str]:
    """Types in the file that skops does not trust by itself, sorted."""
    import skops.io

    return sorted(set(skops.io.get_untrusted_types(file=path)))


@contextmanager
def _plain_integers_in_dictionaries() -> Iterator[None]:
    """Within, skops writes NumPy integers that are values of dictionaries as numbers.

    It writes each as a file of its own in the archive, and looks through all of them before the next one: the
    vocabulary of a text vectorizer, 30,000 integers, took 15 seconds. As a value of a dictionary an integer is
    looked up and counted with, where NumPy's and Python's are the same.
    """
    try:
        from skops.io._general import dict_get_state
        from skops.io._utils import _get_state
    except ImportError:  # another version of skops: slow, but right
        yield
        return

    def with_plain_integers(target: Any, context: Any) -> Any:
        return dict_get_state(_plain(target), context)

    _get_state.register(dict)(with_plain_integers)
    try:
        yield
    finally:
        _get_state.register(dict)(dict_get_state)


def _plain(target: dict[Any, Any]) -> dict[Any, Any]:
    import numpy as np

    if type(target) is not dict or not any(isinstance(value, np.integer) for value in target.values()):
        return target
    return {key: int(value) if isinstance(value, np.integer) else value for key, value in target.items()}
