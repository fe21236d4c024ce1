"""The connection of the client to the admin API: it waits for as long as the server works on an answer.

A command may take minutes, so there is no limit to the time for its answer. But a server that takes connections and
answers none (its process was stopped, or hangs) would be waited for for ever: so whenever nothing has come for a while,
it is asked a small thing on another connection, which a server that works answers at once.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.util import wait_for_read

SILENCE_S = 2.0
"""Time without a byte after which the server is asked whether it still works."""
CONNECT_TIMEOUT_S = 15.0


class _PatientSocket(socket.socket):
    """A socket that asks now and then, while nothing comes, whether it shall go on waiting."""

    look: Callable[[], None]

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        while not wait_for_read(self, SILENCE_S):
            self.look()
        return super().recv_into(buffer, nbytes, flags)


def pool_of(path: Path, look: Callable[[], None]) -> urllib3.HTTPConnectionPool:
    """Return connections to a server on a unix socket.

    Args:
        path: of the socket.
        look: called whenever nothing has come for `SILENCE_S`; what it raises ends the request.
    """

    class Connection(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            connection = _PatientSocket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.look = look
            connection.settimeout(CONNECT_TIMEOUT_S)  # one that accepts nothing has a queue that fills up
            try:
                connection.connect(str(path))
            except OSError:
                connection.close()
                raise
            return connection

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = Connection

    return Pool("controller", maxsize=1, retries=False, timeout=None)
