"""Starting processes as forks of the home's fork server: a fraction of a second each, in this package's own environment."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow_restaurant.errors import RestaurantError
from mlflow_restaurant.home import Home
from mlflow_restaurant.process.child import Child, open_log, pipe_reader, start_process
from mlflow_restaurant.process.faults import fault_point
from mlflow_restaurant.process.forkserver import SINGLE_THREAD, quiet_environment
from mlflow_restaurant.process.records import ProcessRecord, identify, read_record, record_path, write_record
from mlflow_restaurant.process.spawn_launcher import SpawnLauncher
from mlflow_restaurant.process.watch import cpu_s, is_held_up, wait_for_exit

_logger = logging.getLogger(__name__)

FORKSERVER_ID = "forkserver"
FORK_WITHIN_S = 10.0
"""Time in which a fork server that has answered before starts a process; else it hangs."""
FIRST_FORK_WITHIN_S = 120.0
"""The same for one that may still import what it needs."""
HELD_UP_LOOK_S = 0.5
"""Time for which a fork server that does not answer is looked at, to see whether it only waits for a processor."""
REWARM_S = 1.0
"""Time after the end of a fork server until another one starts that nobody needs yet."""
EXIT_TOLD_WITHIN_S = 2.0
"""Time in which the fork server says how a process ended that has ended."""


class ForkServerGone(RestaurantError):
    """The fork server ended before it answered."""


class ForkRefused(RestaurantError):
    """The fork server has threads that a fork would cut off in the middle of something."""


class ForkLauncher:
    """Forks jobs from the home's fork server, which it starts when there is none.

    Where that must not be forked, a job gets a fresh interpreter, which takes seconds instead of a tenth of one.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self.starting = asyncio.Lock()
        self.answered = 0
        """The process id of the last fork server that started something."""

    async def launch(
        self, job: str, args: Mapping[str, Any], *, log: Path, env: Mapping[str, str], title: str
    ) -> Child:
        request = {"job": job, "args": dict(args), "env": dict(env), "title": title}
        try:
            try:
                return await self._launch(request, log)
            except (OSError, ForkServerGone):
                # It ended in this very moment. Should it have forked the job before, that process finds no record of
                # its own and ends itself.
                return await self._launch(request, log)
        except ForkRefused as e:
            _logger.warning("%s", e.message)
            return await SpawnLauncher().launch(job, args, log=log, env=env, title=title)

    async def _launch(self, request: Mapping[str, Any], log: Path) -> Child:
        log_fd = open_log(log)
        status_r, status_w = os.pipe()
        fault_point("fork: before it is asked for")
        try:
            server, reader, writer = await self._send(request, [log_fd, status_w])
        except BaseException:
            os.close(status_r)
            raise
        finally:
            os.close(log_fd)
            os.close(status_w)
        fault_point("fork: asked for")
        status = await pipe_reader(status_r)
        try:
            answer = await self._answer(server, reader)
        except BaseException:
            writer.close()  # tells the fork server not to start it any more
            raise
        said = json.loads(answer)
        if "refused" in said:
            writer.close()
            raise ForkRefused(
                f"The fork server has the threads {said['refused']} and must not be forked; a process gets a fresh"
                " interpreter, which takes longer to start."
            )
        pid = said["pid"]
        fault_point("fork: done")
        exited = asyncio.ensure_future(self._exit_code(pid, reader, writer))
        return Child(pid, status, exited)

    async def _answer(self, server: ProcessRecord | None, reader: asyncio.StreamReader) -> bytes:
        """Return what the fork server says of a process that it has started; one that hangs is killed.

        Raises:
            ForkServerGone: it ended, or hangs.
        """
        answering = asyncio.ensure_future(reader.readline())
        try:
            while not (await asyncio.wait((answering,), timeout=self._patience(server)))[0]:
                if server is None or not await self._is_held_up(server):
                    if server is not None:
                        server.signal(signal.SIGKILL)
                        await wait_for_exit(server)
                    raise ForkServerGone("The fork server did not answer; try again.")
            answer = answering.result()
        finally:
            answering.cancel()
        if not answer:
            raise ForkServerGone("The fork server ended before it started a process; try again.")
        self.answered = 0 if server is None else server.pid
        return answer

    def _patience(self, server: ProcessRecord | None) -> float:
        """Return how long to wait for a fork server, in seconds, until it is looked at."""
        return FORK_WITHIN_S if server is not None and server.pid == self.answered else FIRST_FORK_WITHIN_S

    async def _is_held_up(self, server: ProcessRecord) -> bool:
        used = cpu_s(server)
        await asyncio.sleep(HELD_UP_LOOK_S)
        return is_held_up(server, cpu_s(server) - used, HELD_UP_LOOK_S)

    async def _send(
        self, request: Mapping[str, Any], fds: Sequence[int]
    ) -> tuple[ProcessRecord | None, asyncio.StreamReader, asyncio.StreamWriter]:
        connection = await self._connect()
        server = read_record(self.home.run, FORKSERVER_ID)
        data = (json.dumps(request) + "\n").encode()
        loop = asyncio.get_running_loop()
        try:
            sent = socket.send_fds(connection, [data], fds)
            await loop.sock_sendall(connection, data[sent:])
        except BaseException:
            connection.close()
            raise
        return server, *await asyncio.open_unix_connection(sock=connection)

    async def _exit_code(
        self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> int | None:
        process = identify(pid)
        said = asyncio.ensure_future(reader.readline())
        ended = asyncio.ensure_future(asyncio.sleep(0) if process is None else wait_for_exit(process))
        try:
            await asyncio.wait((said, ended), return_when=asyncio.FIRST_COMPLETED)
            if not said.done():  # the fork server is about to say how it ended, unless it hangs
                await asyncio.wait((said,), timeout=EXIT_TOLD_WITHIN_S)
            if said.done() and (line := said.result()):
                return int(json.loads(line)["exit"])
            await ended  # the fork server is gone, the process may well live
            return None
        finally:
            said.cancel()
            ended.cancel()
            writer.close()

    async def _connect(self) -> socket.socket:
        async with self.starting:
            server = read_record(self.home.run, FORKSERVER_ID)
            if (
                server is not None and server.alive()
            ):  # the socket of one that was killed may be open a moment longer
                with contextlib.suppress(OSError):
                    return await self._try_connect()
            await self.start()
            return await self._try_connect()

    async def _try_connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            loop = asyncio.get_running_loop()
            await loop.sock_connect(connection, str(self.home.forkserver_socket))
        except BaseException:
            connection.close()
            raise
        return connection

    async def warm(self) -> None:
        """Start a fork server if none runs, so that the first job finds it ready."""
        (await self._connect()).close()

    async def keep_warm(self) -> None:
        """Have a fork server, and another one when it ends, until cancelled."""
        while True:
            with contextlib.suppress(OSError):
                await self.warm()
            server = read_record(self.home.run, FORKSERVER_ID)
            if server is not None:
                await wait_for_exit(server)
            await asyncio.sleep(REWARM_S)

    async def start(self) -> None:
        """Start a fork server; connections wait in its socket until it has imported what it needs."""
        path = self.home.forkserver_socket
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(path))
            listener.listen(128)
            record = record_path(self.home.records, FORKSERVER_ID)
            argv = [sys.executable, "-m", "mlflow_restaurant.process.forkserver"]
            process = await start_process(
                [*argv, str(listener.fileno()), str(record)],
                log=self.home.server_log,
                env={**quiet_environment(), **SINGLE_THREAD},
                pass_fds=[listener.fileno()],
            )
        fault_point("fork server: started")
        write_record(self.home.run, "forkserver", FORKSERVER_ID, process.pid)
