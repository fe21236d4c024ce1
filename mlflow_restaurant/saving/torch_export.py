"""PyTorch modules without pickles: MLflow's format ``pt2``, which is the graph that the module runs for an example."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from mlflow_restaurant.bundle.calling import from_tensors, to_tensor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["applies", "save"]

_FLAVOR = "mlflow.pytorch"
_TRIED_TOGETHER = (2, 5)
_TRIED_ALONE = 5
_TOLERANCE = 1e-5


def applies(target: Any, flavor: str) -> bool:
    """Whether a model can be exported: a module that is no TorchScript."""
    if flavor != _FLAVOR:
        return False
    import torch

    return isinstance(target, torch.nn.Module) and not isinstance(target, torch.jit.ScriptModule)


def save(module: Any, folder: Path, example: Callable[[], Any] | None, kwargs: dict[str, Any]) -> None:
    """Export a module, for any number of rows, and compare what the exported one predicts.

    Args:
        module: the module, in evaluation mode.
        folder: new directory, for MLflow's flavor to write.
        example: makes what the module is called with for the bundle's input example.
        kwargs: keyword arguments that it is called with.

    Raises:
        ValueError: it cannot be exported; the message says why, and what to do.
    """
    import mlflow.pytorch

    if "serialization_format" not in inspect.signature(mlflow.pytorch.save_model).parameters:
        raise ValueError("this version of MLflow writes modules as pickles only: upgrade it")
    if example is None:
        raise ValueError("a PyTorch module is exported from an example: give input_example")
    if kwargs:
        raise ValueError("a PyTorch module is exported without keyword arguments: set them in the module")
    rows = _two_rows(module, example())
    mlflow.pytorch.save_model(
        module,
        str(folder),
        serialization_format="pt2",
        input_example=rows.cpu().numpy(),
        signature=_signature(rows),
        pip_requirements=[],
    )
    _compare(module, mlflow.pytorch.load_model(str(folder)), rows)


def _two_rows(module: Any, data: Any) -> Any:
    """The tensor that the module gets; of at least two rows, since one row alone is taken for a constant."""
    import torch

    weights = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(1))
    tensor = to_tensor(data, weights)
    if not isinstance(tensor, torch.Tensor) or tensor.ndim == 0:
        raise ValueError(
            "a PyTorch module is exported for one tensor with a row for each prediction: join its inputs"
        )
    return _repeated(tensor, max(2, len(tensor)))


def _repeated(tensor: Any, count: int) -> Any:
    times = -(-count // len(tensor))
    return tensor.repeat(times, *[1] * (tensor.ndim - 1))[:count]


def _signature(tensor: Any) -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    dtype = np.dtype(str(tensor.dtype).removeprefix("torch."))
    return ModelSignature(Schema([TensorSpec(dtype, (-1,) * tensor.ndim)]))


def _compare(module: Any, exported: Any, rows: Any) -> None:
    """Refuse an export that is bound to one number of rows, or predicts something else."""
    import torch

    alone = [rows[i : i + 1] for i in range(min(len(rows), _TRIED_ALONE))]
    for some in (*alone, *(_repeated(rows, count) for count in _TRIED_TOGETHER)):
        count = len(some)
        with torch.no_grad():
            expected = from_tensors(module(some))
        try:
            with torch.no_grad():
                found = from_tensors(exported(some))
        except Exception as error:
            raise ValueError(
                f"exported, it fails for {count} rows ({type(error).__name__}: {error}): "
                "make its forward method treat any number of rows alike"
            ) from error
        if not _same(expected, found):
            raise ValueError(
                f"exported, it predicts otherwise for {count} rows: make its forward method deterministic"
            )


def _same(expected: Any, found: Any) -> bool:
    import numpy as np

    if isinstance(expected, dict):
        return list(expected) == list(found) and all(_same(expected[key], found[key]) for key in expected)
    if isinstance(expected, (tuple, list)):
        return len(expected) == len(found) and all(map(_same, expected, found))
    return np.allclose(expected, found, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)
