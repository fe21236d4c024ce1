"""What becomes of rollouts: a trial begins, the revision serves, or it is given up; recorded first, then told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from mlflow_restaurant.control.batching import decide
from mlflow_restaurant.control.events import append_log, endpoint_text
from mlflow_restaurant.control.golden import golden_of
from mlflow_restaurant.control.planner import Fail, Promote, Try
from mlflow_restaurant.control.replicas import Replica
from mlflow_restaurant.control.rollout import Rollout
from mlflow_restaurant.control.tryout import Tryout
from mlflow_restaurant.entities import BatchDecision, Deployment, Endpoint, Revision, utcnow
from mlflow_restaurant.errors import DeployFailed, HomeError
from mlflow_restaurant.process.faults import fault_point
from mlflow_restaurant.states import REVISION_TRANSITIONS, DeploymentState, RevisionState, advance

if TYPE_CHECKING:
    from mlflow_restaurant.control.controller import Controller

RECORD_AGAIN_S = 3.0
"""Time between two attempts to write down what could not be written."""

_logger = logging.getLogger(__name__)


class Outcomes:
    """Brings the rollouts of one controller forward and to their ends."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self._world = controller.world
        self._recording: dict[str, asyncio.Task[None]] = {}
        """By deployment: what writes down that a revision failed, until the database can be written again."""

    def try_out(self, action: Try) -> None:
        """Begin the trial of a revision whose replicas all run."""
        controller, name = self.controller, action.deployment
        rollout, revision = controller.rollouts[name], self.with_batching(name, action.revision)
        note = partial(controller.events.note, "trial", deployment=name, revision=action.revision)
        rollout.tryout = Tryout(
            revision, controller.gateways.trials, controller.wake.set, rollout.progress, note
        )
        rollout.tryout.start()
        fault_point("trial: begun")

    async def promote(self, action: Promote) -> None:
        """Let a revision serve: write it down, then tell every gateway, then whoever waits for it."""
        controller, name = self.controller, action.deployment
        rollout, old = controller.rollouts.pop(name), self._world.deployments[name]
        revision = self._serving(self.with_batching(name, action.revision), rollout)
        deployment = old.model_copy(
            update={
                "serving": action.revision,
                "endpoint": revision.joins or old.endpoint,
                "state": DeploymentState.HEALTHY,
                "message": "",
                "updated_at": utcnow(),
            }
        )
        endpoint = self._world.joined_endpoint(deployment)
        try:
            controller.store.save(
                deployment=deployment,
                revision=revision,
                superseded=old.serving,
                endpoint=endpoint,
                note=("promoted", f"revision {action.revision} serves"),
            )
        except HomeError as e:
            controller.rollouts[name] = rollout
            await self._fail(Fail(name, action.revision, e.message))
            return
        self._take_over(deployment, revision, old.serving, endpoint)
        controller.scaler.carry_over(name, revision.config, rollout.replicas)
        fault_point("promotion: before the gateways know")
        await controller.routes.publish()
        rollout.finish(None)

    def _serving(self, pending: Revision, rollout: Rollout) -> Revision:
        """Return the record of a revision that serves from now on."""
        return pending.model_copy(
            update={
                "state": advance(REVISION_TRANSITIONS, pending.state, RevisionState.SERVING),
                "trial": _report(rollout),
                "golden": pending.golden or golden_of(self._answers(pending)),
                "served_at": utcnow(),
            }
        )

    def _take_over(
        self, deployment: Deployment, revision: Revision, superseded: int | None, endpoint: Endpoint | None
    ) -> None:
        """Know what was written: a revision serves, and the one before does not."""
        controller, name = self.controller, deployment.name
        self._world.remember(deployment, revision)
        if endpoint is not None:
            self._world.endpoints[endpoint.name] = endpoint
            controller.events.note("endpoint", endpoint_text(endpoint), endpoint=endpoint.name)
        if superseded is not None:
            ended = {"state": RevisionState.SUPERSEDED, "ended_at": revision.served_at}
            before = self._world.revisions[name][superseded].model_copy(update=ended)
            self._world.remember(deployment, before)
            controller.reports.trial_ended(revision, before)
        for replica in self._replicas_of(revision):
            replica.revision = revision
        append_log(controller.home, name, f"revision {revision.number} serves")

    def _replicas_of(self, revision: Revision) -> list[Replica]:
        key = (revision.deployment, revision.number)
        return [
            r for r in self.controller.replicas.values() if (r.revision.deployment, r.revision.number) == key
        ]

    def _answers(self, revision: Revision) -> list[bytes]:
        """Return what the replicas of a revision answered to its input example."""
        return [answer for replica in self._replicas_of(revision) for answer in replica.example.answers]

    def with_batching(self, name: str, number: int) -> Revision:
        """Decide whether the requests of a revision are merged, before it gets the first."""
        revision = self._world.revisions[name][number]
        if revision.batching is None:
            revision = revision.model_copy(update={"batching": self._decide_batching(revision)})
            self._world.remember(self._world.deployments[name], revision)
        return revision

    def _decide_batching(self, revision: Revision) -> BatchDecision:
        found = [replica.example.disagreement for replica in self._replicas_of(revision)]
        disagrees = next(filter(None, found), "" if "" in found else None)
        steps = [replica.own_step for replica in self._replicas_of(revision)]
        own_step = next(filter(None, steps), "" if "" in steps else None)
        apart = {r.tells_requests_apart for r in self._replicas_of(revision)} - {None}
        facts = revision.artifact.batch_facts
        return decide(
            revision.config.batching, facts, disagrees, own_step, tells_requests_apart=apart == {True}
        )

    def end_batching(self, name: str, number: int, reason: str) -> None:
        """Merge the requests of a revision no more, in any gateway: one saw that it does not answer them as alone."""
        revision = self._world.revisions.get(name, {}).get(number)
        if revision is None or revision.batching is None or revision.batching.chosen == "off":
            return
        decision = revision.batching.model_copy(update={"chosen": "off", "reason": f"it {reason}"})
        revision = revision.model_copy(update={"batching": decision})
        deployment = self._world.deployments[name]
        self._world.remember(deployment, revision)
        text = f"requests to revision {number} are merged no more: it {reason}"
        try:
            self.controller.store.save(deployment=deployment, revision=revision, note=("batching", text))
        except HomeError as e:  # the next controller hears it again
            _logger.error("that batching ended could not be recorded: %s", e)
        self.controller.wake.set()

    async def fail_or_undo(self, action: Fail) -> None:
        """Give a rollout up; where it has taken replicas' places already, the old ones come back first."""
        rollout = self.controller.rollouts[action.deployment]
        if rollout.gradual and not rollout.undone:
            rollout.undone = action.reason
            self._write_down(action)
            fault_point("rollout: going back")
            rollout.progress(f"going back: {action.reason}")
            self.controller.wake.set()
        else:
            await self._fail(Fail(action.deployment, action.revision, rollout.undone or action.reason))

    def _write_down(self, action: Fail) -> None:
        """Record that a revision is given up before anything goes back: a later controller must not let it serve."""
        name, world = action.deployment, self._world
        given_up = world.revisions[name][action.revision].model_copy(update={"stopped": action.reason})
        world.remember(world.deployments[name], given_up)
        try:
            self.controller.store.save(revision=given_up)
        except HomeError as e:  # it holds as long as this controller lives
            _logger.error("that a rollout goes back could not be recorded: %s", e)

    async def _fail(self, action: Fail) -> None:
        """Give a rollout up. A deployment that never served, and whose creator hears of it, is forgotten."""
        name, rollout = action.deployment, self.controller.rollouts.pop(action.deployment)
        deployment = self._world.deployments[name]
        reason = action.reason if action.reason.endswith(".") else f"{action.reason}."
        error = DeployFailed(
            f"Revision {action.revision} of deployment '{name}' did not come into service: {reason}"
        )
        told = DeployFailed(error.message + self._lost_settings(deployment, action.revision))
        # Whether requests are merged is decided before the first of them.
        kind = "failed" if self._world.revisions[name][action.revision].batching is None else "rollback"
        self.controller.events.note(kind, error.message, deployment=name, revision=action.revision)
        try:
            if deployment.serving is None and rollout.done is not None:
                self.controller.forget(name)
            else:
                self._record_failure(deployment, action, rollout)
        except HomeError as e:
            _logger.error("a failed rollout could not be recorded: %s", e)
            if deployment.serving is None:
                self._world.forget(name)
            if (earlier := self._recording.pop(name, None)) is not None:
                earlier.cancel()
            self._recording[name] = asyncio.ensure_future(self._record_when_possible(name, action.revision))
        finally:
            rollout.finish(told)

    def _lost_settings(self, deployment: Deployment, failed: int) -> str:
        """Return what to say where settings of rollouts go with the revision that had them, so that the next has none."""
        revisions = self._world.revisions.get(deployment.name, {})
        asked, kept = revisions.get(failed), revisions.get(deployment.serving or 0)
        if asked is None or kept is None:
            return ""
        lost = asked.config.rollout_settings_beside(kept.config)
        if "strategy" not in lost:
            return ""
        again = " ".join(
            f"-C {name}={value:g}" if isinstance(value, float) else f"-C {name}={value}"
            for name, value in lost.items()
        )
        return f" These settings went with it: name them again with the next update ({again})."

    async def _record_when_possible(self, name: str, number: int) -> None:
        """Write down how a rollout ended: else a later controller would go on with it."""
        while True:
            await asyncio.sleep(RECORD_AGAIN_S)
            deployment, store = self._world.deployments.get(name), self.controller.store
            with contextlib.suppress(HomeError):
                if deployment is None:
                    store.delete_deployment(name)
                else:
                    store.save(deployment=deployment, revision=self._world.revisions[name].get(number))
                self._recording.pop(name, None)
                return

    def check_recorded(self, name: str) -> None:
        """Raise an error while the database does not say yet that a revision was given up.

        Raises:
            HomeError: it can't be written.
        """
        if name in self._recording:
            raise HomeError(
                f"The revision was given up and deployment '{name}' goes on without it, but that can't be written down"
                f" yet: see {self.controller.home.server_log}. It is tried again until it can."
            )

    def stop(self) -> None:
        for task in self._recording.values():
            task.cancel()

    def _record_failure(self, deployment: Deployment, action: Fail, rollout: Rollout) -> None:
        name = deployment.name
        failed = self._world.revisions[name][action.revision].model_copy(
            update={
                "state": RevisionState.FAILED,
                "message": action.reason,
                "trial": _report(rollout),
                "ended_at": utcnow(),
            }
        )
        if deployment.serving is None:
            state, message = DeploymentState.DEPLOY_FAILED, action.reason
        else:
            state = DeploymentState.HEALTHY
            message = (
                f"revision {action.revision} failed, revision {deployment.serving} goes on: {action.reason}"
            )
        deployment = deployment.model_copy(
            update={"state": state, "message": message, "updated_at": utcnow()}
        )
        self._world.remember(deployment, failed)
        self.controller.store.save(deployment=deployment, revision=failed)
        if deployment.serving is not None:
            self.controller.reports.trial_ended(failed, self._world.revisions[name][deployment.serving])


def _report(rollout: Rollout) -> dict[str, Any] | None:
    return rollout.tryout.report if rollout.tryout is not None else None
