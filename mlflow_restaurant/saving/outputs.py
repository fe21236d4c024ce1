"""Outputs of a signature: whether they are what a bundle predicts."""

from __future__ import annotations

from typing import Any

import numpy as np
from mlflow.models import infer_signature
from mlflow.types import TensorSpec

__all__ = ["difference_of_outputs"]

_SAME = {"O": "U", "S": "U", "u": "i"}
"""Kinds of NumPy's types that come out of JSON as others do."""


def difference_of_outputs(outputs: Any, predictions: Any) -> str:
    """What differs between the outputs of a signature and predictions, in words; empty if nothing does.

    Args:
        outputs: the ``Schema`` of the signature's outputs.
        predictions: what the bundle predicted.
    """
    try:
        said, found = _columns(outputs), _columns(infer_signature(model_output=predictions).outputs)
    except Exception:  # predictions of a kind that no signature describes
        return ""
    if len(said) != len(found):
        return f"it has {_counted(len(said))}, and the bundle predicts {_counted(len(found))}"
    for (name, kind, text), (other_name, other_kind, other_text) in zip(said, found, strict=True):
        if None not in (name, other_name) and name != other_name:
            return f"it has {name!r} where the bundle predicts {other_name!r}"
        if kind != other_kind:
            return (
                f"{name or other_name or 'the output'} is {text} in it, and the bundle predicts {other_text}"
            )
    return ""


def _counted(count: int) -> str:
    return f"{count} column{'' if count == 1 else 's'}"


def _columns(schema: Any) -> list[tuple[str | None, str, str]]:
    """Name, kind of type, and type of every column; a tensor of two dimensions has as many as are said."""
    return [column for spec in schema for column in _columns_of(spec)]


def _columns_of(spec: Any) -> list[tuple[str | None, str, str]]:
    name = None if spec.name is None else str(spec.name)
    if isinstance(spec, TensorSpec):
        count = max(spec.shape[1], 1) if len(spec.shape) == 2 else 1
        return [(name, _kind(spec.type), str(spec.type))] * count
    text = getattr(spec.type, "name", str(spec.type))
    return [(name, _kind(spec.type.to_numpy()) if hasattr(spec.type, "to_numpy") else text, text)]


def _kind(dtype: Any) -> str:
    kind: str = np.dtype(dtype).kind
    return _SAME.get(kind, kind)
