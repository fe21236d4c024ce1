"""Going back to an earlier revision."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_restaurant.config import DeploymentConfig
from mlflow_restaurant.control.rollback import brought_back, earlier_revision
from mlflow_restaurant.entities import ModelArtifact, Revision, utcnow
from mlflow_restaurant.errors import RestaurantError
from mlflow_restaurant.states import RevisionState

SERVED = RevisionState.SUPERSEDED
STATES = {1: SERVED, 2: SERVED, 3: RevisionState.FAILED, 4: SERVED, 5: RevisionState.SERVING}
KEPT = {2, 3, 4, 5}


def revision(number: int, **changes: Any) -> Revision:
    artifact = ModelArtifact(model_uri="m", digest="0" * 32)
    config = DeploymentConfig.from_options({})
    values = {"deployment": "a", "number": number, "artifact": artifact, "config": config}
    return Revision(**{**values, "created_at": utcnow(), **changes})


REVISIONS = {number: revision(number, state=state) for number, state in STATES.items()}


@pytest.mark.parametrize(("asked", "found"), [(None, 4), (2, 2), (4, 4)])
def test_the_one_before_or_the_one_that_is_named(asked: int | None, found: int) -> None:
    assert earlier_revision("a", REVISIONS, 5, KEPT, asked).number == found


@pytest.mark.parametrize(
    ("asked", "kept", "told"),
    [
        (None, {3, 5}, "no earlier revision that served and whose model is kept"),
        (9, KEPT, "no revision 9"),
        (5, KEPT, "serves already"),
        (3, KEPT, "never served"),
        (1, KEPT, "not kept any more"),
    ],
)
def test_refused(asked: int | None, kept: set[int], told: str) -> None:
    with pytest.raises(RestaurantError, match=told):
        earlier_revision("a", REVISIONS, 5, kept, asked)


def test_what_is_brought_back_is_new_but_for_its_model_and_settings() -> None:
    old = revision(
        2, state=SERVED, golden="[1]", served_at=utcnow(), ended_at=utcnow(), trial={"a": 1}, joins="e"
    )
    new = brought_back(old, 6, "ann", "worse")

    assert (new.number, new.state, new.message) == (6, RevisionState.PENDING, "as revision 2")
    assert (new.artifact, new.config, new.golden) == (old.artifact, old.config, old.golden)
    assert (new.actor, new.reason, new.at_once) == ("ann", "worse", True)
    assert (new.served_at, new.ended_at, new.trial, new.joins) == (None, None, None, None)
