"""A process that was started from an event loop: what it says on its status pipe, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow_restaurant.process.faults import fault_point
from mlflow_restaurant.process.watch import KILL_AFTER_S, end_orphans


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


def open_log(log: Path) -> int:
    """Open a log for appending and return its descriptor."""
    return os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


async def pipe_reader(fd: int) -> asyncio.StreamReader:
    """Return a reader of the pipe that is open as `fd`."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", 0))
    return reader


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
