"""A model whose signature comes from a type hint of dictionaries."""

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class Dicts(PythonModel):  # type: ignore[misc]
    def predict(self, model_input: list[dict[str, float]]) -> list[str]:
        return [f"{type(item).__name__} {item!r}" for item in model_input]


set_model(Dicts())
