"""Compare predictions as the scoring server writes them: what differs, and where. Values in, words out."""

from __future__ import annotations

import json
import math
from io import StringIO
from typing import Any

__all__ = ["as_json", "difference"]


def as_json(predictions: Any) -> Any:
    """Predictions as they come out of the JSON that MLflow's scoring server writes.

    Raises:
        TypeError, ValueError: JSON cannot hold them.
    """
    from mlflow.pyfunc.scoring_server import predictions_to_json

    text = StringIO()
    predictions_to_json(predictions, text)
    return json.loads(text.getvalue())["predictions"]


def difference(expected: Any, actual: Any, tolerance: float, where: str = "") -> str | None:
    """The first place where two values of JSON differ, in words; None if they agree.

    Args:
        expected: the value as it should be.
        actual: the value as it is.
        tolerance: numbers may differ by this part of them; a whole number never agrees with a broken one.
        where: what leads to the values.
    """
    if type(expected) is not type(actual):
        return _differ(expected, actual, where)
    if isinstance(expected, list):
        return _lists(expected, actual, tolerance, where)
    if isinstance(expected, dict):
        return _objects(expected, actual, tolerance, where)
    if isinstance(expected, float):
        return None if _close(expected, actual, tolerance) else _differ(expected, actual, where)
    return None if expected == actual else _differ(expected, actual, where)


def _lists(expected: list[Any], actual: list[Any], tolerance: float, where: str) -> str | None:
    if len(expected) != len(actual):
        return f"{where or 'the result'} has {len(actual)} items, not {len(expected)}"
    kind = "item" if where else "row"
    pairs = enumerate(zip(expected, actual, strict=True), 1)
    found = (difference(a, b, tolerance, _join(where, f"{kind} {number}")) for number, (a, b) in pairs)
    return next((text for text in found if text), None)


def _objects(expected: dict[str, Any], actual: dict[str, Any], tolerance: float, where: str) -> str | None:
    if list(expected) != list(actual):
        return f"{where or 'the result'} has the columns {list(actual)}, not {list(expected)}"
    found = (
        difference(value, actual[name], tolerance, _join(where, f"'{name}'"))
        for name, value in expected.items()
    )
    return next((text for text in found if text), None)


def _join(where: str, part: str) -> str:
    return f"{where}, {part}" if where else part


def _close(expected: float, actual: float, tolerance: float) -> bool:
    if math.isnan(expected) or math.isnan(actual):
        return math.isnan(expected) and math.isnan(actual)
    return math.isclose(expected, actual, rel_tol=tolerance, abs_tol=tolerance * 1e-3)


def _differ(expected: Any, actual: Any, where: str) -> str:
    return f"{where or 'the result'} is {actual!r:.80}, not {expected!r:.80}"
