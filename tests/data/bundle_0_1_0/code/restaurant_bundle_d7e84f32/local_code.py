"""Which code can be imported where a saved model will be loaded, and which must travel with it.

This module travels inside every saved bundle: it imports the standard library only.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["import_path", "is_local", "module_of", "modules_by_value"]

_LIBRARY_FOLDERS = {"site-packages", "dist-packages"}
_STDLIB = {Path(os.path.realpath(sysconfig.get_path(name))) for name in ("stdlib", "platstdlib")}


def is_local(module: ModuleType, code_paths: Sequence[str]) -> bool:
    """Whether a module cannot be imported where the saved model will be loaded."""
    if module.__name__ == "__main__":
        return True
    package = module.__name__.partition(".")[0]
    if package == __name__.partition(".")[0]:
        return True  # a saved bundle must not need this package
    file = getattr(module, "__file__", None)
    if file is None:
        return False  # built into the interpreter
    path = Path(os.path.realpath(file))
    if _LIBRARY_FOLDERS.intersection(path.parts) or _STDLIB.intersection(path.parents):
        return False
    return not any(_provides(code_path, package, path) for code_path in code_paths)


def _provides(code_path: str, package: str, file: Path) -> bool:
    root = Path(os.path.realpath(code_path))
    return root.stem == package and file.is_relative_to(root)


def module_of(type_name: str) -> ModuleType | None:
    """The loaded module in which a type of that dotted name lives."""
    name = type_name
    while "." in name:
        name = name.rpartition(".")[0]
        if name in sys.modules:
            return sys.modules[name]
    return None


def import_path(target: Any, code_paths: Sequence[str]) -> str | None:
    """``module:name`` of a function or class that can be imported wherever the model is loaded, or None."""
    module_name, name = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
    if not (isinstance(module_name, str) and isinstance(name, str)):
        return None
    module = sys.modules.get(module_name)
    if module is None or "<" in name or is_local(module, code_paths):
        return None
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module_name}:{name}" if found is target else None


@contextmanager
def modules_by_value(code_paths: Sequence[str]) -> Iterator[None]:
    """Within, cloudpickle writes functions and classes of local modules by value."""
    import cloudpickle

    already = cloudpickle.list_registry_pickle_by_value()
    modules = [
        module
        for name, module in list(sys.modules.items())
        if name not in already and type(module) is ModuleType and module.__name__ == name
        if is_local(module, code_paths)
    ]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)
