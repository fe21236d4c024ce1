"""Events: which of many are written, what is kept of them, and that nothing waits for them or fails with them."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mlflow_restaurant.cli.events import duration
from mlflow_restaurant.config import DeploymentConfig, ServerSettings
from mlflow_restaurant.control.events import EventLog, Limiter, announcement, endpoint_text
from mlflow_restaurant.control.store import Store
from mlflow_restaurant.entities import EVENT_KINDS, Endpoint, Event, ModelArtifact, Revision, utcnow
from mlflow_restaurant.errors import InvalidRequest
from mlflow_restaurant.home import Home
from mlflow_restaurant.tables import EVENT_STYLES, event_line

NOW = utcnow()


def event(message: str = "m", kind: str = "replica", **where: Any) -> Event:
    return Event(**{"at": NOW, "kind": kind, "message": message, "deployment": "d", **where})


class TestLimiter:
    def test_the_first_events_of_each_window_pass_and_the_rest_is_counted(self) -> None:
        limiter = Limiter(burst=2, window_s=10)
        assert [len(limiter.admit(event(str(n)), now=n)) for n in range(5)] == [1, 1, 0, 0, 0]
        assert limiter.counts()
        assert limiter.ended(now=9.9) == []
        (told,) = limiter.ended(now=10)
        assert told.message == "3 more of these were left out; the last: 4"
        assert (told.kind, told.deployment) == ("replica", "d")
        assert not limiter.counts()
        assert limiter.ended(now=99) == []
        assert limiter.admit(event(), now=10)

    def test_a_window_that_is_over_keeps_nothing_back(self) -> None:
        limiter = Limiter(burst=1, window_s=10)
        for n in range(3):
            limiter.admit(event(str(n)), now=n)
        assert [e.message for e in limiter.admit(event("later"), now=99)] == [
            *("2 more of these were left out; the last: 2", "later")
        ]

    def test_one_that_was_left_out_comes_as_it_was(self) -> None:
        limiter = Limiter(burst=1, window_s=10)
        limiter.admit(event("first"), now=0)
        limiter.admit(event("second"), now=1)
        assert [e.message for e in limiter.ended(now=10)] == ["second"]

    def test_one_deployment_or_kind_does_not_keep_others_back(self) -> None:
        limiter = Limiter(burst=1, window_s=10)
        others = [
            event(),
            event(deployment="other"),
            event(kind="scaled"),
            event(deployment=None, endpoint="d"),
        ]
        assert all(limiter.admit(e, now=0) for e in others)
        assert not any(limiter.admit(e, now=1) for e in others)

    def test_nothing_is_remembered_of_windows_that_are_over(self) -> None:
        limiter = Limiter(burst=1, window_s=10)
        for n in range(1000):
            limiter.admit(event(deployment=str(n)), now=0)
        assert limiter.ended(now=10) == []
        assert limiter.windows == {}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.ensure()
    return home


@pytest.fixture
def store(home: Home) -> Iterator[Store]:
    store = Store(home.database)
    store.open()
    yield store
    store.close()


def messages(store: Store, name: str | None = None, **query: Any) -> list[str]:
    return [row["message"] for row in store.events(name, **query)]


class TestEventLog:
    def log(self, home: Home, store: Store, **settings: Any) -> EventLog:
        return EventLog(home, store, ServerSettings.model_validate(settings))

    def test_what_is_noted_is_written_by_a_task_and_in_the_log(self, home: Home, store: Store) -> None:
        async def run() -> None:
            events = self.log(home, store)
            running = asyncio.ensure_future(events.run())
            events.note("replica", "it ended", deployment="d", revision=3, actor="somebody")
            events.note("gateway", "another")
            while len(store.events()) < 2:
                await asyncio.sleep(0.01)
            running.cancel()

        asyncio.run(asyncio.wait_for(run(), 30))
        first, second = store.events()
        assert (first["kind"], first["message"], first["deployment"]) == ("replica", "it ended", "d")
        assert (first["revision"], first["actor"], first["endpoint"]) == (3, "somebody", None)
        assert (second["kind"], second["deployment"], second["actor"]) == ("gateway", None, "")
        assert home.deployment_log("d").read_text().endswith("] it ended\n")

    def test_what_is_left_is_written_at_the_end(self, home: Home, store: Store) -> None:
        async def run() -> None:
            events = self.log(home, store)
            events.note("server", "goes down")
            events.close()

        asyncio.run(run())
        assert messages(store) == ["goes down"]

    def test_a_flood_is_written_in_part_and_all_of_it_in_the_log(self, home: Home, store: Store) -> None:
        async def run() -> None:
            events = self.log(home, store)
            for n in range(200):
                events.note("replica", f"death {n}", deployment="d")
            await events.flush()

        asyncio.run(run())
        assert messages(store, "d") == [f"death {n}" for n in range(20)]
        assert home.deployment_log("d").read_text().count("death") == 200

    def test_a_database_that_takes_nothing_costs_only_the_events(
        self, home: Home, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        locked = sqlite3.connect(home.database)
        locked.execute("DROP TABLE events")
        locked.close()

        async def run() -> None:
            events = self.log(home, store)
            events.note("server", "lost", deployment="d")
            await events.flush()
            events.close()

        with caplog.at_level(logging.WARNING):
            asyncio.run(run())
        assert "1 events could not be written" in caplog.text
        assert "lost" in home.deployment_log("d").read_text()

    def test_old_ones_and_too_many_are_removed(self, home: Home, store: Store) -> None:
        ancient = event("ancient").model_copy(update={"at": NOW - timedelta(days=100)})
        store.record([ancient, *(event(str(n)) for n in range(5)), event("promoted", kind="promoted")])

        async def run() -> None:
            await self.log(home, store, keep_events=2).flush()

        asyncio.run(run())
        assert messages(store) == ["3", "4", "promoted"]


class TestQueries:
    def test_by_name_time_and_number(self, store: Store) -> None:
        for n in range(4):
            store.record([event(str(n), at=NOW + timedelta(seconds=n), deployment="ab"[n % 2])])
        store.record([event("e", at=NOW + timedelta(seconds=9), deployment=None, endpoint="a")])
        assert messages(store) == ["0", "1", "2", "3", "e"]
        assert messages(store, "a") == ["0", "2", "e"]
        assert messages(store, limit=2) == ["3", "e"]
        assert messages(store, limit=0) == []
        assert messages(store, since=NOW + timedelta(seconds=2)) == ["2", "3", "e"]
        assert messages(store, after=3) == ["3", "e"]
        assert messages(store, "nobody") == []

    def test_those_written_late_are_listed_when_they_happened(self, store: Store) -> None:
        store.record([event("second", at=NOW + timedelta(seconds=1))])
        store.record([event("first")])
        assert messages(store) == ["first", "second"]


def revision(number: int, message: str = "", reason: str = "") -> Revision:
    return Revision(
        deployment="d",
        number=number,
        artifact=ModelArtifact(digest="0", model_uri="models:/m/7"),
        config=DeploymentConfig.from_options({}),
        message=message,
        reason=reason,
        created_at=NOW,
    )


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (revision(1), ("created", "revision 1 of models:/m/7")),
        (revision(2, reason="better"), ("revision", "revision 2 of models:/m/7: better")),
        (revision(3, "as revision 1"), ("rollback", "revision 3 of models:/m/7, as revision 1")),
    ],
)
def test_what_a_new_revision_is_announced_as(made: Revision, told: tuple[str, str]) -> None:
    assert announcement(made) == told


def test_what_is_said_of_an_endpoint() -> None:
    endpoint = Endpoint(name="e", traffic={"a": 90, "b": 10}, sticky="client", created_at=NOW, updated_at=NOW)
    assert endpoint_text(endpoint, "created") == "created, a 90 %, b 10 %, sticky by client"
    assert endpoint_text(endpoint.model_copy(update={"traffic": {}, "sticky": ""})) == "no deployments yet"


def test_an_event_in_one_line() -> None:
    shown = {
        "time": "2026-01-02T03:04:05.678Z",
        "deployment": "d",
        "endpoint": None,
        "revision": 2,
        "kind": "failed",
        "by": "me",
        "message": "two\n \x1b[31mlines",
    }
    assert (
        event_line(shown)
        == "2026-01-02 03:04:05  d                   2  failed     two \N{REPLACEMENT CHARACTER}[31mlines (me)"
    )


def test_only_known_kinds_have_colours() -> None:
    assert set(EVENT_STYLES) <= set(EVENT_KINDS)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1.5m", 90), ("2h", 7200), ("1w", 604_800), ("1h30m", 5400), ("0s", 0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == timedelta(seconds=seconds)


def test_a_duration_beyond_all_times_is_the_longest() -> None:
    assert utcnow() - duration("9" * 30 + "w") < NOW


@pytest.mark.parametrize("text", ["", "10", "m", "5 m", "-5m", "5y", "5m!", "h5"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InvalidRequest, match="Write a duration as"):
        duration(text)
