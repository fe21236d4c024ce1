"""What should run, and what is kept for it."""

from __future__ import annotations

from mlflow_restaurant.config import DeploymentConfig
from mlflow_restaurant.control.world import World
from mlflow_restaurant.entities import Deployment, ModelArtifact, Revision, utcnow
from mlflow_restaurant.states import RevisionState

NOW = utcnow()
STATES = {
    "p": RevisionState.PENDING,
    "s": RevisionState.SERVING,
    "o": RevisionState.SUPERSEDED,
    "f": RevisionState.FAILED,
}


def world(states: str, keep: int = 5) -> World:
    """Return a world with one deployment whose revisions have these states, each a model of its own."""
    serving = states.find("s") + 1 or None
    deployment = Deployment(name="d", serving=serving, created_at=NOW, updated_at=NOW)
    revisions = {
        number: Revision(
            deployment="d",
            number=number,
            artifact=ModelArtifact(digest=f"model-{number}", model_uri="m"),
            config=DeploymentConfig.from_options({"keep_revisions": keep}),
            state=STATES[state],
            created_at=NOW,
        )
        for number, state in enumerate(states, start=1)
    }
    return World({"d": deployment}, {"d": revisions})


def test_the_last_that_served_are_kept() -> None:
    assert world("ooooos").kept("d") == {2, 3, 4, 5, 6}
    assert world("ooooos", keep=2).kept("d") == {5, 6}
    assert world("os", keep=1).kept("d") == {2}
    assert world("s").kept("d") == {1}


def test_what_failed_takes_no_place_and_what_comes_is_kept() -> None:
    assert world("oofsfp", keep=2).kept("d") == {2, 4, 6}


def test_a_deployment_that_never_served_keeps_its_last() -> None:
    assert world("f").kept("d") == {1}
    assert world("p").kept("d") == {1}


def test_models_that_may_be_needed_are_told() -> None:
    assert world("oos", keep=2).digests() == {"model-2", "model-3"}
