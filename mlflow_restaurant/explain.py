"""Explanations of predictions from the predictions themselves. Pure: frames in, frames out.

For each row and each column, the column's value is replaced by the values that the other rows have, everything else
staying as it is. The effect is the prediction minus the mean prediction with the value replaced; for predictions that
are no numbers, the share of replacements that change the prediction. It is the one-column-at-a-time form of removal
based explanations (Covert, Lundberg, Lee: Explaining by Removing, JMLR 22, 2021).
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_restaurant.errors import InvalidRequest

if TYPE_CHECKING:
    import pandas as pd

MAX_BACKGROUND_ROWS = 20
MAX_ROWS_A_CALL = 5000

Predict = Callable[["pd.DataFrame"], Sequence[Any]]
Pick = Callable[[Any], float]


def explain(frame: pd.DataFrame, predict: Predict) -> pd.DataFrame:
    """Return the effect of each value on its row's prediction.

    Args:
        frame: rows to explain, at least two: they are each other's background.
        predict: returns one prediction for each row of a frame of the same columns.

    Returns:
        A frame of the shape of `frame`: in units of the prediction where it is a number (or the entry that is
        largest where it is a list of numbers), else a share from 0 to 1.

    Raises:
        InvalidRequest: fewer than two rows, or predictions that are not one for each row.
    """
    import numpy as np
    import pandas as pd

    if len(frame) < 2 or not len(frame.columns):
        raise InvalidRequest(
            "An explanation compares rows with each other: give a table of at least two rows."
        )
    rows, backgrounds = len(frame), _backgrounds(len(frame))
    base = _predictions(predict, frame)
    effects = np.zeros((rows, len(frame.columns)))
    for j, column in enumerate(frame.columns):
        replaced = pd.concat([frame] * len(backgrounds), ignore_index=True)
        others = np.concatenate([(np.arange(rows) + shift) % rows for shift in backgrounds])
        replaced[column] = frame[column].take(others).reset_index(drop=True)
        predicted = _predictions(predict, replaced)
        for i in range(rows):
            effects[i, j] = _effect(base[i], predicted[i::rows])
    explained: pd.DataFrame = pd.DataFrame(effects, columns=frame.columns, index=frame.index)
    return explained


def _backgrounds(rows: int) -> list[int]:
    """Return by how many rows to shift a column: all other rows, or an even choice of them."""
    count = min(rows - 1, MAX_BACKGROUND_ROWS)
    return sorted({1 + round(k * (rows - 2) / max(1, count - 1)) for k in range(count)})


def _predictions(predict: Predict, frame: pd.DataFrame) -> list[Any]:
    predictions: list[Any] = []
    for start in range(0, len(frame), MAX_ROWS_A_CALL):
        predictions.extend(predict(frame.iloc[start : start + MAX_ROWS_A_CALL]))
    if len(predictions) != len(frame):
        raise InvalidRequest(
            f"The model gives {len(predictions)} predictions for {len(frame)} rows; only one a row can be explained."
        )
    return predictions


def _effect(base: Any, others: Sequence[Any]) -> float:
    number, pick = _number(base)
    if number is None:
        return sum(1 for other in others if other != base) / len(others)
    return number - sum(pick(other) for other in others) / len(others)


def _number(prediction: Any) -> tuple[float | None, Pick]:
    """Return the number that stands for a prediction, and how to read the same number of another."""
    if isinstance(prediction, dict) and len(prediction) == 1:
        (key,) = prediction
        number, pick = _number(prediction[key])
        return number, lambda other: pick(other[key])
    if isinstance(prediction, numbers.Real) and not isinstance(prediction, bool):
        return float(prediction), float
    if isinstance(prediction, list) and prediction and all(isinstance(p, numbers.Real) for p in prediction):
        largest = max(range(len(prediction)), key=lambda k: prediction[k])
        return float(prediction[largest]), lambda other: float(other[largest])
    return None, lambda _: 0.0
