"""By what callers stay where they are."""

from __future__ import annotations

import pytest

from mlflow_restaurant.errors import InvalidRequest
from mlflow_restaurant.sticky import parse_sticky


@pytest.mark.parametrize(
    ("given", "read"),
    [("client", "client"), ("header:X-User-Id", "header:x-user-id"), (" CLIENT ", "client"), ("off", "")],
)
def test_forms(given: str, read: str) -> None:
    assert parse_sticky(given) == read


@pytest.mark.parametrize("given", ["", "header:", "header:ä", "user", None, 1])
def test_refused(given: object) -> None:
    with pytest.raises(InvalidRequest, match="Write sticky as client"):
        parse_sticky(given)
