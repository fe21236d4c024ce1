"""A model whose signature comes from a type hint of a plain type."""

from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class Ints(PythonModel):  # type: ignore[misc]
    def predict(self, model_input: list[int], params: dict[str, Any] | None = None) -> list[str]:
        return [f"{type(item).__name__} {item!r} {params}" for item in model_input]


set_model(Ints())
