"""The revisions that a gateway sends requests to: each has its own queue and its own replicas.

A batch never mixes revisions, since each waits and runs in its own track. When a revision leaves the table, what waits
for it goes to the one that serves now, without having waited in vain; what is with its replicas is answered by them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mlflow_restaurant.entities import DeploymentRoute, RouteTable
from mlflow_restaurant.errors import DoesNotExist
from mlflow_restaurant.gateway.batcher import Batcher, Send
from mlflow_restaurant.gateway.dispatch import Dispatcher, Slots
from mlflow_restaurant.gateway.trust import Distrust


@dataclass(frozen=True)
class Track:
    """One revision of one deployment."""

    dispatcher: Dispatcher
    batcher: Batcher

    def waiting(self) -> int:
        """Return how many requests wait for a replica."""
        return len(self.batcher.queue) + len(self.dispatcher.waiting)


class Tracks:
    """All revisions in the table.

    Args:
        send: sends one request to one replica.
        log: adds a text to the log of a deployment.
        distrust: see `Batcher`.
    """

    def __init__(self, send: Send, log: Callable[[str, str], None], distrust: Distrust) -> None:
        self.send, self.log, self.distrust = send, log, distrust
        self.tracks: dict[tuple[str, int], Track] = {}

    def update(self, table: RouteTable) -> list[Slots]:
        """Take over a table; returns the replicas that get no more requests."""
        wanted = {(route.name, route.revision): route for route in _routes(table)}
        gone: list[Slots] = []
        for key, route in wanted.items():
            track = self.tracks.get(key)
            if track is None:
                dispatcher = Dispatcher(route)
                self.tracks[key] = Track(dispatcher, Batcher(dispatcher, self.send, self.log, self.distrust))
            else:
                track.batcher.update(route)
                gone += track.dispatcher.update(route)
        for key in set(self.tracks) - set(wanted):
            track, serving = self.tracks.pop(key), table.deployments.get(key[0])
            successor = self.tracks[serving.name, serving.revision] if serving is not None else None
            gone += track.dispatcher.close(moved=successor is not None)
            track.batcher.close(successor.batcher if successor is not None else None)
        return gone

    def of(self, route: DeploymentRoute) -> Track:
        """Return the track of a route.

        Raises:
            DoesNotExist: the deployment was deleted.
        """
        track = self.tracks.get((route.name, route.revision))
        if track is None:
            raise DoesNotExist(f"Deployment '{route.name}' was deleted.")
        return track

    def waiting(self, name: str) -> int:
        """Return how many requests to a deployment wait for a replica."""
        return sum(track.waiting() for track in self.of_deployment(name))

    def under_way(self, name: str) -> list[tuple[int, float]]:
        """Return the scoring requests to a deployment that have no answer yet: revision, and when each began."""
        return [
            (revision, call.started)
            for (deployment, revision), track in self.tracks.items()
            if deployment == name
            for call in track.batcher.unanswered()
        ]

    def of_deployment(self, name: str) -> list[Track]:
        """Return the tracks of all revisions of a deployment."""
        return [track for (deployment, _), track in self.tracks.items() if deployment == name]


def _routes(table: RouteTable) -> Iterator[DeploymentRoute]:
    for route in table.deployments.values():
        yield route
        if route.trial is not None:
            yield route.trial.route
