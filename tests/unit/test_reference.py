from __future__ import annotations

from pathlib import Path

from mlflow_restaurant.reference import reference


def test_the_page_is_the_one_that_is_written_now() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference.md"
    assert page.read_text(encoding="utf-8") == reference()
