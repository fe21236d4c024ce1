"""Golden answers: what a revision said of its model's input example when it came into service. Pure.

A replica that is started later must say the same; one that does not (another library beside it, a file that changed)
still serves, and its deployment is called unhealthy.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from mlflow_restaurant.comparing import difference
from mlflow_restaurant.errors import one_line

TOLERANCE = 1e-9
MAX_SIZE = 1 << 18
"""Length, in bytes, of the longest answer that is kept."""


def golden_of(answers: Sequence[bytes]) -> str | None:
    """Return the answer that all replicas gave each time; None where there is none such, or it is too long to keep."""
    if not answers or len(answers[0]) > MAX_SIZE:
        return None
    first = answers[0].decode("utf-8", "replace")
    return None if any(strays(first, other) for other in answers[1:]) else first


def strays(golden: str, answer: bytes) -> str:
    """Say where an answer differs from the golden one; empty if nowhere."""
    text = answer.decode("utf-8", "replace")
    if text == golden:
        return ""
    try:
        expected, found = json.loads(golden)["predictions"], json.loads(text)["predictions"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "it can't be compared"
    return one_line(difference(expected, found, TOLERANCE) or "")
