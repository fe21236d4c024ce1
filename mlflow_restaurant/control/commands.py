"""What users may ask of a server: each method checks the request, changes what should run, and waits until it does."""

from __future__ import annotations

import contextlib
from typing import Any

from mlflow_restaurant.config import ChangeOptions, DeploymentConfig, parse_change, parse_options
from mlflow_restaurant.control.controller import Controller
from mlflow_restaurant.control.endpoints import EndpointCommands
from mlflow_restaurant.control.jobs import Progress
from mlflow_restaurant.control.operations import Operations
from mlflow_restaurant.control.requests import (
    Request,
    endpoint_name,
    model_uri,
    refuse_beside_rollback,
    refuse_other_input,
)
from mlflow_restaurant.control.rollback import brought_back, earlier_revision, refuse_never_served
from mlflow_restaurant.control.rollout import Rollout
from mlflow_restaurant.control.views import Views
from mlflow_restaurant.entities import Deployment, ModelArtifact, Revision, check_name, utcnow
from mlflow_restaurant.errors import (
    AlreadyExists,
    Cancelled,
    Conflict,
    HomeError,
    InvalidRequest,
)
from mlflow_restaurant.states import RevisionState

ABORTED = "it was aborted"


class Commands:
    """The operations of one server, over its controller."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.operations = Operations(controller)
        self.views = Views(controller, self.operations.fetching)
        self.endpoints = EndpointCommands(controller, self.views)

    # -- deployments

    async def create(self, name: str, request: Request, progress: Progress) -> dict[str, Any]:
        """Deploy a model under a new name and wait until it answers.

        Args:
            request: ``model_uri``, ``flavor``, ``config``, ``endpoint``, ``tracking_uri``, ``registry_uri``,
                ``environ``, ``actor``.
            progress: told what is being done.
        """
        check_name(name)
        endpoint = endpoint_name(request)
        config, change = parse_options(request.get("config") or {})
        change.refuse_rollback(f"Deployment '{name}' is new, so there is nothing to roll back to")
        if name in self.operations.deleting:
            raise AlreadyExists(
                f"Deployment '{name}' exists already, and is being deleted; wait until that is done."
            )
        if name in self.controller.world.deployments or name in self.operations.running:
            raise AlreadyExists(
                f"Deployment '{name}' exists already; update or delete it, or choose another name."
            )
        with self.operations.begun(name):
            artifact = await self._fetch(name, request, config, progress)
            now = utcnow()
            deployment = Deployment(name=name, endpoint=endpoint, created_at=now, updated_at=now)
            await self.controller.roll_out(
                deployment, self._revision(name, 1, artifact, config, request, change), progress
            )
        return self.views.get(name)

    async def update(self, name: str, request: Request, progress: Progress) -> dict[str, Any]:
        """Bring a new revision of a deployment into service; every setting not named stays as it is."""
        options = request.get("config") or {}
        self.operations.refuse_while_deleted(name)
        deployment = self.views.deployment(name, None)
        change = parse_change(options)
        if change.rollback:
            refuse_beside_rollback(request, options)
            return await self._roll_back(name, change, request, progress)
        change.refuse_revision()
        # What is wrong is told before anything is waited for.
        parse_options(options, self._current(deployment).config)
        if request.get("model_uri") is not None:
            model_uri(request)
        elif request.get("flavor"):
            raise InvalidRequest(
                "A flavor can only be changed together with the model: give a model URI too."
            )
        await self.operations.turn(name, progress, wait=change.wait)
        deployment = self.views.deployment(name, None)
        endpoint = endpoint_name(request)
        if endpoint is not None and deployment.endpoint not in (None, endpoint):
            raise Conflict(
                f"Deployment '{name}' belongs to endpoint '{deployment.endpoint}', not '{endpoint}'."
            )
        current = self._current(deployment)
        config, _ = parse_options(options, current.config)
        with self.operations.begun(name):
            artifact = current.artifact
            if request.get("model_uri") is not None:
                artifact = await self._fetch(name, request, config, progress)
                if deployment.serving is not None and not change.allow_schema_change:
                    refuse_other_input(name, current.artifact, artifact)
            elif config.env_manager != current.config.env_manager:
                artifact = await self._with_environment(name, current, config, progress)
            stores = request if request.get("model_uri") else current.model_dump()
            # As it is now: an endpoint may have come or gone while the model was fetched.
            deployment = self.views.deployment(name, None).model_copy(update={"updated_at": utcnow()})
            number = max(self.controller.world.revisions[name]) + 1
            stores = {**stores, "actor": request.get("actor")}
            revision = self._revision(name, number, artifact, config, stores, change)
            revision = revision.model_copy(update={"joins": endpoint})
            with self.controller.reports.with_environ(name, request.get("environ") or {}):
                await self.controller.roll_out(deployment, revision, progress)
        return self.views.get(name)

    async def rollback(self, name: str, request: Request, progress: Progress) -> dict[str, Any]:
        """Bring an earlier revision's model and settings back, as a new revision.

        Args:
            request: ``revision`` (by default the one that served before the present one), ``reason``, ``wait``,
                ``actor``.
        """
        given = {key: request[key] for key in ("revision", "reason", "wait") if request.get(key) is not None}
        change = parse_change({"rollback": True, **given})
        return await self._roll_back(name, change, request, progress)

    async def _roll_back(
        self, name: str, change: ChangeOptions, request: Request, progress: Progress
    ) -> dict[str, Any]:
        self.operations.refuse_while_deleted(name)
        self.views.deployment(name, None)
        refuse_never_served(name, self.controller.world.revisions[name], change.revision)
        await self.operations.turn(name, progress, wait=change.wait)
        deployment = self.views.deployment(name, None)
        revisions = self.controller.world.revisions[name]
        old = earlier_revision(
            name, revisions, deployment.serving, self.controller.world.kept(name), change.revision
        )
        with self.operations.begun(name):
            revision = brought_back(old, max(revisions) + 1, request.get("actor") or "", change.reason)
            deployment = deployment.model_copy(update={"updated_at": utcnow()})
            await self.controller.roll_out(deployment, revision, progress)
        return self.views.get(name)

    async def promote(self, name: str, progress: Progress, actor: str = "") -> dict[str, Any]:
        """Let the revision that is being rolled out serve as soon as its replicas run, whatever its trial says."""
        if name in self.operations.fetching:
            raise Conflict(
                f"Deployment '{name}' has nothing to promote yet: the model of its next revision is still being fetched."
            )
        rollout = self._rollout(name)
        progress(f"promoting revision {rollout.target}")
        self._note("promote", f"revision {rollout.target} shall serve now", name, rollout.target, actor)
        rollout.tried = False
        revision = self.controller.world.revisions[name][rollout.target]
        with contextlib.suppress(
            HomeError
        ):  # it holds for this rollout; a later controller would try it again
            self.controller.store.save(revision=revision.model_copy(update={"at_once": True}))
        self.controller.wake.set()
        await rollout.ended.wait()
        if rollout.error is not None:
            raise rollout.error
        return self.views.get(name)

    async def abort(self, name: str, progress: Progress, actor: str = "") -> dict[str, Any]:
        """Give up the revision that is being rolled out; the one before goes on alone.

        Returns:
            The deployment; empty if the revision was its first, so that nothing is left of it.
        """
        if name in self.operations.fetching:
            return await self._abort_preparation(name, progress, actor)
        rollout = self._rollout(name)
        progress(f"giving up revision {rollout.target}")
        self._note("abort", f"revision {rollout.target} is given up", name, rollout.target, actor)
        rollout.stopped = ABORTED
        self.controller.wake.set()
        await rollout.ended.wait()
        if rollout.error is None:
            raise Conflict(
                f"Revision {rollout.target} of deployment '{name}' serves already; roll back instead."
            )
        if isinstance(rollout.error, Cancelled) or rollout.stopped != ABORTED:
            raise rollout.error  # the server goes down, or the deployment is deleted
        if name not in self.controller.world.deployments:
            return {}
        self.controller.outcomes.check_recorded(name)
        return self.views.get(name)

    async def _abort_preparation(self, name: str, progress: Progress, actor: str) -> dict[str, Any]:
        """Give a change up of which there is no revision yet: its model is still being fetched."""
        progress("giving up the revision whose model is being fetched")
        self._note("abort", "the revision whose model was being fetched is given up", name, None, actor)
        self.operations.give_up(name, f"The change of deployment '{name}' was given up: {ABORTED}.")
        await self.operations.ended(name)
        return self.views.get(name) if name in self.controller.world.deployments else {}

    def _note(self, kind: str, message: str, name: str, revision: int | None, actor: str) -> None:
        self.controller.events.note(kind, message, deployment=name, revision=revision, actor=actor)

    def _rollout(self, name: str) -> Rollout:
        self.operations.refuse_while_deleted(name)
        self.views.deployment(name, None)
        rollout = self.controller.rollouts.get(name)
        if rollout is None:
            raise Conflict(f"Deployment '{name}' has no rollout under way.")
        return rollout

    async def delete(self, name: str, endpoint: str | None = None, actor: str = "") -> None:
        """Take a deployment out of service; no error when there is none of that name."""
        controller = self.controller
        known = controller.world.deployments.get(name)
        if known is None and name not in self.operations.running:
            return
        if endpoint is not None and known is not None and known.endpoint != endpoint:
            return  # no such deployment in that endpoint, so there is nothing to delete
        for other in controller.world.endpoints.values():
            if other.traffic.get(name):
                raise Conflict(
                    f"Endpoint '{other.name}' still sends {other.traffic[name]:g} % of its requests to deployment"
                    f" '{name}'; change its traffic or delete the endpoint first."
                )
        await self._overtake(name)
        with self.operations.begun(name):
            self.operations.deleting.add(name)
            try:
                deployment = controller.world.deployments.get(name)
                if deployment is not None:
                    self.views.keep(name)
                    self.endpoints.leave(deployment)
                    controller.forget(name)
                    self._note("deleted", f"deployment {name} was deleted", name, None, actor)
                await controller.replicas_gone(name)
            finally:
                self.operations.deleting.discard(name)
                self.views.drop(name)

    # -- parts

    def _current(self, deployment: Deployment) -> Revision:
        """Return the revision that serves, or the newest where none does."""
        revisions = self.controller.world.revisions[deployment.name]
        return revisions[deployment.serving or max(revisions)]

    async def _overtake(self, name: str) -> None:
        """Give up what is under way for a deployment; a deletion is waited for."""
        while name in self.operations.running:
            if name not in self.operations.deleting:
                rollout = self.controller.rollouts.get(name)
                if rollout is not None:
                    rollout.forsake("the deployment was deleted")
                self.operations.give_up(name, f"Deployment '{name}' was deleted before the command was done.")
            await self.operations.ended(name)

    async def _fetch(
        self, name: str, request: Request, config: DeploymentConfig, progress: Progress
    ) -> ModelArtifact:
        uri = model_uri(request)
        self.operations.fetching.add(name)
        try:
            return await self.controller.jobs.fetch(
                name,
                model_uri=uri,
                tracking_uri=request.get("tracking_uri"),
                registry_uri=request.get("registry_uri"),
                flavor=request.get("flavor"),
                env_manager=config.env_manager,
                environ=request.get("environ") or {},
                progress=progress,
            )
        finally:
            self.operations.fetching.discard(name)

    async def _with_environment(
        self, name: str, current: Revision, config: DeploymentConfig, progress: Progress
    ) -> ModelArtifact:
        """Return the artifact of `current` with the environment manager that `config` asks for."""
        cached = str(self.controller.home.models / current.artifact.digest)
        found = await self._fetch(name, {"model_uri": cached}, config, progress)
        return current.artifact.model_copy(
            update={"env_manager": found.env_manager, "env_reason": found.env_reason}
        )

    def _revision(
        self,
        name: str,
        number: int,
        artifact: ModelArtifact,
        config: DeploymentConfig,
        stores: Request,
        change: ChangeOptions,
    ) -> Revision:
        return Revision(
            deployment=name,
            number=number,
            artifact=artifact,
            config=config,
            tracking_uri=stores.get("tracking_uri"),
            registry_uri=stores.get("registry_uri"),
            state=RevisionState.PENDING,
            actor=stores.get("actor") or "",
            reason=change.reason,
            created_at=utcnow(),
        )
