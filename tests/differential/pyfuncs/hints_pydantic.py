"""A model whose signature comes from a type hint of pydantic models, one inside the other."""

import datetime
from typing import Any, Optional

import pydantic
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class Line(pydantic.BaseModel):
    product: str
    count: int = 1


class Order(pydantic.BaseModel):
    customer: str
    total: float
    paid: bool
    at: Optional[datetime.datetime] = None  # noqa: UP045
    lines: list[Line] = []
    notes: dict[str, str] = {}


class Orders(PythonModel):  # type: ignore[misc]
    def predict(self, model_input: list[Order]) -> list[dict[str, Any]]:
        return [{"is": type(order).__name__, **order.model_dump()} for order in model_input]


set_model(Orders())
