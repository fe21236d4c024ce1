"""What users may ask of a server: each method checks the request, changes what should run, and waits until it does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow_restaurant._version import __version__
from mlflow_restaurant.config import DeploymentConfig
from mlflow_restaurant.control.controller import Controller
from mlflow_restaurant.control.jobs import Progress, clean_cache
from mlflow_restaurant.control.planner import deployment_state
from mlflow_restaurant.entities import (
    Deployment,
    Endpoint,
    ModelArtifact,
    Revision,
    check_name,
    isoformat,
    parse_traffic,
    plain_weights,
    utcnow,
)
from mlflow_restaurant.errors import AlreadyExists, Conflict, DoesNotExist, InvalidRequest, one_line, quoted
from mlflow_restaurant.states import DeploymentState, RevisionState

Request = Mapping[str, Any]
NO_BATCHING = "off: this version sends every request to the model alone"


class Commands:
    """The operations of one server, over its controller."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.operations: dict[str, asyncio.Task[Any]] = {}
        self.deleting: set[str] = set()

    # -- deployments

    async def create(self, name: str, request: Request, progress: Progress) -> dict[str, Any]:
        """Deploy a model under a new name and wait until it answers.

        Args:
            request: ``model_uri``, ``flavor``, ``config``, ``endpoint``, ``tracking_uri``, ``registry_uri``,
                ``environ``.
            progress: told what is being done.
        """
        check_name(name)
        endpoint = _endpoint_name(request)
        config = DeploymentConfig.from_options(request.get("config") or {})
        if name in self.controller.world.deployments or name in self.operations:
            raise AlreadyExists(
                f"Deployment '{name}' exists already; update or delete it, or choose another name."
            )
        with self._operation(name):
            artifact = await self._fetch(name, request, config, progress)
            now = utcnow()
            deployment = Deployment(name=name, endpoint=endpoint, created_at=now, updated_at=now)
            await self.controller.roll_out(
                deployment, self._revision(name, 1, artifact, config, request), progress
            )
        return self.get(name)

    async def update(self, name: str, request: Request, progress: Progress) -> dict[str, Any]:
        """Bring a new revision of a deployment into service; every setting not named stays as it is."""
        deployment = self._deployment(name, None)
        endpoint = _endpoint_name(request)
        if endpoint is not None and deployment.endpoint not in (None, endpoint):
            raise Conflict(
                f"Deployment '{name}' belongs to endpoint '{deployment.endpoint}', not '{endpoint}'."
            )
        revisions = self.controller.world.revisions[name]
        current = revisions[deployment.serving or max(revisions)]
        config = DeploymentConfig.from_options(request.get("config") or {}, current.config)
        if request.get("flavor") and not request.get("model_uri"):
            raise InvalidRequest(
                "A flavor can only be changed together with the model: give a model URI too."
            )
        self._refuse_overlap(name)
        with self._operation(name):
            artifact = current.artifact
            if request.get("model_uri"):
                artifact = await self._fetch(name, request, config, progress)
            elif config.env_manager != current.config.env_manager:
                artifact = await self._with_environment(name, current, config, progress)
            stores = request if request.get("model_uri") else current.model_dump()
            # As it is now: an endpoint may have come or gone while the model was fetched.
            deployment = self._deployment(name, None).model_copy(update={"updated_at": utcnow()})
            number = max(self.controller.world.revisions[name]) + 1
            revision = self._revision(name, number, artifact, config, stores)
            await self.controller.roll_out(deployment, revision, progress, endpoint)
        return self.get(name)

    async def rollback(self, name: str, number: int | None, progress: Progress) -> dict[str, Any]:
        """Bring an earlier revision's model and settings back, as a new revision.

        Args:
            number: the revision to go back to; by default the one that served before the present one.
        """
        deployment = self._deployment(name, None)
        self._refuse_overlap(name)
        revisions = self.controller.world.revisions[name]
        old = self._earlier(deployment, number)
        with self._operation(name):
            revision = old.model_copy(
                update={
                    "number": max(revisions) + 1,
                    "state": RevisionState.PENDING,
                    "message": f"as revision {old.number}",
                    "created_at": utcnow(),
                }
            )
            deployment = deployment.model_copy(update={"updated_at": utcnow()})
            await self.controller.roll_out(deployment, revision, progress)
        return self.get(name)

    async def delete(self, name: str, endpoint: str | None = None) -> None:
        """Take a deployment out of service; no error when there is none of that name."""
        controller = self.controller
        known = controller.world.deployments.get(name)
        if known is None and name not in self.operations:
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
        with self._operation(name):
            self.deleting.add(name)
            try:
                deployment = controller.world.deployments.get(name)
                if deployment is not None:
                    self._leave_endpoint(deployment)
                    controller.forget(name)
                await controller.replicas_gone(name)
            finally:
                self.deleting.discard(name)

    def get(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """Describe a deployment."""
        deployment = self._deployment(name, endpoint)
        controller = self.controller
        revisions = controller.world.revisions[name]
        revision = revisions[deployment.serving or max(revisions)]
        state, message = self._state(deployment)
        replicas = [r for r in controller.replicas.values() if r.revision.deployment == name]
        return {
            "name": name,
            "flavor": revision.artifact.flavor,
            "model_uri": revision.artifact.model_uri,
            "model_version": revision.artifact.model_version,
            "model_uuid": revision.artifact.model_uuid,
            "endpoint": deployment.endpoint,
            "revision": revision.number,
            "state": state.value,
            "message": message,
            "replicas": [r.public() for r in sorted(replicas, key=lambda r: (r.revision.number, r.index))],
            "url": f"{self.url()}/deployments/{name}",
            "config": revision.config.to_dict(),
            "env_manager": {"chosen": revision.artifact.env_manager, "reason": revision.artifact.env_reason},
            "batching": NO_BATCHING,
            "created_at": isoformat(deployment.created_at),
            "updated_at": isoformat(deployment.updated_at),
        }

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """Describe all deployments, or those of one endpoint."""
        if endpoint is not None:
            self._endpoint(endpoint)
        deployments = self.controller.world.deployments.values()
        return [self.get(d.name) for d in deployments if endpoint in (None, d.endpoint)]

    def history(self, name: str) -> list[dict[str, Any]]:
        """Describe the revisions of a deployment, the newest first."""
        self._deployment(name, None)
        revisions = sorted(self.controller.world.revisions[name].values(), key=lambda r: -r.number)
        return [
            {
                "revision": r.number,
                "state": r.state.value,
                "model_uri": r.artifact.model_uri,
                "model_version": r.artifact.model_version,
                "model_uuid": r.artifact.model_uuid,
                "config": r.config.to_dict(),
                "message": r.message,
                "created_at": isoformat(r.created_at),
            }
            for r in revisions
        ]

    # -- endpoints

    async def create_endpoint(self, name: str, traffic: object = None) -> dict[str, Any]:
        """Make an endpoint, with a traffic split or without."""
        check_name(name, "an endpoint")
        if name in self.controller.world.endpoints:
            raise AlreadyExists(
                f"Endpoint '{name}' exists already; update or delete it, or choose another name."
            )
        now = utcnow()
        return await self._save_endpoint(Endpoint(name=name, created_at=now, updated_at=now), traffic)

    async def update_endpoint(self, name: str, traffic: object) -> dict[str, Any]:
        """Change the traffic split of an endpoint."""
        return await self._save_endpoint(self._endpoint(name), traffic)

    async def delete_endpoint(self, name: str) -> None:
        """Remove an endpoint; its deployments stay. No error when there is none of that name."""
        world = self.controller.world
        if name not in world.endpoints:
            return
        self.controller.store.delete_endpoint(name)
        del world.endpoints[name]
        for deployment in list(world.deployments.values()):
            if deployment.endpoint == name:
                world.deployments[deployment.name] = deployment.model_copy(update={"endpoint": None})
        await self.controller.gateways_told()

    def get_endpoint(self, name: str) -> dict[str, Any]:
        """Describe an endpoint."""
        endpoint = self._endpoint(name)
        members = [d.name for d in self.controller.world.deployments.values() if d.endpoint == name]
        return {
            "name": name,
            "traffic": plain_weights(endpoint.traffic),
            "deployments": members,
            "url": f"{self.url()}/endpoints/{name}",
            "created_at": isoformat(endpoint.created_at),
            "updated_at": isoformat(endpoint.updated_at),
        }

    def list_endpoints(self) -> list[dict[str, Any]]:
        """Describe all endpoints."""
        return [self.get_endpoint(name) for name in self.controller.world.endpoints]

    # -- the server

    def url(self) -> str:
        """Return the address of the gateway, as a caller on this machine reaches it."""
        host, port = self.controller.gateways.address
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"

    async def status(self) -> dict[str, Any]:
        """Describe the server and what its deployments did in the last minute."""
        stats = await self.controller.gateways.stats()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "home": str(self.controller.home.path),
            "url": self.url(),
            "gateways": len(self.controller.gateways.gateways),
            "deployments": [
                {**d, "last_minute": _summary(stats.get(d["name"], []))} for d in self.list_deployments()
            ],
            "endpoints": self.list_endpoints(),
        }

    # -- parts

    def _deployment(self, name: str, endpoint: str | None) -> Deployment:
        deployment = self.controller.world.deployments.get(name)
        if deployment is None:
            known = one_line(", ".join(self.controller.world.deployments) or "none")
            raise DoesNotExist(f"There is no deployment {quoted(name)} here; known: {known}.")
        if endpoint is not None and deployment.endpoint != endpoint:
            raise DoesNotExist(f"There is no deployment '{name}' in endpoint '{endpoint}'.")
        return deployment

    def _earlier(self, deployment: Deployment, number: int | None) -> Revision:
        """Return the revision to go back to."""
        name, revisions = deployment.name, self.controller.world.revisions[deployment.name]
        if number is None:
            served = [r for r in revisions.values() if r.state is RevisionState.SUPERSEDED]
            if not served:
                raise Conflict(f"Deployment '{name}' has no earlier revision that served.")
            return max(served, key=lambda r: r.number)
        if number not in revisions:
            raise DoesNotExist(
                f"Deployment '{name}' has no revision {number}; see 'mlflow-restaurant history {name}'."
            )
        if number == deployment.serving:
            raise Conflict(f"Revision {number} of deployment '{name}' serves already.")
        return revisions[number]

    def _endpoint(self, name: str) -> Endpoint:
        endpoint = self.controller.world.endpoints.get(name)
        if endpoint is None:
            known = one_line(", ".join(self.controller.world.endpoints) or "none")
            raise DoesNotExist(f"There is no endpoint {quoted(name)} here; known: {known}.")
        return endpoint

    def _state(self, deployment: Deployment) -> tuple[DeploymentState, str]:
        wanted = self.controller.wanted_of(deployment.name)
        if wanted.serving is None and wanted.target is None:
            return deployment.state, deployment.message
        state, message = deployment_state(wanted, [r.seen() for r in self.controller.replicas.values()])
        return state, message or deployment.message

    async def _overtake(self, name: str) -> None:
        """Give up what is under way for a deployment; a deletion is waited for."""
        operation = self.operations.get(name)
        if operation is not None:
            if name not in self.deleting:
                operation.cancel()
            await asyncio.wait([operation])

    def _refuse_overlap(self, name: str) -> None:
        if name in self.operations or name in self.controller.rollouts:
            raise Conflict(f"Deployment '{name}' is being updated; wait until that is done, or delete it.")

    @contextlib.contextmanager
    def _operation(self, name: str) -> Iterator[None]:
        task = asyncio.current_task()
        assert task is not None
        self.operations[name] = task
        try:
            yield
        finally:
            del self.operations[name]
            self._clean_cache()

    async def _fetch(
        self, name: str, request: Request, config: DeploymentConfig, progress: Progress
    ) -> ModelArtifact:
        uri = request.get("model_uri")
        if not isinstance(uri, str) or not uri:
            raise InvalidRequest(
                "A model URI is needed, such as models:/NAME@ALIAS, runs:/RUN/NAME or a path."
            )
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
        self, name: str, number: int, artifact: ModelArtifact, config: DeploymentConfig, stores: Request
    ) -> Revision:
        return Revision(
            deployment=name,
            number=number,
            artifact=artifact,
            config=config,
            tracking_uri=stores.get("tracking_uri"),
            registry_uri=stores.get("registry_uri"),
            state=RevisionState.PENDING,
            created_at=utcnow(),
        )

    def _leave_endpoint(self, deployment: Deployment) -> None:
        endpoint = self.controller.world.endpoints.get(deployment.endpoint or "")
        if endpoint is not None and deployment.name in endpoint.traffic:
            traffic = {name: w for name, w in endpoint.traffic.items() if name != deployment.name}
            endpoint = endpoint.model_copy(update={"traffic": traffic, "updated_at": utcnow()})
            self.controller.store.save(endpoint=endpoint)
            self.controller.world.endpoints[endpoint.name] = endpoint

    async def _save_endpoint(self, endpoint: Endpoint, traffic: object) -> dict[str, Any]:
        weights = parse_traffic(traffic) if traffic not in (None, "") else dict(endpoint.traffic)
        joining = []
        for name in weights:
            deployment = self._deployment(name, None)
            if deployment.endpoint not in (None, endpoint.name):
                raise Conflict(f"Deployment '{name}' belongs to endpoint '{deployment.endpoint}' already.")
            if deployment.endpoint is None:
                joining.append(deployment.model_copy(update={"endpoint": endpoint.name}))
        endpoint = endpoint.model_copy(update={"traffic": weights, "updated_at": utcnow()})
        self.controller.store.save(endpoint=endpoint, joining=joining)
        self.controller.world.endpoints[endpoint.name] = endpoint
        for deployment in joining:
            self.controller.world.remember(deployment)
        await self.controller.gateways_told()
        return self.get_endpoint(endpoint.name)

    def _clean_cache(self) -> None:
        if self.operations:
            return
        with contextlib.suppress(OSError):
            clean_cache(self.controller.home.models, self.controller.world.digests())


def _endpoint_name(request: Request) -> str | None:
    endpoint = request.get("endpoint")
    return None if endpoint is None else check_name(endpoint, "an endpoint")


def _summary(samples: list[tuple[float, float, int]]) -> dict[str, Any]:
    """Return requests a second, latencies (ms) and errors of the last minute."""
    took = sorted(s[1] * 1000 for s in samples)
    errors = sum(s[2] >= 500 for s in samples)
    span = max((s[0] for s in samples), default=0.0)
    return {
        "requests": len(samples),
        "requests_per_s": round(len(samples) / max(span, 1.0), 2),
        "p50_ms": round(statistics.median(took), 2) if took else None,
        "p95_ms": round(took[min(len(took) - 1, int(0.95 * len(took)))], 2) if took else None,
        "errors": errors,
    }
