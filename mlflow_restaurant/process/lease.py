"""The lease of a process: it lives as long as its record, a file that names its process id.

Only the standard library is imported: replicas in other environments run this file where the package is missing.
"""

import json
import os
import signal
import threading

CHECK_INTERVAL_S = 2.0
MISSES_ALLOWED = 2


def holds(path: str, pid: int) -> bool:
    """Tell whether the record at `path` names process `pid`."""
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123  (pathlib would be the only import of its kind)
            record = json.load(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:  # out of descriptors, a disk in trouble: no reason to end
        return True
    return isinstance(record, dict) and record.get("pid") == pid


class Lease:
    """Counts how often in a row the record was not there."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.misses = 0

    def lost(self) -> bool:
        """Look once; True when the record has been missing too often."""
        self.misses = 0 if holds(self.path, os.getpid()) else self.misses + 1
        return self.misses > MISSES_ALLOWED


def end_with(path: str) -> None:
    """Send this process and what it started SIGTERM once its record is gone; returns at once."""
    lease = Lease(path)

    def watch() -> None:
        never = threading.Event()
        while not lease.lost():
            never.wait(CHECK_INTERVAL_S)
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGTERM)
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="lease", daemon=True).start()
