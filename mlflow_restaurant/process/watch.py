"""Waiting for, and ending, processes that are not our children."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import sys
import time

import psutil

from mlflow_restaurant.process.faults import fault_point
from mlflow_restaurant.process.records import ProcessRecord

POLL_INTERVAL_S = 0.25
KILL_AFTER_S = 5.0
HELD_UP = (psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP, psutil.STATUS_WAKING)
"""States of a process that would go on, had it a processor or a page of memory."""


async def wait_for_exit(record: ProcessRecord) -> None:
    """Return when the process has ended."""
    fd = _pidfd(record.pid) if record.alive() else None
    if fd is None:
        while record.alive():
            await asyncio.sleep(POLL_INTERVAL_S)
        return
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, ended.set)
    try:
        if record.alive():
            await ended.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def block_until_exit(record: ProcessRecord, timeout_s: float) -> bool:
    """Wait, without an event loop, until the process has ended; False when it has not after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    fd = _pidfd(record.pid) if record.alive() else None
    if fd is not None:
        try:
            select.select([fd], [], [], timeout_s if record.alive() else 0)
        finally:
            os.close(fd)
    while record.alive() and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL_S)
    return not record.alive()


def _pidfd(pid: int) -> int | None:
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def cpu_s(record: ProcessRecord) -> float:
    """Return the processor time that a process has used, in seconds; 0 when it has ended."""
    process = record.process()
    with contextlib.suppress(psutil.Error):
        if process is not None:
            times = process.cpu_times()
            return float(times.user + times.system)
    return 0.0


def is_held_up(record: ProcessRecord, used_s: float, in_s: float) -> bool:
    """Tell whether a process that does not answer waits for a machine that is busy: then it does not hang.

    Args:
        used_s: processor time that it used since it was asked.
        in_s: time since then.
    """
    process = record.process()
    with contextlib.suppress(psutil.Error):
        return process is not None and process.status() in HELD_UP and used_s < in_s / 2
    return False


def signal_group(record: ProcessRecord, signum: int) -> None:
    """Send a signal to a process that leads a session, and to what it started."""
    fault_point("end of a process: before the signal")
    if record.alive():
        try:
            os.killpg(record.pid, signum)
        except ProcessLookupError:  # it does not lead a group yet
            record.signal(signum)


def end_orphans(leader: int) -> None:
    """Kill what a process that has just ended had started, and left in its group.

    They may hold its connections open, so that nobody would see that it has ended.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


async def end_process(record: ProcessRecord, grace_s: float = KILL_AFTER_S) -> None:
    """End a process and what it started: SIGTERM, and SIGKILL for what is still there after `grace_s` seconds."""
    was_there = record.alive()
    signal_group(record, signal.SIGTERM)
    try:
        await asyncio.wait_for(wait_for_exit(record), grace_s)
    except asyncio.TimeoutError:
        signal_group(record, signal.SIGKILL)
        await wait_for_exit(record)
    if was_there:  # else its number may be another's by now
        end_orphans(record.pid)
