"""The loop that makes what should run and what does run the same: observe, plan, act, record.

Commands change what should run and wait for the loop; the loop alone starts and stops replicas, promotes revisions
and tells the gateways. The order of an update is: start the new beside the old, route to it, drain the old, stop it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Collection
from functools import partial

from mlflow_restaurant.config import DeploymentConfig, ServerSettings
from mlflow_restaurant.control import planner
from mlflow_restaurant.control.departures import Departures
from mlflow_restaurant.control.events import EventLog, announcement
from mlflow_restaurant.control.gateways import GatewayFleet
from mlflow_restaurant.control.jobs import Jobs, Progress
from mlflow_restaurant.control.model_cache import ModelCache
from mlflow_restaurant.control.outcomes import Outcomes
from mlflow_restaurant.control.planner import Fail, Promote, Restart, Start, Stop, Try, Wanted
from mlflow_restaurant.control.replica_client import call_replica
from mlflow_restaurant.control.replicas import KIND as REPLICA
from mlflow_restaurant.control.replicas import SOCKETS, Replica
from mlflow_restaurant.control.reports import TrialReports
from mlflow_restaurant.control.rollout import Rollout
from mlflow_restaurant.control.routes import Routes
from mlflow_restaurant.control.scaler import Scaler
from mlflow_restaurant.control.scaling import Scale, within_limits
from mlflow_restaurant.control.store import Store
from mlflow_restaurant.control.world import World
from mlflow_restaurant.entities import Deployment, Revision
from mlflow_restaurant.errors import Cancelled, RestaurantError
from mlflow_restaurant.home import Home
from mlflow_restaurant.process.launcher import Launcher
from mlflow_restaurant.process.memory import private_mb
from mlflow_restaurant.process.records import ProcessRecord, read_records, remove_record
from mlflow_restaurant.process.watch import end_process
from mlflow_restaurant.states import RevisionState

PUSH_RETRY_S = 0.2
PROBE_TIMEOUT_S = 5.0
WEIGH_S = 1.0
"""Time between two looks at the memory of replicas that have a limit."""

_logger = logging.getLogger(__name__)


class Controller:
    """Everything that runs in one home."""

    def __init__(self, home: Home, settings: ServerSettings, store: Store) -> None:
        self.home, self.settings, self.store = home, settings, store
        self.world = World.load(store)
        self.jobs = Jobs(home)
        self.models = ModelCache(home.models, self._models_needed)
        self.replicas: dict[str, Replica] = {}
        self.rollouts: dict[str, Rollout] = {}
        self.wake = asyncio.Event()
        self.events = EventLog(home, store, settings)
        self.reports = TrialReports(self.jobs, store, self.world, self.events)
        self.gateways = GatewayFleet(home, settings, self.wake.set, partial(self.events.note, "gateway"))
        self.routes = Routes(self)
        self.outcomes = Outcomes(self)
        self.departures = Departures(self)
        self.scaler = Scaler(self, self.gateways.activity, settings.max_total_memory_mb)
        self.ended = False

    # -- life of the controller

    async def start(self) -> None:
        """Open the port, take over what runs, and go on with what was interrupted."""
        await self.gateways.start()
        await self._adopt_replicas()
        self.scaler.begin(Counter(r.revision.deployment for r in self.replicas.values()))
        for name, number in self.world.interrupted().items():
            revision = self.world.revisions[name][number]
            self.rollouts[name] = self._rollout(revision)
            self.rollouts[name].stopped = revision.stopped

    async def run(self) -> None:
        """Plan and act until `stop`."""
        while not self.ended:
            self.wake.clear()
            try:
                await self._step()
            except Exception:
                _logger.exception("a step of the controller failed")
                await asyncio.sleep(PUSH_RETRY_S)
                continue
            timeout = self._pause()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.wake.wait(), timeout)

    async def weigh(self) -> None:
        """Replace replicas whose memory has grown beyond their limit, until cancelled."""
        while True:
            await asyncio.sleep(WEIGH_S)
            for replica in list(self.replicas.values()):
                limit = replica.revision.config.max_memory_mb
                if limit and replica.pid is not None and replica.takes_requests():
                    used = await asyncio.to_thread(private_mb, replica.pid)
                    if replica.takes_requests():
                        replica.weighed(used, time.monotonic())

    async def stop(self) -> None:
        """Stop the gateways, then every replica."""
        self.ended = True
        self.wake.set()
        for rollout in self.rollouts.values():
            goes = "goes back from" if rollout.undone else "goes on with"
            rollout.finish(
                Cancelled(f"The server is going down; it {goes} revision {rollout.target} at the next 'up'.")
            )
        self.outcomes.stop()
        await self.gateways.stop()
        await self.reports.stop()
        await asyncio.gather(*(replica.stop() for replica in self.processes()), return_exceptions=True)

    def _pause(self) -> float | None:
        if not self.routes.published:
            return PUSH_RETRY_S
        deadline = planner.next_deadline(r.seen() for r in self.replicas.values())
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def _models_needed(self) -> set[str]:
        loaded = {replica.revision.artifact.digest for replica in self.processes()}
        return self.world.digests() | loaded

    async def _adopt_replicas(self) -> None:
        records = [r for r in read_records(self.home.run) if r.kind == REPLICA]
        known = {record.id for record in records}
        # A replica that was given up before there was a record of it may have left its socket.
        for path in self.home.run.glob(SOCKETS):
            if path.stem not in known:
                path.unlink(missing_ok=True)
        await asyncio.gather(*(self._adopt(record) for record in records))

    async def _adopt(self, record: ProcessRecord) -> None:
        name, number, index = (record.details.get(k) for k in ("deployment", "revision", "index"))
        revision = self.world.revisions.get(str(name), {}).get(number) if isinstance(number, int) else None
        # One of a revision that did not serve yet may not have scored its example: it is started again.
        served = revision is not None and revision.state is not RevisionState.PENDING
        if revision is not None and served and isinstance(index, int) and record.alive():
            replica = self._replica(revision, index)
            try:
                status, _ = await call_replica(
                    self.home.run / f"{record.id}.sock", "/ping", None, PROBE_TIMEOUT_S
                )
            except RestaurantError:
                status = 0
            if status == 200 and replica.id not in self.replicas:
                self.replicas[replica.id] = replica
                replica.adopt(record)
                return
        await end_process(record)
        remove_record(self.home.run, record.id)
        (self.home.run / f"{record.id}.sock").unlink(missing_ok=True)

    # -- one step

    def wanted(self) -> list[Wanted]:
        return [self.wanted_of(name) for name in self.world.deployments]

    def wanted_of(self, name: str) -> Wanted:
        scale = self.scaler.scales.get(name)
        return self.world.wanted(name, self.rollouts.get(name), None if scale is None else scale.replicas)

    async def _step(self) -> None:
        for name, rollout in list(self.rollouts.items()):
            if (reason := rollout.verdict()) and not rollout.undone:
                await self.outcomes.fail_or_undo(Fail(name, rollout.target, reason))
        seen = [r.seen() for r in self.replicas.values()]
        for action in planner.plan(self.wanted(), seen, time.monotonic()):
            if self._still_applies(action):
                await self._act(action)
        if await self.routes.tell():
            self.departures.stop_drained()
            self.departures.end_recycled()

    def _still_applies(self, action: planner.Action) -> bool:
        """Tell whether what the action is about is still there: a command may have come in between."""
        if isinstance(action, (Restart, Stop)):
            return action.id in self.replicas
        if isinstance(action, Start):
            return action.revision in self.world.revisions.get(action.deployment, {})
        rollout = self.rollouts.get(action.deployment)
        return rollout is not None and rollout.target == action.revision

    async def _act(self, action: planner.Action) -> None:
        if isinstance(action, Start):
            revision = self.world.revisions[action.deployment][action.revision]
            replica = self._replica(revision, action.index)
            self.replicas[replica.id] = replica
            replica.start(verify=self._rolling_out(revision))
        elif isinstance(action, Restart):
            self.replicas[action.id].restart()
        elif isinstance(action, Stop):
            self.departures.retire(self.replicas[action.id])
        elif isinstance(action, Try):
            self.outcomes.try_out(action)
        else:
            if isinstance(action, Promote):
                await self.outcomes.promote(action)
            else:
                await self.outcomes.fail_or_undo(action)
            self.wake.set()  # what the old or the failed revision had running is not wanted any more

    def _replica(self, revision: Revision, index: int) -> Replica:
        return Replica(self.home, revision, index, self, self.events, self.wake.set)

    async def launcher_for(self, revision: Revision) -> Launcher:
        """Give a replica its launcher; whoever waits for the rollout hears of a long preparation."""
        rollout = self.rollouts.get(revision.deployment)
        return await self.jobs.launcher_for(revision, rollout.progress if rollout else lambda _: None)

    def _rolling_out(self, revision: Revision) -> bool:
        rollout = self.rollouts.get(revision.deployment)
        return rollout is not None and rollout.target == revision.number

    def _rollout(
        self,
        revision: Revision,
        progress: Progress = lambda _: None,
        done: asyncio.Future[None] | None = None,
    ) -> Rollout:
        """Return the rollout of a revision, which is tried first or takes the other's place bit by bit."""
        beside = self.world.deployments[revision.deployment].serving is not None
        tried = beside and not revision.at_once and bool(revision.config.shares())
        scale = self.scaler.scales.get(revision.deployment)
        replicas = within_limits(scale.replicas, revision.config) if scale is not None else 0
        return Rollout(
            revision.number,
            replicas or revision.config.replicas,
            progress,
            done,
            tried=tried,
            gradual=beside and not tried,
        )

    # -- what the scaler needs

    def configs(self) -> dict[str, DeploymentConfig]:
        """Return the settings of the deployments that serve."""
        return {
            name: self.world.revisions[name][deployment.serving].config
            for name, deployment in self.world.deployments.items()
            if deployment.serving is not None
        }

    def changing(self) -> Collection[str]:
        """Return the deployments that a rollout is under way for."""
        return self.rollouts.keys()

    def processes(self) -> list[Replica]:
        """Return the replicas that run, start, or are about to end."""
        return list({*self.replicas.values(), *self.departures.going})

    def scaled(self, name: str, scale: Scale) -> None:
        """Note that a deployment has another number of replicas now."""
        count = "1 replica" if scale.replicas == 1 else f"{scale.replicas} replicas"
        text = f"{count}: {scale.reason}" if scale.replicas else f"asleep: {scale.reason}"
        self.events.note("scaled", text, deployment=name)
        self.wake.set()

    # -- changes of what should run, made by commands

    def forget(self, name: str) -> None:
        """Remove a deployment; its replicas are stopped by the loop."""
        self.store.delete_deployment(name)
        self.world.forget(name)
        self.scaler.forget(name)
        rollout = self.rollouts.pop(name, None)
        if rollout is not None:
            rollout.finish(Cancelled(f"Deployment '{name}' was deleted."))
        self.wake.set()

    async def roll_out(
        self,
        deployment: Deployment,
        revision: Revision,
        progress: Progress,
    ) -> None:
        """Record a new revision and wait until it serves.

        Raises:
            DeployFailed: it does not come into service; whatever served before still does.
            HomeError: the database can't be written; nothing was changed.
        """
        self.store.save(
            deployment=deployment,
            revision=revision,
            note=announcement(revision),
            actor=revision.actor,
        )
        self.world.remember(deployment, revision)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        rollout = self._rollout(revision, progress, done)
        self.rollouts[deployment.name] = rollout
        count = rollout.replicas
        progress(f"starting {count} replica{'s' if count > 1 else ''} of revision {revision.number}")
        self.wake.set()
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            rollout.stopped = rollout.stopped or "it was given up"
            self.wake.set()
            await asyncio.wait([done])  # until nothing of it is left
            done.exception()
            raise

    def suspect(self, key: str, reason: str) -> None:
        """End the replica process named by `key`: a gateway saw that it does not answer."""
        for replica in list(self.replicas.values()):
            replica.suspect(key, reason)

    async def replicas_gone(self, name: str) -> None:
        """Wait until the replicas that a deployment has now are gone."""
        mine = [r for r in self.processes() if r.revision.deployment == name]
        await asyncio.gather(*(replica.gone.wait() for replica in mine))
