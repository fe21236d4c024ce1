"""What users may ask of endpoints: to make them, to split their traffic, to remove them."""

from __future__ import annotations

from typing import Any

from mlflow_restaurant.control.controller import Controller
from mlflow_restaurant.control.events import endpoint_text
from mlflow_restaurant.control.views import Views
from mlflow_restaurant.entities import Deployment, Endpoint, check_name, parse_traffic, utcnow
from mlflow_restaurant.errors import AlreadyExists, Conflict
from mlflow_restaurant.sticky import parse_sticky


class EndpointCommands:
    """The operations on endpoints of one server."""

    def __init__(self, controller: Controller, views: Views) -> None:
        self.controller, self.views = controller, views

    async def create(
        self, name: str, traffic: object = None, sticky: object = None, actor: str = ""
    ) -> dict[str, Any]:
        """Make an endpoint, with a traffic split or without; `sticky` as for `parse_sticky`."""
        check_name(name, "an endpoint")
        if name in self.controller.world.endpoints:
            raise AlreadyExists(
                f"Endpoint '{name}' exists already; update or delete it, or choose another name."
            )
        now = utcnow()
        endpoint = self._changed(Endpoint(name=name, created_at=now, updated_at=now), traffic, sticky)
        return await self._tell(endpoint, "created", actor)

    async def update(
        self, name: str, traffic: object = None, sticky: object = None, actor: str = ""
    ) -> dict[str, Any]:
        """Change the traffic split of an endpoint, or by what callers stay; what is None stays as it is."""
        endpoint = self._changed(self.views.endpoint(name), traffic, sticky)
        return await self._tell(endpoint, "changed", actor)

    async def delete(self, name: str, actor: str = "") -> None:
        """Remove an endpoint; its deployments stay. No error when there is none of that name."""
        world = self.controller.world
        if name not in world.endpoints:
            return
        self.controller.store.delete_endpoint(name)
        del world.endpoints[name]
        for deployment in list(world.deployments.values()):
            if deployment.endpoint == name:
                world.deployments[deployment.name] = deployment.model_copy(update={"endpoint": None})
        self.controller.events.note("endpoint", "deleted", endpoint=name, actor=actor)
        await self.controller.routes.told()

    def leave(self, deployment: Deployment) -> None:
        endpoint = self.controller.world.endpoints.get(deployment.endpoint or "")
        if endpoint is not None and deployment.name in endpoint.traffic:
            traffic = {name: w for name, w in endpoint.traffic.items() if name != deployment.name}
            endpoint = endpoint.model_copy(update={"traffic": traffic, "updated_at": utcnow()})
            self.controller.store.save(endpoint=endpoint)
            self.controller.world.endpoints[endpoint.name] = endpoint

    def _changed(self, endpoint: Endpoint, traffic: object, sticky: object) -> Endpoint:
        """Save an endpoint with another split or stickiness; returns it as it is then."""
        stays = endpoint.sticky if sticky in (None, "") else parse_sticky(sticky)
        weights = parse_traffic(traffic) if traffic not in (None, "") else dict(endpoint.traffic)
        joining = []
        for name in weights:
            deployment = self.views.deployment(name, None)
            if deployment.endpoint not in (None, endpoint.name):
                raise Conflict(f"Deployment '{name}' belongs to endpoint '{deployment.endpoint}' already.")
            if deployment.endpoint is None:
                joining.append(deployment.model_copy(update={"endpoint": endpoint.name}))
        endpoint = endpoint.model_copy(update={"traffic": weights, "sticky": stays, "updated_at": utcnow()})
        self.controller.store.save(endpoint=endpoint, joining=joining)
        self.controller.world.endpoints[endpoint.name] = endpoint
        for deployment in joining:
            self.controller.world.remember(deployment)
        return endpoint

    async def _tell(self, endpoint: Endpoint, what: str, actor: str) -> dict[str, Any]:
        """Note what became of an endpoint, and wait until the gateways know."""
        text = endpoint_text(endpoint, what)
        self.controller.events.note("endpoint", text, endpoint=endpoint.name, actor=actor)
        await self.controller.routes.told()
        return self.views.get_endpoint(endpoint.name)
