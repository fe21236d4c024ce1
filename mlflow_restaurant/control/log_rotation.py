"""Keeps the logs of a home bounded, also while processes write to them as fast as they can.

Replicas hold their log open from before their first line to after the end of the controller, so a log can't be taken
away from them, and a pipe would end them with its reader. As with logrotate's ``copytruncate``, the log is copied, then
cut to nothing; all descriptors append, so they go on at its new beginning. What is written between the last look at
the log and its cut is lost: that is some microseconds, or a time slice where the two processes share a core.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Iterable
from pathlib import Path

from mlflow_restaurant.config import ServerSettings
from mlflow_restaurant.home import Home
from mlflow_restaurant.logs import BLOCK, rotated_files

INTERVAL_S = 0.25
"""Time between two looks; what is written meanwhile comes on top of the limit."""
FLOOD_INTERVAL_S = 0.01
PATIENCE = 4
"""A log so many times its limit is rotated even if its reader does not let go of it."""
LINE_WAIT_S = 0.001
LINE_WAITS = 5
"""How often to wait for the rest of a line that a process is just writing."""
MB = 1_000_000


async def keep_bounded(home: Home, settings: ServerSettings) -> None:
    """Rotate the logs that grow beyond their limit, until cancelled."""
    limit, pause = int(settings.max_log_mb * MB), INTERVAL_S
    while limit:
        await asyncio.sleep(pause)
        found = too_large(home, limit)
        if found:
            await asyncio.to_thread(rotate_all, found, limit, settings.log_files)
        pause = FLOOD_INTERVAL_S if any(size > 2 * limit for size in found.values()) else INTERVAL_S


def rotate_all(logs: Iterable[Path], limit: int, keep: int) -> None:
    """Rotate logs, as `rotate` does; one that can't be is left for the next time."""
    for log in logs:
        with contextlib.suppress(OSError):  # it is gone, or the disk is in trouble
            rotate(log, limit, keep)


def too_large(home: Home, limit: int) -> dict[Path, int]:
    """Return the logs of a home that are larger than `limit`, and their sizes, in bytes."""
    return {
        log: size
        for directory in (home.logs, home.logs / "deployments")
        for log, size in _larger_than(limit, directory)
    }


def _larger_than(limit: int, directory: Path) -> list[tuple[Path, int]]:
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        logs = [(entry.path, entry.stat().st_size) for entry in entries if entry.name.endswith(".log")]
        return [(Path(path), size) for path, size in logs if size > limit]
    return []


def rotate(log: Path, limit: int, keep: int) -> None:
    """Copy a log to a rotated file, or what fits of its end, and cut it to nothing.

    Args:
        limit: in bytes; of a log larger than twice that, the last so many are kept.
        keep: how many rotated files there may be.

    Raises:
        OSError: the log can't be read or cut.
    """
    fd = os.open(log, os.O_RDWR | os.O_APPEND)
    try:
        size = os.fstat(fd).st_size
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if size <= PATIENCE * limit:
                return
        for surplus in rotated_files(log)[max(0, keep - 1) :]:
            surplus.unlink()
        begin = size - limit if size > 2 * limit else 0
        if not (keep and _keep_copy(fd, log, begin, limit)):
            _cut(fd, os.fstat(fd).st_size, min(BLOCK, limit // 2) if keep else 0)
    finally:
        os.close(fd)


def _keep_copy(fd: int, log: Path, begin: int, limit: int) -> bool:
    """Make what a log holds from `begin` on its newest rotated file, and cut it; False when there is no room."""
    moves = [(path, log.with_name(f"{log.name}.{n}")) for n, path in enumerate(rotated_files(log), start=2)]
    for path, later in reversed(moves):
        path.rename(later)
    newest = log.with_name(f"{log.name}.1")
    try:
        with os.fdopen(os.open(newest, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", 0) as file:
            _move(fd, file.fileno(), begin, 2 * limit)
    except OSError:
        newest.unlink(missing_ok=True)
        for path, later in moves:
            later.rename(path)
        return False
    return True


def _move(fd: int, to: int, begin: int, most: int) -> None:
    """Copy a log from `begin` on, with what is written meanwhile, `most` bytes at most, and cut it."""
    if begin:
        begin += os.pread(fd, BLOCK, begin).find(b"\n") + 1
        _write(to, _left_out(begin, "before"))
    place, ended, waits = begin, True, 0
    while (block := os.pread(fd, BLOCK, place)) or (not ended and waits < LINE_WAITS):
        if not block:  # half a line, which may be there in a moment
            waits += 1
            time.sleep(LINE_WAIT_S)
            continue
        if place - begin > most:  # it is written faster than it can be copied
            end = block.find(b"\n") + 1
            _write(to, block[:end] + _left_out(os.fstat(fd).st_size - place - end, "after"))
            break
        _write(to, block)
        place, ended = place + len(block), block.endswith(b"\n")
    os.ftruncate(fd, 0)  # at once: what is written between the last look and this is lost


def _cut(fd: int, size: int, kept: int) -> None:
    """Cut a log that can't be copied to its last bytes, `kept` of them at most."""
    tail = os.pread(fd, kept, size - kept) if kept else b""
    tail = tail[tail.find(b"\n") + 1 :]
    os.ftruncate(fd, 0)
    with contextlib.suppress(OSError):
        _write(fd, _left_out(size - len(tail), "before") + tail)


def _left_out(count: int, where: str) -> bytes:
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return f"[{moment}] {count} bytes {where} this were left out\n".encode()


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
