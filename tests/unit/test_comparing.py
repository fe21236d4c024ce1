"""What differs between two predictions, in words."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlflow_restaurant.comparing import as_json, difference


@pytest.mark.parametrize(
    ("expected", "actual", "text"),
    [
        ([1, 2], [1, 2], None),
        ([1.0, math.nan], [1.0 + 1e-12, math.nan], None),
        ([0.0], [-0.0], None),
        ([1, 2], [1, 3], "row 2 is 3, not 2"),
        ([1], [1.0], "row 1 is 1.0, not 1"),
        ([1.0], [math.nan], "row 1 is nan, not 1.0"),
        ([True], [1], "row 1 is 1, not True"),
        ([1, 2], [1], "the result has 1 items, not 2"),
        ([[1, 2]], [[1]], "row 1 has 1 items, not 2"),
        ([[1, 2]], [[1, 5]], "row 1, item 2 is 5, not 2"),
        ([{"ham": 0.2}], [{"ham": 0.3}], "row 1, 'ham' is 0.3, not 0.2"),
        ([{"ham": 0.2}], [{"spam": 0.2}], "row 1 has the columns ['spam'], not ['ham']"),
        ("a", None, "the result is None, not 'a'"),
    ],
)
def test_difference(expected: Any, actual: Any, text: str | None) -> None:
    assert difference(expected, actual, 1e-9) == text


@pytest.mark.parametrize(
    ("predictions", "json"),
    [
        (np.array([1, 2]), [1, 2]),
        (pd.DataFrame({"a": [1.5], "b": ["x"]}), [{"a": 1.5, "b": "x"}]),
        ({"a": np.float32(0.5)}, {"a": 0.5}),
    ],
)
def test_as_the_scoring_server_writes_it(predictions: Any, json: Any) -> None:
    assert as_json(predictions) == json


def test_what_json_cannot_hold() -> None:
    with pytest.raises(TypeError):
        as_json([object()])
