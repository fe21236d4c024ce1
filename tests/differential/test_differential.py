"""Every request gets from us what `mlflow models serve` answers, alone and among 32 at once."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from .cases import all_cases, cases_of
from .compare import Verdict
from .formats import Case
from .models import MODELS
from .servers import Caller, send_at_once

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .compare import Answer
    from .conftest import Arena

pytestmark = [
    pytest.mark.differential,
    pytest.mark.timeout(600),
    # What MLflow says while models are saved without type hints, input examples or nullable integers.
    pytest.mark.filterwarnings("ignore:.*Add type hints:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*An input example was not provided:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*integer column:UserWarning"),
]

CASES = all_cases()
REPORTED = 10
AT_ONCE = 4
"""How often each case is sent among its like."""
MERGED = (
    "sklearn_floats",
    "sklearn_labels",
    "sklearn_probabilities",
    "sklearn_mixed",
    "sklearn_mixed_optional",
    "sklearn_tensor",
)
"""Models whose signature lets requests be merged, and who answer with one prediction for each row.

Of others the server finds out at their first merged answer, and merges no more: also right, but nothing to wait for here.
"""
MIXED = 2000
"""The cases of all models that run mixed; each has run among those of its own model before."""


@pytest.fixture(scope="session")
def caller() -> Iterator[Caller]:
    caller = Caller()
    yield caller
    caller.close()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_alone(arena: Arena, caller: Caller, case: Case) -> None:
    answer = caller.try_to_send(arena.addresses[case.model], case)
    comparison = arena.judge(case, answer)
    assert comparison.verdict is not Verdict.DIFFERENT, explain(arena, case, answer, comparison.reason)


@pytest.mark.parametrize("model", MODELS)
def test_one_model_32_at_once(arena: Arena, model: str) -> None:
    assert_same_at_once(arena, arena.addresses, cases_of(model))


@pytest.mark.parametrize("model", MODELS)
def test_one_model_without_shortcuts_32_at_once(arena: Arena, model: str) -> None:
    assert_same_at_once(arena, arena.plain, cases_of(model))


@pytest.mark.parametrize("shortcuts", [True, False])
@pytest.mark.parametrize("model", MERGED)
def test_alike_at_once(arena: Arena, model: str, shortcuts: bool) -> None:
    """Neighbours by name differ in little, and each comes several times: what may be merged is."""
    addresses = arena.addresses if shortcuts else arena.plain
    before = arena.merged(addresses[model])
    alike = [case for case in sorted(cases_of(model), key=lambda case: case.name) for _ in range(AT_ONCE)]

    assert_same(arena, addresses, alike)

    after = arena.merged(addresses[model])
    if before is not None and after is not None:
        assert after > before, "nothing was merged, so these answers say nothing about it"


def test_all_models_32_at_once(arena: Arena) -> None:
    assert_same_at_once(arena, arena.addresses, random.Random(1).sample(CASES, MIXED))


def assert_same_at_once(arena: Arena, addresses: dict[str, str], cases: list[Case]) -> None:
    assert_same(arena, addresses, random.Random(20260102).sample(cases, len(cases)))


def assert_same(arena: Arena, addresses: dict[str, str], cases: list[Case]) -> None:
    answers = send_at_once([(addresses[case.model], case) for case in cases], held=arena.held)
    wrong = []
    for case, answer in zip(cases, answers, strict=True):
        comparison = arena.judge(case, answer, merged=True)
        if comparison.verdict is Verdict.DIFFERENT:
            wrong.append(explain(arena, case, answer, comparison.reason))
    assert not wrong, f"{len(wrong)} of {len(cases)} answers differ:\n\n" + "\n\n".join(wrong[:REPORTED])


def explain(arena: Arena, case: Case, answer: Answer, reason: str) -> str:
    return (
        f"{case}: {reason}\n"
        f"request: {case.method} {case.path} {case.headers} {case.body[:500]!r}\n"
        f"MLflow:  {arena.reference(case)}\n"
        f"ours:    {answer}"
    )
