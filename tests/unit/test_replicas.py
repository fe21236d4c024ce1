"""Replicas that take more memory than they may: when they are replaced, and what is said of it."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from unittest import mock

import pytest

from mlflow_restaurant.config import DeploymentConfig
from mlflow_restaurant.control.planner import KEEPS_DYING
from mlflow_restaurant.control.replicas import Replica
from mlflow_restaurant.entities import ModelArtifact, Revision
from mlflow_restaurant.states import ReplicaState


class Watched(Replica):
    """A replica without processes, of which the clock is set by hand."""

    def __init__(self, log: Path) -> None:
        revision = Revision(
            deployment="a",
            number=1,
            artifact=ModelArtifact(digest="0" * 32, model_uri="models:/a/1"),
            config=DeploymentConfig.model_validate({"max_memory_mb": 100}),
            created_at=datetime.now(timezone.utc),
        )
        home = mock.Mock(deployment_log=lambda _: log)
        super().__init__(home, revision, 0, mock.Mock(), mock.Mock(), lambda: None)
        self.now = 1000.0
        self.runs()

    def runs(self) -> None:
        """Be as a process that has just come to run."""
        self.state, self.recycled, self.too_large_mb = ReplicaState.RUNNING, False, 0.0
        self.running_since = self.now

    def weigh(self, mb: float, after_s: float = 1.0) -> bool:
        """Weigh it; tells whether it is to be replaced, and does so."""
        self.now += after_s
        self.weighed(mb, self.now)
        if not self.recycled:
            return False
        with mock.patch("time.monotonic", return_value=self.now):
            self._died(self.suspicion)
        assert (self.state, self.retry_at) == (ReplicaState.BACKOFF, self.now)
        return True

    def served_s(self, mb: float) -> float:
        """Return for how long a process serves that is so large from its start on."""
        self.runs()
        begun = self.now
        while not self.weigh(mb, 0.25):
            pass
        return self.now - begun


@pytest.fixture
def replica(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "a.log")


def test_one_that_grows_for_long_is_replaced_at_once_and_that_is_no_quick_death(replica: Watched) -> None:
    for _ in range(3):
        replica.runs()
        assert not replica.weigh(90, 100)
        assert replica.weigh(101)
    assert (replica.quick_deaths, replica.seen().stray) == (1, "")


def test_one_that_is_too_large_from_the_start_serves_for_longer_each_time(replica: Watched) -> None:
    served = [replica.served_s(120) for _ in range(10)]

    assert served[:2] == [0.25, 0.75]
    assert served == sorted(served)
    assert served[-1] <= 65
    assert sum(served[5:]) > 100
    assert replica.seen().stray == "its model needs 120 MB of memory, and max_memory_mb is 100"
    assert replica.quick_deaths == 10 > KEEPS_DYING
    said = [call.args[:2] for call in replica.events.note.mock_calls if call.args[0] == "unhealthy"]  # type: ignore[attr-defined]
    assert len(said) == 1


def test_once_is_no_sign(replica: Watched) -> None:
    assert replica.weigh(101)
    replica.runs()
    assert not replica.weigh(90)
    assert replica.seen().stray == ""


def test_one_that_goes_on_growing_is_replaced_at_once(replica: Watched) -> None:
    for _ in range(8):
        replica.served_s(120)
    replica.runs()
    assert not replica.weigh(120)
    assert not replica.weigh(130)
    assert replica.weigh(133)


def test_a_minute_within_the_limit_makes_up_for_it(replica: Watched) -> None:
    for _ in range(3):
        replica.served_s(120)
    replica.runs()
    assert not replica.weigh(90)
    assert replica.seen().stray
    assert not replica.weigh(90, 60)
    assert replica.seen().stray == ""
    assert replica.served_s(120) == 0.25


def test_one_that_was_taken_over_has_its_first_minute_behind_it(replica: Watched) -> None:
    replica.running_since = -float("inf")
    assert replica.weigh(120)
    assert (replica.quick_deaths, replica.too_large_soon) == (1, 0)
