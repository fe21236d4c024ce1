"""Servers and their answers, shared by the whole session; and the line that says how many were equal."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from .cases import cases_of
from .compare import Answer, Comparison, Verdict, compare, without_own_trace
from .formats import Case
from .models import MODELS
from .servers import SUBJECTS, Caller, Subject, mlflow_serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

SUBJECT_VARIABLE = "DIFFERENTIAL_SUBJECT"
"""`mlflow` compares MLflow with itself: the self-test of this suite."""

REFERENCES_AT_ONCE = 2


@dataclass
class Tally:
    """How the comparisons of this session came out."""

    verdicts: Counter[Verdict] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, comparison: Comparison) -> None:
        self.verdicts[comparison.verdict] += 1
        if comparison.verdict is Verdict.ALLOWED:
            self.reasons[comparison.reason] += 1

    def __str__(self) -> str:
        total = sum(self.verdicts.values())
        equal, allowed = self.verdicts[Verdict.EQUAL], self.verdicts[Verdict.ALLOWED]
        line = f"differential: {total} comparisons, {equal} equal, {allowed} allowed differences"
        if different := self.verdicts[Verdict.DIFFERENT]:
            line += f", {different} DIFFERENT"
        reasons = "".join(f"\n  {count} x {reason}" for reason, count in self.reasons.most_common())
        return line + reasons


TALLY = pytest.StashKey[Tally]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "differential: compares our answers with those of `mlflow models serve`"
    )
    config.stash[TALLY] = Tally()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash[TALLY].verdicts:
        terminalreporter.write_line(str(config.stash[TALLY]))


def record(model: Path, log: Path, cases: list[Case]) -> dict[str, Answer]:
    """Every answer of MLflow, one request at a time."""
    with mlflow_serve(model, log) as base_url, contextlib.closing(Caller()) as caller:
        return {case.name: caller.send(base_url, case) for case in cases}


@dataclass
class Arena:
    """Both servers, and what compares their answers.

    `addresses` and `plain` are URLs by model: as it is served by default, and without the replicas' shortcuts.
    """

    addresses: dict[str, str]
    plain: dict[str, str]
    references: dict[str, Future[dict[str, Answer]]]
    tally: Tally
    tidy: Callable[[Answer], Answer]
    merged: Callable[[str], int | None]
    held: Callable[[], AbstractContextManager[None]]

    def reference(self, case: Case) -> Answer:
        return self.references[case.model].result()[case.name]

    def judge(self, case: Case, answer: Answer, *, merged: bool = False) -> Comparison:
        comparison = compare(self.reference(case), self.tidy(answer), merged=merged)
        self.tally.add(comparison)
        return comparison


def models_under_test(session: pytest.Session) -> list[str]:
    """The models that the selected tests name; `test_all_mixed` names none, and needs all."""
    named: set[str] = set()
    for item in session.items:
        if isinstance(item, pytest.Function) and "arena" in item.fixturenames:
            parameters = item.callspec.params if hasattr(item, "callspec") else {}
            case = parameters.get("case")
            chosen = case.model if isinstance(case, Case) else parameters.get("model")
            named.update([chosen] if isinstance(chosen, str) else MODELS)
    return [model for model in MODELS if model in named]


@pytest.fixture(scope="session")
def saved_models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("models")
    names = models_under_test(request.session)
    # Some of MLflow's warnings set filters of their own, so that the marks of a test cannot reach them.
    with warnings.catch_warnings(record=True):
        for name in names:
            MODELS[name].save(directory / name)
    return {name: directory / name for name in names}


@pytest.fixture(scope="session")
def references(
    saved_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[dict[str, Answer]]]]:
    """The answers of MLflow to all cases, by model and name of the case; each server runs only while it is asked."""
    logs = tmp_path_factory.mktemp("references")
    with ThreadPoolExecutor(REFERENCES_AT_ONCE) as pool:
        yield {
            name: pool.submit(record, path, logs / f"{name}.log", cases_of(name))
            for name, path in saved_models.items()
        }
        pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="session")
def arena(
    request: pytest.FixtureRequest,
    saved_models: dict[str, Path],
    references: dict[str, Future[dict[str, Answer]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Arena]:
    chosen = os.environ.get(SUBJECT_VARIABLE, "restaurant")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_RESTAURANT_PORT", "0")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        subject: Subject = SUBJECTS[chosen](tmp_path_factory.mktemp("home"))
        try:
            addresses = {name: subject.deploy(name, path) for name, path in saved_models.items()}
            plain = {name: subject.deploy_plain(name, path) for name, path in saved_models.items()}
            tidy = without_own_trace if chosen == "mlflow" else lambda answer: answer
            yield Arena(
                addresses, plain, references, request.config.stash[TALLY], tidy, subject.merged, subject.held
            )
        finally:
            subject.close()
