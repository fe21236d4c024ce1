"""Replicas that take more memory than they may: when they are replaced, and what is said of it."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from unittest import mock

import pytest

from mlflow_restaurant.config import DeploymentConfig
from mlflow_restaurant.control.replicas import Replica
from mlflow_restaurant.control.weight import Weight
from mlflow_restaurant.entities import ModelArtifact, Revision
from mlflow_restaurant.states import ReplicaState

COMPLAINT = "its model needs 120 MB of memory, and max_memory_mb is 100"


class Watched:
    """A replica that may have 100 MB, weighed by a clock that is set by hand."""

    def __init__(self) -> None:
        self.weight, self.now = Weight(100), 1000.0
        self.weight.runs(self.now)

    def weigh(self, mb: float, after_s: float = 1.0) -> bool:
        """Weigh it; tells whether it is to be replaced, and does so."""
        self.now += after_s
        if not self.weight.is_too_much(mb, self.now):
            return False
        self.weight.runs(self.now)
        return True

    def served_s(self, mb: float) -> float:
        """Return for how long a process serves that is so large from its start on."""
        begun = self.now
        while not self.weigh(mb, 0.25):
            pass
        return self.now - begun


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_one_that_grows_for_long_is_replaced_at_once(watched: Watched) -> None:
    for _ in range(3):
        assert not watched.weigh(90, 100)
        assert watched.weigh(101)
    assert (watched.weight.soon, watched.weight.complaint) == (0, "")


def test_one_that_is_too_large_from_the_start_serves_for_longer_each_time(watched: Watched) -> None:
    served = [watched.served_s(120) for _ in range(2000)]

    assert served[:3] == [0.25, 0.75, 1.25]
    assert served == sorted(served)
    assert 60 < served[-1] < 65
    assert watched.weight.complaint == COMPLAINT


def test_once_is_no_sign(watched: Watched) -> None:
    assert watched.weigh(120)
    assert not watched.weigh(90)
    assert watched.weight.complaint == ""


def test_one_that_goes_on_growing_is_replaced_at_once(watched: Watched) -> None:
    for _ in range(8):
        watched.served_s(120)
    assert not watched.weigh(120)
    assert not watched.weigh(130)
    assert watched.weigh(133)


def test_a_minute_within_the_limit_makes_up_for_it(watched: Watched) -> None:
    for _ in range(3):
        watched.served_s(120)
    assert not watched.weigh(90)
    assert watched.weight.complaint
    assert not watched.weigh(90, 60)
    assert watched.weight.complaint == ""
    watched.weight.runs(watched.now)
    assert watched.served_s(120) == 0.25


def test_one_that_was_taken_over_has_its_first_minute_behind_it() -> None:
    weight = Weight(100)
    assert weight.is_too_much(120, 1000)
    assert weight.soon == 0


@pytest.fixture
def replica(tmp_path: Path) -> Replica:
    """A replica without processes."""
    revision = Revision(
        deployment="a",
        number=1,
        artifact=ModelArtifact(digest="0" * 32, model_uri="models:/a/1"),
        config=DeploymentConfig.model_validate({"max_memory_mb": 100}),
        created_at=datetime.now(timezone.utc),
    )
    home = mock.Mock(deployment_log=lambda _: tmp_path / "a.log")
    return Replica(home, revision, 0, mock.Mock(), mock.Mock(), lambda: None)


@pytest.mark.parametrize(("after_s", "deaths"), [(1.0, [1, 2, 3]), (100.0, [1, 1, 1])])
def test_only_what_is_too_large_soon_counts_as_quick_deaths(
    replica: Replica, after_s: float, deaths: list[int]
) -> None:
    found = []
    for _ in range(3):
        replica.state, replica.recycled, now = ReplicaState.RUNNING, False, 1000.0
        replica.weight.runs(now)
        while replica.takes_requests():
            now += after_s
            replica.weighed(120, now)
        with mock.patch("time.monotonic", return_value=now):
            replica._died(replica.suspicion)
        assert (replica.state, replica.retry_at) == (ReplicaState.BACKOFF, now)
        found.append(replica.quick_deaths)
    assert found == deaths
    assert replica.seen().stray == (COMPLAINT if after_s == 1 else "")
    note: mock.Mock = replica.events.note  # type: ignore[assignment]
    assert [call.args[0] for call in note.mock_calls].count("unhealthy") == (after_s == 1)
