"""Reports of trials for the tracking server: logged beside everything else, and nothing waits for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow_restaurant.config.deployment import OF_ROLLOUTS
from mlflow_restaurant.control.events import EventLog
from mlflow_restaurant.control.jobs import Jobs
from mlflow_restaurant.control.store import Store
from mlflow_restaurant.control.world import World
from mlflow_restaurant.entities import Revision
from mlflow_restaurant.errors import HomeError, RestaurantError
from mlflow_restaurant.states import RevisionState
from mlflow_restaurant.stores import without_password

TIMEOUT_S = 60.0
FROM_MLFLOW = ("models:/", "runs:/")
"""Models that came from elsewhere are in no tracking store; to ask for the default one could even make it."""
PARAMS = tuple(name for name in OF_ROLLOUTS if name != "strategy")


class TrialReports:
    """Logs how trials ended as MLflow runs.

    Args:
        world: where the id of the run is remembered, with the revision.
    """

    def __init__(self, jobs: Jobs, store: Store, world: World, events: EventLog) -> None:
        self.jobs, self.store, self.world, self.events = jobs, store, world, events
        self.environs: dict[str, Mapping[str, str]] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def with_environ(self, name: str, environ: Mapping[str, str]) -> Iterator[None]:
        """Log a trial of this deployment that ends meanwhile with the variables of who asked for it: they are kept nowhere."""
        self.environs[name] = environ
        try:
            yield
        finally:
            self.environs.pop(name, None)

    def trial_ended(self, revision: Revision, before: Revision) -> None:
        """Log the trial of a revision beside the one that served `before`, if it had one and its model is MLflow's."""
        uri = revision.artifact.model_uri
        wanted = revision.config.trial_report == "auto" and uri.startswith(FROM_MLFLOW)
        if revision.trial and revision.tracking_uri and wanted:
            task = asyncio.ensure_future(self._log(revision, before, self.environs.get(revision.deployment)))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def stop(self) -> None:
        """Give up what is under way."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _log(self, revision: Revision, before: Revision, environ: Mapping[str, str] | None) -> None:
        where = without_password(revision.tracking_uri or "")
        what = f"the report of the {revision.config.strategy} of revision {revision.number}"
        work = self.jobs.log_trial(revision.deployment, run_of(revision, before), environ or {})
        try:
            run = await asyncio.wait_for(work, TIMEOUT_S)
        except asyncio.TimeoutError:
            text = f"{what} could not be logged: {where} did not take it within {TIMEOUT_S:g} s"
        except (RestaurantError, OSError) as e:
            text = f"{what} could not be logged at {where}: {e}"
        else:
            text = f"{what} is MLflow run {run['run_id']} at {where}"
            self._remember(revision, {**run, "tracking_uri": where})
        self.events.note("report", text, deployment=revision.deployment, revision=revision.number)

    def _remember(self, logged: Revision, run: Mapping[str, str]) -> None:
        """Add the run to the report of a revision, unless it has been deleted meanwhile."""
        revisions = self.world.revisions.get(logged.deployment, {})
        revision = revisions.get(logged.number)
        if revision is None or revision.created_at != logged.created_at:
            return
        revision = revision.model_copy(update={"trial": {**(revision.trial or {}), "run": dict(run)}})
        revisions[revision.number] = revision
        with contextlib.suppress(HomeError):  # the run is in the events as well
            self.store.save(revision=revision)


def run_of(revision: Revision, before: Revision) -> dict[str, Any]:
    """Return what `trial_run` needs to know of a trial that is over."""
    promoted = revision.state is RevisionState.SERVING
    facts = {
        "deployment": revision.deployment,
        "revision": revision.number,
        "strategy": revision.config.strategy,
        "verdict": "promoted" if promoted else "taken back",
        "reason": revision.message,
        "model_uri": revision.artifact.model_uri,
        "model_version": revision.artifact.model_version,
        "before.revision": before.number,
        "before.model_uri": before.artifact.model_uri,
        "before.model_version": before.artifact.model_version,
    }
    tags = {f"mlflow-restaurant.{name}": value for name, value in facts.items() if value not in (None, "")}
    config = revision.config.to_dict()
    return {
        "trial": revision.trial,
        "tracking_uri": revision.tracking_uri,
        "registry_uri": revision.registry_uri,
        "model_uri": revision.artifact.model_uri,
        "model_version": revision.artifact.model_version,
        "model_id": revision.artifact.model_id,
        "name": f"{revision.config.strategy} of {revision.deployment} revision {revision.number}",
        "began": int(revision.created_at.timestamp() * 1000),
        "tags": {"mlflow.source.name": "mlflow-restaurant", "mlflow.user": revision.actor, **tags},
        "params": {name: config[name] for name in PARAMS},
    }
