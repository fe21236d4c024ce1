"""Starting processes from an event loop, and hearing what they say and when they end.

Two ways, one result: `ForkLauncher` asks the fork server, `SpawnLauncher` starts a fresh interpreter. Each returns
a `Child` with the lines of its status pipe and its exit.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mlflow_restaurant.errors import RestaurantError
from mlflow_restaurant.home import Home
from mlflow_restaurant.process.faults import fault_point
from mlflow_restaurant.process.forkserver import JOBS, SINGLE_THREAD, quiet_environment
from mlflow_restaurant.process.records import ProcessRecord, identify, read_record, record_path, write_record
from mlflow_restaurant.process.watch import (
    KILL_AFTER_S,
    cpu_s,
    end_orphans,
    is_held_up,
    wait_for_exit,
)

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


class Child:
    """A process that was started here."""

    def __init__(self, pid: int, status: asyncio.StreamReader, exited: asyncio.Future[int | None]) -> None:
        self.pid = pid
        self.status = status
        self.exited = exited
        exited.add_done_callback(self._ended)

    def _ended(self, exited: asyncio.Future[int | None]) -> None:
        if not exited.cancelled() and exited.exception() is None:
            end_orphans(self.pid)

    async def next_message(self) -> dict[str, Any] | None:
        """Return the next line of the status pipe, or None when the process has closed it."""
        while line := await self.status.readline():
            with contextlib.suppress(ValueError):
                message: dict[str, Any] = json.loads(line)
                return message
        return None

    async def wait(self) -> int | None:
        """Wait for the end; returns the exit status, negative for a signal, None when it is not known."""
        return await asyncio.shield(self.exited)

    def signal(self, signum: int) -> None:
        """Send a signal to the process and to what it started."""
        if not self.exited.done():
            fault_point("end of a process: before the signal")
            try:
                os.killpg(self.pid, signum)
            except ProcessLookupError:  # it does not lead a group yet
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signum)

    async def end(self) -> None:
        """End the process: SIGTERM, then SIGKILL."""
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.wait(), KILL_AFTER_S)
        except asyncio.TimeoutError:
            self.signal(signal.SIGKILL)
            await self.wait()


class Launcher(Protocol):
    """Starts a job of `forkserver.JOBS`, its output going to the file `log`."""

    async def launch(
        self, job: str, args: Mapping[str, Any], *, log: Path, env: Mapping[str, str], title: str
    ) -> Child: ...


def open_log(log: Path) -> int:
    """Open a log for appending and return its descriptor."""
    return os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


async def _pipe_reader(fd: int) -> asyncio.StreamReader:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", 0))
    return reader


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
        status = await _pipe_reader(status_r)
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


class SpawnLauncher:
    """Starts a replica with the Python that `activate` puts on the path, or any job with this Python."""

    def __init__(self, activate: Sequence[str] = ()) -> None:
        self.activate = activate

    async def launch(
        self,
        job: str,
        args: Mapping[str, Any],
        *,
        log: Path,
        env: Mapping[str, str],
        title: str,
        pass_fds: Sequence[int] = (),
    ) -> Child:
        status_r, status_w = os.pipe()
        try:
            process = await start_process(
                self._command(job, args, status_w), log=log, env=env, pass_fds=[status_w, *pass_fds]
            )
        except BaseException:
            os.close(status_r)
            raise
        finally:
            os.close(status_w)
        status = await _pipe_reader(status_r)
        return Child(process.pid, status, asyncio.ensure_future(process.wait()))

    def _command(self, job: str, args: Mapping[str, Any], status_fd: int) -> list[str]:
        arguments = [json.dumps(dict(args)), str(status_fd)]
        if not self.activate:
            return [sys.executable, "-u", "-m", "mlflow_restaurant.process.spawn", job, *arguments]
        module = JOBS[job].partition(":")[0]
        script = Path(__file__).parents[1].joinpath(*module.split(".")[1:]).with_suffix(".py")
        run = shlex.join(["python", "-u", str(script), *arguments])
        return ["bash", "-c", " && ".join([*self.activate, f"exec {run}"])]


async def start_process(
    argv: Sequence[str], *, log: Path, env: Mapping[str, str], pass_fds: Sequence[int] = ()
) -> asyncio.subprocess.Process:
    """Start a process in a session of its own, its output going to the file `log`."""
    log_fd = open_log(log)
    fault_point("spawn: before")
    try:
        return await asyncio.create_subprocess_exec(
            *argv,
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            env={**os.environ, **env},
            pass_fds=pass_fds,
            start_new_session=True,
        )
    finally:
        os.close(log_fd)


THREAD_PREFIXES = ("OMP_", "OPENBLAS_", "MKL_", "BLIS_", "NUMEXPR_", "VECLIB_", "GOMP_", "KMP_")
FRESH_PROCESS_PREFIXES = ("PYTHON", "LD_", "DYLD_", "MALLOC_", "GLIBC_", "LC_", "LANG", *THREAD_PREFIXES)


def sets_threads(env: Mapping[str, str]) -> bool:
    """Tell whether a variable says how many threads numerical libraries may use."""
    return any(name.startswith(THREAD_PREFIXES) for name in env)


def needs_fresh_process(env: Mapping[str, str]) -> bool:
    """Tell whether a variable takes effect only when an interpreter starts, so that a fork comes too late."""
    return sys.platform == "darwin" or any(name.startswith(FRESH_PROCESS_PREFIXES) for name in env)
