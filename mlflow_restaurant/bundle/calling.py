"""How the models of each library are called, and by which methods.

Libraries are never imported for a model of another kind: what kind a model is, its own class says.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import PurePath
from typing import Any

from .steps import BundleError, check_instance, check_kind, check_kwargs, describe, takes_params

__all__ = [
    "METHODS",
    "Call",
    "calling",
    "from_tensors",
    "has",
    "libraries_of",
    "needs_mlflow",
    "params_of_pyfunc",
    "to_tensor",
]

METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "transform", "score_samples")
"""Methods that a request may choose; a model is asked for no other, except for the one its bundle was made with."""

_AS_PYFUNC = {"h2o", "onnx", "paddle", "pmdarima", "sentence_transformers", "spacy", "transformers"}
"""Their models take no tables themselves: MLflow's wrapper does."""

Call = Callable[[str, Any, dict[str, Any]], Any]


def libraries_of(target: Any) -> list[str]:
    """Top-level packages of an object's class and of the classes it derives from, nearest first."""
    found = [base.__module__.partition(".")[0] for base in type(target).__mro__]
    return list(dict.fromkeys(name for name in found if name not in {"builtins", "abc"}))


def needs_mlflow(target: Any, flavor: str | None) -> bool:
    """Whether MLflow has to load a model, or to wrap it so that it takes tables."""
    if isinstance(target, (str, PurePath)):
        return True
    libraries = set(libraries_of(target))
    if flavor is not None and not (callable(target) or has(target, "predict")):
        return True
    return bool(libraries & _AS_PYFUNC) or ("mlflow" in libraries and type(target).__name__ != "PyFuncModel")


def calling(target: Any, kwargs: dict[str, Any]) -> tuple[tuple[str, ...], Call]:
    """The methods of a model, and how to call one of them.

    Raises:
        BundleError: it has none, or not these keyword arguments.
    """
    check_instance("The model", target, "predict")
    check_kind("The model", target)
    for library in libraries_of(target):
        special = _SPECIAL.get(library)
        found = None if special is None else special(target, kwargs)
        if found is not None:
            return found
    methods = tuple(name for name in METHODS if has(target, name))
    if methods:
        check_kwargs(getattr(target, methods[0]), kwargs, "The model")
        return methods, lambda method, data, params: getattr(target, method)(data, **kwargs)
    if callable(target):
        return ("predict",), _function_call(target, kwargs)
    raise BundleError(
        f"The model is {describe(target)}, which has no predict method and cannot be called: give a fitted estimator, a "
        "function, the URI of a saved model, or name the MLflow flavor that saves it: Bundle(model=..., flavor='onnx')."
    )


def _function_call(target: Any, kwargs: dict[str, Any]) -> Call:
    check_kwargs(target, kwargs, "The model")
    if takes_params(target):
        return lambda method, data, params: target(data, params=dict(params), **kwargs)
    return lambda method, data, params: target(data, **kwargs)


def _xgboost(target: Any, kwargs: dict[str, Any]) -> tuple[tuple[str, ...], Call] | None:
    if type(target).__name__ != "Booster":
        return None
    import xgboost

    def call(method: str, data: Any, params: dict[str, Any]) -> Any:
        matrix = data if isinstance(data, xgboost.DMatrix) else xgboost.DMatrix(data)
        return target.predict(matrix, **kwargs)

    return ("predict",), call


def _torch(target: Any, kwargs: dict[str, Any]) -> tuple[tuple[str, ...], Call] | None:
    import torch

    if not isinstance(target, torch.nn.Module):
        return None
    weights = next((p for p in target.parameters() if p.is_floating_point()), torch.zeros(1))

    def call(method: str, data: Any, params: dict[str, Any]) -> Any:
        _evaluate(target)
        with torch.no_grad():
            return from_tensors(target(to_tensor(data, weights), **kwargs))

    return ("predict",), call


def _evaluate(target: Any) -> None:
    """Put a PyTorch module into evaluation mode, in which its predictions are not random."""
    if target.training:
        with suppress(NotImplementedError):  # an exported module stays as it was
            target.eval()


def to_tensor(data: Any, like: Any) -> Any:
    """A tensor of DataFrames, arrays and lists: floating point as the weights are, integers as they are."""
    import numpy as np
    import torch

    if isinstance(data, (torch.Tensor, tuple, dict)):
        return data
    array = data.toarray() if hasattr(data, "toarray") else np.asarray(data)
    if array.dtype == object:
        array = array.astype("float64")
    tensor = torch.as_tensor(np.ascontiguousarray(array))
    as_weights = tensor.is_floating_point() or type(data).__name__ in {"DataFrame", "Series"}
    return tensor.to(device=like.device, dtype=like.dtype if as_weights else None)


def from_tensors(result: Any) -> Any:
    """Arrays for tensors, also those in tuples, lists and dictionaries."""
    if hasattr(result, "detach"):
        return result.detach().cpu().numpy()
    if isinstance(result, (tuple, list)):
        return type(result)(map(from_tensors, result))
    if isinstance(result, dict):
        return {name: from_tensors(value) for name, value in result.items()}
    return result


def _keras(target: Any, kwargs: dict[str, Any]) -> tuple[tuple[str, ...], Call] | None:
    if not has(target, "predict"):
        return None
    options = {"verbose": 0, **kwargs}

    def call(method: str, data: Any, params: dict[str, Any]) -> Any:
        array = data.to_numpy() if hasattr(data, "to_numpy") else data
        return getattr(target, method)(array, **options)

    return ("predict",), call


def params_of_pyfunc(target: Any) -> dict[str, Any]:
    """The params of a loaded pyfunc and their defaults; none of anything else."""
    if type(target).__name__ != "PyFuncModel":
        return {}
    return {spec.name: spec.default for spec in target.metadata.get_params_schema() or ()}


def _mlflow(target: Any, kwargs: dict[str, Any]) -> tuple[tuple[str, ...], Call] | None:
    """A loaded pyfunc: it gets those params that its own signature names."""
    if type(target).__name__ != "PyFuncModel":
        return None
    names = set(params_of_pyfunc(target))

    def call(method: str, data: Any, params: dict[str, Any]) -> Any:
        return target.predict(data, params={k: v for k, v in params.items() if k in names} or None)

    return ("predict",), call


_SPECIAL: dict[str, Callable[[Any, dict[str, Any]], tuple[tuple[str, ...], Call] | None]] = {
    "keras": _keras,
    "mlflow": _mlflow,
    "tensorflow": _keras,
    "torch": _torch,
    "xgboost": _xgboost,
}
"""Libraries whose models are not called as scikit-learn's are."""


def has(target: Any, method: str) -> bool:
    """Whether an object has a method of that name."""
    return callable(getattr(target, method, None))
