"""The replicas of a home, as the controller knows them: one object for each, over all its processes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import secrets
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from mlflow_restaurant.control.cores import threads_of
from mlflow_restaurant.control.events import EventLog, append_log
from mlflow_restaurant.control.example import Example
from mlflow_restaurant.control.planner import (
    FATAL_AFTER_QUICK_DEATHS,
    Death,
    Seen,
    after_death,
)
from mlflow_restaurant.control.weight import Weight
from mlflow_restaurant.entities import ReplicaRoute, Revision
from mlflow_restaurant.errors import RestaurantError
from mlflow_restaurant.home import Home
from mlflow_restaurant.process.child import Child
from mlflow_restaurant.process.faults import fault_point
from mlflow_restaurant.process.launcher import Launcher
from mlflow_restaurant.process.records import ProcessRecord, record_path, remove_record, write_record
from mlflow_restaurant.process.watch import end_orphans, end_process, wait_for_exit
from mlflow_restaurant.states import REPLICA_TRANSITIONS, ReplicaState, advance

_logger = logging.getLogger(__name__)

KIND = "replica"
SOCKETS = "r-*.sock"
"""What the sockets of replicas are called, in the run directory."""
STOP_GRACE_S = 5.0


class Launchers(Protocol):
    """Gives the launcher for a revision, building its environment first where one is needed."""

    async def launcher_for(self, revision: Revision) -> Launcher: ...


class Replica:
    """One replica of one revision: a process, and its successors when it ends."""

    def __init__(
        self,
        home: Home,
        revision: Revision,
        index: int,
        launchers: Launchers,
        events: EventLog,
        changed: Callable[[], None],
    ) -> None:
        self.home, self.revision, self.index = home, revision, index
        self.launchers, self.events, self.changed = launchers, events, changed
        self.id = f"{revision.deployment}-{revision.number}-{index}"
        self.state = ReplicaState.STARTING
        self.key = ""
        self.pid: int | None = None
        self.restarts = 0
        self.quick_deaths = 0
        self.retry_at = 0.0
        self.error = ""
        self.suspicion = ""
        self.verify = False
        self.own_step: str | None = None
        self.tells_requests_apart: bool | None = None
        self.recycled = False
        self.weight = Weight(revision.config.max_memory_mb)
        self.example = Example(home, self._strays)
        self.task: asyncio.Task[None] | None = None
        self.started = time.monotonic()
        self.start_s: float | None = None
        self.gone = asyncio.Event()

    def seen(self) -> Seen:
        return Seen(
            self.id,
            self.revision.deployment,
            self.revision.number,
            self.index,
            self.state,
            self.retry_at,
            self.error,
            self.quick_deaths,
            self.example.stray or self.weight.complaint,
        )

    def public(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "state": self.state.value,
            "pid": self.pid,
            "restarts": self.restarts,
            "revision": self.revision.number,
        }

    @property
    def socket(self) -> Path:
        return self.home.run / f"{self.key}.sock"

    def route(self) -> ReplicaRoute:
        return ReplicaRoute(key=self.key, socket=str(self.socket))

    def start(self, *, verify: bool) -> None:
        """Start a process; with `verify`, the model's own input example must score before the replica runs."""
        self.verify = verify
        self._become(ReplicaState.STARTING)
        self.task = asyncio.ensure_future(self._live())

    def restart(self) -> None:
        self.restarts += 1
        self.start(verify=False)

    def adopt(self, record: ProcessRecord) -> None:
        """Take over a process that an earlier controller started and that answers."""
        self.key, self.pid = record.id, record.pid
        self.restarts = int(record.details.get("restarts", 0))
        self.start_s = 0.0
        self._become(ReplicaState.RUNNING)
        self.task = asyncio.ensure_future(self._watch(record))

    def suspect(self, key: str, reason: str) -> None:
        """End the process named by `key`, because a gateway saw that it does not answer."""
        if key == self.key and self.pid is not None and self.state is ReplicaState.RUNNING:
            self.suspicion = reason
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def weighed(self, used_mb: float, now: float) -> None:
        """Take note of how much memory the process has for itself, and replace it when that is more than it may have."""
        known = self.weight.complaint
        replaced = self.weight.is_too_much(used_mb, now)
        if self.weight.complaint and not known:
            self._note("unhealthy", f"replica {self.id}: {self.weight.complaint}")
        if replaced:
            self.recycle(
                f"it uses {used_mb:.0f} MB of memory, more than max_memory_mb={self.weight.limit_mb:g}"
            )

    def recycle(self, reason: str) -> None:
        """Let the process get no more requests, so that it can be ended and started again without harm."""
        self.recycled, self.suspicion = True, reason
        self._note("memory", f"replica {self.id}: {reason}; it is replaced")
        self.changed()

    def takes_requests(self) -> bool:
        """Tell whether it may get requests."""
        return self.state is ReplicaState.RUNNING and not self.recycled

    def end(self, key: str) -> None:
        """End the process named by `key`; its end is seen like any other."""
        if key == self.key and self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGTERM)

    async def stop(self) -> None:
        """End the process, if there is one, and forget it."""
        task, self.task = self.task, None
        self.state = ReplicaState.STOPPED
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self.changed()

    def _become(self, state: ReplicaState) -> None:
        self.state = advance(REPLICA_TRANSITIONS, self.state, state)
        self.changed()

    async def _live(self) -> None:
        self.started, self.start_s = time.monotonic(), None
        child: Child | None = None
        try:
            child = await self._launch()
            await self._ready(child)
            self.error = ""
            fault_point("replica: it runs")
            self.start_s = time.monotonic() - self.started
            self.weight.runs(time.monotonic())
            self._become(ReplicaState.RUNNING)
            if self.restarts:
                self._note("replica", f"replica {self.id} runs again (restart {self.restarts})")
            code = await child.wait()
            reason = self.suspicion or await _last_words(child) or _exit_reason(code)
        except (RestaurantError, OSError) as e:
            reason = str(e)
        except Exception as e:  # a mistake of ours must not end the supervision
            _logger.exception("replica %s", self.id)
            reason = f"{type(e).__name__}: {e}"
        finally:
            if child is not None:
                await asyncio.shield(child.end())
            self._forget_process()
        self._died(reason)

    async def _launch(self) -> Child:
        launcher = await self.launchers.launcher_for(self.revision)
        self.started = time.monotonic()
        self.key, self.suspicion, self.recycled = f"r-{secrets.token_hex(3)}", "", False
        config = self.revision.config
        args = {
            "model": str(self.home.models / self.revision.artifact.digest),
            "socket": str(self.socket),
            "record": str(record_path(self.home.records, self.key)),
            "model_config": config.model_config_,
            "grace_s": STOP_GRACE_S,
            "threads": threads_of(config),
        }
        child = await launcher.launch(
            "replica",
            args,
            log=self.home.deployment_log(self.revision.deployment),
            env=config.env,
            title=f"mlflow_restaurant replica {self.id}",
        )
        try:
            self._record(child.pid)
        except OSError:
            await child.end()
            raise
        self.pid = child.pid
        self.changed()
        return child

    def _record(self, pid: int) -> None:
        details = {
            "deployment": self.revision.deployment,
            "revision": self.revision.number,
            "index": self.index,
            "restarts": self.restarts,
        }
        write_record(self.home.run, KIND, self.key, pid, **details)

    async def _ready(self, child: Child) -> None:
        limit = self.revision.config.startup_timeout_s
        try:
            message = await asyncio.wait_for(child.next_message(), limit)
        except asyncio.TimeoutError:
            raise RestaurantError(f"the replica was not ready within startup_timeout_s={limit:g} s") from None
        fault_point("replica: it has loaded its model")
        if message is None:
            raise RestaurantError(_exit_reason(await child.wait()))
        if "failed" in message:
            raise RestaurantError(f"the model did not load: {message['failed']}")
        self.own_step = message.get("own_step")
        self.tells_requests_apart = bool(message.get("tells_requests_apart"))
        if self.verify:
            await self.example.must_score(self.revision, self.socket)
        else:
            await self.example.scored_again(self.revision, self.socket)

    async def _watch(self, record: ProcessRecord) -> None:
        looking = asyncio.ensure_future(self.example.looked_at(self.revision, self.socket))
        try:
            await wait_for_exit(record)
            end_orphans(record.pid)
            reason = self.suspicion or "its process ended"
        finally:
            looking.cancel()
            await asyncio.shield(end_process(record))
            self._forget_process()
        self._died(reason)

    def _strays(self, reason: str) -> None:
        self._note("unhealthy", f"replica {self.id}: {reason}")
        self.changed()

    def _note(self, kind: str, message: str) -> None:
        self.events.note(kind, message, deployment=self.revision.deployment, revision=self.revision.number)

    def _forget_process(self) -> None:
        self.pid = None
        if self.key:
            remove_record(self.home.run, self.key)
            self.socket.unlink(missing_ok=True)

    def _died(self, reason: str) -> None:
        now = time.monotonic()
        if self.recycled and self.weight.soon:  # it has served for as long as others wait
            death = Death(ReplicaState.BACKOFF, self.quick_deaths + 1, now)
        else:
            lived = math.inf if self.recycled else now - self.started
            death = after_death(lived, self.quick_deaths, now, self.start_s)
        self.quick_deaths, self.retry_at, self.error = death.quick_deaths, death.retry_at, reason
        text = f"replica {self.id} ended: {reason}"
        if death.quick_deaths > FATAL_AFTER_QUICK_DEATHS:  # known already
            append_log(self.home, self.revision.deployment, text)
        elif death.state is ReplicaState.FATAL:
            self._note(
                "unhealthy", f"{text}; it keeps ending, and is tried every {death.retry_at - now:.2g} s"
            )
        else:
            self._note("replica", text)
        self._become(death.state)


async def _last_words(child: Child) -> str:
    with contextlib.suppress(asyncio.TimeoutError):
        message = await asyncio.wait_for(child.next_message(), 1)
        return str(message.get("exiting", "")) if message else ""
    return ""


def _exit_reason(code: int | None) -> str:
    if code is None:
        return "its process ended"
    if code >= 0:
        return f"its process ended with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"its process was ended by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
