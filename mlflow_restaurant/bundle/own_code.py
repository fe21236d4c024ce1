"""The modules of a bundle's own code, beside others of the same names: two bundles may each have a ``helpers.py``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .code_files import lock, take_out

__all__ = ["own_code"]

_SHARED = {"__main__", "mlflow", "numpy", "pandas", *sys.stdlib_module_names}
"""Never replaced: all code in a process has the same."""


@contextmanager
def own_code(code: Path) -> Iterator[None]:
    """Within, imports find the modules in a folder; those loaded from elsewhere with other content come back after."""
    # In reverse: Python prefers the folder of a package to a file of the same name.
    found = {path.name.partition(".")[0]: path for path in sorted(code.glob("*"), reverse=True)}
    own = {name: path for name, path in found.items() if not name.startswith("restaurant_bundle_")}
    if not own.keys() - _SHARED:
        yield
        return
    with lock:
        foreign = {name for name in own.keys() - _SHARED if _is_foreign(name, own[name])}
        others = take_out(foreign)
        sys.path.insert(0, str(code))
        importlib.invalidate_caches()
        try:
            yield
        finally:
            with suppress(ValueError):
                sys.path.remove(str(code))
            take_out(foreign)
            sys.modules.update(others)


def _is_foreign(name: str, own: Path) -> bool:
    """Whether a module was loaded from elsewhere, with other content than the bundle's file or folder."""
    module = sys.modules.get(name)
    if module is None:
        return False
    place = next(iter(getattr(module, "__path__", ())), None) or getattr(module, "__file__", None) or ""
    other = Path(place).resolve()
    if other.is_relative_to(own.parent.resolve()):
        return False
    files = [path for path in own.rglob("*") if path.is_file()] if own.is_dir() else [own]
    compared = [path for path in files if "__pycache__" not in path.parts]
    return not all(_is_same(path, other / path.relative_to(own)) for path in compared)


def _is_same(one: Path, other: Path) -> bool:
    return other.is_file() and one.read_bytes() == other.read_bytes()
