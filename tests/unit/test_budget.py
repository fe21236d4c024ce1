"""How much may be written about each deployment."""

from __future__ import annotations

from mlflow_restaurant.gateway.budget import Budget


def test_what_is_over_the_budget_is_left_out_and_counted() -> None:
    budget = Budget(100, 60)

    assert budget.spend("a", 60, 0) == 0
    assert budget.spend("a", 60, 1) == 0
    assert budget.spend("a", 1, 2) is None
    assert budget.spend("a", 1, 59.9) is None
    assert budget.spend("b", 1, 59.9) == 0
    assert budget.spend("a", 1, 60) == 2
    assert budget.spend("a", 1, 60) == 0


def test_a_deployment_that_is_gone_takes_no_room() -> None:
    budget = Budget(1, 60)
    budget.spend("a", 1, 0)
    assert budget.spend("a", 1, 0) is None

    budget.forget("a")

    assert budget.windows == {}
    assert budget.spend("a", 1, 0) == 0
