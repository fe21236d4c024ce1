"""What the server tells of itself: deployments, revisions, endpoints, and what they did in the last minute."""

from __future__ import annotations

import os
import statistics
from collections.abc import Collection
from datetime import datetime
from typing import Any

from mlflow_restaurant._version import __version__
from mlflow_restaurant.control.controller import Controller
from mlflow_restaurant.control.planner import deployment_state
from mlflow_restaurant.entities import Deployment, Endpoint, isoformat, plain_weights
from mlflow_restaurant.errors import DoesNotExist, one_line, quoted
from mlflow_restaurant.states import DeploymentState
from mlflow_restaurant.sticky import OFF


class Views:
    """Descriptions of what one controller runs.

    Args:
        fetching: see `Operations`.
    """

    def __init__(self, controller: Controller, fetching: Collection[str]) -> None:
        self.controller, self.fetching = controller, fetching
        self.deleted: dict[str, dict[str, Any]] = {}
        """What was told last of deployments whose replicas finish what they have."""

    # -- records

    def deployment(self, name: str, endpoint: str | None) -> Deployment:
        deployment = self.controller.world.deployments.get(name)
        if deployment is None:
            known = one_line(", ".join(self.controller.world.deployments) or "none")
            raise DoesNotExist(f"There is no deployment {quoted(name)} here; known: {known}.")
        if endpoint is not None and deployment.endpoint != endpoint:
            raise DoesNotExist(f"There is no deployment '{name}' in endpoint '{endpoint}'.")
        return deployment

    def endpoint(self, name: str) -> Endpoint:
        endpoint = self.controller.world.endpoints.get(name)
        if endpoint is None:
            known = one_line(", ".join(self.controller.world.endpoints) or "none")
            raise DoesNotExist(f"There is no endpoint {quoted(name)} here; known: {known}.")
        return endpoint

    # -- deployments

    def get(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """Describe a deployment."""
        if name in self.deleted and name not in self.controller.world.deployments:
            return {**self.deleted[name], "replicas": self._replicas(name)}
        deployment = self.deployment(name, endpoint)
        controller = self.controller
        revisions = controller.world.revisions[name]
        revision = revisions[deployment.serving or max(revisions)]
        state, message = self._state(deployment)
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
            "replicas": self._replicas(name),
            "url": f"{self.url()}/deployments/{name}",
            "config": revision.config.to_dict(),
            "env_manager": {"chosen": revision.artifact.env_manager, "reason": revision.artifact.env_reason},
            "batching": revision.batching.model_dump(include={"chosen", "reason"})
            if revision.batching
            else None,
            "rollout": self._rollout(name),
            "created_at": isoformat(deployment.created_at),
            "updated_at": isoformat(deployment.updated_at),
        }

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """Describe all deployments, or those of one endpoint."""
        if endpoint is not None:
            self.endpoint(endpoint)
        deployments = self.controller.world.deployments.values()
        names = [d.name for d in deployments if endpoint in (None, d.endpoint)]
        going = [name for name in self.deleted if name not in self.controller.world.deployments]
        return [self.get(name) for name in (*names, *(going if endpoint is None else ()))]

    def keep(self, name: str) -> None:
        """Go on to describe a deployment that is deleted now, until `drop`."""
        state, message = DeploymentState.DELETING.value, "its replicas finish what they have"
        self.deleted[name] = {**self.get(name), "state": state, "message": message, "rollout": None}

    def drop(self, name: str) -> None:
        """Describe a deleted deployment no more."""
        self.deleted.pop(name, None)

    def history(self, name: str) -> list[dict[str, Any]]:
        """Describe the revisions of a deployment, the newest first."""
        self.deployment(name, None)
        kept = self.controller.world.kept(name)
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
                "by": r.actor,
                "reason": r.reason,
                "kept": r.number in kept,
                "trial": r.trial,
                "golden": r.golden is not None,
                "created_at": isoformat(r.created_at),
                "served_at": isoformat(r.served_at) if r.served_at else None,
                "ended_at": isoformat(r.ended_at) if r.ended_at else None,
            }
            for r in revisions
        ]

    async def events(
        self, name: str | None, *, since: datetime | None, after: int, limit: int | None
    ) -> list[dict[str, Any]]:
        """Describe events, those that happened first at first; see `Store.events`.

        Raises:
            DoesNotExist: there is no deployment or endpoint of that name, and never was one.
        """
        await self.controller.events.flush()
        store, world = self.controller.store, self.controller.world
        found = store.events(name, since=since, after=after, limit=limit)
        known = name is None or found or name in world.deployments or name in world.endpoints
        if not known and not store.events(name, limit=1):
            raise DoesNotExist(f"There are no events of a deployment or endpoint {quoted(name)} here.")
        return [
            {
                "id": e["id"],
                "time": e["at"],
                "kind": e["kind"],
                "deployment": e["deployment"],
                "endpoint": e["endpoint"],
                "revision": e["revision"],
                "by": e["actor"],
                "message": e["message"],
            }
            for e in found
        ]

    # -- endpoints

    def get_endpoint(self, name: str) -> dict[str, Any]:
        """Describe an endpoint."""
        endpoint = self.endpoint(name)
        members = [d.name for d in self.controller.world.deployments.values() if d.endpoint == name]
        return {
            "name": name,
            "traffic": plain_weights(endpoint.traffic),
            "sticky": endpoint.sticky or OFF,
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

    def _replicas(self, name: str) -> list[dict[str, Any]]:
        mine = [r for r in self.controller.replicas.values() if r.revision.deployment == name]
        return [r.public() for r in sorted(mine, key=lambda r: (r.revision.number, r.index))]

    def _rollout(self, name: str) -> dict[str, Any] | None:
        """Describe the rollout under way."""
        rollout = self.controller.rollouts.get(name)
        if rollout is None:
            return None
        report = rollout.tryout.report if rollout.tryout is not None else {}
        config = self.controller.world.revisions[name][rollout.target].config
        return {"revision": rollout.target, "strategy": config.strategy, **report}

    def _state(self, deployment: Deployment) -> tuple[DeploymentState, str]:
        state, message = self._state_but_for_fetching(deployment)
        if deployment.name in self.fetching and state is not DeploymentState.UNHEALTHY:
            return DeploymentState.UPDATING, "the model of its next revision is being fetched"
        return state, message

    def _state_but_for_fetching(self, deployment: Deployment) -> tuple[DeploymentState, str]:
        wanted = self.controller.wanted_of(deployment.name)
        if wanted.serving is None and wanted.target is None:
            return deployment.state, deployment.message
        rollout = self.controller.rollouts.get(deployment.name)
        if rollout is not None and rollout.undone:
            return DeploymentState.UPDATING, f"going back to revision {deployment.serving}: {rollout.undone}"
        if rollout is not None and rollout.tryout is not None and rollout.tryout.said:
            return DeploymentState.UPDATING, rollout.tryout.said
        state, message = deployment_state(wanted, [r.seen() for r in self.controller.replicas.values()])
        return state, message or deployment.message


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
