"""The gateway processes of a home, and the port they share.

The controller owns the listening socket and every gateway inherits it: while a gateway is replaced, callers wait in
the socket's backlog instead of being refused. A new controller gets the socket back from a gateway that still runs, and
goes on with those gateways that are of its own version.
What takes longest in the start of a gateway, more than a second, is what it imports; so one more stands by that has
done so, and takes the place of one that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow_restaurant._version import __version__
from mlflow_restaurant.config import ServerSettings
from mlflow_restaurant.control.gateway_process import (
    CALL_TIMEOUT_S,
    END_S,
    UNREACHABLE,
    Gateway,
    Launched,
    launch,
)
from mlflow_restaurant.control.planner import after_death
from mlflow_restaurant.entities import RouteTable
from mlflow_restaurant.errors import HomeError
from mlflow_restaurant.home import Home
from mlflow_restaurant.process.faults import fault_point
from mlflow_restaurant.process.records import (
    ProcessRecord,
    read_record,
    read_records,
    remove_record,
    write_record,
)
from mlflow_restaurant.process.watch import cpu_s, end_process, is_held_up, wait_for_exit

_logger = logging.getLogger(__name__)

KIND = "gateway"
STANDBY = "standby"
STANDBY_AFTER_S = 3.0
"""Time until the next gateway stands by: what is under way needs the processors more."""
BACKLOG = 2048
START_TIMEOUT_S = 30.0
ASK_TIMEOUT_S = 2.0
QUICK_DEATH_S = 2.0
"""A gateway that lived longer could serve, and callers wait for the next one: it comes at once."""
WATCH_S = 1.0
"""Time between two looks whether the gateways answer."""
HANG_S = 5.0
"""Time without an answer after which a gateway counts as hanging."""


class GatewayFleet:
    """All gateways of a home."""

    def __init__(
        self,
        home: Home,
        settings: ServerSettings,
        changed: Callable[[], None],
        note: Callable[[str], None],
    ) -> None:
        self.home, self.settings, self.changed, self.note = home, settings, changed, note
        self.gateways: dict[str, Gateway] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.listener: socket.socket | None = None
        self.table = RouteTable(version=-1)
        self.complete = asyncio.Event()  # as many have routes as there should be
        self.standby: Launched | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the gateways."""
        if self.listener is None:
            raise HomeError("The gateway has no port yet.")
        host, port = self.listener.getsockname()[:2]
        return host, port

    async def start(self) -> None:
        """Take over the gateways that run, open the port, and start what is missing.

        Raises:
            HomeError: the port is in use or can't be opened.
        """
        records = read_records(self.home.run)
        alive = [r for r in records if r.kind == KIND and r.alive()]
        for record in records:
            if record.kind == STANDBY:  # that of an earlier controller, with which it ended
                remove_record(self.home.run, record.id)
        self.listener = self._inherited(alive) or self._open()
        others = [r for r in alive if r.version != __version__]
        for record in alive:
            self._keep(self._relieved(record) if record in others else self._adopted(record))
        for _ in range(self.settings.gateways - len(alive) + len(others)):
            self._keep(self._supervised())
        self._keep(self._stand_by())

    def _keep(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _inherited(self, alive: list[ProcessRecord]) -> socket.socket | None:
        for record in alive:
            with (
                contextlib.suppress(OSError, ValueError),
                socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door,
            ):
                door.settimeout(CALL_TIMEOUT_S)
                door.connect(str(Gateway(self.home, record.id).handover))
                _, fds, _, _ = socket.recv_fds(door, 16, 1)
                listener = socket.socket(fileno=fds[0])
                listener.setblocking(False)
                return listener
        return None

    def _open(self) -> socket.socket:
        host, port = self.settings.host, self.settings.port
        wanted = [port] if port else [*self._last_port(), 0]
        for candidate in wanted:
            try:
                listener = _listen(host, candidate)
                break
            except OSError as e:
                if candidate != wanted[-1]:
                    continue
                if e.errno == errno.EADDRINUSE:
                    raise HomeError(
                        f"Port {port} of {host} is in use by another program; end it, or choose another port with"
                        f" MLFLOW_RESTAURANT_PORT or 'port' in {self.home.path / 'config.toml'} (0 = any free one)."
                    ) from None
                raise HomeError(f"Port {port} of {host} can't be opened: {e.strerror or e}.") from None
        with contextlib.suppress(OSError):
            self._port_file.write_text(str(listener.getsockname()[1]), encoding="utf-8")
        return listener

    @property
    def _port_file(self) -> Path:
        return self.home.run / "port"

    def _last_port(self) -> list[int]:
        try:
            return [int(self._port_file.read_text(encoding="utf-8"))]
        except (OSError, ValueError):
            return []

    async def _adopted(self, record: ProcessRecord) -> None:
        gateway = Gateway(self.home, record.id)
        self._admit(gateway)
        try:
            await wait_for_exit(record)
            self.note(f"gateway {record.id} ended; another takes its place")
        finally:
            await self._forget(gateway)
        await self._supervised()

    async def _relieved(self, record: ProcessRecord) -> None:
        """End a gateway of another version of this package, which may not know this one's routes, once others serve."""
        await self.complete.wait()
        self.note(f"gateway {record.id} is of version {record.version or 'unknown'}; another takes its place")
        await end_process(record, END_S)
        await self._forget(Gateway(self.home, record.id))

    async def _supervised(self) -> None:
        """Run one gateway, and its successors when it ends."""
        loop, deaths, wait = asyncio.get_running_loop(), 0, 0.0
        while True:
            await asyncio.sleep(wait)
            started = loop.time()
            await self._live()
            lived = loop.time() - started
            death = after_death(lived if lived < QUICK_DEATH_S else math.inf, deaths, loop.time())
            deaths, wait = death.quick_deaths, max(0.0, death.retry_at - loop.time())

    async def _live(self) -> None:
        launched: Launched | None = None
        try:
            launched = self._take_standby() or await self._launch()
            gateway, child = launched.gateway, launched.child
            write_record(self.home.run, KIND, gateway.key, child.pid)
            launched.begin()
            await asyncio.wait_for(child.next_message(), START_TIMEOUT_S)
            self._admit(gateway)
            code = await child.wait()
            self.note(f"gateway {gateway.key} ended (status {code}); another takes its place")
        except UNREACHABLE as e:
            key = "" if launched is None else f" {launched.gateway.key}"
            self.note(f"gateway{key} did not start ({e!r}); another takes its place")
        finally:
            if launched is not None:
                await self._put_away(launched)

    async def _launch(self) -> Launched:
        assert self.listener is not None
        return await launch(self.home, self.listener, self.settings.max_bodies_mb)

    def _take_standby(self) -> Launched | None:
        launched = self.standby
        if launched is None or launched.child.exited.done():
            return None
        self.standby = None
        self._keep(self._stand_by())
        return launched

    async def _stand_by(self) -> None:
        """Have one more gateway ready, until it is taken."""
        launched: Launched | None = None
        while self.standby is launched:
            await asyncio.sleep(STANDBY_AFTER_S)
            try:
                launched = self.standby = await self._launch()
                write_record(self.home.run, STANDBY, launched.gateway.key, launched.child.pid)
                await launched.child.wait()
            except OSError as e:  # the disk is full, or there is no memory for it
                _logger.warning("no gateway stands by: %s", e)
            finally:
                if launched is not None and self.standby is launched:
                    self.standby = None
                    await self._put_away(launched)
                    launched = None

    async def _put_away(self, launched: Launched) -> None:
        launched.close()
        await asyncio.shield(launched.child.end())
        await self._forget(launched.gateway)

    def _admit(self, gateway: Gateway) -> None:
        self.gateways[gateway.key] = gateway
        self.changed()

    async def _forget(self, gateway: Gateway) -> None:
        self.gateways.pop(gateway.key, None)
        await gateway.close()
        remove_record(self.home.run, gateway.key)
        for path in (gateway.control, gateway.handover):
            path.unlink(missing_ok=True)
        self.changed()

    async def watch(self) -> None:
        """End gateways that hang, until cancelled: the connections they accept would wait for ever."""
        while True:
            await asyncio.sleep(WATCH_S)
            await asyncio.gather(*(self._look_at(gateway) for gateway in list(self.gateways.values())))

    async def _look_at(self, gateway: Gateway) -> None:
        record = read_record(self.home.run, gateway.key)
        if record is None or await self._answers(gateway, record, HANG_S):
            return
        # It may have been held up until now, as this process may have been.
        if not await self._answers(gateway, record, WATCH_S) and gateway.key in self.gateways:
            self.note(f"gateway {gateway.key} did not answer for {HANG_S + WATCH_S:g} s; it is killed")
            record.signal(signal.SIGKILL)

    async def _answers(self, gateway: Gateway, record: ProcessRecord, within_s: float) -> bool:
        """Tell whether a gateway answers, would if the machine were not so busy, or is about to end, which is seen."""
        loop = asyncio.get_running_loop()
        used, asked = cpu_s(record), loop.time()
        try:
            await gateway.call("GET", "/ping", timeout_s=within_s)
        except asyncio.TimeoutError:
            return is_held_up(record, cpu_s(record) - used, loop.time() - asked)
        except UNREACHABLE:
            pass
        return True

    @property
    def newest(self) -> int:
        """The version of the newest table that a gateway has."""
        return max((gateway.acknowledged for gateway in self.gateways.values()), default=-1)

    async def publish(self, table: RouteTable) -> bool:
        """Give every gateway the table; True when all of them say that they have it."""
        self.table = table
        fault_point("routes: before they are told")
        pushes = [self._push(g) for g in list(self.gateways.values()) if g.acknowledged != table.version]
        return all(await asyncio.gather(*pushes)) and bool(self.gateways)

    async def _push(self, gateway: Gateway) -> bool:
        try:
            answer = await gateway.call("PUT", "/routes", self.table.model_dump(mode="json"))
        except UNREACHABLE:
            return False
        gateway.acknowledged = answer["version"]
        if sum(g.acknowledged >= 0 for g in self.gateways.values()) >= self.settings.gateways:
            self.complete.set()
        fault_point("routes: a gateway knows them")
        return bool(gateway.acknowledged == self.table.version)

    async def drain(self, key: str, timeout_s: float) -> None:
        """Wait until no gateway has a request in flight to the replica, `timeout_s` seconds at most."""
        payload = {"key": key, "timeout_s": timeout_s}
        calls = [g.call("POST", "/drain", payload, timeout_s + 1) for g in list(self.gateways.values())]
        fault_point("drain: begun")
        await asyncio.gather(*calls, return_exceptions=True)
        fault_point("drain: done")

    async def stats(self) -> dict[str, list[tuple[float, float, int]]]:
        """Return the requests of the last minute, by deployment: age (s), latency (s), status."""
        merged: dict[str, list[tuple[float, float, int]]] = {}
        for gateway in list(self.gateways.values()):
            with contextlib.suppress(*UNREACHABLE):
                for name, samples in (await gateway.call("GET", "/stats")).items():
                    merged.setdefault(name, []).extend((s[0], s[1], int(s[2])) for s in samples)
        return merged

    async def trials(self) -> list[dict[str, Any]]:
        """Return what each gateway counted of the trials under way, by deployment."""
        return await self._ask_all("/trials")

    async def activity(self) -> list[dict[str, Any]]:
        """Return what callers do by each gateway, by deployment."""
        return await self._ask_all("/activity")

    async def _ask_all(self, path: str) -> list[dict[str, Any]]:
        """Ask every gateway; one that hangs is left out."""
        calls = [g.call("GET", path, timeout_s=ASK_TIMEOUT_S) for g in list(self.gateways.values())]
        found = await asyncio.gather(*calls, return_exceptions=True)
        return [answer for answer in found if isinstance(answer, dict)]

    async def stop(self) -> None:
        """Stop every gateway and close the port."""
        records = [r for r in read_records(self.home.run) if r.kind in (KIND, STANDBY)]
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, *(end_process(r, END_S) for r in records), return_exceptions=True)
        for record in records:
            await self._forget(Gateway(self.home, record.id))
        if self.listener is not None:
            self.listener.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
