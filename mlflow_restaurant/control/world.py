"""What should run, as the database has it, and the routes that follow from it and from what runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mlflow_restaurant.control.planner import Wanted
from mlflow_restaurant.control.rollout import Mix, Rollout
from mlflow_restaurant.control.store import Store
from mlflow_restaurant.entities import (
    FULL_TRAFFIC,
    BatchRoute,
    Deployment,
    DeploymentRoute,
    Endpoint,
    EndpointRoute,
    ReplicaRoute,
    Revision,
    TrialRoute,
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

    def kept(self, name: str) -> set[int]:
        """Return the revisions of a deployment whose models are kept: those that may run, and the last that served."""
        revisions = self.revisions[name]
        deployment = self.deployments.get(name)
        serving = deployment.serving if deployment else None
        found = {number for number, r in revisions.items() if r.state is RevisionState.PENDING}
        served = [number for number, r in revisions.items() if r.state is RevisionState.SUPERSEDED]
        if serving is not None:
            found.add(serving)
            earlier = revisions[serving].config.keep_revisions - 1
            found.update(sorted(served)[len(served) - min(earlier, len(served)) :])
        else:
            found.add(max(revisions))  # a deployment that is down is repaired from it
        return found

    def digests(self) -> set[str]:
        """Return the cached models that some revision may still need."""
        return {self.revisions[name][n].artifact.digest for name in self.revisions for n in self.kept(name)}

    def interrupted(self) -> dict[str, int]:
        """Return the revisions that were being rolled out when the last controller ended, by deployment."""
        newest = {name: numbers[max(numbers)] for name, numbers in self.revisions.items()}
        return {
            name: revision.number
            for name, revision in newest.items()
            if revision.state is RevisionState.PENDING and name in self.deployments
        }

    def wanted(self, name: str, rollout: Rollout | None, scale: int | None = None) -> Wanted:
        """Return what should run of a deployment, while a rollout is under way.

        Args:
            scale: replicas of the revision that serves, where that is not as configured.
        """
        replicas = {number: r.config.replicas for number, r in self.revisions[name].items()}
        serving = self.deployments[name].serving
        if serving is not None and scale is not None:
            replicas[serving] = scale
        if rollout is None:
            return Wanted(name, serving, None, replicas)
        replicas[rollout.target] = rollout.replicas
        return Wanted(
            name,
            serving,
            rollout.target,
            replicas,
            trial=rollout.trial(),
            gradual=rollout.gradual,
            undone=bool(rollout.undone),
        )

    def joined_endpoint(self, deployment: Deployment) -> Endpoint | None:
        """Return the deployment's endpoint, if its coming changes it: the first deployment gets all its requests."""
        if deployment.endpoint is None:
            return None
        endpoint = self.endpoints.get(deployment.endpoint)
        if endpoint is not None and endpoint.traffic:
            return None
        now, traffic = utcnow(), {deployment.name: FULL_TRAFFIC}
        if endpoint is not None:
            return endpoint.model_copy(update={"traffic": traffic, "updated_at": now})
        return Endpoint(name=deployment.endpoint, traffic=traffic, created_at=now, updated_at=now)

    def deployment_routes(
        self,
        running: Mapping[tuple[str, int], Sequence[ReplicaRoute]],
        rollouts: Mapping[str, Rollout],
        asleep: Callable[[str], bool],
    ) -> dict[str, DeploymentRoute]:
        """Return the routes of all deployments that serve.

        Args:
            running: the replicas that run, by deployment and revision.
            rollouts: those under way, by deployment.
            asleep: tells whether a deployment has no replicas until a request comes.
        """
        routes = {}
        for deployment in self.deployments.values():
            if deployment.serving is not None:
                route = self._route(deployment.name, deployment.serving, running)
                route = route.model_copy(update={"asleep": asleep(deployment.name)})
                rollout = rollouts.get(deployment.name)
                if rollout is not None:
                    new = self._route(deployment.name, rollout.target, running)
                    mix = rollout.mix(len(route.replicas), len(new.replicas))
                    route = route.model_copy(update={"trial": _trial_route(mix, new)})
                routes[deployment.name] = route
        return routes

    def _route(
        self, name: str, serving: int, running: Mapping[tuple[str, int], Sequence[ReplicaRoute]]
    ) -> DeploymentRoute:
        revision = self.revisions[name][serving]
        return DeploymentRoute(
            name=name,
            revision=serving,
            model_version=revision.artifact.model_version,
            timeout_s=revision.config.timeout_s,
            max_queue=revision.config.max_queue,
            max_body_mb=revision.config.max_body_mb,
            batch=_batch_route(revision),
            replicas=tuple(running.get((name, serving), ())),
        )

    def endpoint_routes(self, serving: Iterable[str]) -> dict[str, EndpointRoute]:
        """Return the routes of all endpoints, over the deployments that serve."""
        known = set(serving)
        return {
            name: EndpointRoute(
                name=name, traffic={d: w for d, w in e.traffic.items() if d in known}, sticky=e.sticky
            )
            for name, e in self.endpoints.items()
        }


def _trial_route(mix: Mix | None, route: DeploymentRoute) -> TrialRoute | None:
    if mix is None:
        return None
    return TrialRoute(mode=mix.mode, share=mix.share, step=mix.step, sticky=mix.sticky, route=route)


def _batch_route(revision: Revision) -> BatchRoute | None:
    """Return how requests of a revision are merged, if they are."""
    facts = revision.artifact.batch_facts
    if facts is None or revision.batching is None or revision.batching.chosen == "off":
        return None
    return BatchRoute(
        max_rows=revision.config.max_batch_rows,
        wait_ms=revision.config.batch_wait_ms,
        columns=facts.columns,
        tensor=facts.tensor,
        own_code=revision.batching.own_code,
        tells_requests_apart=revision.batching.tells_requests_apart,
    )
