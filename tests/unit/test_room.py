"""Room for the bodies of all callers of a gateway."""

from __future__ import annotations

import pytest

from mlflow_restaurant.errors import QueueFull
from mlflow_restaurant.gateway.calls import MEGABYTE
from mlflow_restaurant.gateway.room import SMALL, Room, Share


def test_what_does_not_fit_is_refused_and_what_is_done_gives_its_room_back() -> None:
    room = Room(2)
    with room.share() as first:
        first.grow(MEGABYTE)
        with room.share() as second:
            second.grow(MEGABYTE // 2)
            with pytest.raises(QueueFull, match=r"2 MB, max_bodies_mb\); try again later"):
                second.grow(MEGABYTE)
            second.grow(MEGABYTE // 2)
        assert room.used == MEGABYTE
        first.grow(MEGABYTE)
    assert room.used == 0


def test_one_that_fails_gives_its_room_back() -> None:
    room = Room(1)
    with pytest.raises(QueueFull), room.share() as share:  # noqa: PT012 - what is taken before counts
        share.grow(MEGABYTE)
        share.grow(1)
    assert room.used == 0


def test_what_a_connection_holds() -> None:
    room = Room(1)
    share, other = Share(room), Share(room)

    assert share.hold(SMALL)
    assert room.used == 0
    assert share.hold(SMALL + 1)
    assert room.used == SMALL + 1
    assert not other.hold(MEGABYTE)
    assert room.used == SMALL + 1
    assert other.hold(MEGABYTE - SMALL - 1)
    assert not share.hold(SMALL + 2)
    assert share.hold(10)
    assert room.used == MEGABYTE - SMALL - 1
    for each in (share, other, other):
        each.end()
    assert room.used == 0


def test_without_a_limit() -> None:
    with Room(0).share() as share:
        share.grow(1 << 50)
