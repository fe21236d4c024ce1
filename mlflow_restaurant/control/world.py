"""What should run, as the database has it, and the routes that follow from it and from what runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mlflow_restaurant.control.planner import Wanted
from mlflow_restaurant.control.store import Store
from mlflow_restaurant.entities import (
    FULL_TRAFFIC,
    Deployment,
    DeploymentRoute,
    Endpoint,
    EndpointRoute,
    ReplicaRoute,
    Revision,
    utcnow,
)
from mlflow_restaurant.states import RevisionState


@dataclass
class World:
    """Deployments and endpoints by name, revisions by deployment and number."""

    deployments: dict[str, Deployment] = field(default_factory=dict)
    revisions: dict[str, dict[int, Revision]] = field(default_factory=dict)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)

    @classmethod
    def load(cls, store: Store) -> World:
        world = cls({d.name: d for d in store.deployments()}, {}, {e.name: e for e in store.endpoints()})
        for revision in store.revisions():
            world.revisions.setdefault(revision.deployment, {})[revision.number] = revision
        return world

    def remember(self, deployment: Deployment, revision: Revision | None = None) -> None:
        """Take over a deployment, and one of its revisions, in place of what was known."""
        self.deployments[deployment.name] = deployment
        if revision is not None:
            self.revisions.setdefault(deployment.name, {})[revision.number] = revision

    def forget(self, name: str) -> None:
        """Drop a deployment and its revisions."""
        self.deployments.pop(name, None)
        self.revisions.pop(name, None)

    def digests(self) -> set[str]:
        """Return the cached models that some revision uses."""
        return {r.artifact.digest for revisions in self.revisions.values() for r in revisions.values()}

    def interrupted(self) -> dict[str, int]:
        """Return the revisions that were being rolled out when the last controller ended, by deployment."""
        newest = {name: numbers[max(numbers)] for name, numbers in self.revisions.items()}
        return {
            name: revision.number
            for name, revision in newest.items()
            if revision.state is RevisionState.PENDING and name in self.deployments
        }

    def wanted(self, name: str, target: int | None) -> Wanted:
        """Return what should run of a deployment, while revision `target` is being rolled out."""
        replicas = {number: r.config.replicas for number, r in self.revisions[name].items()}
        return Wanted(name, self.deployments[name].serving, target, replicas)

    def joined_endpoint(self, deployment: Deployment) -> Endpoint | None:
        """Return the deployment's endpoint, if its coming changes it: the first deployment gets all its requests."""
        if deployment.endpoint is None:
            return None
        endpoint = self.endpoints.get(deployment.endpoint)
        if endpoint is not None and endpoint.traffic:
            return None
        created = endpoint.created_at if endpoint else utcnow()
        traffic = {deployment.name: FULL_TRAFFIC}
        return Endpoint(name=deployment.endpoint, traffic=traffic, created_at=created, updated_at=utcnow())

    def deployment_routes(
        self, running: Mapping[tuple[str, int], Iterable[ReplicaRoute]]
    ) -> dict[str, DeploymentRoute]:
        """Return the routes of all deployments that serve; `running` by deployment and revision."""
        return {
            deployment.name: self._route(deployment.name, deployment.serving, running)
            for deployment in self.deployments.values()
            if deployment.serving is not None
        }

    def _route(
        self, name: str, serving: int, running: Mapping[tuple[str, int], Iterable[ReplicaRoute]]
    ) -> DeploymentRoute:
        revision = self.revisions[name][serving]
        return DeploymentRoute(
            name=name,
            revision=serving,
            model_version=revision.artifact.model_version,
            timeout_s=revision.config.timeout_s,
            max_queue=revision.config.max_queue,
            max_body_mb=revision.config.max_body_mb,
            replicas=tuple(running.get((name, serving), ())),
        )

    def endpoint_routes(self, serving: Iterable[str]) -> dict[str, EndpointRoute]:
        """Return the routes of all endpoints, over the deployments that serve."""
        known = set(serving)
        return {
            name: EndpointRoute(name=name, traffic={d: w for d, w in e.traffic.items() if d in known})
            for name, e in self.endpoints.items()
        }
