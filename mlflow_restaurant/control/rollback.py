"""Going back to an earlier revision: to which, and what it is brought back as."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mlflow_restaurant.entities import Revision, utcnow
from mlflow_restaurant.errors import Conflict, DoesNotExist
from mlflow_restaurant.states import RevisionState


def earlier_revision(
    name: str,
    revisions: Mapping[int, Revision],
    serving: int | None,
    kept: Collection[int],
    number: int | None,
) -> Revision:
    """Return the revision to go back to.

    Args:
        name: of the deployment.
        revisions: all of its revisions, by number.
        serving: number of the one that serves.
        kept: numbers of those whose models are still there.
        number: the one that is asked for; None: the last that served before.

    Raises:
        Conflict: it never served, is not kept, serves already, or there is none.
        DoesNotExist: there is no revision of that number.
    """
    if number is None:
        served = [r for r in revisions.values() if r.state is RevisionState.SUPERSEDED and r.number in kept]
        if not served:
            raise Conflict(
                f"Deployment '{name}' has no earlier revision that served and whose model is kept (keep_revisions);"
                " deploy a model URI with an update instead."
            )
        return max(served, key=lambda r: r.number)
    refuse_never_served(name, revisions, number)
    if number == serving:
        raise Conflict(f"Revision {number} of deployment '{name}' serves already.")
    if revisions[number].state is not RevisionState.SUPERSEDED:
        raise _never_served(name, number)
    if number not in kept:
        raise Conflict(
            f"The model of revision {number} of deployment '{name}' is not kept any more (keep_revisions);"
            " deploy its model URI with an update instead."
        )
    return revisions[number]


def refuse_never_served(name: str, revisions: Mapping[int, Revision], number: int | None) -> None:
    """Refuse to go back to what can't ever be gone back to, whatever is waited for first.

    Raises:
        Conflict: it did not come into service.
        DoesNotExist: there is no revision of that number.
    """
    if number is None:
        return
    if number not in revisions:
        raise DoesNotExist(
            f"Deployment '{name}' has no revision {number}; see 'mlflow-restaurant history {name}'."
        )
    if revisions[number].state is RevisionState.FAILED:
        raise _never_served(name, number)


def _never_served(name: str, number: int) -> Conflict:
    return Conflict(
        f"Revision {number} of deployment '{name}' never served, so there is nothing to go back to;"
        f" see 'mlflow-restaurant history {name}'."
    )


def brought_back(old: Revision, number: int, actor: str, reason: str) -> Revision:
    """Return the record of a new revision with the model and the settings of an old one."""
    return old.model_copy(
        update={
            "number": number,
            "state": RevisionState.PENDING,
            "message": f"as revision {old.number}",
            "batching": None,
            "actor": actor,
            "reason": reason,
            "created_at": utcnow(),
            "served_at": None,
            "ended_at": None,
            "trial": None,
            "at_once": True,
            "joins": None,
        }
    )
