"""What in a scikit-learn model is not scikit-learn's own work, and so need not treat each row by itself.

The contract of a flavor holds for the library, not for what an author puts into a pipeline: a `FunctionTransformer` that
fills in the mean sees all rows of a call. So all that a fitted model is made of is looked through.

Only the standard library is imported: replicas in other environments run this file where the package is missing.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OTHERS = frozenset({"xgboost", "lightgbm", "catboost"})
"""Libraries whose estimators treat each row by itself too; what is inside them is theirs."""
DATA = frozenset({"numpy", "scipy", "pandas", "joblib", *getattr(sys, "stdlib_module_names", ["builtins"])})
"""What else a fitted model is made of: arrays, tables and the like, and functions."""
LEAVES = "sklearn.tree."
"""There is nothing inside these, and a forest has thousands of them."""
PLAIN = frozenset({str, bytes, int, float, complex, bool, type(None)})


def own_step(model: "Any") -> str:
    """Name what in a loaded pyfunc is not scikit-learn's own work; empty if nothing, or if it is no scikit-learn model."""
    wrapper = getattr(model, "_model_impl", None)
    whole = getattr(wrapper, "sklearn_model", wrapper)
    if whole is wrapper and _library(whole) != "sklearn":
        return ""
    seen: set[int] = set()
    left: list[tuple[str, Any]] = [("the model", whole)]
    while left:
        name, part = left.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if _is_own(part):
            return f"{name} ({type(part).__name__})"
        if isinstance(part, tuple) and part and isinstance(part[0], str):
            name = f"its step '{part[0]}'"
        left += [(name, inner) for inner in reversed(_parts(part))]
    return ""


def _library(part: "Any") -> str:
    return type(part).__module__.partition(".")[0]


def _is_own(part: "Any") -> bool:
    library = _library(part)
    if library == "sklearn":
        return type(part).__name__ == "FunctionTransformer" and not _works_by_element(part)
    return library not in DATA and library not in OTHERS and not isinstance(part, (dict, list, tuple, set))


def _works_by_element(transformer: "Any") -> bool:
    functions = (transformer.func, transformer.inverse_func)
    return not transformer.kw_args and all(f is None or type(f).__name__ == "ufunc" for f in functions)


def _parts(part: "Any") -> "list[Any]":
    """Return what is inside a part and may be or have a step."""
    if isinstance(part, dict):
        inside = list(part.values())
    elif isinstance(part, (list, tuple, set)):
        inside = list(part)
    elif type(part).__name__ == "ndarray" and part.dtype.char == "O":
        inside = part.ravel().tolist()
    elif _library(part) == "sklearn" and not type(part).__module__.startswith(LEAVES):
        inside = list(getattr(part, "__dict__", {}).values())
    else:
        return []
    return [item for item in inside if type(item) not in PLAIN]
