"""The chaos suite in short: each fault of `benchmarks.chaos` on real processes, for a second or a few.

In full, with the table that it writes: ``python -m benchmarks.chaos``
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.chaos.form import FULL, SHORT, Form
from benchmarks.chaos.scenarios import SCENARIOS, perform
from benchmarks.chaos.stage import Models, Stage, staged, workshop
from benchmarks.chaos.surroundings import Impossible


@pytest.fixture(scope="module")
def form(pytestconfig: pytest.Config) -> Form:
    return {"short": SHORT, "full": FULL}[pytestconfig.getoption("chaos")]


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    with workshop() as models:
        yield models


@pytest.fixture(scope="module")
def shared_stage(models: Models) -> Iterator[Stage]:
    """A server for all faults that need none of their own."""
    with staged(models) as stage:
        yield stage


@pytest.mark.alone
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SCENARIOS)
def test_what_must_never_happen_does_not(
    name: str, form: Form, models: Models, request: pytest.FixtureRequest
) -> None:
    place = SCENARIOS[name].place
    try:
        if place is None:
            outcome = perform(name, request.getfixturevalue("shared_stage"), form)
        else:
            with place(models, form) as stage:
                outcome = perform(name, stage, form)
    except Impossible as e:
        pytest.skip(str(e))
    print(outcome)
    assert outcome.broken == []
    assert outcome.sent or name == "update"
