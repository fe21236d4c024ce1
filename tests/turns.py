"""Turns of tests in several processes: one marked ``alone`` needs the machine for itself, the others run side by side.

Tests under load would take the processors from whatever runs beside them, and be slowed down by it.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def turn(folder: Path, alone: bool) -> Iterator[None]:
    """Wait until a test may run, and let it run in the block.

    Args:
        folder: what all processes of a run share.
        alone: wait until no other test runs, and let none begin.
    """
    with (folder / "door").open("w") as door, (folder / "room").open("w") as room:
        fcntl.flock(door, fcntl.LOCK_EX)  # whoever waits for an empty room keeps others from going in
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield
