"""Trials of a new revision: when what the gateways counted ends one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import pytest

from mlflow_restaurant.config import DeploymentConfig
from mlflow_restaurant.control import tryout
from mlflow_restaurant.control.tryout import Tryout
from mlflow_restaurant.entities import ModelArtifact, Revision
from mlflow_restaurant.gateway.sides import Trial

CONFIG = {"strategy": "canary", "canary_steps": (50,), "bake_s": 0.1, "min_requests": 50}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tryout, "POLL_S", 0.01)
    monkeypatch.setattr(tryout, "SLOW_FOR_S", 1.0)


class Gateway:
    """Counts as a gateway does; both sides answer 200 requests of 10 ms from one look to the next."""

    def __init__(self, each: int = 200) -> None:
        self.trial = Trial(2, 1)
        self.looks = 0
        self.each = each
        self.under_way: list[tuple[int, float]] = []
        self.said: list[str] = []

    def add(self, requests: int, new_took_s: float = 0.01, new_status: int = 200) -> None:
        for _ in range(requests):
            self.trial.old.add(200, 0.01)
            self.trial.new.add(new_status, new_took_s)

    async def counted(self) -> Sequence[Mapping[str, Any]]:
        self.looks += 1
        self.add(self.each)
        return [{"a": self.trial.to_json(self.under_way)}]


async def ended(gateway: Gateway, **config: Any) -> Tryout:
    """Return a trial when it is over."""
    revision = Revision(
        deployment="a",
        number=2,
        artifact=ModelArtifact(digest="0" * 32, model_uri="models:/a/2"),
        config=DeploymentConfig(**{**CONFIG, **config}),
        created_at=datetime.now(timezone.utc),
    )
    found = Tryout(revision, gateway.counted, lambda: None, lambda _: None, gateway.said.append)
    found.start()
    assert found.task is not None
    await asyncio.wait_for(found.task, 20)
    return found


def test_errors_end_it_at_the_first_look() -> None:
    gateway = Gateway()
    gateway.add(60, new_status=500)
    found = asyncio.run(ended(gateway))
    assert "requests failed" in found.verdict
    assert gateway.looks == 1


def test_a_stall_at_its_start_does_not_end_it() -> None:
    gateway = Gateway()
    gateway.add(60, new_took_s=0.2)
    found = asyncio.run(ended(gateway, bake_s=2.0))
    assert (found.passed, found.verdict) == (True, "")


def test_slowness_that_lasts_ends_it_though_the_step_would_be_over() -> None:
    gateway = Gateway()
    gateway.add(60_000, new_took_s=0.2)
    found = asyncio.run(ended(gateway))
    assert not found.passed
    assert "max_latency_ratio=2" in found.verdict
    assert gateway.looks > 3


def test_one_that_is_like_the_other_passes_when_it_was_baked() -> None:
    found = asyncio.run(ended(Gateway()))
    assert (found.passed, found.verdict) == (True, "")
    assert found.report["new"]["requests"] >= 50


def test_one_that_answers_nothing_is_not_promoted() -> None:
    gateway = Gateway(each=0)
    for _ in range(300):
        gateway.trial.old.add(200, 0.01)
    gateway.under_way = [(2, 4.0)] * 8 + [(1, 0.005)] * 3
    found = asyncio.run(ended(gateway))
    assert not found.passed
    assert "8 of its 8 requests have no answer yet" in found.verdict
    assert found.report["new"] == {
        "requests": 0,
        "errors": 0,
        "error_rate": 0.0,
        "p95_ms": None,
        "under_way": 8,
    }
    assert "new 0.0% errors of 0, p95 –, 8 under way, old 0.0% errors of 300" in found.said


def test_one_that_is_hardly_asked_passes_and_that_is_said() -> None:
    gateway = Gateway(each=0)
    gateway.add(12)
    found = asyncio.run(ended(gateway))
    assert found.passed
    assert found.report["not_judged"] == [{"step": 1, "requests": 12, "min_requests": 50}]
    assert gateway.said[-1] == "step 1 of 1 was not judged: 12 of 50 requests"


def test_a_step_goes_on_until_what_was_late_has_its_answer() -> None:
    gateway = Gateway(each=0)
    gateway.add(40)
    gateway.under_way = [(2, 4.0)]

    async def test() -> Tryout:
        ending = asyncio.ensure_future(ended(gateway))
        await asyncio.sleep(0.5)
        assert not ending.done()
        gateway.add(20)
        return await ending

    assert asyncio.run(test()).passed


def test_a_step_in_which_others_answered_its_share_goes_on() -> None:
    gateway = Gateway(each=0)
    for _ in range(300):
        gateway.trial.old.add(200, 0.01)

    async def test(**config: Any) -> Tryout:
        ending = asyncio.ensure_future(ended(gateway, **config))
        await asyncio.sleep(2)
        assert ending.done() is bool(config)
        gateway.add(60)
        return await ending

    assert asyncio.run(test(sticky="client")).passed
    gateway.trial.new = type(gateway.trial.new)()
    found = asyncio.run(test())
    assert (found.passed, "not_judged" in found.report) == (True, False)
