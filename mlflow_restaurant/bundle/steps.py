"""Steps of a bundle: what may be one, what is checked when a bundle is made, and how each is called."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "BundleError",
    "Step",
    "check_fitted",
    "check_kind",
    "describe",
    "from_code",
    "make_steps",
    "module_name",
    "reason_of",
    "takes_params",
]


class BundleError(ValueError):
    """A bundle cannot be made, or asked, like this; the message says why, and what to do."""


@dataclass(frozen=True)
class Step:
    """One step of a bundle.

    Attributes:
        role: ``preprocess``, ``model`` or ``postprocess``.
        position: place among the steps of the same role, from 1.
        count: how many steps have this role.
        target: the function, transformer or estimator.
        call: what `Bundle.predict` calls with the data and the params of the request.
        kwargs: keyword arguments that a function gets at every call.
        source: the file of Python code that made the target, if it was given as one.
    """

    role: str
    position: int
    count: int
    target: Any
    call: Callable[[Any, dict[str, Any]], Any]
    kwargs: dict[str, Any] = field(default_factory=dict)
    source: str | None = None

    @property
    def name(self) -> str:
        """The function's name, or the class name of anything else."""
        return str(getattr(self.target, "__name__", None) or type(self.target).__name__)

    @property
    def given(self) -> Any:
        """What was given for the step: the function, or the function with its keyword arguments."""
        return (self.target, self.kwargs) if self.kwargs else self.target

    def __str__(self) -> str:
        if self.role == "model":
            return f"model '{self.name}'"
        return f"{self.role} step {self.position} of {self.count} '{self.name}'"


def make_steps(role: str, given: Any) -> list[Step]:
    """Make the steps of one role.

    Args:
        role: ``preprocess`` or ``postprocess``.
        given: one step, or a list of them: functions, ``(function, keyword arguments)``, ``functools.partial``,
            objects with ``transform`` or ``__call__``, or the path of a file of Python code.

    Raises:
        BundleError: something is none of these, or not fitted.
    """
    if given is None:
        return []
    alone = not isinstance(given, (list, tuple)) or _is_pair(given)
    targets = [given] if alone else list(given)
    return [_step(role, position, len(targets), target) for position, target in enumerate(targets, 1)]


def _is_pair(given: Any) -> bool:
    return isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], dict)


def _step(role: str, position: int, count: int, given: Any) -> Step:
    label = f"{role} step {position} of {count}"
    target, kwargs = split_kwargs(given)
    target, source = from_code(target)
    check_kind(label, target)
    if hasattr(target, "transform"):
        check_instance(label, target, "transform")
        check_fitted(label, target)
        call = _caller(target.transform, kwargs, label)
    elif callable(target):
        if hasattr(target, "training") and callable(getattr(target, "eval", None)):  # a module of PyTorch
            target.eval()
        call = _caller(target, kwargs, label)
    else:
        raise BundleError(
            f"{label} is {describe(target)}, which is neither a function nor has a transform method: "
            "give a function or a fitted transformer."
        )
    return Step(role, position, count, target, call, kwargs, source)


def check_kind(label: str, target: Any) -> None:
    """Refuse data, whose methods have the names of steps', and functions that must be awaited."""
    if type(target).__name__ in {"DataFrame", "Series", "Index", "ndarray"}:
        raise BundleError(
            f"{label} is data (a {type(target).__name__}): give the function, transformer or model itself, not what it "
            "returns."
        )
    if inspect.iscoroutinefunction(target):
        raise BundleError(
            f"{label} is {describe(target)}, which has to be awaited: give a function without async."
        )


def split_kwargs(given: Any) -> tuple[Any, dict[str, Any]]:
    """A function and the keyword arguments stored beside it."""
    if _is_pair(given):
        target, kwargs = given
        return target, dict(kwargs)
    if isinstance(given, functools.partial) and not given.args:
        return given.func, dict(given.keywords)
    return given, {}


def _caller(
    function: Callable[..., Any], kwargs: dict[str, Any], label: str
) -> Callable[[Any, dict[str, Any]], Any]:
    check_kwargs(function, kwargs, label)
    if takes_params(function) and "params" not in kwargs:
        return lambda data, params: function(data, params=dict(params), **kwargs)
    if kwargs:
        return lambda data, params: function(data, **kwargs)
    return lambda data, params: function(data)


def takes_params(function: Any) -> bool:
    """Whether a function has a parameter named ``params``."""
    parameter = (_parameters(function) or {}).get("params")
    return parameter is not None and parameter.kind in {
        parameter.KEYWORD_ONLY,
        parameter.POSITIONAL_OR_KEYWORD,
    }


def check_kwargs(function: Any, kwargs: dict[str, Any], label: str) -> None:
    """Refuse keyword arguments that the function does not have."""
    parameters = _parameters(function)
    if parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    if odd := [name for name in kwargs if name not in parameters]:
        name = getattr(function, "__name__", type(function).__name__)
        raise BundleError(
            f"{label}: {name} has no argument {odd[0]!r}: it has {', '.join(map(repr, parameters)) or 'none'}."
        )


def _parameters(function: Any) -> dict[str, inspect.Parameter] | None:
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # functions written in C may not say
        return None


def from_code(given: Any) -> tuple[Any, str | None]:
    """Run a file of Python code that calls ``mlflow.models.set_model``; return what it set, and the file."""
    if not (isinstance(given, (str, Path)) and str(given).endswith(".py")):
        return given, None
    from .code_files import opened, run

    file = opened(given, lambda: str(given))
    return run(file), file


def check_instance(label: str, target: Any, method: str) -> None:
    """Refuse a class where an instance is wanted."""
    if isinstance(target, type):
        raise BundleError(
            f"{label} is the class {target.__name__}, not an instance of it: "
            f"give a fitted {target.__name__}, whose {method} can be called."
        )


def check_fitted(label: str, target: Any) -> None:
    """Refuse a scikit-learn estimator that is not fitted, or has a part that is not."""
    for part in _parts(target):
        if not _is_fitted(part):
            name = type(part).__name__
            inside = "" if part is target else f" in the {type(target).__name__}"
            raise BundleError(
                f"{label}: the {name}{inside} is not fitted yet: call its fit method before making the bundle."
            )


def _parts(target: Any) -> list[Any]:
    """The estimators inside a scikit-learn ``Pipeline``, or the object itself."""
    pipeline = getattr(sys.modules.get("sklearn.pipeline"), "Pipeline", None)
    if pipeline is None or not isinstance(target, pipeline):
        return [target]
    return [part for _, step in target.steps for part in _parts(step)]


_CHECKED_PACKAGES = ("sklearn.", "xgboost.", "lightgbm.")
"""Their classes keep scikit-learn's convention that fitting sets an attribute ending in "_"; a transformer of the
user's that learns nothing would look unfitted for ever."""


def _is_fitted(target: Any) -> bool:
    if not type(target).__module__.startswith(_CHECKED_PACKAGES) or not hasattr(target, "fit"):
        return True
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(target)
    except NotFittedError:
        return False
    except TypeError:  # no estimator: nothing to fit
        return True
    return True


def describe(target: Any) -> str:
    """The start of an object's repr, and its class."""
    return f"{target!r:.60} ({type(target).__name__})"


def reason_of(error: Exception) -> str:
    """Why something cannot be loaded, and what to do where a library is missing."""
    if isinstance(error, ModuleNotFoundError):
        return (
            f"it needs the library '{str(error.name).partition('.')[0]}', which is not installed here: install it, in "
            "the version that the model's requirements.txt names, or serve the model with --env-manager uv."
        )
    return str(getattr(error, "message", None) or f"{type(error).__name__}: {error}")


def module_name(target: Any) -> str:
    """Module of a function, or of an object's class; of code that MLflow ran, the file's name without its suffix."""
    name = str(getattr(target if hasattr(target, "__qualname__") else type(target), "__module__", ""))
    file = getattr(sys.modules.get(name), "__file__", None) if name.startswith("code_model_") else None
    return Path(file).stem if file else name
