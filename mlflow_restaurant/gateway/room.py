"""Room for callers' bodies in one gateway: those that are on their way in or wait for an answer. Pure: sizes in.

A connection of which the gateway holds no more than `SMALL` bytes is not counted: there can be only so many of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlflow_restaurant.errors import QueueFull
from mlflow_restaurant.gateway.calls import MEGABYTE

SMALL = 1 << 12


class Room:
    """So many bytes for the bodies of all callers.

    Args:
        max_mb: in megabytes; 0 for no limit.
    """

    def __init__(self, max_mb: float) -> None:
        self.max_mb = max_mb
        self.used = 0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """Give one request a share that grows as its body comes in, until the end of the block."""
        share = Share(self)
        try:
            yield share
        finally:
            share.end()


class Share:
    """What one request takes of a room."""

    def __init__(self, room: Room) -> None:
        self.room, self.size = room, 0

    def grow(self, size: int) -> None:
        """Take `size` bytes more.

        Raises:
            QueueFull: there is no room for them.
        """
        room = self.room
        if size > 0 and room.max_mb and room.used + size > room.max_mb * MEGABYTE:
            raise QueueFull(
                f"The server holds as much of other requests as it may ({room.max_mb:g} MB, max_bodies_mb); try again later."
            )
        self.size += size
        room.used += size

    def hold(self, size: int) -> bool:
        """Take as much as is held of a connection now, if there is room for that; tells whether there was."""
        try:
            self.grow((size if size > SMALL else 0) - self.size)
        except QueueFull:
            return False
        return True

    def end(self) -> None:
        """Give everything back."""
        self.room.used -= self.size
        self.size = 0
