"""The tables of requests are whole: every model has some, none twice, and each has a name of its own."""

from __future__ import annotations

from collections import Counter

from .cases import REQUESTS, all_cases
from .models import MODELS

CASES = all_cases()


def test_every_model_has_requests() -> None:
    assert set(REQUESTS) == set(MODELS)
    assert {case.model for case in CASES} == set(MODELS)


def test_every_model_says_why_it_is_there() -> None:
    assert all(model.why for model in MODELS.values())


def test_names_are_unique() -> None:
    assert [name for name, count in Counter(map(str, CASES)).items() if count > 1] == []


def test_no_request_is_sent_twice() -> None:
    requests = Counter((case.model, case.method, case.path, case.headers, case.body) for case in CASES)
    assert [request for request, count in requests.items() if count > 1] == []


def test_cases_are_the_same_on_every_run() -> None:
    assert all_cases() == CASES
